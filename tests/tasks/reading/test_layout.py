"""How fields stand in the rows of CSV and TSV: separators, headers, quotes and escapes, and rows that quotes swallow."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

import tasks.reading.byte_stream
import tasks.reading.delimited
from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.reading.blocks import BLOCK
from tasks.reading.formats import read_blocks, resolve_reading
from tasks.reading.layout import parse_rows

Writer = Callable[[str, bytes], Path]
ROWS = [(f"text {i}, and; more", "ab"[i % 2]) for i in range(12)]


def read(path: Path, **options: object) -> list[tuple[object, ...]]:
    """Return text and label of every row, and the problem of an unreadable one."""
    reading = CorpusConfig(source=str(path), **options).reading
    kind = path.suffix.lower().removeprefix(".")
    table = pa.concat_tables([BLOCK.empty_table(), *read_blocks(path, kind, reading)])
    rows = zip(*(table[name].to_pylist() for name in ("text", "label", "problem")), strict=True)
    return [row if row[2] else row[:2] for row in rows]


def refused(path: Path, **options: object) -> str:
    """Return the message with which a file is refused, without its path."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value).replace(f"{path}", "FILE")


def joined(separator: str, header: bool = True) -> bytes:
    rows = [("text", "label")] * header + [(f'"{text}"', label) for text, label in ROWS]
    return "".join(separator.join(row) + "\n" for row in rows).encode()


# separators


@pytest.mark.parametrize("name", ["c.csv", "c.tsv"])
@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("header", [True, False])
def test_a_separator_is_found(write: Writer, name: str, separator: str, header: bool) -> None:
    path = write(name, joined(separator, header))
    options = {} if header else {"header": False, "column_names": ["text", "label"]}
    assert read(path, **options) == ROWS
    found = resolve_reading(path, name[2:], CorpusConfig(source="c", **options).reading)
    assert (found.separator, found.quoting, found.encoding) == (separator, "standard", "utf-8")


@pytest.mark.parametrize("separator", [";", "|", "~"])
@pytest.mark.parametrize("header", [True, False])
def test_the_line_with_which_excel_names_the_separator_is_no_row(write: Writer, separator: str, header: bool) -> None:
    path = write("c.csv", f"sep={separator}\r\n".encode() + joined(separator, header))
    options = {} if header else {"header": False, "column_names": ["text", "label"]}
    assert read(path, **options) == ROWS
    assert read(path, separator=separator, **options) == ROWS
    assert read(write("d.csv", b"sep=,\n" + joined(";", header)), separator=";", **options) == ROWS


@pytest.mark.parametrize("value", ["tab", "\\t", "\t"])
def test_a_tab_has_several_names(write: Writer, value: str) -> None:
    assert read(write("c.csv", joined("\t")), separator=value) == ROWS


@pytest.mark.parametrize("value", ["", "ab", '"', "\n", "\u00e9"])
def test_a_separator_is_one_ascii_character(value: str) -> None:
    with pytest.raises(ValidationError, match="should be auto, tab, or one ASCII character"):
        CorpusConfig(source="c.csv", separator=value)


def test_the_separator_of_the_format_comes_first(write: Writer) -> None:
    assert read(write("c.csv", b"text,label;text;label\none,a;two;b\n"), label_column="label;text;label") == [
        ("one", "a;two;b")
    ]


def test_rows_without_a_header_that_fit_with_two_separators_are_refused(write: Writer) -> None:
    path = write("c.csv", b"a;1,5\nb;2,5\n" * 5)
    assert refused(path, header=False, text_column="2", label_column="1") == (
        "FILE: can be read in more than one way: 'a;1', '5' with the separator ',', or 'a', '1,5' with the separator ';'; "
        "set corpus.separator"
    )
    assert read(path, header=False, text_column="2", label_column="1", separator=";")[0] == ("1,5", "a")


def test_rows_without_a_header_need_as_many_fields_as_the_columns_that_are_wanted(write: Writer) -> None:
    path = write("c.csv", b"a;1;x,y\n" * 5)
    assert read(path, header=False, text_column="3", label_column="1")[0] == ("x,y", "a")
    assert refused(path, header=False, text_column="4", label_column="1").startswith(
        "FILE: expected rows with the same number of fields, at least 4, got none under the separators ',', "
    )


