"""Random vector files, read by the project and by an oracle that shares no code with it.

    python -m tests.campaigns.vector_files [--files 10000] [--seed 0]

The oracle is written from the documented table alone: it reads one line at a time, with its own grammar of numbers, and
rounds exact fractions. Each file is read with several block sizes, and both must agree on every token, every bit of every
vector, every count and every example. An unexpected exception or a difference prints the file and ends the campaign. The
module is longer than 300 lines because oracle and generator belong together.
"""

import argparse
import contextlib
import io
import logging
import random
import time
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

import tasks.vectors.glove_text
from pipeline_config.errors import InputError
from tasks.vectors.glove_text import GloveTextReader
from tasks.vectors.selection import VectorSelection
from tasks.vectors.word2vec_binary import Word2vecBinaryReader

TOKENS = [
    b"the", b"of", b"a", b"7", b"-1.5", b"1e5", b"nan", b"", b" ", b". .", b". . .", b"at name@domain.com", b" b", b"b ",
    "\u00a0".encode(), "\u0085".encode(), "a\u2028b".encode(), "w\u00f6rt".encode(), "\U0001f600".encode(),
    b"\xff", b"\xed\xa0\x80", b"\xc3", "\ufffd".encode() * 40, b"\x00", b"a\tb", b"\t", b"a\rb", b"\r", b'"q', b'"', b"\\",
    b"\x0b", b"\x0c", b"\x1c", b"\x1a", b"<<<<<<<", b"I'm", b"o'clock", b"<unk>", b"\xef\xbb\xbf", b"\xef\xbb\xbfx", b"#",
]  # fmt: skip
GOOD = [
    b"0", b"-0", b"1", b"+1", b"0.5", b".5", b"5.", b"-.5e-3", b"1e5", b"1E+05", b"1e-46", b"1e-40", b"1.17549435e-38",
    b"1.00000005960464477539062501", b"1.000000059604644775390625", b"16777217", b"16777217.0000000001", b"3.4028235e38",
    b"340282356779733661637539395458142568447", b"7.006492321624085354619e-46", b"0." + b"1" * 400, b"1" + b"0" * 30,
    b"00012", b"1e0", b"1e-999", b"0e999", b"0.0000000000000000000000000000000000000000000000000001e60",
]  # fmt: skip
BAD = [
    b"", b"nan", b"NaN", b"-nan", b"inf", b"-Infinity", b"1e39", b"1e999", b"-3.5e38", b"0x3", b"1_0", b"1,5", b"--1", b"+",
    b".", b"-", b"1e", b"e5", b"1e+", b"1.2.3", b"three", "\u0663".encode(), b"1\x00", b"1\t", b"\t1", b"\xff", b"nan(1)",
    b"infinit", b"1f", b"1d0", b"1 2", b"0.12\r", b"1\xc2\xa0", b"TRUE", b"null", b"NULL", b"#N/A", b"340282356779733661637539395458142568448",
]  # fmt: skip


class Result(NamedTuple):
    rows: list[tuple[str, bytes]]
    lines: int
    passed_over: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    examples: list[tuple[int, str, str]]


class Case(NamedTuple):
    data: bytes
    dim: int
    keep: frozenset[str] | None
    max_vectors: int | None


# the oracle


def expect(case: Case) -> Result | str:
    """Return what the documentation says about a file: the result, or the message of the error."""
    data, dim = case.data, case.dim
    dropped: Counter[str] = Counter()
    repaired: Counter[str] = Counter()
    examples: list[tuple[int, str, str]] = []
    rows: list[tuple[str, bytes]] = []
    passed_over = number = 0
    if data.startswith(b"\xef\xbb\xbf"):
        repaired["byte_order_mark"] = 1
        examples.append((1, "byte_order_mark", show(data.split(b"\n")[0])))
        data = data[3:]
    lines = data.split(b"\n")
    complete = lines.pop() == b""
    if not complete:
        lines.append(data.rpartition(b"\n")[2])
    if lines and is_header(lines[0]):
        number, dropped["header"] = 1, 1
        examples.append((1, "header", show(lines[0])))
    if number < len(lines) and has_tabs(lines[number], dim):
        repaired["tabs"] = 1
        examples.append((number + 1, "tabs", show(lines[number])))
        lines = [line.replace(b"\t", b" ") for line in lines]
    if number < len(lines) and (got := other_dimension(lines[number], dim)) is not None:
        return f"glove.txt:{number + 1}: expected {dim} values, got {got}"
    seen: set[str] = set()
    for number, line in enumerate(lines[number:], number + 1):  # noqa: B020
        for repair, is_needed in repairs_of(line, last=not complete and number == len(lines)).items():
            if is_needed:
                repaired[repair] += 1
                examples.append((number, repair, show(line)))
        token, vector, reason = read_line(line, dim)
        if reason is None and case.keep is not None and token not in case.keep:
            passed_over += 1
            continue
        if reason is None and token in seen:
            reason = "duplicate"
        if reason is not None:
            dropped[reason] += 1
            examples.append((number, reason, show(line)))
            continue
        seen.add(token)
        rows.append((token, vector))
        if len(rows) == case.max_vectors:
            break
    listed: Counter[str] = Counter()
    first = [e for e in examples if not listed.update([e[1]]) and listed[e[1]] <= 100]
    return Result(rows, number, passed_over, dict(dropped), dict(repaired), sorted(first))


