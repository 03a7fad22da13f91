"""The GloVe text format: regular files, every kind of odd line, and the same result from both parsers.

Longer than 300 lines because of the table of odd lines.
"""

import io
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import tasks.vectors.glove_text
from pipeline_config.errors import InputError
from pipeline_config.schemas import vectors_schema
from tasks.vectors.glove_text import DroppedLineError, GloveTextReader, parse_block, parse_line
from tasks.vectors.selection import VectorSelection
from tests.campaigns import vector_files

BLOCK_SIZES = [1, 2, 3, 5, 7, 16, 33, 64]


class Outcome(NamedTuple):
    rows: list[tuple[str, list[float]]]
    lines: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    excerpts: list[tuple[int, str, str]]


def read(data: bytes, *, dim: int = 2, max_vectors: int | None = None) -> Outcome:
    selection = VectorSelection(dim, max_vectors=max_vectors)
    tables = list(GloveTextReader(io.BytesIO(data), name="glove.txt", selection=selection))
    rows = [row for t in tables for row in zip(t["token"].to_pylist(), t["vector"].to_pylist(), strict=True)]
    assert selection.kept == len(rows)
    excerpts = [(odd.line, odd.reason, odd.excerpt) for odd in selection.examples if odd.action == "dropped"]
    return Outcome(rows, selection.lines, dict(selection.dropped), dict(selection.repaired), excerpts)


def tables_of(data: bytes, *, dim: int) -> list[pa.Table]:
    return list(GloveTextReader(io.BytesIO(data), name="glove.txt", selection=VectorSelection(dim)))


def refuse_block(block: bytes, dim: int) -> None:
    """Replace the fast parser and refuse every block, so that the careful parser reads it."""


def fail_on_line(line: bytes, dim: int) -> None:
    """Replace the careful parser where no line may reach it."""
    raise AssertionError(line)


def dropped(number: int, reason: str, excerpt: str) -> dict[str, object]:
    return {"dropped": {reason: 1}, "excerpts": [(number, reason, excerpt)]}


