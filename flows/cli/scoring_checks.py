"""What a scoring needs, looked at before any server starts: options, output, model version, columns of local files.

Imports neither prefect, mlflow nor torch, so that a mistake is told in about a second. The flow looks at everything
again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.cli.inputs import SMALL_BYTES
from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import UnusableModelError
from pipeline_config.references import fill_references
from pipeline_config.schemas import MODEL_FILE
from tasks.reading.inputs import Inputs
from tasks.reading.sources import CorpusFile
from tasks.scoring.explanations import PART, require_explaining
from tasks.scoring.outputs import parse_output
from tasks.scoring.request import Request, change_reading
from tasks.scoring.score_texts import check_request, locate_inputs
from tasks.served.tokenizers import require_available
from tasks.tracking.version_files import advise_mending, find_problem, find_version_files

_READ_WHOLE = ("json", "jsonl", "xlsx")  # their columns are known when all rows are read


def check_scoring(
    root: Path,
    sources: Sequence[str],
    output: str,
    *,
    model: str,
    alias: str,
    version: int | None,
    changes: Mapping[str, Any],
    query: str | None,
    table: str | None,
    **options: Any,
) -> None:
    """Find the mistakes of a scoring that can be found at once; the arguments are those of the flow `score-texts`.

    `options` are further fields of `Request`. Files that have to be fetched, and models in another registry than
    our own, are left to the flow.

    Raises:
        ConfigError: an option is wrong.
        InputError: a file cannot be read or lacks the column with the text; the output cannot be one; or the model
            cannot do what an option asks for.
        StoreError: the output cannot be written.
        ServiceError: there is no such model, or its files are gone or changed.
    """
    request = Request(sources, parse_output(output, table), query, **options)
    change_reading(Reading(), changes)
    check_request(request)
    reading = change_reading(_check_model(root, model, alias, version, explain=request.explain is not None), changes)
    if not any("://" in fill_references(source, "score") for source in sources):
        files = [file for file in locate_inputs(request, reading) if not _is_large(file)]
        if files:
            Inputs(files, reading)


def _check_model(root: Path, model: str, alias: str, version: int | None, *, explain: bool) -> Reading:
    """Return how the model's corpus was read, after a look at the model's files; the default if it is not here."""
    found = find_version_files(root, model, alias=alias, number=version)
    if found is None:
        return Reading()
    uri = f"models:/{model}/{found.version}"
    if problem := find_problem(found):
        raise UnusableModelError(f"{uri}: {problem}. {advise_mending(model)}")
    try:
        bundle = found.folder / "artifacts/bundle"
        if explain:
            require_explaining(uri, explains=(bundle / f"{PART}.py").is_file())
        description = json.loads((bundle / MODEL_FILE).read_text("utf-8"))
        require_available(str(description["text"]["tokenizer"]))
        return Reading.model_validate(description.get("reading", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableModelError(f"{uri}: cannot be used: {error}") from error


def _is_large(file: CorpusFile) -> bool:
    return file.kind in _READ_WHOLE and Path(file.path).stat().st_size > SMALL_BYTES