def show(line: bytes) -> str:
    return line[:80].decode("utf-8", "replace")


def is_header(line: bytes) -> bool:
    count, space, rest = line.replace(b"\t", b" ").partition(b" ")
    stripped = rest.rstrip(b" \t\r\x0b\x0c")
    return bool(space) and all(is_digits(part) and len(part) <= 18 for part in (count, stripped))


def has_tabs(line: bytes, dim: int) -> bool:
    fields = line.strip(b" \t\r").replace(b"\t", b" ").split(b" ")
    if line[:1] in (b" ", b"\t"):
        fields = [b"", *fields]
    return line.count(b" ") < dim < len(fields) and all(is_number(field) for field in fields[-dim:])


def is_digits(text: bytes) -> bool:
    return bool(text) and all(byte in b"0123456789" for byte in text)


def other_dimension(line: bytes, dim: int) -> int | None:
    while line and line[-1:] in (b" ", b"\r"):
        line = line[:-1]
    fields = line.split(b" ")
    got = len(fields) - 1
    numbers = len([field for field in fields[-dim - 1 :] if is_number(field)])
    if not line or (got >= dim and not (got > dim and numbers > dim)):
        return None
    return got


def repairs_of(line: bytes, *, last: bool) -> dict[str, bool]:
    bare = line[:-1] if line[-1:] == b"\r" else line
    return {
        "carriage_return": bare != line,
        "trailing_space": bare[-1:] == b" " and bare != b" " * len(bare),
        "no_final_newline": last,
    }


def read_line(line: bytes, dim: int) -> tuple[str, bytes, str | None]:
    line = line[:-1] if line[-1:] == b"\r" else line
    while line[-1:] == b" ":
        line = line[:-1]
    fields = line.split(b" ")
    if line == b"":
        return "", b"", "blank"
    if len(fields) <= dim or not all(is_number(field) for field in fields[-dim:]):
        return "", b"", "not_a_vector"
    raw = b" ".join(fields[:-dim])
    if raw == b" " * len(raw):
        return "", b"", "empty_token"
    vector = [nearest(field) for field in fields[-dim:]]
    if None in vector:
        return "", b"", "not_finite"
    try:
        return str(raw, "utf-8"), np.array(vector, np.float64).astype(np.float32).tobytes(), None
    except UnicodeDecodeError:
        return "", b"", "undecodable"


def is_number(text: bytes) -> bool:
    body = text[1:] if text[:1] in (b"+", b"-") else text
    if body.lower() in (b"nan", b"inf", b"infinity"):
        return True
    mantissa, mark, exponent = body.lower().partition(b"e")
    if mark and not is_digits(exponent[1:] if exponent[:1] in (b"+", b"-") else exponent):
        return False
    whole, point, decimals = mantissa.partition(b".")
    if not all(byte in b"0123456789" for byte in whole + decimals):
        return False
    return bool(whole) or bool(point and decimals)


def nearest(text: bytes) -> float | None:
    """Return the float32 nearest to a decimal number, ties to even, or None if it is not finite."""
    if text.strip(b"+-").lower() in (b"nan", b"inf", b"infinity"):
        return None
    negative = text.startswith(b"-")
    mantissa, _, exponent = text.strip(b"+-").lower().partition(b"e")
    whole, _, decimals = mantissa.partition(b".")
    shift = max(min(int(exponent or b"0"), 10_000), -10_000)  # outside, it is 0 or not finite for all digits
    value = Fraction(int(whole + decimals or b"0")) * Fraction(10) ** (shift - len(decimals))
    if value >= Fraction(2) ** 128:
        return None
    power = max(-149, value.numerator.bit_length() - value.denominator.bit_length() - 25)
    while value >= Fraction(2) ** (power + 24):
        power += 1
    steps, rest = divmod(value, Fraction(2) ** power)
    half = Fraction(2) ** (power - 1)
    if rest > half or (rest == half and steps % 2):
        steps += 1
    rounded = Fraction(int(steps)) * Fraction(2) ** power
    if rounded >= Fraction(2) ** 128:
        return None
    return -float(rounded) if negative else float(rounded)


