"""Generate corpus files, read them with the project, and compare every row with the generated one.

    python -m tests.campaigns.corpus_files [--files 10000] [--seed 0]

The files are CSV, TSV, JSON lines, JSON arrays and Parquet, plain and packed, in several encodings, with all kinds of
line ends, separators and quoting, with and without a header, with fields inside objects, unusual characters (U+2028,
U+0085, combining marks), null and blank values, labels of several types, invalid bytes, rows of the wrong shape and
quotes that swallow rows. Each row is generated with its expected result: a document with text, label and number, a
text without a label, or a rejected row with its reason. Block sizes are random. The first difference prints the name of
the file and ends the campaign.
"""

import argparse
import bz2
import csv
import gzip
import io
import json
import logging
import random
import tempfile
import time
import unicodedata
import zipfile
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


class Shape(NamedTuple):
    """How the rows of a generated file are written, and how the configuration says so."""

    kind: str
    encoding: str
    separator: str
    quoting: str
    header: bool
    nested: bool
    packing: str
    said: dict[str, object]


UNLABELLED = "unlabelled"  # no reason to reject: the text is kept apart
PIECES = ["a", "B c", "caf\u00e9", "e\u0301", "\u2028", "\u0085", "\x0b", "\x0c", "\x1c", ",", "\t", '"', '""', "'", "\n", "\r\n", "\r",
          "NA", "null", "\U0001f600", "\ufeff", "\u200b", "<br />", "\u03a3", "\u4e2d", ";", "\\", "{}", "0", " "]  # fmt: skip
BLANK = ["", " ", "\t ", "\u00a0", "\u2028"]
LABELS = {"pos": "pos", "neg": "neg", "1": "1", "1.0": "1", "01": "01", "null": "null", "NaN": "NaN", " padded ": "padded",
          "caf\u00e9": "caf\u00e9", "cafe\u0301": "caf\u00e9", "p\u200bos": "pos", "neg\u00ad": "neg", "a,b": "a,b",
          'q"q': 'q"q', "TRUE": "true"}  # fmt: skip
# a text with one of these after a separator and before a line break looks like a row of the file
LABELS_LIKE_TEXTS = {"null", "caf\u00e9", "cafe\u0301"}
JSON_LABELS = [*LABELS, 1, 1.0, 0, 2.5, True, False, ["pos"]]


def label_of(value: object) -> str:
    """Return the class that a generated label stands for."""
    if isinstance(value, list):
        return label_of(value[0])
    if isinstance(value, str):
        return LABELS[value]
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def generate_shape(generator: random.Random) -> Shape:
    kind = generator.choice(["csv", "tsv", "jsonl", "json", "parquet"])
    encodings = ["utf-8", "utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"]
    encoding = "utf-8" if kind == "parquet" else generator.choice(encodings)
    said: dict[str, object] = {"encoding": encoding}
    if encoding.startswith("utf") and generator.random() < 0.5:
        said = {}
    separator, quoting, header = "\t" if kind == "tsv" else ",", "standard", True
    if kind in ("csv", "tsv"):
        if generator.random() < 0.5:
            separator = generator.choice([",", "\t", ";", "|"])
        quoting = generator.choice(["standard", "auto", "auto", "backslash", "none"])
        header = generator.random() < 0.7
        said |= {"quoting": quoting}
        if not header:
            # the first bytes of the first text may be invalid ones that are also the mark of UTF-16
            said |= {"header": False, "column_names": ["text", "label"], "encoding": encoding}
        if not header or generator.random() < 0.3:
            said["separator"] = separator
    nested = kind not in ("csv", "tsv") and generator.random() < 0.3
    if nested:
        said |= {"text_column": "data.text", "label_column": "meta.label"}
    packed = kind != "parquet" and generator.random() < 0.3
    return Shape(
        kind, encoding, separator, quoting, header, nested,
        generator.choice([".gz", ".bz2", ".zst", ".zip"]) if packed else "", said,
    )  # fmt: skip


