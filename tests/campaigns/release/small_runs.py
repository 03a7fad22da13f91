"""Commands in forks of one process that has imported everything: a whole run takes a few seconds of a processor."""

import contextlib
import importlib
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, Self

from flows.cli.environment import prepare_environment
from flows.cli.server_process import Server, stop_servers
from flows.cli.servers import prefect_server
from tests.campaigns.release.whole_runs import output_digests, small_options


class ForkedCommand:
    """A `gloveflow` command in a fork of this process; it writes to a file.

    Attributes:
        pid: the process, which leads a process group of its own.
    """

    def __init__(
        self, artifacts: Path, arguments: Sequence[str], *, output: Path, before: Callable[[], object]
    ) -> None:
        self._output = output
        self._code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run_in_fork(artifacts, arguments, output, before)

    def poll(self) -> int | None:
        """Return the exit code, negative after a signal, or None while the command runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = 240.0) -> tuple[int | None, str]:
        """Return exit code and output; a command that does not end is killed and has the code None."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        code = self._code
        if code is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        return code, self._output.read_text("utf-8", "replace")


class ForkedCommands:
    """Starts commands in forks of this process, which has imported everything, so that a run takes a few seconds.

    Args:
        folder: where the Prefect server of all commands has its files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._number = 0
        self._server: Server | None = None

    def __enter__(self) -> Self:
        prepare_environment(self._folder)
        self._server = prefect_server(self._folder, 0, pages=False)
        self._server.start()
        import_all()
        self._server.wait_until_up()
        os.environ["PREFECT_API_URL"] = f"{self._server.url}/api"
        os.environ["PREFECT_API_AUTH_STRING"] = self._server.secret.text
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        stop_servers([self._server])

    @property
    def server_pid(self) -> int:
        """Process id of the Prefect server."""
        assert self._server is not None
        return self._server.process.pid

    def start(self, artifacts: Path, *arguments: str, before: Callable[[], object] = lambda: None) -> ForkedCommand:
        """Start a command; `before` is called first in its process."""
        self._number += 1
        output = self._folder / f"output-{self._number}.txt"
        return ForkedCommand(artifacts, arguments, output=output, before=before)

    def run(
        self, artifacts: Path, *arguments: str, before: Callable[[], object] = lambda: None
    ) -> tuple[int | None, str]:
        """Run a command to its end and return exit code and output."""
        return self.start(artifacts, *arguments, before=before).wait()


def import_all() -> None:
    """Import what a run needs, so that its forks need not."""
    for name in ("jinja2", "mlflow.pyfunc", "sklearn.linear_model", "torch._dynamo", "torch.optim", "flows.pipeline"):
        importlib.import_module(name)


@contextlib.contextmanager
def using_artifacts(path: Path) -> Iterator[None]:
    """Point this process to an artifacts directory during the body."""
    before = dict(os.environ)
    prepare_environment(path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def in_fork(call: Callable[[], str], *, before: Callable[[], object] = lambda: None) -> str:
    """Return what a call returns in a fork in which `before` was called first, or the error that it raised."""
    reading, writing = os.pipe()

    def answer() -> None:
        try:
            before()
            text = call()
        except Exception:
            text = traceback.format_exc()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(text.encode())

    pid = start_fork(answer)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    wait_for(pid)
    return text


def start_fork(call: Callable[[], object]) -> int:
    """Call a function in a fork, and return its process id; its exit code is 1 after an error, which is printed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait_for(pid: int) -> int:
    """Return the exit code of a fork at its end."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class SmallRuns:
    """Small runs whose results are compared with those of an unbroken one.

    Attributes:
        commands: starts the commands.
        options: the arguments of each run.
        digests: the outputs of the unbroken run.
        folder: for the artifacts directories.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = ForkedCommands(folder / "prefect")
        self.options = ["run", *small_options(folder / "inputs")]
        self.unbroken = folder / "unbroken"
        self.digests: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.commands.__enter__()
        code, output = self.commands.run(self.unbroken, *self.options)
        self.digests = output_digests(self.unbroken)
        if code != 0 or not self.digests:
            raise RuntimeError(f"the unbroken run ended with {code}: {output}")
        return self

    def __exit__(self, *raised: object) -> None:
        self.commands.__exit__(*raised)

    def copy_unfinished(self, target: Path) -> Path:
        """Copy the unbroken run's artifacts without the training, which a run then does again."""
        shutil.copytree(self.unbroken, target)
        for stage in ("train_classifier", "evaluate_classifier"):
            shutil.rmtree(target / "store" / stage)
        return target

    def finish(self, artifacts: Path, *, versions: int = 1) -> str:
        """Run once more and return what differs from the unbroken run, or an empty string."""
        code, output = self.commands.run(artifacts, *self.options)
        if code != 0 or "Traceback" in output:
            return f"the next run ended with {code}: {output[-1500:]}"
        return self.find_difference(artifacts, versions=versions)

    def find_difference(self, artifacts: Path, *, versions: int = 1) -> str:
        """Return what differs from what the unbroken run left, or an empty string."""
        found = output_digests(artifacts)
        if found != self.digests:
            return f"other outputs: {sorted(set(found.items()) ^ set(self.digests.items()))}"
        return find_unfinished(artifacts, versions=versions)


def find_unfinished(artifacts: Path, *, versions: int) -> str:
    """Return what MLflow's database holds that a finished run would not leave, or an empty string."""
    with contextlib.closing(sqlite3.connect(artifacts / "mlflow" / "mlflow.db")) as database:
        registered = [row[0] for row in database.execute("SELECT version FROM model_versions")]
        running = database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0]
        pending = database.execute("SELECT count(*) FROM logged_models WHERE status = 1").fetchone()[0]
        aliases = dict(database.execute("SELECT alias, version FROM registered_model_aliases").fetchall())
    expected = {"champion", "challenger"}
    if len(registered) != versions or set(aliases) not in (
        expected,
        expected | ({"previous"} if versions > 1 else set()),
    ):
        return f"versions {registered}, aliases {aliases}, expected {versions} versions"
    return f"{running} runs RUNNING, {pending} models PENDING" if running or pending else ""


def _run_in_fork(artifacts: Path, arguments: Sequence[str], output: Path, before: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        for target in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), target)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["GLOVEFLOW_ARTIFACTS"] = str(artifacts)
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

        from flows.cli.main import run_command

        settings = {
            PREFECT_API_URL: os.environ["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: os.environ["PREFECT_API_AUTH_STRING"],
            PREFECT_HOME: os.environ["PREFECT_HOME"],
        }
        with temporary_settings(settings):
            before()
            code = run_command(list(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
