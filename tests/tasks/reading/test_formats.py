"""The formats of a corpus: every kind of row, in blocks of any size, with the fast parser and the careful one."""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.reading.byte_stream
import tasks.reading.delimited
from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.reading.blocks import BLOCK
from tasks.reading.formats import read_blocks

Writer = Callable[[str, bytes], Path]


@pytest.fixture(params=[None, 64], ids=["one block", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with blocks of the usual size, and with blocks of a few rows."""
    if request.param:
        monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", request.param)


pytestmark = pytest.mark.usefixtures("blocks")


def kind_of(path: Path, wanted: str) -> str:
    suffix = path.suffix.lower().removeprefix(".")
    return wanted if wanted != "auto" else "folder" if path.is_dir() else "jsonl" if suffix == "ndjson" else suffix


def read(path: Path, **options: object) -> list[tuple[object, ...]]:
    """Return text and label of every row, and the problem of an unreadable one."""
    config = CorpusConfig(source=str(path), **options)
    table = pa.concat_tables([BLOCK.empty_table(), *read_blocks(path, kind_of(path, config.format), config.reading)])
    assert table.schema == BLOCK
    rows = zip(*(table[name].to_pylist() for name in ("text", "label", "problem")), strict=True)
    return [row if row[2] else row[:2] for row in rows]


def refused(path: Path, **options: object) -> str:
    """Return the message with which a file is refused."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value)


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
def test_a_configured_format_overrides_the_file_name(write: Writer, suffix: str) -> None:
    assert read(write(f"c.{suffix}", b"text\tlabel\none\ta\n"), format="tsv") == [("one", "a")]


def test_columns_are_found_by_their_configured_names(write: Writer) -> None:
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
def test_characters_that_only_look_like_line_ends_stay_in_the_text(
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
def test_a_byte_order_mark_is_not_part_of_the_first_value(
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
def test_words_such_as_null_are_texts_and_labels_like_any_other(write: Writer, value: str) -> None:
    path = write("c.csv", f"text,label\n{value},{value}\n".encode())
    assert read(path) == [(value, value)]


# rules for values


def test_labels_of_one_file_are_parsed_by_their_own_types(write: Writer) -> None:
    values = [1, 1.0, True, "1", "true", 0, False, 0.0, None, "", [1], []]
    path = write("c.jsonl", "\n".join(json.dumps({"text": "x", "label": value}) for value in values).encode())
    expected = ["1", "1", "true", "1", "true", "0", "false", "0", None, None, "1", None]
    assert [row[1] for row in read(path)] == expected


@pytest.mark.parametrize(
    ("values", "kind", "labels"),
    [
        ([0, 1, None], pa.int64(), ["0", "1", None]),
        ([0.0, 1.0, None], pa.float32(), ["0", "1", None]),
        ([0.0, 1.5, float("nan")], pa.float64(), ["0", "1.5", None]),
        ([False, True, None], pa.bool_(), ["false", "true", None]),
        (["no", "null", None], pa.string(), ["no", "null", None]),
        (["no", "yes", None], pa.dictionary(pa.int8(), pa.string()), ["no", "yes", None]),
    ],
)
def test_parquet_labels_of_any_type_become_text(
    tmp_path: Path, values: list[object], kind: pa.DataType, labels: list[str | None]
) -> None:
    pq.write_table(pa.table({"text": ["x", "y", "z"], "label": pa.array(values, kind)}), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == list(zip("xyz", labels, strict=True))


def test_split_group_and_time_come_from_their_columns(write: Writer) -> None:
    path = write("c.csv", b"text,label,part,author,day\nx,a,train,9,1970-01-02\ny,b,,,never\n")
    config = CorpusConfig(source=str(path), split_column="part", group_column="author", time_column="day")
    table = pa.concat_tables(read_blocks(path, "csv", config.reading))
    assert table.select(["split", "group", "time"]).to_pylist() == [
        {"split": "train", "group": "9", "time": 86400.0},
        {"split": None, "group": None, "time": None},
    ]


# rows that cannot be read


def test_rows_with_another_number_of_fields_show_what_was_there(write: Writer) -> None:
    path = write("c.csv", b"text,label\ngood,a\ntoo,many,fields\nfew\n\nlast,b\n")
    assert read(path) == [
        ("good", "a"),
        ("too,many,fields", None, "wrong_number_of_fields"),
        ("few", None, "wrong_number_of_fields"),
        ("last", "b"),
    ]


def test_bytes_outside_the_encoding_make_a_row_undecodable(write: Writer, tmp_path: Path) -> None:
    path = write("c.csv", b"text,label\ncaf\xe9,a\ngood,\xff\nlast,b\n")
    write("c/a/1.txt", b"caf\xe9")
    write("c/a/2.txt", b"fine")
    assert read(path) == [("caf?", "a", "undecodable"), ("good", "?", "undecodable"), ("last", "b")]
    assert read(tmp_path / "c") == [("caf?", "a", "undecodable"), ("fine", "a")]
    assert read(path, encoding="ascii")[0][2] == "undecodable"


def test_a_byte_that_is_not_in_a_code_page_makes_a_row_undecodable(write: Writer) -> None:
    path = write("c.csv", b"text,label\n\x81 x,a\ncaf\xe9,b\n")
    assert [row[1:] for row in read(path, encoding="cp1252")] == [("a", "undecodable"), ("b",)]


def test_lines_that_are_not_json_objects_get_their_problem(write: Writer) -> None:
    lines = [b'{"text": "good", "label": "a"}', b'{"text": "cut off", "label', b"[1, 2]", b"   ", b'"text"', b"[" * 100_000,
             b'{"text": "half \\ud83d", "label": "a"}', b'{"text": 5, "label": "a"}', b'{"text": null, "label": "a"}',
             b'{"text": NaN, "label": "a"}', b'{"label": "a"}']  # fmt: skip
    assert read(write("c.jsonl", b"\n".join(lines))) == [
        ("good", "a"),
        ('{"text": "cut off", "label', None, "not_a_json_object"),
        ("[1, 2]", None, "not_a_json_object"),
        ('"text"', None, "not_a_json_object"),
        ("[" * 100_000, None, "not_a_json_object"),
        ("half ?", "a", "undecodable"),
        ("5", "a", "text_is_no_string"),
        (None, "a"),
        (None, "a"),
        (None, "a"),
    ]


def test_a_null_text_of_parquet_stays_null(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x", None], "label": ["a", "b"]}), tmp_path / "null.parquet")
    assert read(tmp_path / "null.parquet") == [("x", "a"), (None, "b")]


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ([1, 2], "int64"),
        ([b"x", b"y"], "binary"),
        ([["x"], ["y"]], "list<element: string>"),
        (
            [{"subject": "x", "body": "y"}, None],
            "struct<subject: string, body: string>; its fields are 'text.subject', 'text.body'",
        ),
    ],
)
def test_a_text_column_of_parquet_that_holds_no_texts_is_refused(
    tmp_path: Path, values: list[object], got: str
) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"text": values, "label": ["a", "b"]}), path)
    assert refused(path) == f"{path}: expected texts in the column 'text' (corpus.text_column), got {got}"


def test_a_parquet_text_that_is_not_utf_8_is_undecodable(tmp_path: Path) -> None:
    text = pa.array([b"fine", b"caf\xe9", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text, "label": ["a", "b", "c"]}), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == [("fine", "a"), ("caf?", "b", "undecodable"), (None, "c")]


def test_memory_does_not_hold_a_row_group_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [random.Random(i).randbytes(500).hex() for i in range(16_000)]
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"] * 8_000}), tmp_path / "c.parquet", compression="none")
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", 1 << 20)
    config, rows, before = CorpusConfig(source="c.parquet"), 0, pa.total_allocated_bytes()
    for block in read_blocks(tmp_path / "c.parquet", "parquet", config.reading):
        rows += len(block)
        assert pa.total_allocated_bytes() - before < 8 << 20, "of 16 MiB"
    assert rows == len(texts)


def test_an_unclosed_quote_makes_one_row_of_everything_after_it(write: Writer) -> None:
    path = write("c.csv", b'text,label\none,a\n"two,b\nthree,a\n')
    assert read(path) == [("one", "a"), ("two,b\nthree,a\n", None, "wrong_number_of_fields")]


def test_an_unclosed_quote_with_too_much_after_it_is_refused(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.reading.byte_stream, "MAX_ROW_BYTES", 1000)
    path = write("c.csv", b'text,label\none,a\n"two,b\n' + b"three,a\n" * 1000)
    assert refused(path).endswith("is a quote not closed?")


@pytest.mark.parametrize("name", ["c.jsonl", "c.csv"])
def test_a_line_without_an_end_is_refused(write: Writer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", 64)
    monkeypatch.setattr(tasks.reading.byte_stream, "MAX_ROW_BYTES", 1000)
    assert "without an end of line" in refused(write(name, b"text,label\n" + b"x" * 10_000))


def test_a_row_may_be_longer_than_a_block(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("x" * 5000, "a"), ('y,\n"' * 1000, "b"), ("z", "c")]
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([("text", "label"), *rows])
    assert read(write("c.csv", lines.getvalue().encode())) == rows
    objects = [json.dumps({"text": text, "label": label}) for text, label in rows]
    assert read(write("c.jsonl", "\n".join(objects).encode())) == rows


# both parsers of CSV


ODD_CSV = [
    b'a"b,c\n', b'"a"b,c\n', b'"a" ,b\n', b' "a",b\n', b'"a""b",c\n', b'"""a""",b\n', b'"",b\n', b'"a\nb",c\n',
    b'"a\r\nb",c\r\n', b'"a\rb",c\n', b"a\rb,c\n", b"a,b\r", b"a,b\r\n", b"\n", b"\r\n", b" \n", b'"\n', b"a\x00b,c\n",
    b"a,b,c\n", b"a\n", b",\n", b'"a","b"\n', b"NA,null\n", b"caf\xe9,b\n", "caf\u00e9,\u2028\n".encode(), b'a,"b\n', b'a,b"\n',
]  # fmt: skip


def python_rows(content: bytes) -> list[tuple[object, ...]]:
    """Return what Python's own reader makes of a file with a header `text,label`."""
    text = io.TextIOWrapper(io.BytesIO(content), "utf-8", errors="surrogateescape", newline="")
    rows: list[tuple[object, ...]] = []
    for fields in list(csv.reader(text))[1:]:
        joined = [field.encode("utf-8", "replace").decode() for field in fields]
        if len(fields) == 2:
            undecodable = any("\udc80" <= letter <= "\udcff" for field in fields for letter in field)
            label = joined[1].strip() or None
            rows.append((joined[0], label, "undecodable") if undecodable else (fields[0], label))
        elif fields:
            rows.append((",".join(joined), None, "wrong_number_of_fields"))
    return rows


@pytest.mark.parametrize("odd", ODD_CSV)
def test_an_odd_row_between_regular_ones_is_what_python_reads(write: Writer, odd: bytes) -> None:
    regular = b'one,a\n"two, 2",b\n'
    content = b"text,label\n" + regular + odd + regular
    assert read(write("c.csv", content), quoting="standard") == python_rows(content)


@pytest.mark.parametrize("seed", range(20))
def test_random_rows_are_what_python_reads(write: Writer, seed: int) -> None:
    generator = random.Random(seed)
    pieces = [
        b'"',
        b",",
        b"\n",
        b"\r\n",
        b"\r",
        b"a",
        b"b c",
        b'""',
        "\u00e9".encode(),
        "\u2028".encode(),
        b"\xff",
        b"\x00",
    ]
    for _ in range(20):
        likely = generator.sample(pieces, 6)
        content = b"text,label\n" + b"".join(generator.choices(likely, k=generator.randrange(60)))
        assert read(write("c.csv", content), quoting="standard") == python_rows(content)


def test_regular_rows_go_through_the_fast_parser(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> pa.Table:
        raise AssertionError("the careful parser was used")

    monkeypatch.setattr(tasks.reading.delimited, "_parse_carefully", forbidden)
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", 8 << 20)
    path = write("c.csv", b'text,label\r\n"one, ""1""",a\r\n"two\nlines",b\r\nthree,c\r\n')
    assert read(path) == [('one, "1"', "a"), ("two\nlines", "b"), ("three", "c")]


# lines, and texts of several columns


def lines(path: Path, **options: object) -> list[int]:
    """Return the line at which each row begins."""
    config = CorpusConfig(source=str(path), **options)
    blocks = read_blocks(path, kind_of(path, config.format), config.reading)
    return [line for block in blocks for line in block["line"].to_pylist()]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_row_of_csv_has_the_line_at_which_it_begins(write: Writer, end: bytes) -> None:
    rows = [b"text,label", b"one,a", b"", b'"two', b"", b'lines",b', b"only one field", b"four,a", b"", b"five,b"]
    assert lines(write("c.csv", end.join(rows))) == [2, 4, 7, 8, 10]


def test_every_row_of_json_lines_has_its_line(write: Writer) -> None:
    row = b'{"text": "x", "label": "a"}\n'
    assert lines(write("c.jsonl", row + b"\n" + row + b"[]\n  \n" + row)) == [1, 3, 4, 6]


def test_every_row_of_a_table_has_its_number(tmp_path: Path) -> None:
    pq.write_table(pa.table(COLUMNS), tmp_path / "c.parquet", row_group_size=3)
    assert lines(tmp_path / "c.parquet") == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl", "c.parquet"])
def test_the_texts_of_several_columns_are_joined_in_their_order_without_blank_ones(write: Writer, name: str) -> None:
    columns = {"body": ["b1", "", "b3", " "], "label": ["a", "b", "a", "b"], "subject": ["s1", "s2", " ", ""]}
    path = write(name, b"")
    if name == "c.parquet":
        pq.write_table(pa.table(columns), path)
    elif name == "c.jsonl":
        path.write_text(
            "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
        )
    else:
        rows = [columns, *zip(*columns.values(), strict=True)]
        path.write_text("\n".join(",".join(row) for row in rows))
    read_as = {"text_column": ("subject", "body"), "text_joiner": " | "}
    assert read(path, **read_as) == [("s1 | b1", "a"), ("s2", "b"), ("b3", "a"), (None, "b")]


def test_columns_without_a_header_have_the_given_names_or_their_numbers(write: Writer) -> None:
    path = write("c.csv", b'a,7,"one\nline"\nb,8,two\n')
    rows = [("one\nline", "a"), ("two", "b")]
    assert read(path, header=False, text_column="3", label_column="1") == rows
    assert read(path, header=False, column_names=["label", "id", "text"]) == rows


def test_a_separator_can_be_set(write: Writer) -> None:
    assert read(write("c.csv", b"label;text\na;one, two\n"), separator=";") == [("one, two", "a")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_an_encoding_is_found_by_its_byte_order_mark(write: Writer, encoding: str) -> None:
    path = write("c.csv", "text,label\ncaf\u00e9,a\n".encode(encoding))
    assert read(path) == [("caf\u00e9", "a")]
