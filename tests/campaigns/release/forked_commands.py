"""Commands as forks of one process that has imported everything, because the imports cost more than a small run.

    with Forks() as forks:
        run = forks.start(artifacts, "run", ...)

A fork has the environment, the process group and the servers of a command that a shell starts. Its Prefect server is a
fork, too, with the same process tree, files and signals as the real one. Everything else is the product's own code.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

SERVER = "flows.cli.prefect_server"


@dataclass
class ForkedRun:
    """A command that runs.

    Attributes:
        pid: its process, which leads a process group.
        log: what it prints.
    """

    pid: int
    log: Path
    _parent: subprocess.Popen[str]

    def wait(self) -> tuple[int, str]:
        """Wait for its end and return exit code, negative after a signal, and output."""
        assert self._parent.stdout is not None
        code = int(self._parent.stdout.readline())
        return code, self.log.read_text("utf-8", "replace")

    def kill(self, *, group: bool = False) -> None:
        """Send SIGKILL to the command, or to its process group, to which its servers do not belong."""
        (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)

    def list_servers(self) -> list[int]:
        """Return the processes that the command has started and that live."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        try:
            return [int(pid) for pid in children.read_text().split()]
        except OSError:
            return []


class Forks:
    """The process of which commands are forks. They run one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.release.forked_commands", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.communicate()

    def start(self, artifacts: Path, *arguments: str, before: str = "") -> ForkedRun:
        """Start a command on an artifacts directory; `before` is Python source that runs first in its process."""
        self._number += 1
        log = self._folder / f"output-{self._number}.txt"
        request = {"artifacts": str(artifacts), "arguments": arguments, "before": before, "log": str(log)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return ForkedRun(int(self._process.stdout.readline()), log, self._process)

    def run(self, artifacts: Path, *arguments: str, before: str = "") -> tuple[int, str]:
        """Run a command to its end and return exit code and output."""
        return self.start(artifacts, *arguments, before=before).wait()


class ForkedServer(subprocess.Popen[bytes]):
    """A server that is a fork of this process in place of a new Python."""

    def _execute_child(self, args: list[str], *others: Any) -> None:
        preexec, environment, descriptors = others[1], others[5], (others[9], others[12], others[14])
        self.pid = os.fork()
        if self.pid:
            self._child_created = True
            return
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if preexec:
            preexec()
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = args[2:]
        os.closerange(3, 4096)  # a new Python would not inherit the locks of the command
        _read_settings()
        try:
            runpy.run_module(SERVER, run_name="__main__")
        except SystemExit as error:
            os._exit(int(error.code or 0))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)


def main() -> None:
    """Import everything; then fork a command for each line on standard input, and print its process and exit code."""
    os.environ["GLOVEFLOW_ARTIFACTS"] = str(Path(sys.argv[1], "unused"))
    before = dict(os.environ)
    _import_everything(Path(sys.argv[1], "unused"))
    os.environ.clear()
    os.environ.update(before)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _command(**request)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _import_everything(root: Path) -> None:
    from flows.cli.environment import prepare_environment

    prepare_environment(root)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True)

    import tasks.evaluation.report
    import tasks.tracking.models
    import tasks.training.fitting  # noqa: F401


def _command(artifacts: str, arguments: list[str], before: str, log: str) -> None:
    from flows.cli import servers, session

    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.setsid()
    os.environ["GLOVEFLOW_ARTIFACTS"] = artifacts
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "GLOVEFLOW_MLFLOW_URL"):
        os.environ.pop(name, None)
    servers.subprocess = SimpleNamespace(  # type: ignore[attr-defined, assignment]
        Popen=ForkedServer, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    open_loggers = session.open_loggers

    def open_loggers_with_settings() -> None:
        _read_settings()
        open_loggers()

    session.open_loggers = open_loggers_with_settings  # type: ignore[attr-defined]
    exec(before, {})
    from flows.cli.main import run_command

    code = run_command(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _read_settings() -> None:
    """Let Prefect read the environment again, as if it were imported now."""
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


if __name__ == "__main__":
    main()
