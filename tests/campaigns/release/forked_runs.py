"""Commands of `gloveflow` in processes that need not import anything: they are forked from one that has imported it all.

`python -m tests.campaigns.release.forked_runs` reads a JSON list of arguments per line, runs the command in a fork,
which prints what a command prints, and then prints a line with the mark and the exit code.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import IO, NamedTuple

END = "\0exit code "


class Ended(NamedTuple):
    """A command that has ended: exit code (None if it had to be killed), its lines with their times, when it ended."""

    code: int | None
    lines: list[tuple[float, str]]
    at: float

    @property
    def output(self) -> str:
        return "".join(line for _, line in self.lines)


class ForkedRuns:
    """Run commands, one at a time, with the environment that is given here."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.release.forked_runs"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[tuple[float, str]] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def run(self, *arguments: str, seconds: float) -> Ended:
        """Run a command to its end, or kill it after some seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        lines: list[tuple[float, str]] = []
        pid, deadline, killed = 0, time.monotonic() + seconds, False
        while True:
            try:
                at, line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                if killed or not pid:
                    raise RuntimeError(f"a command ended without its exit code: {lines}") from None
                os.kill(pid, signal.SIGKILL)
                killed, deadline = True, time.monotonic() + 60
                continue
            if line.startswith("\0pid "):
                pid = int(line.removeprefix("\0pid "))
            elif line.startswith(END):
                return Ended(None if killed else int(line.removeprefix(END)), lines, at)
            else:
                lines.append((at, line))

    def close(self) -> None:
        """End the process."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put((time.monotonic(), line))


def main() -> None:
    """Import what commands import, then run those that are asked for."""
    from flows.cli.environment import prepare_environment

    prepare_environment()
    import flows.cli.main
    import flows.pipeline
    import tasks.reporting.page
    import tasks.training.fitting  # noqa: F401

    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            print(f"\0pid {os.getpid()}", flush=True)
            flows.cli.main.main(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(f"\n{END}{os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