def generate_row(generator: random.Random, shape: Shape, encodable: Callable[[str], bool], *, odd: bool) -> Row:
    kind = shape.kind
    pieces = [piece for piece in PIECES if encodable(piece) and (odd or piece != "\r")]
    text = "x" + "".join(generator.choices(pieces, k=generator.randrange(8)))
    if shape.quoting == "none" and generator.random() < 0.3:
        text = '"' + text
    labels = [label for label in (JSON_LABELS if kind in ("jsonl", "json") else list(LABELS)) if encodable(str(label))]
    if shape.quoting == "auto":
        labels = [label for label in labels if label not in LABELS_LIKE_TEXTS]
    label = generator.choice(labels)
    choice = generator.random()
    if choice < 0.6 or not odd:
        return Row(text, label)
    if choice < 0.7:
        return Row(generator.choice([blank for blank in BLANK if encodable(blank)]), label, "empty_text")
    if choice < 0.8:
        return Row(text, generator.choice(["", "  "] + [None] * (kind in ("jsonl", "json", "parquet"))), UNLABELLED)
    if kind in ("jsonl", "json"):
        lines = [Row("", "", "not_a_json_object", b'{"text": "cut'), Row("", "", None, b"  ")]
        return generator.choice(
            [
                *(lines if kind == "jsonl" else ()),
                Row(None, label, "null_text"),
                Row(7, label, "text_is_no_string"),
                Row([text], label, "text_is_no_string"),
                Row("half \ud83d", label, "undecodable"),
                Row("", "", "not_a_json_object", b"[1, 2]"),
            ]
        )
    if kind == "parquet":
        return Row(None, label, "null_text")
    delimiter = shape.separator.encode()
    return generator.choice(
        [
            Row("", "", "wrong_number_of_fields", delimiter.join([b"one", b"two", b"three"])),
            Row("", "", "wrong_number_of_fields", b"one"),
            Row("", "", None, b""),
        ]
    )


def generate_swallowed(generator: random.Random, rows: list[Row], separator: str) -> list[Row]:
    """Return rows that are one row for a parser, since the first has a quote that a later one ends."""
    labels = [row.label for row in rows if row.label in ("pos", "neg") and row.raw is None]
    if not labels:
        return []
    count = generator.randrange(2, 6)
    lines = [f"plain {i}{separator}{generator.choice(labels)}" for i in range(count)]
    lines[0] = '"' + lines[0]
    last = generator.choice(['{}"' + separator, '"{}' + separator])
    lines[-1] = last.format("plain") + str(generator.choice(labels))
    return [Row("", "", "swallowed_by_quote", line.encode()) for line in lines]


def serialize_fields(row: Row, generator: random.Random, shape: Shape) -> str:
    """Return a row of CSV or TSV."""
    fields = [str(row.text), str(row.label)]
    if shape.quoting == "none":
        return shape.separator.join(fields)
    if shape.quoting == "backslash":
        escaped = [field.replace("\\", "\\\\").replace('"', '\\"') for field in fields]
        return shape.separator.join(f'"{field}"' for field in escaped)
    buffer = io.StringIO()
    plain = not any(c in f"{row.text}{row.label}" for c in "\r\n") and generator.random() < 0.5
    quoting = csv.QUOTE_MINIMAL if plain else csv.QUOTE_ALL
    csv.writer(buffer, delimiter=shape.separator, lineterminator="", quoting=quoting).writerow(fields)
    return buffer.getvalue()


def serialize_object(row: Row, generator: random.Random, shape: Shape) -> str:
    """Return a row of JSON."""
    as_ascii = generator.random() < 0.5 or not isinstance(row.text, str) or "\ud83d" in row.text
    values: dict[str, object] = {"text": row.text, "label": row.label}
    if shape.nested:
        values = {"data": {"text": row.text, "n": 1}, "meta": {"label": row.label}}
    return json.dumps(
        values, ensure_ascii=as_ascii, indent=generator.choice([None, 2]) if shape.kind == "json" else None
    )


