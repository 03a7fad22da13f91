"""The window: the samples of the scorings of some time, joined, and their texts from the files that were written."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import GloveflowError
from tasks.monitoring.sample import SAMPLE, SAMPLE_FILE, join_samples, read_sample
from tasks.reading.inputs import Inputs
from tasks.reading.sources import locate_files
from tasks.tracking.scorings import RecordedRun, open_file

logger = logging.getLogger(__name__)
_SCORING = pa.field("scoring", pa.int32())  # position of the scoring of a row


class Window(NamedTuple):
    """The texts of some scorings.

    Attributes:
        scorings: the runs, the oldest first.
        sample: of all their texts, with the column `scoring`, the position of a text's scoring.
        texts: how many texts had an answer.
    """

    scorings: Sequence[RecordedRun]
    sample: pa.Table
    texts: int


def read_window(scorings: Sequence[RecordedRun]) -> Window:
    """Return the window of scorings; those of an older release, which kept no sample, are left out and told.

    Raises:
        ServiceError: MLflow does not answer.
    """
    samples, used, texts = [SAMPLE.append(_SCORING).empty_table()], list[RecordedRun](), 0
    for run in scorings:
        with open_file(run.run_id, SAMPLE_FILE) as path:
            if path is None:
                logger.warning("the scoring %s has no sample of its texts: an older release made it", run.run_id)
                continue
            sample = read_sample(path)
        samples.append(sample.append_column(_SCORING, pa.array([len(used)] * len(sample), pa.int32())))
        used.append(run)
        texts += int(run.metrics.get("rows", 0) - run.metrics.get("rows_without_answer", 0))
    return Window(used, join_samples(samples), texts)


def read_texts(window: Window, reading: Reading) -> list[str | None]:
    """Return the texts of the rows of a sample, from the outputs of their scorings.

    A text is None if its output is a table, or is gone or changed since.

    Args:
        window: the window.
        reading: how the files of the model's corpus are read.
    """
    texts: list[str | None] = [None] * len(window.sample)
    places, rows = (window.sample[name].to_numpy() for name in ("scoring", "row"))
    for number, run in enumerate(window.scorings):
        mine = np.flatnonzero(places == number)
        if len(mine):
            found = _read_rows(run, reading, set(rows[mine].tolist()))
            for place in mine.tolist():
                texts[place] = found.get(int(rows[place]))
    return texts


def _read_rows(run: RecordedRun, reading: Reading, wanted: set[int]) -> dict[int, str | None]:
    """Return the texts of some rows of an output by their number; none if it cannot be read as it was written."""
    output, found, start = run.params.get("output", ""), dict[int, str | None](), 0
    if not Path(output).exists():
        return {}
    try:
        used = Reading.model_validate({**reading.model_dump(), **_keep_columns(run.reading)})
        inputs = Inputs(locate_files([output], used), used)
        for file in inputs.files:
            for block in inputs.read(file):
                for row in sorted(wanted & set(range(start, start + len(block.texts)))):
                    found[row] = block.texts[row - start].as_py()
                start += len(block.texts)
    except (GloveflowError, OSError, ValueError) as error:
        logger.warning("%s: its texts cannot be shown: %s", output, error)
        return {}
    return found if start == int(run.metrics.get("rows", start)) else {}


def _keep_columns(changes: Mapping[str, object]) -> dict[str, object]:
    """Return what a reading of the output has in common with that of the input: the columns, not the format."""
    return {"text_column": changes["text_column"]} if "text_column" in changes else {}
