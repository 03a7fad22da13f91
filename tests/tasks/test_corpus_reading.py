"""Reading a corpus: which rows are usable, and that every row of any file is accounted for."""

import csv
import io
import json
import os
import random
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.byte_stream
from pipeline_config.settings import CorpusConfig
from tasks.corpus_reading import THREADS, CorpusReader, map_ahead, read_spool, stripped_lengths, text_keys
from tasks.corpus_sources import locate_corpus

Writer = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path, artifacts: Path) -> Writer:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def read(source: Path, **options: object) -> CorpusReader:
    config = CorpusConfig(source=str(source), **options)
    reader = CorpusReader(locate_corpus(config), config)
    reader.read(source.parent / "spool")
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
        (3, "no_label", "no label"),
        (4, "no_label", "blank label"),
        (5, "wrong_number_of_fields", "too,many,fields"),
        (6, "wrong_number_of_fields", "few"),
        (7, "undecodable", "caf?"),
        (8, "undecodable", "good again"),
    ]


def test_unusable_json_lines_are_rejected_with_row_number_reason_and_excerpt(write: Writer) -> None:
    lines = [b'{"text": "good", "label": "a"}', b"[1]", b'{"text": null, "label": "a"}', b'{"label": "a"}',
             b'{"text": 5, "label": "a"}', b'{"text": "x", "label": null}', b'{"text": "x"}',
             b'{"text": "last", "label": "b"}']  # fmt: skip
    assert reasons(write("c.jsonl", b"\n".join(lines))) == [
        (1, "not_a_json_object", "[1]"),
        (2, "null_text", ""),
        (3, "null_text", ""),
        (4, "text_is_no_string", "5"),
        (5, "no_label", "x"),
        (6, "no_label", "x"),
    ]


def test_the_first_reason_counts(write: Writer) -> None:
    assert reasons(write("c.csv", b"text,label,part\n ,,holdout\nx,,holdout\nx,a,holdout\n"), split_column="part") == [
        (0, "empty_text", " "),
        (1, "no_label", "x"),
        (2, "unknown_split", "x"),
    ]


def test_an_excerpt_has_80_characters(write: Writer) -> None:
    assert reasons(write("c.csv", "text,label\n{},\n".format("\u00e9" * 200).encode()))[0][2] == "\u00e9" * 80


def test_texts_below_the_smallest_length_are_rejected(write: Writer) -> None:
    path = write("c.csv", "text,label\n,a\n ab ,a\nabc,a\n abc ,a\n\u00e9\u00e9,a\n".encode())
    assert reasons(path, min_characters=3) == [
        (0, "empty_text", ""), (1, "short_text", " ab "), (4, "short_text", "\u00e9\u00e9"),
    ]  # fmt: skip


@pytest.mark.parametrize("letter", ["\u00a0", "\u2028", "\u3000", "\x1c", "\u0085"])
def test_white_space_of_any_kind_is_an_empty_text(write: Writer, letter: str) -> None:
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
    assert stripped_lengths(column).tolist() == [len(text.strip()) for text in texts]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A b", "a  B\n", True),
        ("stra\u00dfe", "STRASSE", True),
        ("\u00c9t\u00e9", "\u00e9T\u00c9", True),
        ("a\u00a0b", "a b", True),
        ("a", "b", False),
        ("a.", "a", False),
        ("\u00e9", "e", False),
    ],
)
def test_texts_that_differ_in_case_and_white_space_alone_have_one_key(one: str, other: str, same: bool) -> None:
    keys = text_keys(pa.array([one, other, "", one], pa.large_string()))
    assert (keys[0] == keys[1]) == same
    assert keys[0] == keys[3] != keys[2]
    assert {len(key) for key in keys} == {16}
    assert text_keys(pa.array(["zero", one, other], pa.large_string()).slice(1)) == keys[:2]


@pytest.mark.parametrize("items", [0, 1, 2, 50])
def test_work_ahead_keeps_its_order_and_its_bounds(items: int) -> None:
    taken = []
    source = (taken.append(i) or i for i in range(items))
    with ThreadPoolExecutor(2) as pool:
        for number, result in enumerate(map_ahead(pool, lambda i: i * i, source)):
            assert result == number**2
            assert len(taken) <= number + 1 + THREADS
    assert taken == list(range(items))


# every row of any file is accounted for


class Row(NamedTuple):
    """A generated row: what stands in the file, and what is to become of it."""

    text: object
    label: object
    reason: str | None = None
    raw: bytes | None = None  # a line of its own, in place of text and label
    broken: bool = False  # bytes outside the encoding are put into the text


FILES = int(os.environ.get("GLOVEFLOW_FUZZ_FILES", "300"))
PIECES = ["a", "B c", "caf\u00e9", "e\u0301", "\u2028", "\u0085", "\x0b", "\x0c", "\x1c", ",", "\t", '"', '""', "'", "\n", "\r\n", "\r",
          "NA", "null", "\U0001f600", "\ufeff", "\u200b", "<br />", "\u03a3", "\u4e2d", ";", "\\", "{}", "0", " "]  # fmt: skip
BLANK = ["", " ", "\t ", "\u00a0", "\u2028"]
LABELS = ["pos", "neg", "1", "1.0", "null", "NaN", " padded ", "caf\u00e9", "a,b", 'q"q']
JSON_LABELS = [*LABELS, 1, 1.0, 0, 2.5, True, False]


def label_of(value: object) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else str(value).strip()
        if isinstance(value, str)
        else f"{value:g}"
    )


