r"""Read word vectors from word2vec's binary format.

The file begins with a line `<vectors> <dim>`. Each vector is its token, one space, `dim` little-endian float32, and,
from some writers, a `\n`. Reads a binary stream; yields Arrow tables in file order, in bounded memory. The bits of the
numbers are kept. Vectors are counted from 1, in place of the lines that `tasks.vectors.glove_text` counts.

A token may hold spaces ("new york"), and so may the bytes of a vector; nothing marks the space between them. A token
ends at its first space, unless the numbers from there on are no word vector (zero, or of a usual size) or no token
follows them, and both holds for a later space. A wrong space shifts the numbers, so that they are of all sizes.
"""

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError
from tasks.vectors.selection import ParsedLines, VectorSelection

BLOCK_BYTES = 4 << 20
MAX_TOKEN_BYTES = 1 << 16
LOOK_AHEAD_BYTES = 1 << 10
MAX_SPACES = 32  # of a token
FEW_VALUES = 32  # of which some may look like numbers of a usual size by chance, so what follows them is looked at too
# the highest byte of float32 from 2**-41 to 2**9, of either sign
_USUAL = bytes(sign + high for sign in (0, 0x80) for high in range(0x2B, 0x44))
_IS_UNUSUAL = bytes(high not in _USUAL for high in range(256))
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
            self._fill(BLOCK_BYTES + size)
            space = self._buffer.find(b" ", 0, MAX_TOKEN_BYTES)
        end = space + 1 + size
        if space < 0 or end > len(self._buffer):
            number, got = self._count + 1, len(self._buffer)
            raise InputError(
                f"{self.name}:{number}: is damaged: expected a token and {size:,} bytes, got {got:,} bytes"
            )
        if self.selection.dim < FEW_VALUES or not _has_usual_numbers(self._buffer[space + 1 : end]):
            space = self._find_end_of_token(space - self._at, size)
            end = space + 1 + size
        token, vector = self._buffer[self._at : space].removeprefix(b"\n"), self._buffer[space + 1 : end]
        self._at, self._count = end, self._count + 1
        return token, vector

    def _fill(self, more: int) -> None:
        self._buffer = self._buffer[self._at :] + self.stream.read(more)
        self._at = 0

    def _find_end_of_token(self, first: int, size: int) -> int:
        """Return the place of the space that ends the next token, whose first space is `first` bytes ahead."""
        wanted = first + 2 * LOOK_AHEAD_BYTES + size
        if len(self._buffer) - self._at < wanted:
            self._fill(wanted)
        data, space = self._buffer, self._at + first
        for _ in range(MAX_SPACES):
            end = space + 1 + size
            if space < 0 or end > len(data) or not _is_token(data[self._at : space].removeprefix(b"\n")):
                break
            following = data[end : end + LOOK_AHEAD_BYTES].removeprefix(b"\n")
            if _has_usual_numbers(data[space + 1 : end]) and (not following or _is_token(following.partition(b" ")[0])):
                return space
            space = data.find(b" ", space + 1)
        return self._at + first


def _has_usual_numbers(vector: bytes) -> bool:
    """Return whether all float32 are zero or of a size that word vectors have."""
    if not vector[3::4].translate(None, _USUAL):
        return True
    unusual = np.frombuffer(vector[3::4].translate(_IS_UNUSUAL), bool)
    return not (np.frombuffer(vector, "<u4")[unusual] & 0x7FFFFFFF).any()


def _is_token(token: bytes) -> bool:
    """Return whether bytes can be a token: UTF-8 without control characters."""
    return bool(token) and token.decode("utf-8", "replace").encode() == token and min(token) >= 0x20


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
