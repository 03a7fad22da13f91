"""Which vectors of a file are kept, and the counts of the other lines."""

import numpy as np
import pyarrow as pa
import pytest

import tasks.vectors.selection
from pipeline_config.schemas import ODD_LINES, vectors_schema
from tasks.vectors.selection import ParsedLines, VectorSelection, vectors_table

NONE: dict[str, np.ndarray] = {}


def make_lines(
    tokens: list[str],
    positions: list[int] | None = None,
    *,
    lines: int | None = None,
    dropped: tuple[tuple[int, str], ...] = (),
    repaired: dict[str, list[int]] | None = None,
) -> ParsedLines:
    """Return parsed lines in which the vector of token n is `[n]` and the bytes of line n are `line n`."""
    positions = list(range(len(tokens))) if positions is None else positions
    return ParsedLines(
        lines=len(tokens) if lines is None else lines,
        tokens=pa.array(tokens, pa.string()),
        values=np.arange(len(tokens), dtype=np.float32)[:, None],
        positions=positions,
        dropped=dropped,
        repaired={reason: np.array(where) for reason, where in (repaired or {}).items()},
        excerpt=lambda position: b"line %d" % position,
    )


def rows(table: pa.Table) -> list[tuple[str, float]]:
    return [(token, vector[0]) for token, vector in zip(*table.to_pydict().values(), strict=True)]


def test_all_vectors_are_kept_in_their_order() -> None:
    selection = VectorSelection(1)
    table = selection.select(make_lines(["b", "a"]))
    assert table.schema == vectors_schema(1)
    assert rows(table) == [("b", 0), ("a", 1)]
    assert (selection.lines, selection.kept, selection.usable, selection.unusable) == (2, 2, 2, 0)


def test_the_first_of_equal_tokens_is_kept_within_and_across_blocks_of_lines() -> None:
    selection = VectorSelection(1)
    assert rows(selection.select(make_lines(["a", "b", "a"]))) == [("a", 0), ("b", 1)]
    assert rows(selection.select(make_lines(["c", "b"]))) == [("c", 0)]
    assert selection.dropped == {"duplicate": 2}
    assert [(odd.line, odd.reason, odd.excerpt) for odd in selection.examples] == [
        (3, "duplicate", "line 2"),
        (5, "duplicate", "line 1"),
    ]


def test_unwanted_tokens_are_passed_over_and_are_not_counted_as_duplicates() -> None:
    selection = VectorSelection(1, keep={"a", "z"})
    assert rows(selection.select(make_lines(["b", "b", "a", "a"]))) == [("a", 2)]
    assert (selection.passed_over, selection.usable, selection.unusable) == (2, 3, 1)
    assert selection.dropped == {"duplicate": 1}


def test_an_empty_list_of_tokens_keeps_nothing() -> None:
    selection = VectorSelection(1, keep=())
    assert rows(selection.select(make_lines(["a"]))) == []
    assert selection.passed_over == 1


def test_lines_after_the_last_wanted_vector_are_not_counted() -> None:
    selection = VectorSelection(1, keep={"a", "b", "c"}, max_vectors=2)
    table = selection.select(
        make_lines(
            ["x", "a", "a", "b", "c", "y"],
            [1, 2, 3, 5, 6, 8],
            lines=9,
            dropped=((0, "blank"), (4, "blank"), (7, "blank")),
            repaired={"trailing_space": [2, 5, 6]},
        )
    )
    assert [token for token, _ in rows(table)] == ["a", "b"]
    assert (selection.lines, selection.kept, selection.passed_over, selection.full) == (6, 2, 1, True)
    assert selection.dropped == {"blank": 2, "duplicate": 1}
    assert selection.repaired == {"trailing_space": 2}
    assert rows(selection.select(make_lines(["c"]))) == []
    assert selection.lines == 6


def test_a_header_is_not_counted_as_an_unusable_line() -> None:
    selection = VectorSelection(1)
    selection.count_dropped("header", b"2 1")
    selection.select(make_lines(["a"], [1], lines=2, dropped=((0, "blank"),)))
    assert (selection.lines, selection.unusable, selection.dropped) == (3, 1, {"header": 1, "blank": 1})


def test_examples_are_listed_by_reason_up_to_a_limit_and_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.vectors.selection, "MAX_EXAMPLES", 2)
    selection = VectorSelection(1)
    selection.count_repaired("byte_order_mark", 1, b"\xef\xbb\xbf" + b"x" * 100)
    selection.select(
        make_lines(
            ["a"], [4], lines=6, dropped=tuple((i, "blank") for i in range(4)), repaired={"carriage_return": [1, 3, 5]}
        )
    )
    selection.select(make_lines(["a"]))
    assert selection.dropped == {"blank": 4, "duplicate": 1}
    assert selection.repaired == {"byte_order_mark": 1, "carriage_return": 3}
    table = selection.build_examples_table()
    assert table.schema == ODD_LINES
    assert list(zip(*table.to_pydict().values(), strict=True)) == [
        (1, "dropped", "blank", "line 0"),
        (1, "repaired", "byte_order_mark", "\ufeff" + "x" * 77),
        (2, "dropped", "blank", "line 1"),
        (2, "repaired", "carriage_return", "line 1"),
        (4, "repaired", "carriage_return", "line 3"),
        (7, "dropped", "duplicate", "line 0"),
    ]
    assert selection.last_dropped == (7, "dropped", "duplicate", "line 0")


def test_without_odd_lines_the_table_of_examples_is_empty() -> None:
    selection = VectorSelection(1)
    selection.select(make_lines(["a"]))
    assert selection.build_examples_table() == ODD_LINES.empty_table()


def test_a_table_is_made_of_tokens_and_a_matrix() -> None:
    table = vectors_table(pa.array(["a", "b"]), np.array([[1, 2], [3, 4]], np.float64, order="F"))
    assert table.schema == vectors_schema(2)
    assert table.to_pydict() == {"token": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]}