def generate_row(generator: random.Random, kind: str, encodable: Callable[[str], bool]) -> Row:
    text = "x" + "".join(generator.choices([piece for piece in PIECES if encodable(piece)], k=generator.randrange(8)))
    labels = [label for label in (JSON_LABELS if kind == "jsonl" else LABELS) if encodable(str(label))]
    label = generator.choice(labels)
    choice = generator.random()
    if choice < 0.6:
        return Row(text, label)
    if choice < 0.7:
        return Row(generator.choice([blank for blank in BLANK if encodable(blank)]), label, "empty_text")
    if choice < 0.8:
        return Row(text, generator.choice(["", "  "] + [None] * (kind in ("jsonl", "parquet"))), "no_label")
    if kind == "jsonl":
        return generator.choice([
            Row(None, label, "null_text"), Row(7, label, "text_is_no_string"), Row([text], label, "text_is_no_string"),
            Row("half \ud83d", label, "undecodable"), Row("", "", "not_a_json_object", b'{"text": "cut'),
            Row("", "", "not_a_json_object", b"[1, 2]"), Row("", "", None, b"  "),
        ])  # fmt: skip
    if kind == "parquet":
        return Row(None, label, "null_text")
    delimiter = b"," if kind == "csv" else b"\t"
    return generator.choice([
        Row("", "", "wrong_number_of_fields", delimiter.join([b"one", b"two", b"three"])),
        Row("", "", "wrong_number_of_fields", b"one"),
        Row("", "", None, b""),
    ])  # fmt: skip


def serialize(rows: list[Row], generator: random.Random, kind: str, encoding: str) -> bytes:
    end = generator.choice(["\n", "\r\n"] + ["\r"] * (kind in ("csv", "tsv")))
    lines: list[bytes] = []
    delimiter = "\t" if kind == "tsv" else ","
    if kind in ("csv", "tsv"):
        lines.append(delimiter.join(["id", "text", "label"][1:]).encode())
    for row in rows:
        if row.raw is not None:
            line = row.raw
        elif kind == "jsonl":
            as_ascii = generator.random() < 0.5 or not isinstance(row.text, str) or "\ud83d" in row.text
            line = json.dumps({"text": row.text, "label": row.label}, ensure_ascii=as_ascii).encode()
        else:
            buffer = io.StringIO()
            plain = not any(c in f"{row.text}{row.label}" for c in "\r\n") and generator.random() < 0.5
            quoting = csv.QUOTE_MINIMAL if plain else csv.QUOTE_ALL
            csv.writer(buffer, delimiter=delimiter, lineterminator="", quoting=quoting).writerow([row.text, row.label])
            line = buffer.getvalue().encode()
        begin = b'": "x' if kind == "jsonl" else b"x"
        lines.append(line.replace(begin, begin[:-1] + b"\xff\xfe", 1) if row.broken else line)
    content = end.encode().join(lines) + (end.encode() if generator.random() < 0.7 else b"")
    if encoding == "utf-8":
        return content
    return content.decode().encode(encoding)


@pytest.mark.parametrize("part", range(10))
def test_every_row_of_generated_files_is_accounted_for(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Run more of it: GLOVEFLOW_FUZZ_FILES=10000 pytest tests/tasks/test_corpus_reading.py -k generated."""
    for number in range(part, FILES, 10):
        generator = random.Random(number)
        kind = generator.choice(["csv", "tsv", "jsonl", "parquet"])
        encoding = "utf-8" if kind == "parquet" else generator.choice(
            ["utf-8", "utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])  # fmt: skip
        monkeypatch.setattr(tasks.byte_stream, "BLOCK_BYTES", generator.choice([16, 100, 1000, 8 << 20]))

        def encodable(text: str, encoding: str = encoding) -> bool:
            return text.encode(encoding, "ignore").decode(encoding) == text and "\ufeff" not in text[:1]

        rows = [generate_row(generator, kind, encodable) for _ in range(generator.randrange(1, 40))]
        if encoding == "utf-8" and kind != "parquet":
            rows = [
                row._replace(reason="undecodable", broken=True)
                if row.reason is None and row.raw is None and generator.random() < 0.1 else row
                for row in rows
            ]  # fmt: skip
        path = tmp_path / f"{number}.{kind}"
        if kind == "parquet":
            columns = {"text": [row.text for row in rows], "label": [row.label for row in rows]}
            pq.write_table(pa.table(columns, schema=pa.schema({"text": pa.string(), "label": pa.string()})), path)
        else:
            path.write_bytes(serialize(rows, generator, kind, encoding))
        reader = read(path, encoding=encoding)
        check_accounts(reader, [row for row in rows if row.reason or row.raw is None], path)
        path.unlink()


def check_accounts(reader: CorpusReader, rows: list[Row], path: Path) -> None:
    """Compare what was read with what was generated, row by row."""
    assert reader.rows == len(rows), path
    rejected = pa.concat_tables(reader.rejected)
    assert list(zip(rejected["row"].to_pylist(), rejected["reason"].to_pylist(), strict=True)) == [
        (number, row.reason) for number, row in enumerate(rows) if row.reason
    ], path
    documents = [
        (number, unicodedata.normalize("NFC", str(row.text)), label_of(row.label))
        for number, row in enumerate(rows) if not row.reason
    ]  # fmt: skip
    read_back = [tuple(row.values()) for block in read_spool(path.parent / "spool") for row in block.to_pylist()]
    assert read_back == documents, path
    index = reader.index()
    labels = list(reader.labels)
    assert [labels[code] for code in index.labels] == [label for _, _, label in documents], path
    keys = ["".join(text.casefold().split()) for _, text, _ in documents]
    assert len(set(zip(keys, index.texts.tolist(), strict=True))) == len(set(keys)) == len(set(index.texts.tolist())), (
        path
    )
