"""The text of glove.6B.50d.txt, made from the installed package; tests and benchmarks share it."""

from collections.abc import Iterator
from importlib import metadata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.vectors.published import PACKAGED

SHA256 = "d8f717f8dd4b545cb7f418ef9f3d0c3e6e68a6f48b97d32f8b7aae40cb31f96f"
ROWS = 20_000


def published_text() -> Iterator[bytes]:
    """Yield the lines of the published file, many at a time: the token, then each number in the format `%.5g`."""
    packaged = PACKAGED["glove.6B.50d"]
    distribution = metadata.distribution(packaged.distribution)
    values = np.load(str(distribution.locate_file(packaged.array)), mmap_mode="r")
    index = pq.read_table(str(distribution.locate_file(packaged.token_index)))["index"]
    tokens = index.combine_chunks().cast(pa.string())
    for first in range(0, len(tokens), ROWS):
        rows = values[first : first + ROWS]
        ends = pa.array(np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32))
        numbers = pc.binary_join(pa.ListArray.from_arrays(ends, write_numbers(rows.ravel())), " ")
        lines = pc.binary_join_element_wise(tokens.slice(first, ROWS), numbers, " ")
        yield "\n".join([*lines.to_pylist(), ""]).encode()


def write_numbers(values: np.ndarray) -> pa.Array:
    """Return numbers of at most five digits in the format `%.5g`, as Arrow writes all but very small and large ones."""
    size = np.abs(values)
    by_hand = (size < 1e-3) | (size >= 1e5)
    written = pa.array([f"{value:.5g}" for value in values[by_hand].tolist()], pa.string())
    return pc.replace_with_mask(pc.cast(pa.array(values), pa.string()), pa.array(by_hand), written)
