r"""Read word vectors from word2vec's binary format.

The file begins with a line `<vectors> <dim>`. Each vector is its token, one space, `dim` little-endian float32, and,
from some writers, a `\n`. Reads a binary stream; yields Arrow tables in file order, in bounded memory. The bits of the
numbers are kept. Vectors are counted from 1, in place of the lines that `tasks.vectors.glove_text` counts.

A token may hold spaces ("new york"), and so may the bytes of a vector, so the space that ends a token is not marked. The
token ends at its first space, as the word2vec tool reads it, unless the vector that begins there is not followed by what
comes after a vector while that of a later space is: the end of the file, or, if the file's writer puts them there, a
line end and the next token (UTF-8 without control characters, and a space). In files with line ends, which word2vec and
older versions of gensim write, this is exact but for a chance of about one in 10 million per vector; without line ends,
a token of several words is found by the next token alone.
"""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError
from tasks.vectors.selection import ParsedLines, VectorSelection

BLOCK_BYTES = 4 << 20
MAX_TOKEN_BYTES = 1 << 16
_FASTTEXT_MODEL = b"\xba\x16\x4f\x2f"


class Word2vecBinaryReader:
    """Iterate over the chosen vectors of a stream as tables of `vectors_schema(dim)`.

    Args:
        stream: bytes of the file, decompressed.
        name: the name of the stream in messages.
        selection: chooses the vectors, and holds the counts afterwards.

    Raises:
        InputError: the file has another format or dimension, is truncated, or has bytes after the last vector.
    """

    def __init__(self, stream: BinaryIO, *, name: str, selection: VectorSelection) -> None:
        self.stream, self.name, self.selection = stream, name, selection
        self._buffer, self._at, self._count = b"", 0, 0

    def __iter__(self) -> Iterator[pa.Table]:
        left = self._read_header()
        rows = max(1, BLOCK_BYTES // (4 * self.selection.dim))
        while left:
            read = [self._read_vector() for _ in range(min(rows, left))]
            left -= len(read)
            table = self.selection.select(_parse_vectors(read, self.selection.dim))
            if len(table):
                yield table
            if self.selection.full:
                return
        rest = self._buffer[self._at :] + self.stream.read(MAX_TOKEN_BYTES)
        if rest.strip(b"\n"):
            raise InputError(
                f"{self.name}: expected the end of the file after {self.selection.lines} vectors, got more bytes"
            )

    def _read_header(self) -> int:
        line = self.stream.readline(100)
        if line.startswith(_FASTTEXT_MODEL):
            raise InputError(
                f"{self.name}: expected vectors, got a fastText model; use the .vec file published with it"
            )
        fields = line.split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields) or not line.endswith(b"\n"):
            raise InputError(f"{self.name}: expected the word2vec header `<vectors> <dim>`, got {line[:80]!r}")
        if int(fields[1]) != self.selection.dim:
            raise InputError(f"{self.name}: expected {self.selection.dim} values, got {int(fields[1])}")
        return int(fields[0])

    def _read_vector(self) -> tuple[bytes, bytes]:
        size = 4 * self.selection.dim
        space = self._buffer.find(b" ", self._at)
        if space < 0 or space + 1 + size > len(self._buffer):
            self._buffer = self._buffer[self._at :] + self.stream.read(BLOCK_BYTES + size)
            self._at = 0
            space = self._buffer.find(b" ", 0, MAX_TOKEN_BYTES)
        end = space + 1 + size
        if space < 0 or end > len(self._buffer):
            number, got = self._count + 1, len(self._buffer)
            raise InputError(
                f"{self.name}:{number}: is damaged: expected a token and {size:,} bytes, got {got:,} bytes"
            )
        token, vector = self._buffer[self._at : space].removeprefix(b"\n"), self._buffer[space + 1 : end]
        self._at, self._count = end, self._count + 1
        return token, vector


def _parse_vectors(read: list[tuple[bytes, bytes]], dim: int) -> ParsedLines:
    values = np.frombuffer(b"".join(vector for _, vector in read), "<f4").astype(np.float32).reshape(-1, dim)
    finite: list[bool] = np.isfinite(values).all(axis=1).tolist()  # type: ignore[assignment]
    words, positions, dropped = [], [], []
    for position, (token, _) in enumerate(read):
        word = token.decode("utf-8", "replace")
        if not token:
            dropped.append((position, "empty_token"))
        elif not finite[position]:
            dropped.append((position, "not_finite"))
        elif word.encode() != token:
            dropped.append((position, "undecodable"))
        else:
            words.append(word)
            positions.append(position)
    return ParsedLines(
        lines=len(read),
        tokens=pa.array(words, pa.string()),
        values=values[positions] if dropped else values,
        positions=positions,
        dropped=dropped,
        repaired={},
        excerpt=lambda position: read[position][0],
    )
