"""Time the answers of a registered model for 1, 32 and 256 texts, over HTTP and in process.

    python tests/benchmarks/serving.py TEXTS.parquet --artifacts DIR --model NAME [--requests 200] [--words 40]

TEXTS.parquet has a column `text`; the first `--words` words of each are sent. Each server is a process of its own, and
the ways take turns request by request, so that what else the machine does meets all of them:

- in process: the MLflow model, called with a list
- gloveflow serve-model, and the same server with a constant model
- MLflow's own server, and the same with the constant model, which shows what MLflow itself costs

Prints the milliseconds of the median and of the slowest of a hundred, the processor time of the process that computes
(median), and both medians less that of MLflow's server with the constant model. Processor time tells more where other
programs run.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

SIZES = (1, 32, 256)
CONSTANT = """
import mlflow

class Constant(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        answer = {"label": "a", "score": 0.5, "probabilities": {"a": 0.5, "b": 0.5}}
        return [answer] * len(model_input)

mlflow.models.set_model(Constant())
"""


class Way(NamedTuple):
    """A way to classify texts: its function, and the process that computes."""

    call: Callable[[list[str]], object]
    process: int


@contextlib.contextmanager
def run_server(command: list[str], port: int, variables: dict[str, str] | None = None) -> Iterator[Way]:
    """Run a server during the body, and give it a way that sends texts over one connection."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(variables or {})}
    with subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    connection.connect()
                    break
                time.sleep(0.1)

            def call(texts: list[str]) -> object:
                body = json.dumps({"inputs": texts})
                connection.request("POST", "/invocations", body, {"content-type": "application/json"})
                response = connection.getresponse()
                content = response.read()
                if response.status != 200:
                    raise SystemExit(f"{command}: status {response.status}: {content.decode()}")
                return json.loads(content)

            call(["a text"])
            connection.close()  # while other servers start, a server closes it; the next call opens another one
            yield Way(call, process.pid)
        finally:
            process.terminate()


def find_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def own_server(folder: str) -> contextlib.AbstractContextManager[Way]:
    """Run the project's application on a logged model."""
    port, file = find_port(), Path(__file__).parents[2] / "tasks" / "tracking" / "scoring_app.py"
    return run_server([str(file), "--model", folder, "--port", str(port)], port)


def mlflow_server(folder: str) -> contextlib.AbstractContextManager[Way]:
    """Run MLflow's server on a logged model, as `mlflow models serve` does."""
    port = find_port()
    command = [
        "-m",
        "uvicorn",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--log-level",
        "error",
        "--timeout-keep-alive",
        "75",
    ]
    return run_server(
        [*command, "mlflow.pyfunc.scoring_server.app:app"], port, {"__pyfunc_model_path__": Path(folder).as_uri()}
    )


def serve_model(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Way]:
    """Run `gloveflow serve-model`."""
    port = find_port()
    command = ["-m", "flows.cli.main", "serve-model", "--model", arguments.model, "--port", str(port)]
    return run_server([*command, "--artifacts", str(arguments.artifacts)], port)


def read_processor(process: int) -> float:
    """Return the milliseconds of processor time of a process and its threads."""
    spent = [int(path.read_text().split()[0]) for path in Path(f"/proc/{process}/task").glob("*/schedstat")]
    return sum(spent) / 1e6


def measure(ways: dict[str, Way], texts: list[str], size: int, requests: int) -> dict[str, tuple[np.ndarray, ...]]:
    """Return the milliseconds of each request of each way, by the clock and of the processor."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(requests + 5):
        sent = [texts[(number * size + i) % len(texts)] for i in range(size)]
        turns = list(ways.items())
        random.shuffle(turns)
        for name, way in turns:
            started, spent = time.perf_counter(), read_processor(way.process)
            way.call(sent)
            found[name].append((1000 * (time.perf_counter() - started), read_processor(way.process) - spent))
    return {name: tuple(np.array(times[5:]).T) for name, times in found.items()}


def show(found: dict[str, tuple[np.ndarray, ...]], size: int) -> None:
    """Print a table of the ways."""
    base = np.median(found["MLflow's server, constant model"], axis=1)
    print(f"\n{f'{size} texts':36}{'p50 ms':>10}{'p99 ms':>10}{'- constant':>12}{'processor ms':>14}{'- constant':>12}")
    for way, (clock, processor) in found.items():
        median, spent = np.median(clock), np.median(processor)
        line = f"{median:>10.2f}{np.percentile(clock, 99):>10.2f}{median - base[0]:>12.2f}"
        print(f"{way:36}{line}{spent:>14.2f}{spent - base[1]:>12.2f}", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--words", type=int, default=40)
    arguments = parser.parse_args()
    os.environ["GLOVEFLOW_ARTIFACTS"] = str(arguments.artifacts.absolute())
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import mlflow

    from tasks.tracking.loading import require_served
    from tasks.tracking.model_files import open_verified

    column = pq.read_table(arguments.texts, columns=["text"])["text"].to_pylist()
    texts = [" ".join(text.split()[: arguments.words]) for text in column[:5000]]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "constant.py").write_text(CONSTANT)
        constant = str(folder / "constant")
        mlflow.pyfunc.save_model(constant, python_model=str(folder / "constant.py"), pip_requirements=["mlflow"])
        ours = str(stack.enter_context(open_verified(require_served(arguments.model, "champion"))))
        model = mlflow.pyfunc.load_model(ours)
        ways = {
            "in process": Way(model.predict, os.getpid()),
            "gloveflow serve-model": stack.enter_context(serve_model(arguments)),
            "the same server, constant model": stack.enter_context(own_server(constant)),
            "MLflow's server": stack.enter_context(mlflow_server(ours)),
            "MLflow's server, constant model": stack.enter_context(mlflow_server(constant)),
        }
        for size in SIZES:
            show(measure(ways, texts, size, max(20, arguments.requests // (1 if size < 256 else 4))), size)


if __name__ == "__main__":
    main()
