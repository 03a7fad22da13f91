r"""The float32 nearest to decimal numbers written in ASCII: many fields of a text at once, or one after the other.

Touches no file. Nearly all numbers of published vectors look like `-0.12345`: perhaps a sign, one digit, a point, up
to six digits. With zeros filled in they are a whole number of millionths below 2**24, which float32 holds exactly, so
one division by a million rounds once, as IEEE 754 has it. The eight bytes before the end of such a field are its
digits, and all fields of a text are worked on together as 64-bit integers. Fields of another form go through Arrow's
cast of strings.

Rounding is once, ties to even. (Python's `float` and then a cast round twice, which may differ for a number next to
the middle of two float32.)
"""

import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
WORD = np.dtype("<u8")
_ZEROS = np.array([b"00000000"]).view(WORD)[0]
_POINT = np.array([0, ord("0") ^ ord("."), 0, 0, 0, 0, 0, 0], np.uint8).view(WORD)[0]  # the first byte is the lowest
_BEYOND_NINE = np.array([6, 15, 6, 6, 6, 6, 6, 6], np.uint8).view(WORD)[
    0
]  # lifts what is no digit over 15; no point, too
_OVER_15 = np.full(8, 0xF0, np.uint8).view(WORD)[0]


def rows_to_float32(text: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, dim: int) -> np.ndarray | None:
    """Return the float32[rows, dim] nearest to the numbers of a text, or None when one may be no finite number.

    Args:
        text: uint8[n].
        starts: int64[rows * (1 + dim)], where each field begins, rising; the first one of a row is no number.
        ends: int64[rows * (1 + dim)], the first byte after each.
        dim: numbers per row.
    """
    sizes = ends - starts
    sizes = np.minimum(sizes, 2 * WORD.itemsize, out=sizes).astype(np.uint8)
    negative = text.take(starts, mode="clip") == ord("-")
    digits, odd = _digits_of(text, ends, sizes - negative)
    values = _weigh(digits).astype(np.float32)
    values /= np.float32(1e6)
    values *= 1 - 2 * negative.view(np.int8)  # -0 has its sign
    odd[:: dim + 1] = False
    others = np.flatnonzero(odd)
    try:
        numbers = pc.cast(gather_strings(text, starts[others], ends[others]), pa.float32())
    except pa.ArrowInvalid:
        return None
    values[others] = np.frombuffer(numbers.buffers()[1], np.float32)[: len(others)]  # `to_numpy` would import pandas
    return np.ascontiguousarray(values.reshape(-1, dim + 1)[:, 1:]) if np.isfinite(values[others]).all() else None


def gather_strings(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Return fields of a text, uint8[n], as Arrow strings; they may not be UTF-8."""
    offsets = np.zeros(len(starts) + 1, np.int32)
    np.cumsum(ends - starts, out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
    return pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(text[places]))


def round_to_float32(numbers: list[bytes]) -> np.ndarray:
    """Return the float32 nearest to each decimal number, which has to be a `NUMBER`.

    A double that lies in the middle of two float32 does not tell on which side of it the number was; there the
    digits decide.
    """
    doubles = np.array([float(number) for number in numbers])
    with np.errstate(over="ignore", invalid="ignore"):
        below, above = (np.nextafter(doubles, to).astype(np.float32) for to in (-np.inf, np.inf))
        for i in np.flatnonzero((below != above) & np.isfinite(doubles)):
            exact, double = Decimal(numbers[i].decode()), Decimal(doubles[i].item())
            lower, upper = (Decimal(min(max(float(end[i]), -(2.0**128)), 2.0**128)) for end in (below, above))
            if exact != double and lower + upper == 2 * double:
                doubles[i] = np.nextafter(doubles[i], np.inf if exact > double else -np.inf)
        return doubles.astype(np.float32)


def _digits_of(text: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits of fields of the common form, a byte each with 0 for the point, and which are of another.

    `sizes` is that without sign. A shift by 64 or more gives 0, so that a longer field looks odd; so does one with
    less than eight bytes before its end.
    """
    places = ends - WORD.itemsize
    near = np.searchsorted(places, 0)
    if near == len(places):
        return np.zeros(near, WORD), np.ones(near, bool)
    places[:near] = sizes[:near] = 0
    words = np.ndarray(len(text) - 7, WORD, text, strides=(1,))[places]  # the eight bytes from each place on
    words ^= _ZEROS
    words >>= np.uint8(64) - sizes * np.uint8(8)
    words ^= _POINT
    odd = words + _BEYOND_NINE
    odd |= words
    odd &= _OVER_15
    return words, odd != 0


def _weigh(digits: np.ndarray) -> np.ndarray:
    """Return the millionths, uint64, by adding neighbours: digits, then pairs of them, then fours. In place."""
    pairs, fours = digits.view("<u2"), digits.view("<u4")
    pairs[::4] <<= 8  # the digit before the point takes the place of the point
    for lanes, ten, bits in ((pairs, 10, 8), (fours, 100, 16), (digits, 10_000, 32)):
        lanes *= lanes.dtype.type((ten << bits) + 1)
        lanes >>= lanes.dtype.type(bits)
    return digits
