"""Chunks that are cut to a size."""

import pyarrow as pa
import pytest

from tasks.scoring.chunks import REJECTED_ROWS, Chunk, cut_chunks


def make_chunk(texts: list[str | None]) -> Chunk:
    rejected = pa.table([["f"], [1], ["undecodable"], ["x"]], schema=REJECTED_ROWS)
    return Chunk(pa.table({"n": range(len(texts))}), pa.array(texts, pa.large_string()), rejected, {"n": 1})


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], [[]]),
        (["a", "b", "c", "d", "e"], [[0, 1, 2], [3, 4]]),
        (["aaaa", "aaaa", "b"], [[0], [1, 2]]),
        (["a long text", None, "a long text", "a"], [[0], [1], [2], [3]]),
    ],
)
def test_parts_keep_rows_and_bounds(texts: list[str | None], expected: list[list[int]]) -> None:
    parts = list(cut_chunks([make_chunk(texts), make_chunk(["z"])], rows=3, size=5))
    assert [part.table["n"].to_pylist() for part in parts] == [*expected, [0]]
    assert [text for part in parts for text in part.texts.to_pylist()] == [*texts, "z"]
    assert [len(part.rejected) for part in parts] == [1, *[0] * (len(expected) - 1), 1]
    assert [part.undecodable for part in parts] == [{"n": 1}, *[{}] * (len(expected) - 1), {"n": 1}]