# An odd line between two regular ones: its bytes, the tokens that are read, what is counted.
ODD_CASES = {
    "token with spaces": (b". . . 3 4\n", [". . ."], {}),
    "token with a number in it": (b"at 5 3 4\n", ["at 5"], {}),
    "token that is a number": (b"7 3 4\n", ["7"], {}),
    "token with a leading space": (b" b 3 4\n", [" b"], {}),
    "no-break space as token": (b"\xc2\xa0 3 4\n", ["\u00a0"], {}),
    "no-break space in token": (b"b\xc2\xa0c 3 4\n", ["b\u00a0c"], {}),
    "U+0085 as token": (b"\xc2\x85 3 4\n", ["\u0085"], {}),
    "U+2028 in token": (b"b\xe2\x80\xa8c 3 4\n", ["b\u2028c"], {}),
    "vertical tab and form feed in token": (b"b\x0b\x0cc 3 4\n", ["b\x0b\x0cc"], {}),
    "NUL in token": (b"b\x00c 3 4\n", ["b\x00c"], {}),
    "tab in token": (b"b\tc 3 4\n", ["b\tc"], {}),
    "carriage return in token": (b"b\rc 3 4\n", ["b\rc"], {}),
    "carriage return as token": (b"\r 3 4\n", ["\r"], {}),
    "quote": (b'"b 3 4\n', ['"b'], {}),
    "quotes around the token": (b'"b" 3 4\n', ['"b"'], {}),
    "backslash at the end": (b"b\\ 3 4\n", ["b\\"], {}),
    "backslash in token": (b"b\\c 3 4\n", ["b\\c"], {}),
    "astral letter": ("\U0001f600 3 4\n".encode(), ["\U0001f600"], {}),
    "ends in carriage return": (b"b 3 4\r\n", ["b"], {"repaired": {"carriage_return": 1}}),
    "spaces after the last number": (b"b 3 4  \n", ["b"], {"repaired": {"trailing_space": 1}}),
    "space and carriage return at the end": (
        b"b 3 4 \r\n",
        ["b"],
        {"repaired": {"carriage_return": 1, "trailing_space": 1}},
    ),
    "signs, exponents, bare points": (b"b +3. .4e+1\n", ["b"], {}),
    "400 digits": (b"b 3." + b"0" * 400 + b" 4\n", ["b"], {}),
    "header further down": (b"400000 2\n", [], dropped(2, "not_a_vector", "400000 2")),
    "blank": (b"\n", [], dropped(2, "blank", "")),
    "spaces only": (b"   \n", [], dropped(2, "blank", "   ")),
    "blank with carriage return": (b"\r\n", [], {**dropped(2, "blank", "\r"), "repaired": {"carriage_return": 1}}),
    "one number missing": (b"b 3\n", [], dropped(2, "not_a_vector", "b 3")),
    "token only": (b"b\n", [], dropped(2, "not_a_vector", "b")),
    "one number missing, trailing space": (
        b"b 3 \n",
        [],
        {**dropped(2, "not_a_vector", "b 3 "), "repaired": {"trailing_space": 1}},
    ),
    "two spaces between numbers": (b"b 3  4\n", [], dropped(2, "not_a_vector", "b 3  4")),
    "tabs as separators": (b"b\t3\t4\n", [], dropped(2, "not_a_vector", "b\t3\t4")),
    "tab before a number": (b"b 3 \t4\n", [], dropped(2, "not_a_vector", "b 3 \t4")),
    "tab after the last number": (b"b 3 4\t\n", [], dropped(2, "not_a_vector", "b 3 4\t")),
    "comma decimals": (b"b 3,5 4\n", [], dropped(2, "not_a_vector", "b 3,5 4")),
    "hexadecimal": (b"b 0x3 4\n", [], dropped(2, "not_a_vector", "b 0x3 4")),
    "underscore": (b"b 1_0 4\n", [], dropped(2, "not_a_vector", "b 1_0 4")),
    "word for a number": (b"b three 4\n", [], dropped(2, "not_a_vector", "b three 4")),
    "Arabic digits": ("b \u0663 4\n".encode(), [], dropped(2, "not_a_vector", "b \u0663 4")),
    "half an exponent": (b"b 3 4e\n", [], dropped(2, "not_a_vector", "b 3 4e")),
    "point only": (b"b 3 .\n", [], dropped(2, "not_a_vector", "b 3 .")),
    "conflict marker": (b"<<<<<<< HEAD\n", [], dropped(2, "not_a_vector", "<<<<<<< HEAD")),
    "NaN": (b"b nan 4\n", [], dropped(2, "not_finite", "b nan 4")),
    "negative NaN": (b"b -NaN 4\n", [], dropped(2, "not_finite", "b -NaN 4")),
    "infinity": (b"b 3 -inf\n", [], dropped(2, "not_finite", "b 3 -inf")),
    "infinity in full": (b"b 3 Infinity\n", [], dropped(2, "not_finite", "b 3 Infinity")),
    "beyond float64": (b"b 1e999 4\n", [], dropped(2, "not_finite", "b 1e999 4")),
    "beyond float32": (b"b 1e39 4\n", [], dropped(2, "not_finite", "b 1e39 4")),
    "no token": (b" 3 4\n", [], dropped(2, "empty_token", " 3 4")),
    "spaces for a token": (b"   3 4\n", [], dropped(2, "empty_token", "   3 4")),
    "undecodable": (b"b\xff 3 4\n", [], dropped(2, "undecodable", "b\ufffd 3 4")),
    "half a character": (b"\xe2\x82 3 4\n", [], dropped(2, "undecodable", "\ufffd 3 4")),
    "encoded surrogate": (b"\xed\xa0\x80 3 4\n", [], dropped(2, "undecodable", "\ufffd\ufffd\ufffd 3 4")),
    "token seen before": (b"a 3 4\n", [], dropped(2, "duplicate", "a 3 4")),
}


@pytest.mark.parametrize("case", ODD_CASES)
def test_an_odd_line_is_kept_repaired_or_dropped_and_counted(case: str) -> None:
    line, tokens, counts = ODD_CASES[case]
    got = read(b"a 1 2\n" + line + b"z 5 6\n")
    expected = [("a", [1.0, 2.0]), *((token, [3.0, 4.0]) for token in tokens), ("z", [5.0, 6.0])]
    assert got == Outcome(
        expected, 3, counts.get("dropped", {}), counts.get("repaired", {}), counts.get("excerpts", [])
    )


