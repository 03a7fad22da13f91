"""The binary format of word2vec."""

import io
import struct

import numpy as np
import pyarrow as pa
import pytest

import tasks.vectors.word2vec_binary
from pipeline_config.errors import InputError
from tasks.vectors.selection import VectorSelection
from tasks.vectors.word2vec_binary import Word2vecBinaryReader
from tests.campaigns import vector_files

GENERATOR = np.random.default_rng(0)
TOKENS = ["</s>", "the", "New_York", "w\u00f6rt", "a\u00a0b", "\U0001f600"]
VALUES = GENERATOR.normal(size=(len(TOKENS), 3)).astype(np.float32)


def binary(rows: list[tuple[bytes, bytes]], *, dim: int = 3, count: int | None = None, between: bytes = b"") -> bytes:
    header = b"%d %d\n" % (len(rows) if count is None else count, dim)
    return header + b"".join(token + b" " + vector + between for token, vector in rows)


def regular() -> list[tuple[bytes, bytes]]:
    return [(token.encode(), row.tobytes()) for token, row in zip(TOKENS, VALUES, strict=True)]


def read(data: bytes, **options: object) -> tuple[pa.Table, VectorSelection]:
    selection = VectorSelection(3, **options)
    tables = list(Word2vecBinaryReader(io.BytesIO(data), name="mine.bin", selection=selection))
    return pa.concat_tables(tables) if tables else pa.table({"token": [], "vector": []}), selection


def fail(data: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(data)
    return str(caught.value)


@pytest.mark.parametrize("block_bytes", [25, 60, 1 << 20])
@pytest.mark.parametrize("between", [b"", b"\n"])
def test_tokens_and_bits_are_read_unchanged(monkeypatch: pytest.MonkeyPatch, between: bytes, block_bytes: int) -> None:
    monkeypatch.setattr(tasks.vectors.word2vec_binary, "BLOCK_BYTES", block_bytes)
    table, selection = read(binary(regular(), between=between))
    assert table["token"].to_pylist() == TOKENS
    assert np.array(table["vector"].to_pylist(), np.float32).tobytes() == VALUES.tobytes()
    assert (selection.lines, selection.dropped) == (6, {})


def test_a_vector_may_hold_the_bytes_of_spaces_and_line_ends() -> None:
    vector = b"    \n\n\n\n \n \n"
    table, _ = read(binary([(b"a", vector), (b"b", vector)]))
    assert table["token"].to_pylist() == ["a", "b"]
    assert np.array(table["vector"].to_pylist(), np.float32).tobytes() == vector * 2


def test_unusable_vectors_are_dropped_and_counted() -> None:
    good = struct.pack("<3f", 1, 2, 3)
    rows = [
        (b"a", good),
        (b"", good),
        (b"\xff", good),
        (b"n", struct.pack("<3f", 1, np.nan, 3)),
        (b"a", good),
        (b"z", good),
    ]
    table, selection = read(binary(rows))
    assert table["token"].to_pylist() == ["a", "z"]
    assert selection.dropped == {"empty_token": 1, "undecodable": 1, "not_finite": 1, "duplicate": 1}
    assert [(odd.line, odd.reason) for odd in selection.examples] == [
        (2, "empty_token"),
        (3, "undecodable"),
        (4, "not_finite"),
        (5, "duplicate"),
    ]


def test_only_wanted_tokens_are_read() -> None:
    assert read(binary(regular()), keep={"the", "</s>"})[0]["token"].to_pylist() == ["</s>", "the"]
    table, selection = read(binary(regular()), max_vectors=2)
    assert table["token"].to_pylist() == TOKENS[:2]
    assert selection.lines == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"\xba\x16\x4f\x2f" + b"x" * 50,
            ": expected vectors, got a fastText model; use the .vec file published with it",
        ),
        (b"the 1 2 3\n", ": expected the word2vec header `<vectors> <dim>`, got b'the 1 2 3\\n'"),
        (b"", ": expected the word2vec header `<vectors> <dim>`, got b''"),
        (b"2 3", ": expected the word2vec header `<vectors> <dim>`, got b'2 3'"),
        (binary(regular(), dim=4), ": expected 3 values, got 4"),
        (binary(regular())[:-1], ":6: is damaged: expected a token and 12 bytes, got 16 bytes"),
        (binary(regular(), count=9), ":7: is damaged: expected a token and 12 bytes, got 0 bytes"),
        (binary(regular(), count=5), ": expected the end of the file after 5 vectors, got more bytes"),
        (b"1 3\n" + b"x" * 100_000, ":1: is damaged: expected a token and 12 bytes, got 100,000 bytes"),
    ],
)
def test_another_format_or_dimension_or_length_is_an_error(data: bytes, message: str) -> None:
    assert fail(data) == f"mine.bin{message}"


def test_numbers_are_little_endian() -> None:
    table, _ = read(b"1 3\na " + struct.pack("<3f", 0.5, -1.5, 2.0))
    assert table["vector"].to_pylist() == [[0.5, -1.5, 2.0]]


@pytest.mark.parametrize("block_bytes", [25, 60, 1 << 20])
@pytest.mark.parametrize("between", [b"", b"\n"])
@pytest.mark.parametrize("dim", [4, 50])
def test_tokens_of_several_words_are_read_whole(
    monkeypatch: pytest.MonkeyPatch, between: bytes, block_bytes: int, dim: int
) -> None:
    monkeypatch.setattr(tasks.vectors.word2vec_binary, "BLOCK_BYTES", block_bytes)
    tokens = ["parcel", "new york", "dog", "a b", "in the middle of", "NEW YORK", "m\u00fcnchen 1860", "end"]
    values = np.random.default_rng(1).normal(size=(len(tokens), dim)).astype(np.float32)
    values[0, :2] = 0
    rows = [(token.encode(), row.tobytes()) for token, row in zip(tokens, values, strict=True)]
    selection = VectorSelection(dim)
    data = binary(rows, dim=dim, between=between)
    table = pa.concat_tables(list(Word2vecBinaryReader(io.BytesIO(data), name="mine.bin", selection=selection)))
    assert table["token"].to_pylist() == tokens
    assert np.array(table["vector"].to_pylist(), np.float32).tobytes() == values.tobytes()


def test_random_binary_files_are_read_as_they_were_written() -> None:
    assert vector_files.run_binary_campaign(files=60, seed=100) > 100
