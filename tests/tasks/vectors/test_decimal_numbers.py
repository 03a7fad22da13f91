"""Decimal numbers in bulk and one by one: they are rounded once, and other text is not accepted as a number."""

import random

import numpy as np
import pytest

from tasks.vectors.decimal_numbers import NUMBER, gather_strings, round_to_float32, rows_to_float32

UP = 1.0 + 2.0**-23  # the float32 after 1; the midpoint of the two is 1 + 2**-24
LARGEST = (2.0 - 2.0**-23) * 2.0**127


def read_row(*fields: bytes) -> np.ndarray | None:
    """Return the numbers of a row of fields, the first of which is the token."""
    text = b" ".join(fields) + b"\n"
    ends = np.cumsum([len(field) + 1 for field in fields]) - 1
    starts = ends - [len(field) for field in fields]
    values = rows_to_float32(np.frombuffer(text, np.uint8), starts, ends, dim=len(fields) - 1)
    return None if values is None else values[0]


def same_bits(got: np.ndarray | None, expected: np.ndarray) -> bool:
    return got is not None and np.array_equal(got.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("decimals", range(9))
def test_numbers_of_the_common_form_are_the_nearest_float32(decimals: int) -> None:
    draw = random.Random(decimals)
    numbers = [
        b"%s%.*f" % (draw.choice([b"", b"-"]), decimals, draw.random() * 10 ** draw.randint(-5, 1)) for _ in range(2000)
    ]
    assert same_bits(read_row(b"token", *numbers), round_to_float32(numbers))


@pytest.mark.parametrize(
    "number", [b"0.000000", b"-0.000000", b"9.999999", b"-9.999999", b"0.1", b"-0.", b"5.", b"-0", b"7"]
)
def test_the_limits_of_the_common_form(number: bytes) -> None:
    assert same_bits(read_row(b"a", number), round_to_float32([number]))


@pytest.mark.parametrize("field", [b"0.12345", b"-0.123456", b"1.5", b"-7.0", b"0.0012345", b"12.345", b"1e-05"])
@pytest.mark.parametrize("token", [b"a", b"12345678"])
def test_a_field_with_a_changed_byte_is_refused_or_read_as_the_grammar_says(field: bytes, token: bytes) -> None:
    accepted = 0
    for place in range(len(field)):
        for byte in set(range(256)) - set(b" \n"):
            changed = field[:place] + bytes([byte]) + field[place + 1 :]
            values = read_row(token, changed, b"0.25")
            if values is not None:
                assert NUMBER.fullmatch(changed), changed
                assert same_bits(values, round_to_float32([changed, b"0.25"])), changed
                accepted += 1
    assert accepted >= 10


@pytest.mark.parametrize(
    "field", [b"", b"-", b".", b"0..5", b"0.5.", b"--0.5", b"0.-5", b"0,5", b"nan", b"1e99", b"x" * 300 + b"0.123456"]
)
def test_a_field_that_is_not_a_finite_number_is_refused(field: bytes) -> None:
    assert read_row(b"the", b"0.5", field, b"0.25") is None


@pytest.mark.parametrize("length", [9, 16, 17, 40, 255, 256, 264, 520])
def test_a_long_number_is_read_to_its_first_digit(length: int) -> None:
    number = b"1" * (length - 8) + b"2.345678"
    expected = round_to_float32([number])
    got = read_row(b"the", number)
    assert same_bits(got, expected) if np.isfinite(expected).all() else got is None


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (b"1.000000059604644775390625", 1.0),  # the midpoint: ties to even
        (b"1.00000005960464477539062501", UP),  # as a double it is the midpoint
        (b"1.00000005960464477539062499", 1.0),
        (b"-1.00000005960464477539062501", -UP),
        (b"1." + b"0" * 7 + b"5960464477539062500000" + b"0" * 5000 + b"1", UP),
        (b"340282356779733661637539395458142568447", LARGEST),  # just below the midpoint of the largest and 2**128
        (b"340282356779733661637539395458142568448", np.inf),
        (b"-1e999", -np.inf),
        (b"7.006492321624085354618e-46", 0.0),  # just below half of the smallest one
        (b"7.006492321624085354619e-46", 2.0**-149),
        (b"1e-999", 0.0),
        (b"16777217.0000000001", 16777218.0),
    ],
)
def test_a_number_is_rounded_once(number: bytes, expected: float) -> None:
    assert round_to_float32([number])[0] == np.float32(expected)
    values = read_row(b"a", number)
    assert (values is None) == bool(np.isinf(expected))
    assert values is None or values.tolist() == [float(np.float32(expected))]


def test_fields_are_gathered_from_anywhere_in_a_text() -> None:
    text = np.frombuffer(b"one two  three", np.uint8)
    assert gather_strings(text, np.array([4, 8, 9, 4]), np.array([7, 8, 14, 7])).to_pylist() == [
        "two",
        "",
        "three",
        "two",
    ]
