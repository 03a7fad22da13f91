r"""JSON lines: an object per line. Lines end only at `\n`. A row is what Python's `json` module reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.byte_stream import ByteStream
from tasks.reading.columns import find_column
from tasks.reading.rows import Problem, Rows


def read_rows(path: Path, _kind: str, reading: Reading) -> Iterator[Rows]:
    """Yield the rows of a file of JSON lines."""
    seen: set[str] = set()
    with path.open("rb") as file:
        stream = ByteStream(file, path, reading.encoding)
        size = byte_stream.BLOCK_BYTES
        while stream.fill(size) or stream.start < len(stream.buffer):
            cut = stream.buffer.rfind(b"\n", stream.start) + 1
            if cut == 0 and stream.fill(size := 2 * size):
                if size > byte_stream.MAX_ROW_BYTES:
                    raise InputError(f"{path}: expected lines of JSON, got {size:,} bytes without an end of line")
                continue
            size = byte_stream.BLOCK_BYTES
            first = stream.line
            block = stream.take((cut or len(stream.buffer)) - stream.start)
            yield _parse_lines(block.decode("utf-8", "surrogateescape"), first, reading.columns, seen)
    for name in reading.columns if seen else ():
        find_column(sorted(seen), name, path)


def _parse_lines(block: str, first: int, names: tuple[str, ...], seen: set[str]) -> Rows:
    """Return the rows of a block of lines, and add the keys of their objects to `seen`."""
    rows: list[tuple[Any, ...]] = []
    problems: dict[int, Problem] = {}
    lines: list[int] = []
    nothing = (None,) * len(names)
    for number, line in enumerate(block.split("\n"), first):
        if not line or line.isspace():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            seen.update(values)
            rows.append(tuple([values.get(name) for name in names]))
        else:
            problems[len(rows)] = Problem("not_a_json_object", line)
            rows.append(nothing)
        lines.append(number)
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
    return Rows(columns, problems, np.array(lines, np.int64), len(rows))
