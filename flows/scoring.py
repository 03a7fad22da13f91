"""The flow `score-texts`: classify files of texts with the registered champion.

Files are read as those of a corpus are, in the way that the model carries unless the caller says otherwise. Every row
that can be read is written, in order and with all its columns, with `label`, `score` and one column `p_<class>` per
class (`flows.scored_file`). A row without a text keeps its place, without an answer. Such rows, and those that cannot
be read, are listed in a file beside the output, with line and reason.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow, task
from pydantic import BaseModel, ConfigDict

from flows.scored_file import Answer, open_scored, rejected_path
from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from pipeline_config.masking import masked_errors
from pipeline_config.names import check_alias, check_model_name
from pipeline_config.schemas import REJECTED
from tasks.corpus.rejection import advise
from tasks.reading.encodings import is_other_encoding
from tasks.reading.file_names import TEXT_FORMATS
from tasks.reading.inputs import InputBlock, InputFile, Inputs, change_reading
from tasks.reading.sources import CorpusFile, CorpusRef, locate_files
from tasks.runtime.cancellation import allow_work
from tasks.runtime.loggers import open_loggers
from tasks.runtime.progress import track_progress
from tasks.tracking.models import Classify, load_model

logger = logging.getLogger(__name__)
BATCH = 2048
_EXAMPLES = 3
_NO_TEXT = {"null_text", "empty_text"}


class ScoringResult(BaseModel):
    """The result of scoring.

    Attributes:
        output: the file with the rows and their answers.
        rows: number of rows in it.
        skipped: how many of them have no answer.
        labels: number of rows by label.
        rejected: number of rows without an answer, in the output or not, by reason.
        rejected_output: the file that lists these rows; None without any.
        version: the version of the model.
    """

    model_config = ConfigDict(frozen=True)

    output: str
    rows: int
    skipped: int
    labels: dict[str, int]
    rejected: dict[str, int]
    rejected_output: str | None
    version: str


@flow(name="score-texts", persist_result=False)
def score_file(
    *,
    source: str | list[str],
    output: str,
    model: str,
    alias: str = "champion",
    reading: dict[str, Any] | None = None,
    query: str | None = None,
) -> ScoringResult:
    """Write a model's answers to the texts in files.

    Args:
        source: what `corpus.source` takes, or .txt files with a text per line.
        output: the file to write, .parquet or .csv.
        model: name of the registered model.
        alias: alias of its version.
        reading: fields of `Reading` that differ from those that the model carries.
        query: the SQL that selects the rows of a database.

    Raises:
        ConfigError: model or alias is no such name, or `reading` is wrong.
    """
    check_model_name(model, "model")
    check_alias(alias, "alias")
    open_loggers()
    allow_work()
    sources = [source] if isinstance(source, str) else source
    with masked_errors():
        return score_texts(sources=sources, output=output, model=model, alias=alias, reading=reading or {}, query=query)


@task(name="score_texts", task_run_name="score texts", persist_result=False)
@masked_errors()
def score_texts(
    *,
    sources: Sequence[str],
    output: str,
    model: str,
    alias: str,
    reading: Mapping[str, Any] | None = None,
    query: str | None = None,
) -> ScoringResult:
    """Read, classify and write the rows block by block; the arguments are those of the flow.

    Raises:
        InputError: a file cannot be read, or no row at all has a text that can be classified and some cannot be read.
    """
    change_reading(Reading(), reading or {})  # before the model is loaded, which takes seconds
    path = Path(output)
    with open_scored(path) as scored:
        loaded = load_model(model, alias)
        files = locate_files(sources, change_reading(loaded.reading, reading or {}), query)
        if path.resolve() in {Path(file.path).resolve() for file in files}:
            raise InputError(f"{output}: expected another file than the input; set --output")
        inputs = Inputs(files, change_reading(loaded.reading, reading or {}))
        scored.start(inputs.schema, loaded.labels)
        counts = _Counts(files)
        with track_progress("score", total=None, unit="texts") as advance:
            for file in inputs.files:
                _describe(file)
                for block in inputs.read(file):
                    answers = classify(loaded.classify, block.texts)
                    scored.write(block.table, answers)
                    scored.reject(Path(file.file.path).name, block.rejected)
                    counts.add(file.file, block, answers)
                    advance(len(answers))
        counts.check()
    return ScoringResult(
        output=output,
        rows=scored.rows,
        skipped=scored.rows - counts.labels.total(),
        labels=dict(counts.labels.most_common()),
        rejected=dict(counts.rejected.most_common()),
        rejected_output=str(rejected_path(path)) if scored.rejected else None,
        version=loaded.version,
    )


def classify(model: Classify, texts: pa.Array) -> list[Answer | None]:
    """Return the model's answers to texts (large_string), None for a null; it gets batches of `BATCH`."""
    found = texts.drop_null().to_pylist()
    answers = [answer for i in range(0, len(found), BATCH) for answer in model(found[i : i + BATCH])]
    in_order = iter(answers)
    return [next(in_order) if there else None for there in texts.is_valid().to_pylist()]