@pytest.mark.parametrize("case", ODD_CASES)
def test_both_parsers_treat_an_odd_line_alike(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"a 1 2\n" + ODD_CASES[case][0] + b"z 5 6\n"
    with_both_parsers = read(data)
    monkeypatch.setattr(tasks.vectors.glove_text, "_parse_fast", refuse_block)
    assert read(data) == with_both_parsers


@pytest.mark.parametrize("block_bytes", BLOCK_SIZES)
@pytest.mark.parametrize("max_vectors", [None, 1, 2, 9, 1000])
def test_rows_and_counts_do_not_depend_on_the_block_size(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, max_vectors: int | None
) -> None:
    odd = b"".join(line for line, _, _ in ODD_CASES.values())
    data = b"\xef\xbb\xbf400000 2\na 1 2\n" + odd + b"y 5 6\nz 7 8"
    in_one_block = read(data, max_vectors=max_vectors)
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCK_BYTES", block_bytes)
    assert read(data, max_vectors=max_vectors) == in_one_block


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", Outcome([], 0, {}, {}, []), id="empty"),
        pytest.param(b"\n", Outcome([], 1, {"blank": 1}, {}, [(1, "blank", "")]), id="blank line"),
        pytest.param(b"9 2\n", Outcome([], 1, {"header": 1}, {}, [(1, "header", "9 2")]), id="header only"),
        pytest.param(b"9 2", Outcome([], 1, {"header": 1}, {}, [(1, "header", "9 2")]), id="half a header line"),
        pytest.param(
            b"9 2 \r\na 1 2\n",
            Outcome([("a", [1.0, 2.0])], 2, {"header": 1}, {}, [(1, "header", "9 2 \r")]),
            id="header with carriage return",
        ),
        pytest.param(
            b"\xef\xbb\xbfa 1 2\n", Outcome([("a", [1.0, 2.0])], 1, {}, {"byte_order_mark": 1}, []), id="mark"
        ),
        pytest.param(
            b"\xef\xbb\xbf9 2\na 1 2\n",
            Outcome([("a", [1.0, 2.0])], 2, {"header": 1}, {"byte_order_mark": 1}, [(1, "header", "9 2")]),
            id="mark and header",
        ),
        pytest.param(b"a 1 2", Outcome([("a", [1.0, 2.0])], 1, {}, {"no_final_newline": 1}, []), id="no final newline"),
        pytest.param(
            b"a 1 2\nb 3",
            Outcome([("a", [1.0, 2.0])], 2, {"not_a_vector": 1}, {"no_final_newline": 1}, [(2, "not_a_vector", "b 3")]),
            id="truncated in the middle of a line",
        ),
        pytest.param(
            b"a 1 2\nb\xc3",
            Outcome(
                [("a", [1.0, 2.0])], 2, {"not_a_vector": 1}, {"no_final_newline": 1}, [(2, "not_a_vector", "b\ufffd")]
            ),
            id="truncated in the middle of a character",
        ),
        pytest.param(
            b"\na 1 2\n", Outcome([("a", [1.0, 2.0])], 2, {"blank": 1}, {}, [(1, "blank", "")]), id="blank first"
        ),
    ],
)
def test_the_beginning_and_the_end_of_a_file(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, data: bytes, expected: Outcome
) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCK_BYTES", block_bytes)
    assert read(data) == expected


def test_the_first_of_two_equal_tokens_is_kept_even_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCK_BYTES", 6)
    got = read(b"a 1 2\nb 3 4\nc 5 6\na 7 8\nb 9 9\n")
    assert got.rows == [("a", [1.0, 2.0]), ("b", [3.0, 4.0]), ("c", [5.0, 6.0])]
    assert got.excerpts == [(4, "duplicate", "a 7 8"), (5, "duplicate", "b 9 9")]


def test_undecodable_tokens_are_dropped_and_are_not_duplicates() -> None:
    got = read(b"a 1 2\n\xff 3 4\n\xfe 5 6\n")
    assert got.rows == [("a", [1.0, 2.0])]
    assert got.dropped == {"undecodable": 2}


@pytest.mark.parametrize(
    ("max_vectors", "tokens", "lines", "reasons"),
    [
        (1, ["a"], 1, {}),
        (2, ["a", "b"], 3, {"not_a_vector": 1}),
        (3, ["a", "b", "c"], 4, {"not_a_vector": 1}),
        (9, ["a", "b", "c"], 5, {"not_a_vector": 1, "blank": 1}),
    ],
)
def test_reading_stops_at_the_last_wanted_vector(
    max_vectors: int, tokens: list[str], lines: int, reasons: dict[str, int]
) -> None:
    got = read(b"a 1 2\nodd\nb 3 4\nc 5 6\n\n", max_vectors=max_vectors)
    assert [token for token, _ in got.rows] == tokens
    assert (got.lines, got.dropped) == (lines, reasons)


