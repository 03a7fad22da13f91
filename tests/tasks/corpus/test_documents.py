"""Reading a corpus: which rows are usable, and that every row of any file is accounted for."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_config.settings import CorpusConfig
from tasks.corpus.documents import CorpusReader
from tasks.corpus.prepared_blocks import measure_stripped
from tasks.reading.sources import locate_corpus
from tests.campaigns import corpus_files

Writer = Callable[[str, bytes], Path]


def read(source: Path, **options: object) -> CorpusReader:
    config = CorpusConfig(source=str(source), **options)
    reader = CorpusReader(locate_corpus(config), config)
    reader.read(source.parent / "spool", [].append)
    return reader


def reasons(source: Path, **options: object) -> list[tuple[int, str, str]]:
    """Return row number, reason and excerpt of every row that is rejected while reading."""
    reader = read(source, **options)
    rows = pa.concat_tables(reader.rejected).to_pylist()
    assert {row["file"] for row in rows} <= {source.name}
    return [(row["row"], row["reason"], row["excerpt"]) for row in rows]


# rejected rows


def test_unusable_rows_are_rejected_with_row_number_reason_and_excerpt(write: Writer) -> None:
    path = write(
        "c.csv",
        b"text,label\ngood,a\n,a\n \t ,a\nno label,\nblank label,  \ntoo,many,fields\nfew\n\n"
        b"caf\xe9,a\ngood again,\xff\nlast,b\n",
    )
    assert reasons(path) == [
        (1, "empty_text", ""),
        (2, "empty_text", " \t "),
        (5, "wrong_number_of_fields", "too,many,fields"),
        (6, "wrong_number_of_fields", "few"),
        (7, "undecodable", "caf?"),
        (8, "undecodable", "good again"),
    ]


def test_unusable_json_lines_are_rejected_with_row_number_reason_and_excerpt(write: Writer) -> None:
    lines = [
        b'{"text": "good", "label": "a"}',
        b"[1]",
        b'{"text": null, "label": "a"}',
        b'{"label": "a"}',
        b'{"text": 5, "label": "a"}',
        b'{"text": "x", "label": null}',
        b'{"text": "x"}',
        b'{"text": "last", "label": "b"}',
    ]
    assert reasons(write("c.jsonl", b"\n".join(lines))) == [
        (1, "not_a_json_object", "[1]"),
        (2, "null_text", ""),
        (3, "null_text", ""),
        (4, "text_is_no_string", "5"),
    ]


def test_a_row_gets_the_first_reason_that_applies(write: Writer) -> None:
    assert reasons(
        write("c.csv", b"text,label,part\n ,,holdout\nx,,holdout\nx,a,holdout\nx,,test\n"), split_column="part"
    ) == [(0, "empty_text", " "), (1, "unknown_split", "x"), (2, "unknown_split", "x"), (3, "no_label", "x")]


def test_an_excerpt_has_80_characters(write: Writer) -> None:
    assert (
        reasons(write("c.csv", "text,label\n{},a\n".format("\u00e9" * 200).encode()), min_characters=201)[0][2]
        == "\u00e9" * 80
    )


def test_texts_below_the_smallest_length_are_rejected(write: Writer) -> None:
    path = write("c.csv", "text,label\n,a\n ab ,a\nabc,a\n abc ,a\n\u00e9\u00e9,a\n".encode())
    assert reasons(path, min_characters=3) == [
        (0, "empty_text", ""),
        (1, "short_text", " ab "),
        (4, "short_text", "\u00e9\u00e9"),
    ]


@pytest.mark.parametrize("letter", ["\u00a0", "\u2028", "\u3000", "\x1c", "\u0085"])
def test_a_text_of_any_white_space_is_empty(write: Writer, letter: str) -> None:
    assert [row[1] for row in reasons(write("c.csv", f"text,label\n{letter},a\n".encode()))] == ["empty_text"]


@pytest.mark.parametrize(
    "texts",
    [
        ["", " ", "a", " a", "a ", "\u00a0a\u3000", "\u00e9", "a b", "\x1ca", "\u2028", "\u200b", "a\u0301"],
        ["", ""],
        [],
        ["plain"],
    ],
)
def test_lengths_are_those_of_the_stripped_texts(texts: list[str]) -> None:
    column = pa.array(["x", *texts], pa.large_string()).slice(1)
    assert measure_stripped(column).tolist() == [len(text.strip()) for text in texts]


@pytest.mark.parametrize("part", range(3))
def test_every_row_of_generated_files_is_accounted_for(tmp_path: Path, artifacts: Path, part: int) -> None:
    tally = corpus_files.run_campaign(range(100 * part, 100 * part + 100), tmp_path)
    assert tally["files"] == 100
    assert tally["documents"] > 300
