"""Generate corpus files, read them with the project, and compare every row with the generated one.

    python -m tests.campaigns.corpus_files [--files 10000] [--seed 0]

The files are CSV, TSV, JSON lines and Parquet, in several encodings, with all kinds of line ends and quoting, unusual
characters (U+2028, U+0085, combining marks), null and blank values, labels of several types, invalid bytes and rows of
the wrong shape. Each row is generated with its expected result: a document with text, label and number, a text
without a label, or a rejected row with its reason. Block sizes are random. The first difference prints the name of the file and ends the campaign.
"""

import argparse
import csv
import io
import json
import logging
import random
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.schemas import UNLABELLED as UNLABELLED_TABLE
from pipeline_config.settings import CorpusConfig
from tasks.corpus.documents import CorpusReader, read_spool
from tasks.reading import byte_stream
from tasks.reading.sources import locate_corpus


class Row(NamedTuple):
    """A generated row, and the reason for which it should be rejected, if any."""

    text: object
    label: object
    reason: str | None = None
    raw: bytes | None = None  # the whole line, instead of text and label
    broken: bool = False  # the text gets bytes that are not in the encoding


UNLABELLED = "unlabelled"  # no reason to reject: the text is kept apart
PIECES = ["a", "B c", "caf\u00e9", "e\u0301", "\u2028", "\u0085", "\x0b", "\x0c", "\x1c", ",", "\t", '"', '""', "'", "\n", "\r\n", "\r",
          "NA", "null", "\U0001f600", "\ufeff", "\u200b", "<br />", "\u03a3", "\u4e2d", ";", "\\", "{}", "0", " "]  # fmt: skip
BLANK = ["", " ", "\t ", "\u00a0", "\u2028"]
LABELS = {"pos": "pos", "neg": "neg", "1": "1", "1.0": "1", "01": "01", "null": "null", "NaN": "NaN", " padded ": "padded",
          "caf\u00e9": "caf\u00e9", "cafe\u0301": "caf\u00e9", "p\u200bos": "pos", "neg\u00ad": "neg", "a,b": "a,b",
          'q"q': 'q"q', "TRUE": "true"}  # fmt: skip
JSON_LABELS = [*LABELS, 1, 1.0, 0, 2.5, True, False, ["pos"]]


def label_of(value: object) -> str:
    """Return the class that a generated label stands for."""
    if isinstance(value, list):
        return label_of(value[0])
    if isinstance(value, str):
        return LABELS[value]
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def generate_row(generator: random.Random, kind: str, encodable: Callable[[str], bool]) -> Row:
    text = "x" + "".join(generator.choices([piece for piece in PIECES if encodable(piece)], k=generator.randrange(8)))
    labels = [label for label in (JSON_LABELS if kind == "jsonl" else list(LABELS)) if encodable(str(label))]
    label = generator.choice(labels)
    choice = generator.random()
    if choice < 0.6:
        return Row(text, label)
    if choice < 0.7:
        return Row(generator.choice([blank for blank in BLANK if encodable(blank)]), label, "empty_text")
    if choice < 0.8:
        return Row(text, generator.choice(["", "  "] + [None] * (kind in ("jsonl", "parquet"))), UNLABELLED)
    if kind == "jsonl":
        return generator.choice(
            [
                Row(None, label, "null_text"),
                Row(7, label, "text_is_no_string"),
                Row([text], label, "text_is_no_string"),
                Row("half \ud83d", label, "undecodable"),
                Row("", "", "not_a_json_object", b'{"text": "cut'),
                Row("", "", "not_a_json_object", b"[1, 2]"),
                Row("", "", None, b"  "),
            ]
        )
    if kind == "parquet":
        return Row(None, label, "null_text")
    delimiter = b"," if kind == "csv" else b"\t"
    return generator.choice(
        [
            Row("", "", "wrong_number_of_fields", delimiter.join([b"one", b"two", b"three"])),
            Row("", "", "wrong_number_of_fields", b"one"),
            Row("", "", None, b""),
        ]
    )


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