def _describe(file: InputFile) -> None:
    """Log how a file is read, and that its encoding is another one if it is."""
    path, encoding = Path(file.file.path), file.found.encoding
    logger.info("%-20s %s: %s", "score_texts", path.name, file.found.describe())
    if file.file.kind in (*TEXT_FORMATS, "txt", "folder") and is_other_encoding(path, encoding):
        logger.warning(
            "%s: is read in the encoding %s, as the corpus of the model was, but looks like UTF-8; if its letters are "
            "wrong in the output, use --set corpus.encoding=utf-8",
            path,
            encoding,
        )


class _Counts:
    """Counts answers by label, and rows without one by reason, and keeps a few of these as examples."""

    def __init__(self, files: Sequence[CorpusFile]) -> None:
        self.labels: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._files = files
        self._examples: list[dict[str, Any]] = []

    def add(self, file: CorpusFile, block: InputBlock, answers: Sequence[Answer | None]) -> None:
        """Count the rows of a block."""
        self.labels.update(answer["label"] for answer in answers if answer)
        reasons = block.rejected["reason"]
        for reason in pc.unique(reasons).to_pylist():
            of_reason = block.rejected.filter(pc.equal(reasons, reason))
            if (room := _EXAMPLES - self.rejected[reason]) > 0:
                name = Path(file.path).name
                rows = of_reason.slice(0, room).to_pylist()
                self._examples += [
                    {"row": 0, "file": name, "line": r["line"], "reason": reason, "excerpt": (r["text"] or "")[:40]}
                    for r in rows
                ]
            self.rejected[reason] += len(of_reason)

    def check(self) -> None:
        """Tell of rows without an answer.

        Raises:
            InputError: no row has one, for another reason than that it has no text.
        """
        if not self.rejected:
            return
        source = CorpusRef(location="", kind=self._files[0].kind, digest="", files=tuple(self._files))
        table = pa.Table.from_pylist(self._examples, schema=REJECTED)
        lines = [
            f"{count:,} {reason}: {advise(reason, table, source)}. Examples: {self._show_examples(reason)}"
            for reason, count in self.rejected.most_common()
        ]
        if not self.labels and not self.rejected.keys() <= _NO_TEXT:
            files = ", ".join(file.path for file in self._files[:3])
            raise InputError("\n  ".join([f"{files}: none of the {self.rejected.total():,} rows can be used", *lines]))
        logger.warning("%s rows have no answer: %s", f"{self.rejected.total():,}", "; ".join(lines))

    def _show_examples(self, reason: str) -> str:
        examples = [example for example in self._examples if example["reason"] == reason]
        return "; ".join(_show_example(**example) for example in examples)


def _show_example(*, file: str, line: int | None, excerpt: str, **_: object) -> str:
    return f"{file} {excerpt!r}" if line is None else f"{file} line {line} {excerpt!r}"