# headers


def test_a_first_row_that_looks_like_data_is_shown_shortened(write: Writer) -> None:
    path = write("c.csv", b"4,1467810369,user1,%b\n0,1467810672,user2,two\n" % (b"word " * 100))
    assert refused(path) == (
        "FILE: expected a column 'text', got a first row that looks like data: '4', '1467810369', 'user1', "
        "'word word word word word word word wo...'; if the file has no header, set corpus.header=false and either "
        "corpus.text_column=4 or so (columns are then 1 to 4) or corpus.column_names=[...]"
    )


def test_the_columns_are_shown_as_each_separator_gives_them(write: Writer) -> None:
    assert refused(write("c.csv", b"body;queue\nx;a\n")) == (
        "FILE: expected a column 'text', got columns 'body', 'queue'; --text NAME gives its name"
    )
    assert refused(write("c.csv", b"a,b;c\nx,y;z\n")) == (
        "FILE: expected a column 'text', got 'a', 'b;c' with the separator ',', or 'a,b', 'c' with the separator ';'; "
        "--text NAME gives its name"
    )


@pytest.mark.parametrize("header", [b"\xef\xbb\xbf text ,\tlabel ", b"\n\ntext,label", b'\xef\xbb\xbf"text" , "label"'])
def test_a_header_may_have_a_byte_order_mark_spaces_and_blank_lines_before_it(write: Writer, header: bytes) -> None:
    if b'"' in header:
        header = header.replace(b" ", b"")
    assert read(write("c.csv", header + b"\none,a\n")) == [("one", "a")]