def serialize(rows: list[Row], generator: random.Random, shape: Shape) -> bytes:
    text_rows = shape.kind in ("csv", "tsv")
    end = generator.choice(["\n", "\r\n"] + ["\r"] * text_rows)
    lines: list[bytes] = []
    if text_rows and shape.header:
        lines.append(shape.separator.join(["text", generator.choice(["label", " label "])]).encode())
    for row in rows:
        if row.raw is not None:
            line = row.raw
        else:
            line = (serialize_fields if text_rows else serialize_object)(row, generator, shape).encode()
        begin = b"x" if text_rows else b'": "x'
        lines.append(line.replace(begin, begin[:-1] + b"\xff\xfe", 1) if row.broken else line)
    if shape.kind == "json":
        return encode(b"[" + b",\n".join(lines) + b"]", shape.encoding)
    return encode(end.encode().join(lines) + (end.encode() if generator.random() < 0.7 else b""), shape.encoding)


def encode(content: bytes, encoding: str) -> bytes:
    return content if encoding == "utf-8" else content.decode().encode(encoding)


def pack(content: bytes, shape: Shape) -> bytes:
    if shape.packing == ".gz":
        return gzip.compress(content)
    if shape.packing == ".bz2":
        return bz2.compress(content)
    if shape.packing == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()
    buffer = io.BytesIO()
    if shape.packing == ".zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"inside.{shape.kind}", content)
    return buffer.getvalue() if shape.packing else content


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
    shape = generate_shape(generator)
    kind, encoding = shape.kind, shape.encoding
    byte_stream.BLOCK_BYTES = generator.choice([16, 100, 1000, 8 << 20])

    def encodable(text: str) -> bool:
        if shape.quoting == "none" and any(c in text for c in ("\r", "\n", shape.separator)):
            return False
        return text.encode(encoding, "ignore").decode(encoding) == text and "\ufeff" not in text[:1]

    odd = generator.random() < 0.7  # blocks without an odd row go through the fast parser
    rows = [generate_row(generator, shape, encodable, odd=odd) for _ in range(generator.randrange(1, 40))]
    if odd and encoding == "utf-8" and kind != "parquet":
        rows = [
            row._replace(reason="undecodable", broken=True)
            if row.reason is None and row.raw is None and generator.random() < 0.1
            else row
            for row in rows
        ]
    if shape.quoting == "auto" and generator.random() < 0.4:
        place = generator.randrange(len(rows) + 1)
        rows[place:place] = generate_swallowed(generator, rows, shape.separator)
    path = path.with_name(f"{path.name}.{generator.choice([kind, kind.upper()])}{shape.packing}")
    if kind == "parquet":
        write_parquet(rows, shape, path)
    else:
        path.write_bytes(pack(serialize(rows, generator, shape), shape))
    config = CorpusConfig(source=str(path), **shape.said)
    reader = CorpusReader(locate_corpus(config), config)
    unlabelled: list[pa.Table] = [UNLABELLED_TABLE.empty_table()]
    reader.read(path.with_name("spool"), unlabelled.append)
    rows = [row for row in rows if row.reason or row.raw is None]  # blank lines are not rows
    check_accounts(reader, rows, path)
    check_unlabelled(pa.concat_tables(unlabelled), rows, path)
    path.unlink()
    counts = Counter(
        {
            f"format: {kind}": 1,
            f"encoding: {encoding}": 1,
            f"packing: {shape.packing or 'none'}": 1,
            f"nested: {shape.nested}": 1,
            "documents": sum(not row.reason for row in rows),
        }
    ) + Counter(f"rejected: {row.reason}" for row in rows if row.reason)
    if kind in ("csv", "tsv"):
        counts[f"separator: {shape.separator!r}, {'set' if 'separator' in shape.said else 'found'}"] += 1
        counts[f"quoting: {shape.quoting}"] += 1
        counts[f"header: {shape.header}"] += 1
    return counts


def write_parquet(rows: list[Row], shape: Shape, path: Path) -> None:
    texts = pa.array([row.text for row in rows], pa.string())
    labels = pa.array([row.label for row in rows], pa.string())
    columns: dict[str, pa.Array] = {"text": texts, "label": labels}
    if shape.nested:
        columns = {
            "data": pa.StructArray.from_arrays([texts, texts], ["text", "other"]),
            "meta": pa.StructArray.from_arrays([labels], ["label"]),
        }
    pq.write_table(pa.table(columns), path)


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
