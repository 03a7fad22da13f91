"""Look up tokens in a vector set, and read their vectors and the statistics of the whole set.

Reads a Parquet file with a column `vector` block by block, and holds only the requested rows in memory.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.runtime.arrow import as_matrix
from tasks.runtime.parallel import HELPERS, map_ahead

BLOCK_ROWS = 1 << 14  # rows in memory at a time


def find_rows(words: pa.Array, tokens: pa.Array) -> np.ndarray:
    """Return int64[V], the row of each word among the tokens of a vector set, -1 if it has none.

    Neither array may contain duplicates. The tokens are looked up in the words, not the other way round, because the
    words are usually fewer and their hash table fits the processor's cache.
    """
    positions = pc.index_in(tokens, words).fill_null(-1).to_numpy()
    found = np.flatnonzero(positions >= 0)
    rows = np.full(len(words), -1, np.int64)
    rows[positions[found]] = found
    return rows


class VectorRows(NamedTuple):
    """Some rows of a vector set, and the statistics of the whole set.

    `rows` int64[n], ascending; `vectors` float32[n, E]; `mean` and `deviation` float64[E], over the whole set.
    """

    rows: np.ndarray
    vectors: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def read_rows(path: Path, rows: np.ndarray) -> VectorRows:
    """Read some rows (ascending) of a vector file, and the mean and standard deviation of all rows."""
    found, total, squares, count = [], np.zeros(1), np.zeros(1), 0
    with pq.ParquetFile(path, memory_map=True) as file, ThreadPoolExecutor(HELPERS) as pool:
        for block, sums in map_ahead(pool, _sum_block, file.iter_batches(BLOCK_ROWS, columns=["vector"])):
            first, last = np.searchsorted(rows, (count, count + len(block)))
            found.append(block[rows[first:last] - count])
            total, squares, count = total + sums[0], squares + sums[1], count + len(block)
    mean = total / count
    return VectorRows(rows, np.concatenate(found), mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0)))


def _sum_block(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of a batch, float32[n, E], and float64[2, E]: their sum and the sum of their squares."""
    block = as_matrix(pa.chunked_array([batch["vector"]]))
    exact = block.astype(np.float64)
    return block, np.stack([exact.sum(axis=0), np.einsum("ij,ij->j", exact, exact)])