def run_campaign(numbers: Iterable[int], folder: Path) -> Counter[str]:
    """Generate a file for each number, read it and compare; return counts of files, rows and reasons.

    Raises:
        AssertionError: a row was not read as expected.
    """
    tally: Counter[str] = Counter()
    before = byte_stream.BLOCK_BYTES
    try:
        for number in numbers:
            tally += check_file(random.Random(number), folder / str(number))
            tally["files"] += 1
    finally:
        byte_stream.BLOCK_BYTES = before
    return tally


def check_file(generator: random.Random, path: Path) -> Counter[str]:
    """Generate a file, read it and compare; return counts."""
    kind = generator.choice(["csv", "tsv", "jsonl", "parquet"])
    encoding = (
        "utf-8"
        if kind == "parquet"
        else generator.choice(["utf-8", "utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
    )
    byte_stream.BLOCK_BYTES = generator.choice([16, 100, 1000, 8 << 20])

    def encodable(text: str) -> bool:
        return text.encode(encoding, "ignore").decode(encoding) == text and "\ufeff" not in text[:1]

    rows = [generate_row(generator, kind, encodable) for _ in range(generator.randrange(1, 40))]
    if encoding == "utf-8" and kind != "parquet":
        rows = [
            row._replace(reason="undecodable", broken=True)
            if row.reason is None and row.raw is None and generator.random() < 0.1
            else row
            for row in rows
        ]
    path = path.with_suffix(f".{kind}")
    if kind == "parquet":
        columns = {"text": [row.text for row in rows], "label": [row.label for row in rows]}
        pq.write_table(pa.table(columns, schema=pa.schema({"text": pa.string(), "label": pa.string()})), path)
    else:
        path.write_bytes(serialize(rows, generator, kind, encoding))
    config = CorpusConfig(source=str(path), encoding=encoding)
    reader = CorpusReader(locate_corpus(config), config)
    unlabelled: list[pa.Table] = [UNLABELLED_TABLE.empty_table()]
    reader.read(path.with_name("spool"), unlabelled.append)
    rows = [row for row in rows if row.reason or row.raw is None]  # blank lines are not rows
    check_accounts(reader, rows, path)
    check_unlabelled(pa.concat_tables(unlabelled), rows, path)
    path.unlink()
    return Counter(
        {f"format: {kind}": 1, f"encoding: {encoding}": 1, "documents": sum(not row.reason for row in rows)}
    ) + Counter(f"rejected: {row.reason}" for row in rows if row.reason)


def check_accounts(reader: CorpusReader, rows: list[Row], path: Path) -> None:
    """Compare the rows that were read with the generated ones."""
    assert reader.rows == len(rows), path
    rejected = pa.concat_tables(reader.rejected)
    assert list(zip(rejected["row"].to_pylist(), rejected["reason"].to_pylist(), strict=True)) == [
        (number, row.reason) for number, row in enumerate(rows) if row.reason not in (None, UNLABELLED)
    ], path
    documents = [
        (number, unicodedata.normalize("NFC", str(row.text)), label_of(row.label))
        for number, row in enumerate(rows)
        if not row.reason
    ]
    read_back = [tuple(row.values())[:3] for block in read_spool(path.parent / "spool") for row in block.to_pylist()]
    assert read_back == documents, path
    index = reader.build_index()
    labels = list(reader.labels)
    assert [labels[code] for code in index.labels] == [label for _, _, label in documents], path
    keys = ["".join(text.casefold().split()) for _, text, _ in documents]
    assert len(set(zip(keys, index.texts.tolist(), strict=True))) == len(set(keys)) == len(set(index.texts.tolist())), (
        path
    )


def check_unlabelled(texts: pa.Table, rows: list[Row], path: Path) -> None:
    """Compare the texts without a label with the generated ones."""
    assert [tuple(row.values()) for row in texts.to_pylist()] == [
        (number, unicodedata.normalize("NFC", str(row.text)))
        for number, row in enumerate(rows)
        if row.reason == UNLABELLED
    ], path


def main() -> None:
    """Run the campaign and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="number of the first file")
    options = parser.parse_args()
    logging.disable()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tally = run_campaign(range(options.seed, options.seed + options.files), Path(folder))
    for what, count in sorted(tally.items()):
        print(f"{what:36} {count:9,}")
    print(f"every row accounted for, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
