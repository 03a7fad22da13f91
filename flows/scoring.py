"""The flow `score-texts`: classify a file of texts with the registered champion.

Reads CSV, TSV, JSON lines or Parquet with a text column, or plain text with one text per line. Writes the same rows
with `label`, `score` and one column `p_<class>` per class, as Parquet or CSV. In CSV, texts that a spreadsheet would
run as a formula get an apostrophe in front; Parquet keeps every text as it is.
"""

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, task
from pydantic import BaseModel, ConfigDict

from pipeline_config.errors import InputError, StoreError
from pipeline_config.masking import masked_errors
from pipeline_config.settings import check_alias, check_model_name
from tasks.runtime.cancellation import allow_work
from tasks.runtime.escaping import escape_cell
from tasks.runtime.loggers import open_loggers
from tasks.runtime.progress import track_progress
from tasks.tracking.models import Classify, find_alias, load_model

logger = logging.getLogger(__name__)
BATCH = 2048


class ScoringResult(BaseModel):
    """The result of scoring a file; `skipped` counts rows without a text, `version` is the model version."""

    model_config = ConfigDict(frozen=True)

    output: str
    rows: int
    skipped: int
    labels: dict[str, int]
    version: str


@flow(name="score-texts", persist_result=False)
def score_file(*, source: str, output: str, model: str, alias: str = "champion", column: str = "text") -> ScoringResult:
    """Write a model's predictions for a file of texts.

    Raises:
        ConfigError: model or alias is no such name.
    """
    check_model_name(model, "model")
    check_alias(alias, "alias")
    open_loggers()
    allow_work()
    with masked_errors():
        return score_texts(source=source, output=output, model=model, alias=alias, column=column)


@task(name="score_texts", task_run_name="score texts", persist_result=False)
@masked_errors()
def score_texts(*, source: str, output: str, model: str, alias: str, column: str) -> ScoringResult:
    """Read the texts, classify them, write the rows; rows without a text get no label and are counted."""
    frame = read_texts(Path(source), column)
    usable = frame[column].map(lambda text: isinstance(text, str) and bool(text.strip()))
    version = find_alias(model, alias)
    answers = classify(load_model(model, alias), frame.loc[usable, column].tolist())
    scored = pd.DataFrame(
        [
            {"label": a["label"], "score": a["score"], **{f"p_{k}": v for k, v in a["probabilities"].items()}}
            for a in answers
        ],
        index=frame.index[usable],
    )
    clash = sorted(set(scored.columns) & set(frame.columns))
    if clash:
        frame = frame.rename(columns={name: f"input_{name}" for name in clash})
    write_frame(frame.join(scored), Path(output))
    labels = {str(label): int(count) for label, count in scored["label"].value_counts().items()} if answers else {}
    return ScoringResult(
        output=output,
        rows=len(frame),
        skipped=int((~usable).sum()),
        labels=labels,
        version=str(version.version) if version else "",
    )


def classify(model: Classify, texts: list[str]) -> list[dict[str, Any]]:
    """Return the model's answers to texts; it gets batches of `BATCH`, and progress is shown."""
    answers: list[dict[str, Any]] = []
    with track_progress("score", total=len(texts), unit="texts") as advance:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            answers.extend(model(batch))
            advance(len(batch))
    return answers


def read_texts(path: Path, column: str) -> pd.DataFrame:
    """Return the rows of a file of texts.

    Raises:
        InputError: the file is missing, unreadable or of an unknown kind, or the column is missing.
    """
    readers = {
        ".csv": lambda: pd.read_csv(path, keep_default_na=False, dtype=str),
        ".tsv": lambda: pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str),
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False),
        ".parquet": lambda: pd.read_parquet(path),
        ".txt": lambda: pd.DataFrame({column: path.read_text("utf-8").removesuffix("\n").split("\n")}),
    }
    if path.suffix not in readers:
        raise InputError(f"{path}: got {path.suffix or 'no suffix'}, expected one of {', '.join(readers)}")
    try:
        frame = readers[path.suffix]()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: is not a readable {path.suffix} file: {error}") from error
    if column not in frame:
        raise InputError(f"{path}: no column {column!r}; it has {', '.join(map(repr, frame.columns))}")
    return frame


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet or CSV. An error leaves no partial file.

    Raises:
        InputError: the name ends in neither .parquet nor .csv.
        StoreError: the file cannot be written.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise InputError(f"{path}: expected a name that ends in .parquet or .csv")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".csv":
            frame.apply(_escape_column).rename(columns=escape_cell).to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _escape_column(column: "pd.Series[Any]") -> "pd.Series[Any]":
    return column if pd.api.types.is_numeric_dtype(column) else column.map(escape_cell)