def test_little_is_read_after_the_last_wanted_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCK_BYTES", 6)
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCKS_AHEAD", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    stream = io.BytesIO(b"a 1 2\n" * 100)
    list(GloveTextReader(stream, name="glove.txt", selection=VectorSelection(2, max_vectors=1)))
    assert stream.tell() <= 24  # the first line, and two blocks ahead


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "where", "got"),
    [
        (b"9" * 5000 + b" 2\na 1 2\n", 1, 1),
        (b"a 1 2 3\nb 4 5 6\n", 1, 3),
        (b"a 1\nb 2\n", 1, 1),
        (b"2 3\na 1 2 3\n", 2, 3),
        (b"9 2\n9 2\na 1 2\n", 2, 1),
        (b"\xef\xbb\xbf2 3\r\na 1 2 3\r\n", 2, 3),
        (b"a 1 2 3", 1, 3),
    ],
)
def test_another_dimension_is_an_error_that_names_file_and_line(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, data: bytes, where: int, got: int
) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCK_BYTES", block_bytes)
    with pytest.raises(InputError) as caught:
        read(data)
    assert str(caught.value) == f"glove.txt:{where}: expected 2 values, got {got}"


def test_a_token_with_spaces_on_the_first_line_is_not_mistaken_for_another_dimension() -> None:
    assert read(b". . . 1 2\n").rows == [(". . .", [1.0, 2.0])]


@pytest.mark.parametrize("data", [b"x" * 101, b"a 1 2\n" + b"x" * 101, b"9 2\n" + b"x" * 101])
def test_a_line_without_a_line_end_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "MAX_LINE_BYTES", 100)
    with pytest.raises(InputError, match=r"^glove\.txt:[12]: expected a line, got 101 bytes without a line end$"):
        read(data)


def test_every_line_of_a_utf_16_file_is_dropped() -> None:
    got = read("a 1 2\nb 3 4\n".encode("utf-16"))
    assert got.rows == []
    assert got.dropped["not_a_vector"] >= 2


def test_an_excerpt_is_the_beginning_of_a_long_line() -> None:
    assert read(b"a 1 2\n" + b"x" * 500 + b"\n").excerpts == [(2, "not_a_vector", "x" * 80)]


# parse_line


def test_a_line_gives_its_token_and_float32_values() -> None:
    token, vector = parse_line(b"New York 0.5 -1e-3", 2)
    assert token == "New York"
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, np.array([0.5, -0.001], np.float32))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "blank"),
        (b"a 1", "not_a_vector"),
        (b"a 1 inf", "not_finite"),
        (b" 1 2", "empty_token"),
        (b"\xff 1 2", "undecodable"),
    ],
)
def test_an_unusable_line_raises_its_reason(line: bytes, reason: str) -> None:
    with pytest.raises(DroppedLineError, match=f"^{reason}$"):
        parse_line(line, 2)


# references


def regular_file(*, rows: int, dim: int) -> tuple[list[str], bytes]:
    """Return the tokens and the text of a file with numbers of one to twenty digits."""
    generator = np.random.default_rng(0)
    tokens = [f"token{i}" if i % 3 else f"w\u00f6rt\u00a0{i}" for i in range(rows)]
    values = generator.normal(size=(rows, dim)) * 10.0 ** generator.integers(-6, 6, (rows, dim))
    digits = generator.integers(1, 21, (rows, dim))
    lines = (
        f"{token} {' '.join(f'{value:.{n}g}' for value, n in zip(row, counts, strict=True))}\n"
        for token, row, counts in zip(tokens, values, digits, strict=True)
    )
    return tokens, "".join(lines).encode()


def test_a_regular_file_equals_torchtexts_vectors_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchtext.vocab import Vectors

    tokens, data = regular_file(rows=500, dim=7)
    (tmp_path / "vectors.txt").write_bytes(data)
    # Vectors switches the verification of certificates off for the process; this puts it back afterwards
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_default_https_context)
    reference = Vectors(str(tmp_path / "vectors.txt"), cache=str(tmp_path))

    table = pa.concat_tables(tables_of(data, dim=7))
    assert table["token"].to_pylist() == reference.itos == tokens
    values = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_array_equal(values.view(np.int32), reference.vectors.numpy().view(np.int32))


def test_both_parsers_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = regular_file(rows=300, dim=5)[1] + b"a 1 1. .1 1e-46 1.00000005960464477539062501\n"
    fast = read(data, dim=5)
    monkeypatch.setattr(tasks.vectors.glove_text, "_parse_fast", refuse_block)
    assert read(data, dim=5) == fast


@pytest.mark.parametrize("number", [b"1.00000005960464477539062501", b"340282356779733661637539395458142568447"])
def test_both_parsers_round_a_number_once(number: bytes) -> None:
    fast = [parsed.values.tolist() for parsed in parse_block(b"a " + number + b"\n", 1)]
    assert fast == [[parse_line(b"a " + number, 1)[1].tolist()]]


def test_the_fast_parser_reads_a_regular_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "parse_line", fail_on_line)
    tokens, data = regular_file(rows=300, dim=5)
    assert [token for token, _ in read(data, dim=5).rows] == tokens


