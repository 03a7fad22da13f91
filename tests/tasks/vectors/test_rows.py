"""Looking up tokens in a vector set and reading its rows and statistics."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.vectors.rows
from tasks.runtime.arrow import as_matrix
from tasks.vectors.rows import find_rows, read_rows
from tasks.vectors.selection import vectors_table

VECTORS = np.array([[1, 2, 7], [3, 4, 7], [5, 6, 7], [-1, 0, 7]], np.float32)  # the last dimension is constant


def strings(words: list[str]) -> pa.Array:
    return pa.array(words, pa.string())


TABLE = vectors_table(strings(["the", "cat", "Paris", "i"]), VECTORS)


def test_rows_are_found_whichever_side_is_larger() -> None:
    tokens = strings(["d", "a", "c", "b"])
    assert find_rows(strings(["a", "x", "b"]), tokens).tolist() == [1, -1, 3]
    assert find_rows(tokens, strings(["b", "x", "a"])).tolist() == [-1, 2, -1, 0]
    assert find_rows(strings([]), tokens).tolist() == []


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("rows", [[], [0], [3], [0, 2, 3], [0, 1, 2, 3]])
def test_rows_are_read_block_by_block_with_the_statistics_of_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, rows: list[int]
) -> None:
    monkeypatch.setattr(tasks.vectors.rows, "BLOCK_ROWS", block)
    pq.write_table(TABLE, tmp_path / "vectors.parquet")
    found = read_rows(tmp_path / "vectors.parquet", np.array(rows, np.int64))
    np.testing.assert_array_equal(found.vectors, VECTORS[rows])
    np.testing.assert_allclose(found.mean, [2, 3, 7])
    np.testing.assert_allclose(found.deviation, [5**0.5, 5**0.5, 0])


@pytest.mark.parametrize("cuts", [[], [1], [2, 3]])
def test_a_column_of_vectors_becomes_a_matrix_whatever_its_chunks(cuts: list[int]) -> None:
    column = TABLE["vector"].combine_chunks()
    borders = [0, *cuts, len(column)]
    chunks = [column.slice(a, b - a) for a, b in pairwise(borders)]
    np.testing.assert_array_equal(as_matrix(pa.chunked_array(chunks)), VECTORS)
