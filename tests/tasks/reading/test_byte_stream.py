"""The bytes of a text file: UTF-8 whatever the encoding, in blocks of any size."""

import io
from pathlib import Path

import pytest

import tasks.reading.byte_stream
from pipeline_config.errors import InputError
from tasks.reading.byte_stream import ByteStream


def stream_of(content: bytes, encoding: str = "utf-8") -> ByteStream:
    return ByteStream(io.BytesIO(content), Path("c.csv"), encoding)


@pytest.fixture(params=[1, 2, 3, 1 << 20], autouse=True)
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", max(request.param, 3))  # a byte order mark has three
    return int(request.param)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"a\nb\r\nc\rd",
        b"a\r",
        b"a\r\n",
        b"\r\r\n\n",
        b"ab\r\ncd\r\r\n",
        "\u2028x\u0085\n\x0b\x0cy".encode(),
    ],
)
def test_lines_end_where_those_of_python_end(content: bytes) -> None:
    expected = list(io.TextIOWrapper(io.BytesIO(content), "utf-8", newline=""))
    assert list(stream_of(content).lines()) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-32"])
def test_text_of_any_encoding_becomes_utf_8(encoding: str) -> None:
    stream = stream_of("caf\u00e9 \u00fc\n".encode(encoding), encoding)
    assert not stream.fill(1000)
    assert stream.take(1000).decode() == "caf\u00e9 \u00fc\n"


def test_bytes_outside_the_encoding_are_not_valid_utf_8() -> None:
    for content, encoding in ((b"a\xff", "utf-8"), (b"a\x81", "cp1252"), (b"a\xe9", "ascii")):
        stream = stream_of(content, encoding)
        stream.fill(100)
        with pytest.raises(UnicodeDecodeError):
            stream.take(100).decode()


def test_buffered_bytes_are_taken_once() -> None:
    stream = stream_of(b"abcdef")
    assert stream.fill(4)
    assert (stream.take(2), stream.take(1)) == (b"ab", b"c")
    assert stream.fill(3)
    assert not stream.fill(4)
    assert stream.take(9) == b"def"


@pytest.mark.parametrize("encoding", ["utf-99", "base64"])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(InputError, match=f"^corpus.encoding: got '{encoding}', expected a text encoding of Python "):
        stream_of(b"", encoding)


def test_a_file_that_is_not_in_its_encoding_is_refused() -> None:
    with pytest.raises(InputError, match=r"^c.csv: expected text in the encoding utf-16 \(corpus.encoding\), got: "):
        list(stream_of(b"\xff\xfe\x00\xd8\x00\xd8\n\x00", "utf-16").lines())
