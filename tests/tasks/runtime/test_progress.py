import io
import logging
import sys
import threading
from types import SimpleNamespace
from uuid import UUID

import pytest

from tasks.runtime import progress
from tasks.runtime.cancellation import WorkStopped, allow_work, stop_work
from tasks.runtime.progress import show_elapsed, track_progress

ARTIFACT_ID = UUID(int=7)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _work_is_allowed():
    yield
    allow_work()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it: seconds in `now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def lines(caplog, monkeypatch):
    """The log lines so far."""
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    caplog.set_level(logging.INFO, logger="tasks.runtime.progress")
    return lambda: caplog.messages


@pytest.fixture
def updates(monkeypatch):
    """What was sent to Prefect: the key and description of the artifact, then each progress."""
    sent = []

    def create(value, *, key, description):
        sent.append((value, key, description))
        return ARTIFACT_ID

    def update(artifact_id, *, progress):
        assert artifact_id == ARTIFACT_ID
        sent.append(progress)

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", create)
    monkeypatch.setattr("prefect.artifacts.update_progress_artifact", update)
    monkeypatch.setattr("prefect.context.TaskRunContext", SimpleNamespace(get=lambda: object()))
    return sent


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock, lines):
    with track_progress("train", total=200, unit="steps") as advance:
        for now in (1004.0, 1009.9, 1010.0, 1015.0, 1019.9, 1021.0):
            clock.now = now
            advance(10)
    assert lines() == [
        "train: 30.0 steps of 200 steps (15%) after 10 s, 57 s left",  # 3 per second, 170 to go
        "train: 60.0 steps of 200 steps (30%) after 21 s, 49 s left",  # 20 per 7 seconds, 140 to go
    ]


def test_a_line_without_a_total_has_the_amount_only(clock, lines):
    with track_progress("read rows", total=None, unit="rows") as advance:
        clock.now += 12
        advance(2500)
    assert lines() == ["read rows: 2.50k rows after 12 s"]


def test_a_line_has_what_the_loop_shows(clock, lines):
    with track_progress("train", total=4, unit="steps") as advance:
        clock.now += 10
        advance(1, epoch=2, loss="0.53")
    assert lines() == ["train: 1.00 steps of 4.00 steps (25%) after 10 s, 30 s left, epoch 2, loss 0.53"]


def test_bytes_are_shown_in_binary_multiples(clock, lines):
    with track_progress("download", total=4 * 2**20, unit="B") as advance:
        clock.now += 10
        advance(2**20)
    assert lines() == ["download: 1.00MB of 4.00MB (25%) after 10 s, 102kB/s, 30 s left"]


def test_units_done_earlier_count_as_done_but_not_for_the_speed(clock, lines):
    with track_progress("download", total=100, unit="parts", initial=50) as advance:
        clock.now += 10
        advance(10)
    assert lines() == ["download: 60.0 parts of 100 parts (60%) after 10 s, 40 s left"]  # 1 per second, 40 to go


def test_without_progress_no_time_left_is_shown(clock, lines):
    with track_progress("download", total=100, unit="parts", initial=50) as advance:
        clock.now += 10
        advance(0)
    assert lines() == ["download: 50.0 parts of 100 parts (50%) after 10 s"]


def test_a_total_of_zero_is_not_an_error(clock, lines):
    with track_progress("score", total=0, unit="texts") as advance:
        clock.now += 10
        advance(0)
    assert lines() == ["score: 0.00 texts after 10 s"]


def test_a_quick_loop_logs_nothing(clock, lines):
    with track_progress("score", total=3) as advance:
        advance(3)
    assert lines() == []


def test_on_a_terminal_there_is_a_bar_instead_of_lines(clock, lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with track_progress("train", total=4, unit="steps") as advance:
        clock.now += 60
        advance(4)
    assert "train:   0%" in terminal.getvalue()
    assert lines() == []


def test_artifact_is_updated_every_three_seconds_and_ends_at_100(clock, updates):
    with track_progress("train", total=8, artifact="training-progress") as advance:
        for now in (1002.0, 1003.0, 1005.9, 1006.0):
            clock.now = now
            advance(1)
    assert updates == [(0.0, "training-progress", "train"), 25.0, 50.0, 100.0]


def test_artifact_never_goes_beyond_100(clock, updates):
    with track_progress("train", total=2, artifact="training-progress") as advance:
        clock.now += 3
        advance(3)
    assert updates[1:] == [100.0, 100.0]


def test_artifact_of_a_failed_loop_is_not_completed(clock, updates):
    def fail():
        with track_progress("train", total=4, artifact="training-progress") as advance:
            clock.now += 3
            advance(1)
            raise RuntimeError("loss")

    with pytest.raises(RuntimeError, match="loss"):
        fail()
    assert updates[1:] == [25.0]


@pytest.mark.parametrize(
    ("artifact", "context"), [("training-progress", None), (None, object())], ids=["outside a task run", "not asked"]
)
def test_there_is_no_artifact(clock, updates, monkeypatch, artifact, context):
    monkeypatch.setattr("prefect.context.TaskRunContext", SimpleNamespace(get=lambda: context))
    with track_progress("train", total=4, artifact=artifact) as advance:
        clock.now += 3
        advance(4)
    assert updates == []


def test_stop_work_ends_a_loop_in_another_thread_through_its_except_exception():
    steps, ended = threading.Event(), []

    def work():
        try:
            with track_progress("train", total=None) as advance:
                while True:
                    try:
                        advance(1)
                    except Exception:  # a loop that goes on after any error
                        continue
                    steps.set()
        except WorkStopped:
            ended.append("stopped")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert steps.wait(60)
    stop_work()
    thread.join(60)
    assert ended == ["stopped"]


def test_stopped_step_does_not_count(clock, lines):
    with track_progress("train", total=4) as advance:
        clock.now += 10
        stop_work()
        with pytest.raises(WorkStopped):
            advance(1)
    assert lines() == []


def test_allow_work_undoes_stop_work(clock, lines):
    stop_work()
    allow_work()
    with track_progress("train", total=4, unit="steps") as advance:
        clock.now += 10
        advance(1)
    assert lines() == ["train: 1.00 steps of 4.00 steps (25%) after 10 s, 30 s left"]


def wait_for(condition):
    """Wait up to ten seconds for another thread to make a condition true."""
    patience = threading.Event()
    for _ in range(1000):
        if condition():
            return
        patience.wait(0.01)
    pytest.fail("nothing happened in ten seconds")


def test_work_without_steps_logs_its_time_until_it_ends(lines, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    before = threading.active_count()
    with show_elapsed("fit"):
        wait_for(lambda: len(lines()) >= 2)
    assert set(lines()) == {"fit: still running after 0 s"}
    assert threading.active_count() == before


def test_work_without_steps_shows_its_time_on_a_terminal(lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with show_elapsed("fit"):
        wait_for(lambda: "fit: 00:0" in terminal.getvalue())
    assert lines() == []


def test_an_error_of_work_without_steps_is_raised_as_it_is(lines):
    before = threading.active_count()
    with pytest.raises(ValueError, match="no n-gram"), show_elapsed("fit"):
        raise ValueError("no n-gram")
    assert threading.active_count() == before
