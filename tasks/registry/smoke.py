"""The smoke test of a version: a clean process loads it as its users do, and its answers are those of the evaluation.

The process is isolated from this project: it cannot import it, and works in a directory of its own. So a version that
only works beside our code is found before anything relies on it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline_config.contracts.decision import RuleResult
from pipeline_config.errors import UnusableModelError
from tasks.registry.rivals import HeldOut
from tasks.tracking.model_files import Version, open_verified

PASSED = "passed"
TOLERANCE = 1e-5
SECONDS = 300.0  # an import of mlflow and torch takes about 5 seconds on idle processors
_SCRIPT = """
import json, sys
for name in ("flows", "tasks", "pipeline_config"):
    sys.modules[name] = None
folder, source, target = sys.argv[1:4]
with open(source, encoding="utf-8") as file:
    given = json.load(file)
sys.path += given["path"]
import mlflow.pyfunc
answers = mlflow.pyfunc.load_model(folder).predict(given["texts"])
with open(target, "w", encoding="utf-8") as file:
    json.dump([answer["probabilities"] for answer in answers], file)
"""


def try_version(version: Version, split: HeldOut, *, documents: int, tokenizer: str) -> RuleResult:
    """Compare the answers of a version in a clean process with those of its evaluation.

    Args:
        version: the version.
        split: the test split with the answers of the evaluation.
        documents: how many of its documents are compared, spread evenly.
        tokenizer: that of the version; a function of the user's own is looked for where this process finds it.
    """
    count = min(documents, len(split.truth))
    places = np.arange(count) * len(split.truth) // max(count, 1)
    texts = split.texts.take(places).to_pylist()
    rule = f"a clean process gives the answers of the evaluation to {count} test documents, to {TOLERANCE:g}"
    try:
        with open_verified(version) as folder:
            answers = ask_clean_process(folder, texts, path=sys.path if ":" in tokenizer else ())
        found = np.array([[answer[label] for label in split.labels] for answer in answers])
        difference = float(np.abs(found - split.ours[places]).max(initial=0.0))
    except (RuntimeError, UnusableModelError) as error:
        return _judge(rule, None, str(error))
    except (KeyError, TypeError, ValueError) as error:
        return _judge(rule, None, f"its answers have another form: {type(error).__name__}: {error}")
    return _judge(rule, difference, f"the largest difference of a probability is {difference:.2g}")


def ask_clean_process(folder: Path, texts: Sequence[str], *, path: Sequence[str] = ()) -> list[dict[str, float]]:
    """Return the probabilities that a model of MLflow gives to texts in a process that cannot import this project.

    Args:
        folder: the files of the model.
        texts: the texts.
        path: further directories in which the process looks for modules.

    Raises:
        RuntimeError: the process failed, with the last line that it wrote, or did not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="gloveflow-smoke-") as place:
        source, target = Path(place, "texts.json"), Path(place, "answers.json")
        source.write_text(json.dumps({"texts": list(texts), "path": list(path)}), "utf-8")
        command = [sys.executable, "-I", "-c", _SCRIPT, str(folder), str(source), str(target)]
        try:
            ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it gave no answers within {SECONDS:.0f} seconds") from None
        if ended.returncode or not target.exists():
            lines = ended.stderr.strip().splitlines() or [f"it ended with code {ended.returncode}"]
            raise RuntimeError(lines[-1][:500])
        answers: list[dict[str, float]] = json.loads(target.read_text("utf-8"))
        return answers


def _judge(rule: str, difference: float | None, found: str) -> RuleResult:
    passed = difference is not None and difference <= TOLERANCE
    return RuleResult(
        rule=rule,
        metric="smoke test",
        against="value",
        value=difference,
        other=TOLERANCE,
        difference=None,
        outcome="unknown" if difference is None else "equivalent" if passed else "worse",
        passed=passed,
        reason=f"smoke test {'passed' if passed else 'failed'}: {found}",
    )