# the files


def draw_case(draw: random.Random) -> Case:
    """Return a random file and how to read it."""
    dim = draw.choice([1, 2, 2, 3, 5])
    oddness = draw.choice([0.0, 0.02, 0.1, 0.5])
    pool = [b"w%d" % i for i in range(draw.choice([5, 50, 5000]))]
    lines = [draw_line(draw, dim, pool, oddness=oddness) for _ in range(draw.choice([0, 1, 2, 5, 40, 40, 120]))]
    ending = draw.choices([b"\n", b"\r\n", b" \n", b" \r\n"], [12, 2, 2, 1])[0]
    data = b"".join(line + (ending if draw.random() > oddness / 4 else draw.choice([b"\n", b"\r\n"])) for line in lines)
    if draw.random() < 0.1:
        data = data.replace(b" ", b"\t")
    if draw.random() < 0.15:
        data = b"%d %d\n" % (len(lines) + draw.choice([0, 0, 1]), draw.choice([dim, dim, dim + 1])) + data
    if draw.random() < 0.05:
        data = b"\xef\xbb\xbf" + data
    if draw.random() < 0.02:
        data = data.decode("utf-8", "replace").encode("utf-16")
    for _ in range(draw.choices([0, 1, 3, 10], [8, 2, 1, 1])[0]):
        data = mutate(draw, data)
    keep = frozenset(draw.choice(pool).decode() for _ in range(5)) if draw.random() < 0.2 else None
    return Case(data, dim, keep, draw.choices([None, 1, 3, 30], [8, 1, 1, 1])[0])


def draw_line(draw: random.Random, dim: int, pool: list[bytes], *, oddness: float) -> bytes:
    odd = draw.random() < oddness
    token = draw.choice(TOKENS) if odd and draw.random() < 0.5 else draw.choice(pool)
    numbers = [draw_number(draw) for _ in range(dim)]
    if odd and draw.random() < 0.5:
        numbers[draw.randrange(dim)] = draw.choice(BAD)
    if odd and draw.random() < 0.2:
        numbers = numbers[:-1] if draw.random() < 0.5 else [*numbers, draw_number(draw)]
    if odd and draw.random() < 0.1:
        return draw.choice(
            [b"", b" ", b"   ", b"\r", token, b"<<<<<<< HEAD", b"400000 50", b"\t".join([token, *numbers])]
        )
    return b" ".join([token, *numbers])


def draw_number(draw: random.Random) -> bytes:
    kind = draw.random()
    if kind < 0.7:
        return b"%.5g" % draw.gauss(0, 0.5)
    if kind < 0.8:
        return draw.choice(GOOD)
    if kind < 0.9:
        return b"%.*g" % (draw.randint(1, 20), draw.gauss(0, 1) * 10.0 ** draw.randint(-44, 37))
    return draw_near_midpoint(draw)


def draw_near_midpoint(draw: random.Random) -> bytes:
    """Return the midpoint of two float32, or a number next to it, with all its digits."""
    low = np.float32(draw.gauss(0, 1))
    middle = (Fraction(float(low)) + Fraction(float(np.nextafter(low, np.float32(np.inf))))) / 2
    shift = middle.denominator.bit_length() - 1
    digits = abs(middle.numerator) * 5**shift * 10**10 + draw.choice([-1, 0, 0, 1])
    text = str(digits).rjust(shift + 11, "0")
    return (("-" if middle < 0 else "") + text[: -shift - 10] + "." + text[-shift - 10 :]).encode()


def mutate(draw: random.Random, data: bytes) -> bytes:
    at, size = draw.randint(0, len(data)), draw.choice([1, 1, 2, 20])
    kind = draw.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + size :]
    if kind == 2:
        return data[:at] + bytes(draw.randrange(256) for _ in range(size)) + data[at + size :]
    if kind == 3:
        return data[:at] + data[at : at + size] + data[at:]
    if kind == 4:
        return data[:at] + draw.choice([b" ", b"\n", b"\r", b"\t", b"\x00", b"\xc2\x85", b"-", b".", b"e"]) + data[at:]
    return data[:at] + draw.choice(TOKENS + BAD) + data[at:]


# the comparison


