"""Score the texts of files with a registered model: read, classify and commit chunk by chunk, then write the output.

Every row that can be read is a row of the output, in order and with all its columns. A row without a text has no
answer. Such rows, and those that cannot be read, are listed in a side file. What was finished when a process was killed
is used when the same scoring is started again, and the output has the same bytes.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.monitoring.sample import Answers, draw_sample
from tasks.reading.inputs import Inputs
from tasks.reading.sources import CorpusFile, digest_files, locate_files
from tasks.runtime.parallel import read_ahead
from tasks.runtime.progress import track_progress
from tasks.scoring.chunks import REJECTED_ROWS, Chunk, cut_chunks, read_chunks
from tasks.scoring.columns import AnswerColumns, check_answers, rank_classes
from tasks.scoring.explanations import require_explaining
from tasks.scoring.findings import describe_inputs, tell_rejected
from tasks.scoring.onnx_packages import require_onnx
from tasks.scoring.outputs import Output, check_output, publish_files
from tasks.scoring.profile import make_profile, profile_texts
from tasks.scoring.request import Classifier, Request, ScoringModel, ScoringResult
from tasks.scoring.sql_table import check_table, write_table
from tasks.scoring.work import Record, Work, has_work, open_work
from tasks.scoring.writers import WRITERS, write_csv, write_parquet

_EXPLAINED_ROWS = 1 << 11  # of a chunk whose labels are explained, which takes a hundred times as long
_EXPLAINED_BYTES = 1 << 18  # of its text


class _Prepared(NamedTuple):
    """A chunk, its number, and its record if it was finished before, else its texts as the classifier takes them."""

    number: int
    chunk: Chunk
    record: Record | None
    texts: Any


def check_request(request: Request) -> None:
    """Find out what can be known before the model is loaded: options, and whether the output can be written.

    Raises:
        ConfigError: an option is out of its range.
        InputError, StoreError, ServiceError: the output cannot be written.
    """
    check_answers(request.threshold, request.top_k, request.explain)
    if request.runtime == "onnx":
        require_onnx("scoring.runtime onnx")
    check_output(request.output)
    if request.output.kind == "table":
        check_table(request.output, unfinished=has_work(request.output.shown))


def locate_inputs(request: Request, reading: Reading) -> list[CorpusFile]:
    """Return the files of a request.

    Raises:
        InputError: there is no such file, or one is the output.
        ServiceError: a URL cannot be fetched.
    """
    files = locate_files(request.sources, reading, request.query)
    output = request.output
    if output.is_local and output.kind != "table":
        place = Path(output.place).resolve()
        if any(place == path or place in path.parents for path in (Path(file.path).resolve() for file in files)):
            raise InputError(f"{output.place}: expected another file than the input; set --output")
    return files


def score_files(request: Request, model: ScoringModel, reading: Reading) -> ScoringResult:
    """Score the texts of files.

    Args:
        request: what to score; `check_request` has accepted it.
        model: the model.
        reading: how files are read.

    Raises:
        InputError: a file cannot be read, or no row at all has a text that can be classified and some cannot be read;
            or the model cannot do what the request asks for.
        StoreError, ServiceError: the output cannot be written.
    """
    started = time.perf_counter()
    inputs, output = Inputs(locate_inputs(request, reading), reading), request.output
    if request.explain is not None:
        require_explaining(f"models:/{model.name}/{model.version}", explains=model.explains)
    options = (request.threshold, request.top_k, request.explain)
    columns = AnswerColumns(model.labels, model.name, model.version, *options)
    digest, schema = digest_files([file.file for file in inputs.files]), columns.join(inputs.schema)
    key = {
        "input": digest,
        "reading": reading.model_dump(mode="json"),
        "answers": columns._asdict(),
        "runtime": model.runtime,
        "output": output._asdict(),
        "schema": str(schema),
    }
    describe_inputs(inputs)
    with open_work(output.shown, key) as work:
        with track_progress("score", total=None, unit="texts") as advance, model.open() as classifier:
            for rows in _compute(work, inputs, columns, classifier, seed=int(digest[:12], 16)):
                advance(rows)
        seconds, total = time.perf_counter() - started, work.total()
        tell_rejected(inputs, work, total)
        profile = make_profile({**total.counts, "rejected": total.rejected})
        output_digest = _publish(output, work, schema, profile)
    fresh = [record for number, record in enumerate(work.records) if number not in work.resumed]
    return ScoringResult(
        output=output.shown,
        digest=output_digest,
        input_digest=digest,
        rows=total.rows,
        skipped=total.rows - sum(total.labels.values()),
        labels=dict(Counter(total.labels).most_common()),
        abstained=None if request.threshold is None else total.abstained,
        rejected=total.rejected,
        rejected_output=_name_side(output, "rejected", ".csv") if total.rejected else None,
        undecodable=total.undecodable,
        profile_output=_name_side(output, "profile", ".parquet"),
        profile=profile.to_pylist(),
        sample=work.sample,
        version=model.version,
        resumed_rows=sum(work.records[number].rows for number in work.resumed),
        seconds=seconds,
        texts_per_second=sum(sum(record.labels.values()) for record in fresh) / seconds,
    )


def _compute(work: Work, inputs: Inputs, columns: AnswerColumns, classifier: Classifier, *, seed: int) -> Iterator[int]:
    """Finish all chunks, and yield the number of rows of each."""
    schema, first_row = columns.join(inputs.schema), 0

    def prepare(numbered: tuple[int, Chunk]) -> _Prepared:
        number, chunk = numbered
        record = work.find(number)
        return _Prepared(number, chunk, record, None if record else classifier.prepare(chunk.texts.drop_null()))

    chunks = read_chunks(inputs)
    if columns.explain is not None:
        chunks = cut_chunks(chunks, _EXPLAINED_ROWS, _EXPLAINED_BYTES)
    for number, chunk, record, texts in read_ahead(map(prepare, enumerate(chunks))):
        if record is None:
            probabilities = classifier.classify(texts)
            explanations = None
            if columns.explain is not None:
                best = rank_classes(probabilities, 1)[:, 0]
                explanations = classifier.explain(chunk.texts.drop_null(), best, columns.explain)
            there, answers = chunk.texts.is_valid(), _describe(columns.labels, probabilities, texts)
            own = columns.fill(there, probabilities, explanations)
            rows = pa.table([*chunk.table.columns, *own], schema=schema)
            numbers = first_row + np.flatnonzero(there)
            sample = draw_sample(chunk.texts.drop_null(), numbers, answers, seed=seed, before=work.sample)
            record = _make_record(chunk, columns, answers)
            work.commit(number, rows, chunk.rejected, sample, record)
        else:
            work.resumed.add(number)
        work.count(record)
        first_row += record.rows
        yield record.rows


def _describe(labels: Sequence[str], probabilities: np.ndarray, texts: Any) -> Answers:
    best = rank_classes(probabilities, 1)[:, 0]
    confidence = probabilities[np.arange(len(best)), best]
    return Answers([labels[place] for place in best.tolist()], confidence, texts.lengths, texts.unknown)


def _make_record(chunk: Chunk, columns: AnswerColumns, answers: Answers) -> Record:
    reasons = pc.value_counts(chunk.rejected["reason"].combine_chunks()).to_pylist()
    return Record(
        rows=len(chunk.table),
        abstained=0 if columns.threshold is None else int((answers.confidence < columns.threshold).sum()),
        rejected={entry["values"]: entry["counts"] for entry in reasons},
        undecodable=chunk.undecodable,
        counts=profile_texts(answers.labels, answers.confidence, answers.tokens, answers.unknown),
    )


def _publish(output: Output, work: Work, schema: pa.Schema, profile: pa.Table) -> str | None:
    """Write the output and what belongs to it, and return its SHA-256 unless it is a table."""
    if output.kind == "table":
        write_table(
            output, key=work.key, schema=schema, rows=work.read_rows(), rejected=work.read_rejected(), profile=profile
        )
        return None
    has_rejected = any(record.rejected for record in work.records)
    write_rejected: Callable[[Path], None] = lambda path: write_csv(path, REJECTED_ROWS, work.read_rejected())  # noqa: E731
    files: dict[str, Callable[[Path], None] | None] = {
        output.beside("profile", ".parquet"): lambda path: write_parquet(path, profile.schema, [profile]),
        output.beside("rejected", ".csv"): write_rejected if has_rejected else None,
        output.place: partial(_write_rows, output.kind, schema, work),
    }
    return publish_files(output, work.folder, files)[output.place]


def _write_rows(kind: str, schema: pa.Schema, work: Work, path: Path) -> None:
    WRITERS[kind](path, schema, work.read_rows())


def _name_side(output: Output, what: str, suffix: str) -> str:
    return f"{output.table}_{what}" if output.kind == "table" else output.beside(what, suffix)
