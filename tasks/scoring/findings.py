"""What a user should know of the rows of a scoring: how files were read, which rows have no answer, and why."""

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import InputError
from pipeline_config.schemas import REJECTED
from tasks.corpus.rejection import advise
from tasks.reading.encodings import is_other_encoding
from tasks.reading.file_names import TEXT_FORMATS
from tasks.reading.inputs import InputFile, Inputs
from tasks.reading.sources import CorpusRef
from tasks.scoring.work import Record, Work

logger = logging.getLogger(__name__)
_EXAMPLES = 3
_MOST_FILES = 20  # that are described one by one
_NO_TEXT = {"null_text", "empty_text"}


def describe_inputs(inputs: Inputs) -> None:
    """Log how files are read, and which have another encoding than the one that they are read in."""
    for file in inputs.files[:_MOST_FILES]:
        logger.info("%-20s %s: %s", "score_texts", Path(file.file.path).name, file.found.describe())
        _warn_of_encoding(file)
    if len(inputs.files) > _MOST_FILES:
        logger.info("%-20s and %d more files", "score_texts", len(inputs.files) - _MOST_FILES)


def tell_rejected(inputs: Inputs, work: Work, total: Record) -> None:
    """Tell of rows without an answer, and of values that could not be decoded.

    Raises:
        InputError: no row has an answer, for another reason than that it has no text.
    """
    if total.undecodable:
        columns = ", ".join(f"{name} {count:,}" for name, count in total.undecodable.items())
        logger.warning(
            "values of other columns than the text have bytes that are not in the encoding: %s; text files have ? in "
            "their place in the output, Parquet files keep them; set corpus.encoding",
            columns,
        )
    if not total.rejected:
        return
    files = [file.file for file in inputs.files]
    source = CorpusRef(location="", kind=files[0].kind, digest="", files=tuple(files))
    table = pa.Table.from_pylist(_find_examples(work, total), schema=REJECTED)
    lines = [
        f"{count:,} {reason}: {advise(reason, table, source)}. Examples: {_show_examples(table, reason)}"
        for reason, count in total.rejected.items()
    ]
    rows = sum(total.rejected.values())
    if not total.labels and not total.rejected.keys() <= _NO_TEXT:
        names = ", ".join(file.path for file in files[:3])
        raise InputError("\n  ".join([f"{names}: none of the {rows:,} rows can be used", *lines]))
    logger.warning("%s rows have no answer: %s", f"{rows:,}", "; ".join(lines))


def _warn_of_encoding(file: InputFile) -> None:
    path, encoding = Path(file.file.path), file.found.encoding
    if file.file.kind in (*TEXT_FORMATS, "txt", "folder", "documents") and is_other_encoding(path, encoding):
        logger.warning(
            "%s: is read in the encoding %s, as the corpus of the model was, but looks like UTF-8; if its letters are "
            "wrong in the output, use --set corpus.encoding=utf-8",
            path,
            encoding,
        )


def _find_examples(work: Work, total: Record) -> list[dict[str, Any]]:
    """Return the first rejected rows of each reason, as rows of the schema `REJECTED`."""
    wanted = {reason: min(_EXAMPLES, count) for reason, count in total.rejected.items()}
    found: list[dict[str, Any]] = []
    for rows in work.read_rejected():
        for reason in [reason for reason, room in wanted.items() if room]:
            mine = rows.filter(pc.equal(rows["reason"], reason)).slice(0, wanted[reason]).to_pylist()
            wanted[reason] -= len(mine)
            found += [
                {"row": 0, "file": r["file"], "line": r["line"], "reason": reason, "excerpt": (r["text"] or "")[:40]}
                for r in mine
            ]
        if not any(wanted.values()):
            break
    return found


def _show_examples(table: pa.Table, reason: str) -> str:
    rows = table.filter(pc.equal(table["reason"], reason)).to_pylist()
    return "; ".join(_show_example(**row) for row in rows)


def _show_example(*, file: str, line: int | None, excerpt: str, **_: object) -> str:
    return f"{file} {excerpt!r}" if line is None else f"{file} line {line} {excerpt!r}"
