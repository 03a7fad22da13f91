"""Parts about a hostile machine: a full disk, places that cannot be written, few file handles, a clock that
jumps, pauses.

With few trials, as in the test suite, the parts play on the store and on MLflow's database alone. From `WHOLE_RUNS` trials on
they play whole runs.
"""

import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pipeline_config.errors import GloveflowError, StoreError
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tests.campaigns.release.small_disks import PAGE, SmallDisk, can_mount, changed_mode, respect_modes
from tests.campaigns.release.small_runs import SmallRuns, in_fork, start_fork, using_artifacts, wait_for
from tests.campaigns.release.trials import Part, Trials
from tests.campaigns.release.whole_runs import output_digests

WHOLE_RUNS = 10
ROOMY = 256 * 2**20
_STATED = re.compile(
    r"gloveflow: (/\S+: cannot be (written|opened): .+; .+|this process may have \d+ files open.+), nothing was lost\n\Z"
)


def play_full_disk(trials: Trials) -> None:
    """Fill the disk at sizes from nothing to what a run needs; then give it room and run again."""
    if not can_mount(trials.folder):
        _limit_commits(trials)
    elif trials.count < WHOLE_RUNS:
        for number in range(trials.count):
            with SmallDisk(trials.folder / f"disk-{number}", PAGE) as disk:
                _fill_commits(trials, disk)
    else:
        with SmallRuns(trials.folder) as runs:
            needed = sum(path.stat().st_size for path in runs.unbroken.rglob("*") if path.is_file())
            for number in range(trials.count):
                _fill_run(trials, runs, trials.folder / f"disk-{number}", round(number / trials.count * 1.4 * needed))


def _fill_run(trials: Trials, runs: SmallRuns, folder: Path, size: int) -> None:
    with SmallDisk(folder, size) as disk:
        artifacts = folder / "artifacts"
        code, output = runs.commands.run(artifacts, *runs.options)
        finished = output_digests(artifacts)
        disk.resize(ROOMY)
        what = f"{size} bytes"
        if problem := find_problem(code, output, reason="No space left on device|full|disk I/O error"):
            trials.record_wrong(f"{what}: {problem}")
            return
        if not finished.items() <= runs.digests.items():
            trials.record_wrong(f"{what}: outputs differ from the unbroken run: {finished}")
            return
        made = {name: (artifacts / "store" / name / "manifest.json").stat().st_mtime_ns for name in finished}
        problem = runs.finish(artifacts)
        lost = [
            name
            for name, when in made.items()
            if (artifacts / "store" / name / "manifest.json").stat().st_mtime_ns != when
        ]
        if problem:
            trials.record_wrong(f"{what}: {problem}")
        elif lost:
            trials.record_lost(f"{what}: made again: {lost}")
        else:
            trials.passed()


def find_problem(code: int | None, output: str, *, reason: str) -> str:
    """Return what is wrong with the end of a run that could not write: success or code 4, with place, reason, advice."""
    last = "\n".join(output.splitlines()[-8:])
    if code is None:
        return f"it hung: {last}"
    if "Traceback" in output:
        return f"a traceback: {output[-3000:]}"
    if code == 0:
        return ""
    if code != 4 or not _STATED.search(output) or not re.search(reason, output):
        return f"code {code}, expected 4 with place, reason and advice: {last}"
    return ""


def _fill_commits(trials: Trials, disk: SmallDisk) -> None:
    """Commit outputs until the disk is full; then give it room and commit the last one again."""
    disk.resize(trials.draw.randrange(12, 200) * PAGE)
    contents = [trials.draw.randbytes(trials.draw.randrange(1, 20 * PAGE)) for _ in range(60)]
    with using_artifacts(disk.folder / "artifacts"):
        _commit_all(trials, contents, lambda: disk.resize(ROOMY))


