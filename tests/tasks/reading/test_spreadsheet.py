"""Excel files."""

import datetime
import sys
from pathlib import Path

import openpyxl
import pytest

from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.reading.formats import read_blocks
from tasks.reading.sources import locate_corpus


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    book = openpyxl.Workbook()
    for row in (("label", " text ", "day"), ("a", "one", datetime.date(1970, 1, 2)), (), (1, 5), (2.0, "two\nlines")):
        book.active.append(row)
    more = book.create_sheet("more")
    for row in (("x", "headless"), ("y", "rows")):
        more.append(row)
    book.save(tmp_path / "c.XLSX")
    return tmp_path / "c.XLSX"


def read(path: Path, **options: object) -> list[tuple[object, ...]]:
    config = CorpusConfig(source=str(path), **options)
    (file,) = locate_corpus(config).files
    return [
        tuple(row[name] for name in ("text", "label", "problem", "line"))
        for block in read_blocks(Path(file.path), file.kind, config.reading)
        for row in block.to_pylist()
    ]


def refused(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value).replace(str(path), "FILE")


def test_the_first_sheet_is_read_with_the_numbers_of_its_rows(workbook: Path) -> None:
    assert read(workbook) == [("one", "a", None, 2), ("5", "1", "text_is_no_string", 4), ("two\nlines", "2", None, 5)]


def test_a_sheet_and_columns_without_a_header_can_be_named(workbook: Path) -> None:
    rows = [("headless", "x", None, 1), ("rows", "y", None, 2)]
    assert read(workbook, sheet="more", header=False, text_column="2", label_column="1") == rows
    assert read(workbook, sheet="more", header=False, column_names=["label", "text"]) == rows


def test_what_is_missing_is_named(workbook: Path) -> None:
    assert refused(workbook, sheet="no") == "FILE: expected a sheet 'no' (corpus.sheet), got 'Sheet', 'more'"
    message = "FILE: expected a column 'body', got columns 'label', 'text', 'day'"
    assert refused(workbook, text_column="body") == message


def test_a_file_that_is_no_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.xlsx"
    for content in (b"text,label\n", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        assert refused(path).startswith("FILE: ")


def test_the_extra_is_named(workbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert refused(workbook) == (
        "FILE: reading Excel files needs openpyxl; install it with: pip install 'gloveflow[xlsx]'"
    )