def test_tables_have_the_schema_of_vectors() -> None:
    assert [table.schema for table in tables_of(b"a 1 2\nb 3 4\n", dim=2)] == [vectors_schema(2)]


def test_random_files_are_read_as_documented() -> None:
    tally = vector_files.run_campaign(files=200, seed=100)
    assert tally["files"] == 200
    reasons = ("header", "blank", "not_a_vector", "not_finite", "empty_token", "undecodable", "duplicate")
    assert all(tally[f"dropped: {reason}"] for reason in reasons)


# published files


def test_a_header_with_another_number_of_vectors_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert read(b"3 2\na 1 2\nb 3 4\n").rows == [("a", [1.0, 2.0]), ("b", [3.0, 4.0])]
    assert caplog.messages == ["glove.txt:1: the header states 3 vectors, got 2 lines"]


@pytest.mark.parametrize("data", [b"2 2\na 1 2\nb 3 4\n", b"2 2\na 1 2\nb 3 4"])
def test_a_correct_header_is_not_logged(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    read(data)
    assert caplog.messages == []


def test_the_odd_tokens_of_840b_are_kept_unchanged() -> None:
    odd = [
        ". .",
        ". . .",
        "at name@domain.com",
        "to name@domain.com",
        "Email name@domain.com",
        "\u00a0",
        "\ufffd" * 1000,
    ]
    data = b"".join(f"{token} 1 2\n".encode() for token in ["the", *odd, "I'm", "don't", "o'clock"])
    assert [token for token, _ in read(data).rows] == ["the", *odd, "I'm", "don't", "o'clock"]


def test_a_byte_order_mark_at_the_beginning_of_a_block_belongs_to_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCK_BYTES", 6)
    tokens = ["a", "\ufeffb", "\ufeff", "c"]
    assert [token for token, _ in read("".join(f"{token} 1 2\n" for token in tokens).encode()).rows] == tokens


@pytest.mark.parametrize("ending", [b" \n", b"\r\n", b" \r\n"])
def test_the_fast_parser_reads_line_ends_of_other_tools(monkeypatch: pytest.MonkeyPatch, ending: bytes) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "parse_line", fail_on_line)
    data = b"".join(b"w%d 1 2" % i + ending for i in range(100))
    got = read(data)
    assert len(got.rows) == 100
    assert set(got.repaired.values()) == {100}


def test_the_careful_parser_reads_only_few_lines_of_a_block_with_one_odd_line(monkeypatch: pytest.MonkeyPatch) -> None:
    careful: list[bytes] = []

    def note(line: bytes, dim: int) -> tuple[str, np.ndarray]:
        careful.append(line)
        return parse_line(line, dim)

    monkeypatch.setattr(tasks.vectors.glove_text, "parse_line", note)
    lines = [b"w%d 1 2\n" % i for i in range(1000)]
    lines[500] = b"New York 1 2\n"
    assert len(read(b"".join(lines)).rows) == 1000
    assert b"New York 1 2" in careful
    assert len(careful) <= tasks.vectors.glove_text.CAREFUL_LINES


def test_an_endless_line_after_the_last_wanted_vector_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.vectors.glove_text, "MAX_LINE_BYTES", 100)
    data = b"a 1 2\nb 3 4\n" + b"x" * 1000
    assert len(read(data, max_vectors=2).rows) == 2
    with pytest.raises(InputError, match=r"^glove\.txt:3: expected a line, got 1,000 bytes without a line end$"):
        read(data)


READ_MUCH = """
import io, resource
from tasks.vectors.glove_text import GloveTextReader
from tasks.vectors.selection import VectorSelection

class Endless(io.BufferedIOBase):
    left, line = {megabytes}, b"token " + b" ".join([b"-0.12345"] * 300) + b"\\n"

    def readline(self, size=-1):
        return b"wanted " + self.line[6:]

    def readinto(self, buffer):
        if self.left == 0:
            return 0
        self.left -= 1
        whole = self.line * (min(len(buffer), 1 << 20) // len(self.line))
        buffer[: len(whole)] = whole
        return len(whole)

selection = VectorSelection(300, keep={{"wanted"}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert sum(map(len, GloveTextReader(Endless(), name="endless", selection=selection))) == 1
print(selection.lines, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_file() -> None:
    grown = {}
    for megabytes in (100, 400):
        code = READ_MUCH.format(megabytes=megabytes)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        lines, grown[megabytes] = map(int, result.stdout.split())
        assert lines > megabytes * 300
    assert grown[400] < grown[100] + 50, grown  # MiB
    assert grown[400] < 250, grown