def read(case: Case) -> Result | str:
    """Return how the project reads a file: the result, or the message of the error."""
    selection = VectorSelection(case.dim, keep=case.keep, max_vectors=case.max_vectors)
    try:
        tables = list(GloveTextReader(io.BytesIO(case.data), name="glove.txt", selection=selection))
    except InputError as error:
        return str(error)
    rows = []
    for table in tables:
        table.validate(full=True)
        values = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, case.dim)
        rows += zip(table["token"].to_pylist(), (row.tobytes() for row in values), strict=True)
    examples = [(odd.line, odd.reason, odd.excerpt) for odd in selection.examples]
    dropped, repaired = dict(selection.dropped), dict(selection.repaired)
    return Result(rows, selection.lines, selection.passed_over, dropped, repaired, sorted(examples))


@contextlib.contextmanager
def block_size(block_bytes: int, careful_lines: int) -> Iterator[None]:
    before = tasks.vectors.glove_text.BLOCK_BYTES, tasks.vectors.glove_text.CAREFUL_LINES
    tasks.vectors.glove_text.BLOCK_BYTES, tasks.vectors.glove_text.CAREFUL_LINES = block_bytes, careful_lines
    try:
        yield
    finally:
        tasks.vectors.glove_text.BLOCK_BYTES, tasks.vectors.glove_text.CAREFUL_LINES = before


def describe_differences(expected: Result | str, got: Result | str) -> str:
    if isinstance(expected, str) or isinstance(got, str):
        return f"expected {expected}\ngot {got}"
    parts = []
    for name, wanted, found in zip(Result._fields, expected, got, strict=True):
        if isinstance(wanted, list):
            parts += [f"{name}: expected {w}\ngot {f}" for w, f in zip_longest(wanted, found) if w != f][:3]
        elif wanted != found:
            parts.append(f"{name}: expected {wanted}\ngot {found}")
    return "\n".join(parts)


def run_binary_campaign(files: int, seed: int) -> int:
    """Compare random word2vec binaries, tokens of several words among them, and return the number of vectors.

    Raises:
        AssertionError: a token or a bit of a vector is not what was written.
    """
    vectors = 0
    for number in range(files):
        draw = random.Random(f"binary:{seed}:{number}")
        dim, ending = draw.choice([16, 50, 300]), draw.choice([b"", b"\n"])
        words = ["dog", "York", "a", "1860", "w\u00f6rt", "\U0001f600", "I'm", "K", "\u6f22", "of"]
        tokens = list(dict.fromkeys(" ".join(draw.choices(words, k=draw.choice([1, 1, 2, 5]))) for _ in range(20)))
        values = np.random.default_rng(number).normal(size=(len(tokens), dim)).astype(np.float32)
        if draw.random() < 0.3:  # numbers of few bits, as in published sets
            values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
        written = [(token, row.tobytes()) for token, row in zip(tokens, values, strict=True)]
        data = b"".join(token.encode() + b" " + row + ending for token, row in written)
        selection = VectorSelection(dim)
        stream = io.BytesIO(b"%d %d\n" % (len(tokens), dim) + data)
        tables = list(Word2vecBinaryReader(stream, name="vectors.bin", selection=selection))
        got = [
            (token, np.array(vector, np.float32).tobytes())
            for table in tables
            for token, vector in zip(table["token"].to_pylist(), table["vector"].to_pylist(), strict=True)
        ]
        if got != written:
            raise AssertionError(f"binary:{seed}:{number}: expected {tokens}, got {[token for token, _ in got]}")
        vectors += len(got)
    return vectors


def run_campaign(files: int, seed: int) -> Counter[str]:
    """Compare random files, and return how often each outcome occurred.

    Raises:
        AssertionError: the project and the oracle differ.
    """
    tally: Counter[str] = Counter()
    for number in range(files):
        draw = random.Random(f"{seed}:{number}")
        case = draw_case(draw)
        expected = expect(case)
        for size in {1 << 20, draw.choice([1, 7, 64, 300, 1000])}:
            with block_size(size, draw.choice([1, 16])):
                got = read(case)
            if got != expected:
                raise AssertionError(
                    f"{seed}:{number}, {size} bytes a block: {case}\n{describe_differences(expected, got)}"
                )
        tally["files"] += 1
        if isinstance(expected, str):
            tally["other dimension"] += 1
            continue
        tally["vectors"] += len(expected.rows)
        tally["passed over"] += expected.passed_over
        tally.update({f"dropped: {reason}": count for reason, count in expected.dropped.items()})
        tally.update({f"repaired: {reason}": count for reason, count in expected.repaired.items()})
    return tally


def main() -> None:
    """Run the campaign and print how often each outcome occurred."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    started = time.perf_counter()
    print(f"{'vectors of binary files':28} {run_binary_campaign(options.files // 10, options.seed):9,}")
    for what, count in sorted(run_campaign(options.files, options.seed).items()):
        print(f"{what:28} {count:9,}")
    print(f"no difference, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
