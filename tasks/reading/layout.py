"""Find how the fields of a file of CSV or TSV stand in its rows: separator, header, quotes.

Only the beginning of a file is looked at. What can be read in two ways is an error that shows both.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading.columns import describe_missing, find_column, show_columns, show_value
from tasks.reading.packed import open_stream

SAMPLE_BYTES = 1 << 18
SEPARATORS = (",", "\t", ";", "|")
_SAMPLE_ROWS = 100
_SAME_WIDTH = 0.9  # share of the first rows that have the same number of fields under the right separator
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_SEPARATOR_LINE = re.compile(r"sep=(.)[\r\n]*", re.IGNORECASE)  # Excel's first line
_NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)*\s*")


class Layout(NamedTuple):
    """How the fields of a file stand in its rows.

    Attributes:
        separator: what stands between two fields.
        quoting: `standard`, `backslash` or `none`.
        header: names of the columns.
        has_header: whether the first row of the file holds them.
        skipped: lines before the first row: 1 if the first line names the separator.
        places: position of each wanted column in a row, by name.
        encoding: encoding of the file.
        labels: labels of the first rows; None if the file has no label column, or its quotes are to be trusted.
    """

    separator: str
    quoting: str
    header: tuple[str, ...]
    has_header: bool
    skipped: int
    places: Mapping[str, int]
    encoding: str
    labels: frozenset[str] | None

    @property
    def width(self) -> int:
        """Number of fields of a row."""
        return len(self.header)


class Sample(NamedTuple):
    """The first lines of a file, with their line ends, and whether these are all."""

    lines: list[str]
    complete: bool
    encoding: str


def find_layout(path: Path, kind: str, reading: Reading) -> Layout:
    """Return the layout of a file.

    Args:
        path: the file.
        kind: `csv` or `tsv`.
        reading: the wanted columns, and what is known of the layout.

    Raises:
        InputError: a wanted column is missing or there twice, or the separator cannot be told.
    """
    sample = take_sample(path, reading.encoding)
    stated = _SEPARATOR_LINE.fullmatch(sample.lines[0]) if sample.lines else None
    if stated:
        sample = sample._replace(lines=sample.lines[1:])
        if reading.separator == "auto":
            reading = reading.model_copy(update={"separator": stated[1]})
    quoting = "standard" if reading.quoting == "auto" else reading.quoting
    separators = [reading.separator] if reading.separator != "auto" else _order_separators(kind)
    if reading.header:
        firsts = {s: next(_parse(sample, s, quoting), []) for s in separators}
        header, separator = _choose_header(
            {s: [name.strip() for name in row] for s, row in firsts.items()}, reading, path
        )
    else:
        header, separator = _count_columns(sample, separators, quoting, reading, path)
    if reading.quoting == "auto" and _are_escaped(sample, separator, len(header)):
        quoting = "backslash"
    places = {name: find_column(header, name, path) for name in reading.columns}
    label = places.get(reading.label_column or "")
    layout = Layout(
        separator, quoting, tuple(header), reading.header, int(bool(stated)), places, sample.encoding, labels=None
    )
    if reading.quoting != "auto" or label is None:
        return layout
    rows = (row for row in _parse(sample, separator, quoting) if len(row) == len(header))
    return layout._replace(labels=frozenset(row[label].strip() for row in islice(rows, int(reading.header), None)))


def take_sample(path: Path, encoding: str) -> Sample:
    """Return the first lines of a text file: about `SAMPLE_BYTES` of it."""
    with open_stream(path, encoding, block_bytes=SAMPLE_BYTES) as stream:
        lines, size = list[str](), 0
        for line in stream.lines():
            if size >= SAMPLE_BYTES:
                return Sample(lines, False, stream.encoding)
            lines.append(line)
            size += len(line)
        return Sample(lines, True, stream.encoding)


def parse_rows(lines: Iterable[str], separator: str, quoting: str) -> Iterator[list[str]]:
    """Return a reader of the rows in lines that have their line ends, as Python's `csv` module reads them.

    Under `backslash`, a backslash makes a quote, a separator or a backslash after it part of the field; before
    anything else it is a character like others.
    """
    options: dict[str, Any] = {"delimiter": separator}
    if quoting == "none":
        options["quoting"] = csv.QUOTE_NONE
    elif quoting == "backslash":
        options["escapechar"] = "\\"
        kept = frozenset(('"', "\\", separator))
        lines = (_ESCAPE.sub(lambda found: found[0] if found[1] in kept else "\\" + found[0], line) for line in lines)
    return csv.reader(lines, **options)


def _parse(sample: Sample, separator: str, quoting: str) -> Iterator[list[str]]:
    """Yield the rows of a sample that are not blank; a row that may be incomplete is left out."""
    rows = parse_rows(sample.lines, separator, quoting)
    try:
        row = next(rows, None)
        while row is not None:
            following = next(rows, None)
            if row and (following is not None or sample.complete):
                yield row
            row = following
    except csv.Error:  # the parsers report it, with its line
        return


def _order_separators(kind: str) -> list[str]:
    """Return the separators that are tried; that of the format is the first."""
    usual = "\t" if kind == "tsv" else ","
    return [usual, *(separator for separator in SEPARATORS if separator != usual)]


def _choose_header(headers: Mapping[str, list[str]], reading: Reading, path: Path) -> tuple[list[str], str]:
    """Return the header with all wanted columns and its separator; the separator of the format comes first."""
    fitting = [s for s, names in headers.items() if all(name in names for name in reading.columns)]
    usual = next(iter(headers))
    if usual in fitting or len(fitting) == 1:
        separator = usual if usual in fitting else fitting[0]
        return headers[separator], separator
    if fitting:
        raise InputError(f"{path}: can be read in more than one way: {_show(headers, fitting)}; set corpus.separator")
    several = [s for s, names in headers.items() if len(names) > 1] or [usual]
    best = max(several, key=lambda s: sum(name in headers[s] for name in reading.columns))
    missing = next(name for name in reading.columns if name not in headers[best])
    first = headers[best]
    if any("\0" in name for name in first):
        raise InputError(
            f"{path}: expected text, got zero bytes in the first row; if it is UTF-16 without a byte order mark, set "
            "corpus.encoding=utf-16-le"
        )
    if _look_like_data(first):
        longest = max(range(len(first)), key=lambda place: len(first[place])) + 1
        raise InputError(
            f"{path}: expected a column {missing!r}, got a first row that looks like data: {_show_row(first)}; if the "
            f"file has no header, set corpus.header=false and either corpus.text_column={longest} or so (columns are "
            f"then 1 to {len(first)}) or corpus.column_names=[...]"
        )
    got = _show(headers, several) if len(several) > 1 else show_columns(first)
    raise InputError(describe_missing(path, missing, got))


def _count_columns(
    sample: Sample, separators: list[str], quoting: str, reading: Reading, path: Path
) -> tuple[list[str], str]:
    """Return the columns of a file without a header, and the separator that gives most rows the same number of them."""
    least = max([int(name) for name in reading.columns if name.isdigit()], default=1)
    widths: dict[str, int] = {}
    firsts: dict[str, list[str]] = {}
    for separator in separators:
        rows = list(islice(_parse(sample, separator, quoting), _SAMPLE_ROWS))
        if not rows:
            continue
        firsts[separator] = rows[0]
        (width, count), *_ = Counter(map(len, rows)).most_common(1)
        fits = width == len(reading.column_names) if reading.column_names else width >= least
        if len(separators) == 1 or (fits and width > 1 and count >= _SAME_WIDTH * len(rows)):
            widths[separator] = width
    if len(widths) > 1:
        raise InputError(
            f"{path}: can be read in more than one way: {_show(firsts, list(widths))}; set corpus.separator"
        )
    separator = next(iter(widths), separators[0])
    if reading.column_names:
        return list(reading.column_names), separator
    if firsts and not widths and least > 1:
        raise InputError(
            f"{path}: expected rows with the same number of fields, at least {least}, got none under the separators "
            f"{', '.join(map(repr, separators))}; set corpus.separator"
        )
    return [str(i) for i in range(1, widths.get(separator, least) + 1)], separator


def _are_escaped(sample: Sample, separator: str, width: int) -> bool:
    """Return whether only backslashes before quotes give every row of a sample its fields.

    They must not give fewer rows than standard quotes do: a text that ends in a backslash would then swallow others.
    """
    if not any('\\"' in line for line in sample.lines):
        return False

    widths = {
        quoting: [len(row) for row in _parse(sample, separator, quoting)] for quoting in ("standard", "backslash")
    }
    right = {quoting: found.count(width) for quoting, found in widths.items()}
    return (
        right["standard"] < len(widths["standard"])
        and right["backslash"] == len(widths["backslash"])
        and right["backslash"] >= right["standard"]
    )


def _look_like_data(row: list[str]) -> bool:
    """Return whether a row holds something that no column is called: a number, a sentence, nothing."""
    return any(not name or _NUMBER.fullmatch(name) or len(name) > 60 or len(name.split()) > 4 for name in row)


def _show(rows: Mapping[str, list[str]], separators: list[str]) -> str:
    """Return the readings of a first row, for a message."""
    return ", or ".join(f"{_show_row(rows[s])} with the separator {s!r}" for s in separators)


def _show_row(row: list[str]) -> str:
    shown = ", ".join(show_value(field) for field in row[:10])
    return shown + (f" and {len(row) - 10} more" if len(row) > 10 else "")
