r"""Convert decimal numbers in ASCII to the nearest float32: many fields of a text at once, or one by one.

Touches no file. Nearly all numbers of published vectors look like `-0.12345`: an optional sign, one digit, a point and
up to six digits. Padded with zeros, they are a whole number of millionths below 2**24, which float32 holds exactly, so
one division by a million rounds once, as IEEE 754 defines it. The last eight bytes of such a field hold its digits, and
all fields of a text are processed together as 64-bit integers. Arrow's cast of strings converts fields of other forms.

Numbers are rounded once, ties to even. (Python's `float` followed by a cast rounds twice, which can differ for a number
next to the midpoint of two float32.)

Not replaced by `pyarrow.csv`: the bits are the same, but it takes twice the processor time, and it silently accepts
numbers padded with tabs and empty fields.
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
# added to a field, it makes every byte exceed 15 that is not a digit, or not the point in its place
_BEYOND_NINE = np.array([6, 15, 6, 6, 6, 6, 6, 6], np.uint8).view(WORD)[0]
_OVER_15 = np.full(8, 0xF0, np.uint8).view(WORD)[0]


def rows_to_float32(text: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, dim: int) -> np.ndarray | None:
    """Return the float32[rows, dim] nearest to the numbers of a text, or None if one may not be a finite number.

    Args:
        text: uint8[n].
        starts: int64[rows * (1 + dim)], the first byte of each field, ascending; the first field of a row is the token.
        ends: int64[rows * (1 + dim)], the byte after each field.
        dim: numbers per row.
    """
    sizes = ends - starts
    sizes = np.minimum(sizes, 2 * WORD.itemsize, out=sizes).astype(np.uint8)
    negative = text.take(starts, mode="clip") == ord("-")
    digits, odd = _extract_digits(text, ends, sizes - negative)
    values = _sum_millionths(digits).astype(np.float32)
    values /= np.float32(1e6)
    values *= 1 - 2 * negative.view(np.int8)  # so that -0 keeps its sign
    odd[:: dim + 1] = False
    others = np.flatnonzero(odd)
    try:
        numbers = pc.cast(gather_strings(text, starts[others], ends[others]), pa.float32())
    except pa.ArrowInvalid:
        return None
    values[others] = np.frombuffer(numbers.buffers()[1], np.float32)[: len(others)]  # `to_numpy` would import pandas
    return np.ascontiguousarray(values.reshape(-1, dim + 1)[:, 1:]) if np.isfinite(values[others]).all() else None


def gather_strings(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Return fields of a text, uint8[n], as Arrow strings, which are not checked to be UTF-8."""
    offsets = np.zeros(len(starts) + 1, np.int32)
    np.cumsum(ends - starts, out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
    return pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(text[places]))


def round_to_float32(numbers: list[bytes]) -> np.ndarray:
    """Return the float32 nearest to each decimal number; each must match `NUMBER`.

    If the nearest double is the midpoint of two float32, the number may lie on either side of it; then all its digits
    are compared.
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


def _extract_digits(text: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits of fields of the common form, one per byte and 0 for the point, and a mask of other fields.

    `sizes` are bytes without the sign. A longer field is masked because a shift by 64 or more gives 0. A field whose
    end is less than eight bytes from the beginning of the text is masked too.
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


def _sum_millionths(digits: np.ndarray) -> np.ndarray:
    """Return the numbers in millionths, uint64, in place: joins neighbouring digits, then pairs, then fours."""
    pairs, fours = digits.view("<u2"), digits.view("<u4")
    pairs[::4] <<= 8  # the digit before the point takes the place of the point
    for lanes, ten, bits in ((pairs, 10, 8), (fours, 100, 16), (digits, 10_000, 32)):
        lanes *= lanes.dtype.type((ten << bits) + 1)
        lanes >>= lanes.dtype.type(bits)
    return digits