def _limit_commits(trials: Trials) -> None:
    """The same where no file system can be mounted: files may not exceed a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(trials.count):
        contents = [trials.draw.randbytes(trials.draw.randrange(1, 20 * PAGE)) for _ in range(60)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (15 * PAGE, before[1]))
        try:
            with using_artifacts(trials.folder / f"artifacts-{number}"):
                _commit_all(trials, contents, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _commit_all(trials: Trials, contents: list[bytes], give_room: Callable[[], object]) -> None:
    made, message = 0, ""
    for number, content in enumerate(contents):
        try:
            _commit(number, content)
        except StoreError as error:
            message = str(error)
            break
        except Exception as error:  # whatever else it may be, it is wrong
            trials.record_wrong(f"{type(error).__name__}: {error}, expected StoreError")
            return
        made += 1
    give_room()
    again = [_commit(number, content) for number, content in enumerate(contents)]
    if any(computed for _, computed in again[:made]):
        trials.record_lost(f"of {made} outputs some were made again")
    elif not re.search(
        r"cannot be written: .+; (free some space|allow larger files).* and run again, nothing was lost", message
    ):
        trials.record_wrong(f"after {made} outputs the message was {message!r}")
    elif [path.read_bytes() for path, _ in again] != contents:
        trials.record_wrong("an output has another content")
    else:
        trials.passed()


def _commit(number: int, content: bytes) -> tuple[Path, bool]:
    def write(output: StageOutput) -> None:
        output.path("content").write_bytes(content)

    reference, computed = commit_output("fill", f"{number:032x}", write)
    return reference.path("content"), computed


ROOMS = (
    ".",
    "store",
    "store/train_classifier",
    "mlflow",
    "mlflow/mlflow.db",
    "mlflow/files",
    "mlflow/live",
    "mlflow/.database.lock",
    "mlflow/.registry.lock",
    "checkpoints",
    "prefect",
    "prefect/live",
)


def play_read_only(trials: Trials) -> None:
    """Take the right to write from a room of the artifacts directory, run, give it back, and run again."""
    if trials.count < WHOLE_RUNS:
        for number in range(trials.count):
            _forbid_commits(trials, trials.folder / f"artifacts-{number}")
        return
    with SmallRuns(trials.folder) as runs:
        for number in range(trials.count):
            artifacts = runs.copy_unfinished(trials.folder / f"artifacts-{number}")
            room = artifacts / ROOMS[number % len(ROOMS)]
            if not room.exists():
                room.mkdir()
            mode = 0o500 if room.is_dir() else 0o400
            with changed_mode(room, mode):
                code, output = runs.commands.run(artifacts, *runs.options, before=respect_modes)
            reason = "Permission denied|readonly database|unable to open"
            problem = find_problem(code, output, reason=reason) or runs.finish(artifacts)
            trials.check(f"{ROOMS[number % len(ROOMS)]}", problem)
            shutil.rmtree(artifacts)


def _forbid_commits(trials: Trials, artifacts: Path) -> None:
    """Commit into a store without the right to write, in a process that respects it; then with it."""
    with using_artifacts(artifacts):
        _commit(0, b"before")
        room = trials.draw.choice([artifacts / "store" / "fill", artifacts / "store" / "other"])
        room.mkdir(exist_ok=True)
        with changed_mode(artifacts / "store" if room.name == "other" else room, 0o500):
            answer = in_fork(lambda: _commit_or_message(1, b"x"), before=respect_modes)
        if room.name == "fill" and not re.search(
            "cannot be written: Permission denied; set GLOVEFLOW_ARTIFACTS", answer
        ):
            trials.record_wrong(f"read-only {room}: {answer}")
        elif _commit(0, b"before")[1] or _commit(1, b"x")[0].read_bytes() != b"x":
            trials.record_lost(f"after the right was given back to {room}")
        else:
            trials.passed()


def _commit_or_message(number: int, content: bytes) -> str:
    try:
        _commit(number, content)
    except GloveflowError as error:
        return str(error)
    except Exception as error:  # whatever else it may be, it is wrong
        return f"{type(error).__name__}: {error}, expected StoreError"
    return "committed"


def play_no_handles(trials: Trials) -> None:
    """Allow few open files: a run ends well or says why not, and the next one with more ends well."""
    if trials.count < WHOLE_RUNS:
        for number in range(trials.count):
            _commit_without_handles(trials, trials.folder / f"artifacts-{number}")
        return
    with SmallRuns(trials.folder) as runs:
        for number in range(trials.count):
            artifacts = trials.folder / f"artifacts-{number}"
            limit = 8 + number * 27
            code, output = runs.commands.run(artifacts, *runs.options, before=lambda limit=limit: _allow_files(limit))  # type: ignore[misc]
            problem = find_problem(code, output, reason="files open at once") or runs.finish(artifacts)
            trials.check(f"{limit} open files", problem)
            shutil.rmtree(artifacts)


def _commit_without_handles(trials: Trials, artifacts: Path) -> None:
    opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    more = trials.draw.randrange(0, 3)
    with using_artifacts(artifacts):
        answer = in_fork(lambda: _commit_or_message(0, b"x"), before=lambda: _allow_files(opened + more))
        if answer != "committed" and "Too many open files; allow more open files" not in answer:
            trials.record_wrong(f"{more} more files: {answer}")
        elif _commit(0, b"x")[0].read_bytes() != b"x":
            trials.record_lost(f"{more} more files: the output differs")
        else:
            trials.passed()


def _allow_files(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def play_pauses(trials: Trials) -> None:
    """Stop the command or its server for a while at a random moment; every fourth trial it is also asked to end."""
    if trials.count < WHOLE_RUNS:
        for number in range(trials.count):
            _pause_commits(trials, trials.folder / f"artifacts-{number}")
        return
    with SmallRuns(trials.folder) as runs:
        started = time.monotonic()
        runs.finish(runs.copy_unfinished(trials.folder / "timed"))
        usual = time.monotonic() - started
        for number in range(trials.count):
            artifacts = runs.copy_unfinished(trials.folder / f"artifacts-{number}")
            command = runs.commands.start(artifacts, *runs.options)
            time.sleep(trials.draw.uniform(0, usual))
            asked = number % 4 == 3
            pid = runs.commands.server_pid if number % 4 == 2 else command.pid
            seconds = trials.draw.uniform(1, 20)
            if command.poll() is None:
                os.kill(pid, signal.SIGSTOP)
                if asked:
                    os.kill(pid, signal.SIGTERM)
                time.sleep(seconds)
                os.kill(pid, signal.SIGCONT)
            code, output = command.wait()
            problem = f"code {code}: {output[-1500:]}" if code not in ((0, 130) if asked else (0,)) else ""
            problem = problem or ("a traceback" if "Traceback" in output else "")
            problem = problem or (runs.find_difference(artifacts) if code == 0 else runs.finish(artifacts))
            trials.check(f"{'server' if number % 4 == 2 else 'command'} for {seconds:.0f} s", problem)
            shutil.rmtree(artifacts)


def _pause_commits(trials: Trials, artifacts: Path) -> None:
    """Stop a process that holds the lock of an output, while another waits for it; both give the one output."""
    with using_artifacts(artifacts):
        content = trials.draw.randbytes(100_000)
        children = [start_fork(lambda: _commit(0, content)) for _ in range(2)]
        time.sleep(trials.draw.uniform(0, 0.02))
        os.kill(children[0], signal.SIGSTOP)
        time.sleep(0.2)
        os.kill(children[0], signal.SIGCONT)
        codes = [wait_for(child) for child in children]
        path, computed = _commit(0, content)
        if computed:
            trials.record_lost("the output was made again")
        elif codes != [0, 0] or path.read_bytes() != content:
            trials.record_wrong(f"the processes ended with {codes}")
        else:
            trials.passed()


def play_clock(trials: Trials) -> None:
    """Let the clock and the times of files jump by a day: outputs stay, locks hold, durations are right."""
    for number in range(trials.count):
        shift = trials.draw.choice([-86400, 86400])
        with using_artifacts(trials.folder / f"artifacts-{number}"):
            path, _ = _commit(0, b"before")
            for file in (path.parent / "manifest.json", path.parent.parent / f".{0:032x}.lock"):
                os.utime(file, (time.time() + shift,) * 2)
            answer = in_fork(lambda shift=shift: _commit_in_jumps(shift))  # type: ignore[misc]
            if answer != "computed once":
                trials.record_wrong(f"clock by {shift} s: {answer}")
            elif _commit(0, b"before")[1] or _commit(1, b"x")[1]:
                trials.record_lost(f"clock by {shift} s: an output was made again")
            else:
                trials.passed()


def _commit_in_jumps(shift: int) -> str:
    """Commit twice while the clock of this process jumps to and fro at each look at it."""
    real, looks = time.time, iter(range(1_000_000))
    time.time = lambda: real() + shift * (next(looks) % 2)
    first = _commit(0, b"before")[1]
    path, made = _commit(1, b"x")
    seconds = json.loads((path.parent / "manifest.json").read_text())["seconds"]
    again = _commit(1, b"x")[1]
    right = (first, made, again) == (False, True, False) and 0 <= seconds < 3600
    return "computed once" if right else f"computed {(first, made, again)}, {seconds} s"


PARTS = [
    Part("full_disk", "a full disk is told, nothing is lost, and the next run ends as an unbroken one",
         play_full_disk, count=50, quick=4),
    Part("read_only", "a place that cannot be written is told, and nothing is lost", play_read_only, count=12, quick=4),
    Part("no_handles", "few open files are enough, or the run says what to do", play_no_handles, count=12, quick=4),
    Part("clock", "jumps of the clock change no output, lock or duration", play_clock, count=12, quick=4),
    Part("pauses", "processes that are stopped and continued end as if they had not been", play_pauses, count=20, quick=4),
]  # fmt: skip
