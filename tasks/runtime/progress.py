"""Progress of anything that takes more than a couple of seconds.

Shows a bar on standard error if that is a terminal, else logs a line every ten seconds; on request it also updates a
progress artifact on the page of the Prefect run. Every long loop reports here, so this is also where work in other
threads stops when a run is interrupted. prefect is imported where it is needed, because commands that use no server
read corpora too.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import cast
from uuid import UUID

from tqdm import tqdm

from tasks.runtime.cancellation import raise_if_stopped
from tasks.runtime.escaping import escape_markdown

logger = logging.getLogger(__name__)
LOG_SECONDS = 10.0
ARTIFACT_SECONDS = 3.0  # an update costs about 35 ms


@contextlib.contextmanager
def track_progress(
    description: str, *, total: float | None, unit: str = "it", initial: float = 0, artifact: str | None = None
) -> Iterator[Callable[..., None]]:
    """Show progress towards `total` units; the body calls the yielded `advance(amount, **shown)`.

    Args:
        description: what is being done, in a few words.
        total: number of units; None if it is not known.
        unit: name of a unit; "B" is shown in binary multiples.
        initial: number of units done earlier.
        artifact: key of a Prefect progress artifact to update; needs `total` and a task run.
    """
    bar = tqdm(
        desc=description, total=total, unit=unit, initial=initial, unit_scale=True,
        unit_divisor=1024 if unit == "B" else 1000, disable=None, leave=False, mininterval=0.2,
    )  # fmt: skip
    started = time.monotonic()
    done, next_line, next_update = initial, started + LOG_SECONDS, started + ARTIFACT_SECONDS
    update = _make_artifact(artifact, description) if artifact else None

    def advance(amount: float, **shown: object) -> None:
        nonlocal done, next_line, next_update
        raise_if_stopped()
        done += amount
        bar.update(amount)
        if shown:
            bar.set_postfix(shown, refresh=False)
        now = time.monotonic()
        if bar.disable and now >= next_line:
            next_line = now + LOG_SECONDS
            line = describe_progress(done, total, initial=initial, unit=unit, seconds=now - started, shown=shown)
            logger.info("%s: %s", description, line)
        if update and total and now >= next_update:
            next_update = now + ARTIFACT_SECONDS
            update(min(100.0, 100 * done / total))

    try:
        yield advance
        if update:
            update(100.0)
    finally:
        bar.close()


def _make_artifact(key: str, description: str) -> Callable[[float], object] | None:
    """Make a progress artifact on the page of the Prefect run; return what updates it, or None outside a task run."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact
    from prefect.context import TaskRunContext

    if not TaskRunContext.get():
        return None
    made = create_progress_artifact(0.0, key=key, description=escape_markdown(description))
    return lambda percent: update_progress_artifact(cast("UUID", made), progress=percent)


@contextlib.contextmanager
def show_elapsed(description: str) -> Iterator[None]:
    """Show the elapsed time of work whose steps cannot be counted, until the body ends."""
    bar = tqdm(desc=description, bar_format="{desc}: {elapsed}", disable=None, leave=False)
    started, ended = time.monotonic(), threading.Event()

    def report() -> None:
        while not ended.wait(LOG_SECONDS if bar.disable else 1.0):
            bar.refresh()
            if bar.disable:
                logger.info("%s: still running after %.0f s", description, time.monotonic() - started)

    reporter = threading.Thread(target=contextvars.copy_context().run, args=(report,), daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()
        bar.close()


def describe_progress(
    done: float, total: float | None, *, initial: float, unit: str, seconds: float, shown: dict[str, object]
) -> str:
    """Return the amount, the time, speed and time left, where they are known, and what the loop shows."""
    suffix, divisor = ("B", 1024) if unit == "B" else (f" {unit}", 1000)
    amount = tqdm.format_sizeof(done, suffix, divisor)
    whole = f" of {tqdm.format_sizeof(total, suffix, divisor)} ({done / total:.0%})" if total else ""
    speed = f", {tqdm.format_sizeof((done - initial) / seconds, 'B', divisor)}/s" if unit == "B" and seconds else ""
    left = f", {seconds * (total - done) / (done - initial):.0f} s left" if total and done > initial else ""
    more = "".join(f", {key} {value}" for key, value in shown.items())
    return f"{amount}{whole} after {seconds:.0f} s{speed}{left}{more}"