def test_a_header_longer_than_a_block_does_not_lose_rows(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", 16)
    row = b'"a long text\nof two lines, longer than a block",a\n'
    path = write("c.csv", row * 3)
    assert len(read(path, header=False, text_column="1", label_column="2")) == 3


@pytest.mark.parametrize("column", ["text", "label"])
def test_a_wanted_column_that_is_there_twice_is_refused(write: Writer, column: str) -> None:
    path = write("c.csv", f"id,{column},text,label,id\n1,2,3,4,5\n".encode())
    second = {"text": 3, "label": 4}[column]
    assert refused(path) == (
        f"FILE: expected one column '{column}', got 2, at the positions 2 and {second}; give them different names"
    )


def test_a_column_that_is_not_wanted_may_be_there_twice(write: Writer) -> None:
    assert read(write("c.csv", b"id,text,label,id\n1,one,a,2\n")) == [("one", "a")]


def test_utf_16_without_its_mark_is_told(write: Writer) -> None:
    assert "corpus.encoding=utf-16-le" in refused(write("c.csv", "text,label\none,a\n".encode("utf-16-le")))


def test_text_and_label_are_different_columns() -> None:
    with pytest.raises(ValidationError, match="should be different columns, both are 'label'"):
        CorpusConfig(source="c.csv", text_column=["text", "label"])
    with pytest.raises(ValidationError, match="should name each column once, it repeats 'a'"):
        CorpusConfig(source="c.csv", text_column=["a", "a"])


def test_a_column_of_numbers_is_no_text(write: Writer) -> None:
    content = b"id,text,label\n" + b"".join(b"%d,text %d,a\n" % (i, i) for i in range(30))
    path = write("c.csv", content)
    assert refused(path, text_column="id") == (
        "FILE: expected texts in the column 'id' (corpus.text_column), got numbers such as '0'"
    )
    assert len(read(path)) == 30


# quotes


@pytest.mark.parametrize("small", [True, False])
def test_a_backslash_before_quotes_is_found(write: Writer, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    if small:
        monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", 32)
    path = write("c.csv", b'text,label\n"said \\"yes, ok\\" twice",a\n"C:\\new, \\\\ done",b\nplain,a\n"x ""y""",b\n')
    rows = [('said "yes, ok" twice', "a"), ("C:\\new, \\ done", "b"), ("plain", "a"), ('x "y"', "b")]
    assert read(path) == read(path, quoting="backslash") == rows
    assert resolve_reading(path, "csv", CorpusConfig(source="c").reading).quoting == "backslash"


def test_a_backslash_is_a_character_where_standard_quotes_give_every_row_its_fields(write: Writer) -> None:
    path = write("c.csv", b'text,label\n"ends in \\",a\nb \\" c,b\n')
    assert read(path) == [("ends in \\", "a"), ('b \\" c', "b")]


def test_a_text_that_ends_in_a_backslash_swallows_no_row_where_others_lack_fields(write: Writer) -> None:
    path = write("c.csv", b'text,label\n"ends in \\",a\none\n"y",b\nplain,b\n')
    assert resolve_reading(path, "csv", CorpusConfig(source="c").reading).quoting == "standard"
    assert read(path) == [("ends in \\", "a"), ("one", None, "wrong_number_of_fields"), ("y", "b"), ("plain", "b")]


@pytest.mark.parametrize("small", [True, False])
def test_quotes_can_be_taken_as_they_are(write: Writer, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    if small:
        monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", 16)
    path = write("c.tsv", b'label\ttext\r\na\t"one\r\nb\ttwo" "\r\n\r\na\t""\r\n')
    assert read(path, quoting="none") == [('"one', "a"), ('two" "', "b"), ('""', "a")]


def test_python_reads_the_same_escapes_wherever_they_stand() -> None:
    lines = ['a\\,b,"c\\"d"\r\n', "\\n,\\\\\n", "end\\\n"]
    assert list(parse_rows(lines, ",", "backslash")) == [["a,b", 'c"d'], ["\\n", "\\"], ["end\\"]]


# rows that a quote swallows

PLAIN = "".join(f"{label}\ttext {i}\n" for i, label in enumerate("ab" * 5))


@pytest.fixture(params=[16, 8 << 20], ids=["small blocks", "one block"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    "swallowed",
    [
        'a\t"begins\nb\tbetween\na\t"again\n',  # the quote ends before a letter
        'a\t"begins\nb\tends"\n',  # every quote is right: the fast parser sees only one row
        'a\t"begins\nb\twith\tmore\nno tab\nb\tends" later\n',  # not every line is a row
    ],
)
def test_swallowed_rows_are_all_accounted_for(write: Writer, swallowed: str) -> None:
    path = write("c.tsv", f"label\ttext\n{PLAIN}{swallowed}{PLAIN}".encode())
    plain = [(f"text {i}", label) for i, label in enumerate("ab" * 5)]
    bad = [(line, None, "swallowed_by_quote") for line in swallowed.splitlines()]
    assert read(path) == [*plain, *bad, *plain]
    reading = CorpusConfig(source="c").reading
    lines = [line for block in read_blocks(path, "tsv", reading) for line in block["line"].to_pylist()]
    assert lines == list(range(2, 22 + len(bad)))
    assert len(read(path, quoting="standard")) == 21, "quotes that are said to be right are trusted"


@pytest.mark.usefixtures("blocks")
def test_a_quote_that_is_never_closed_is_noticed(write: Writer) -> None:
    path = write("c.tsv", f'label\ttext\n{PLAIN}a\t"open\n{PLAIN}'.encode())
    assert [row[2:] for row in read(path)] == [()] * 10 + [("swallowed_by_quote",)] * 11


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "Dear all,\nhello, world\nbye, Bob",
        "a list:\n1, one\n2, two\n",
        "a,\nb,\n",
        "with a, b\nand\n\nc, d",
    ],
)
def test_texts_with_line_breaks_and_commas_stay(write: Writer, text: str) -> None:
    rows = [(text, "spam"), ("plain", "ham"), (text + "!", "spam")]
    path = write("c.csv", b"text,label\n" + b"".join(f'"{text}",{label}\n'.encode() for text, label in rows))
    assert read(path) == rows


def test_without_labels_only_wrong_quotes_say_that_rows_were_swallowed(write: Writer) -> None:
    def read_unlabelled(content: bytes) -> list[str | None]:
        reading = CorpusConfig(source="c").reading.model_copy(update={"label_column": None})
        return [
            p for block in read_blocks(write("c.tsv", content), "tsv", reading) for p in block["problem"].to_pylist()
        ]

    assert read_unlabelled(b'id\ttext\n1\t"one\n2\t"two\n3\tthree\n') == ["swallowed_by_quote"] * 2 + [None]
    assert read_unlabelled(b'id\ttext\n1\t"one\n2\ttwo"\n3\tthree\n') == [None, None]
