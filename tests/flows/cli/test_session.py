"""Running a flow in this process: results, errors, interruptions, and the end of task runs."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest
from prefect import flow, get_client, task
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.states import Cancelled, Completed, Pending, Running

from flows.cli import session
from flows.cli.session import Interrupted, exit_process, flush_and_close_task_runs, run_flow
from pipeline_config.errors import EXIT_INTERRUPTED, InputError, ServiceError
from tasks.runtime import services
from tests.campaigns.release.failing_proxy import FOR_EVER, Outage, failing_proxy
from tests.flaky_server import MODES, flaky_server


@flow(name="toy")
def toy(number: int) -> int:
    return number


@pytest.fixture
def run_toy(prefect_api: str, monkeypatch: pytest.MonkeyPatch, artifacts: Any) -> Callable[..., Any]:
    """Return a function that runs a flow on the shared server: the toy flow, or one with a given body."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)

    def run_toy(body: Callable[[], Any] | None = None, **parameters: Any) -> Any:
        return run_flow(artifacts, lambda: flow(body, name="toy") if body else toy, **parameters)

    return run_toy


def run_fake(artifacts: Any, body: Callable[[], Any]) -> Any:
    """Run a body in the place of Prefect's engine."""
    fake = SimpleNamespace(with_options=lambda **_: lambda **_parameters: body())
    return run_flow(artifacts, lambda: fake)  # type: ignore[arg-type, return-value]


def raise_error(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


class TestRunFlow:
    def test_parameters_go_in_and_the_result_comes_out(self, run_toy: Callable[..., Any]) -> None:
        assert run_toy(number=7) == 7

    def test_an_error_of_the_flow_is_raised_as_it_is(self, run_toy: Callable[..., Any]) -> None:
        with pytest.raises(InputError, match=r"^a\.csv: no such file$"):
            run_toy(raise_error(InputError("a.csv: no such file")))

    def test_a_cancelled_run_is_an_interruption(self, run_toy: Callable[..., Any]) -> None:
        with pytest.raises(Interrupted, match=r"^Interrupted by Ctrl-C$"):
            run_toy(lambda: Cancelled(message="Interrupted by Ctrl-C"))

    def test_ctrl_c_is_an_interruption(self, run_toy: Callable[..., Any]) -> None:
        with pytest.raises(Interrupted, match=r"^Interrupted by Ctrl-C$"):
            run_toy(raise_error(KeyboardInterrupt()))

    def test_the_end_of_task_runs_is_not_awaited_on_a_server_of_the_user(
        self, run_toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[int, bool]] = []
        monkeypatch.setattr(session, "flush_and_close_task_runs", lambda ids, *, close: calls.append((len(ids), close)))
        run_toy(number=7)
        assert calls == [(1, False)]


@pytest.mark.usefixtures("prefect_api")
class TestEngineErrors:
    @pytest.fixture(autouse=True)
    def server_of_the_user(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
        monkeypatch.setattr(session, "require_answer", lambda *_, **__: None)

    def test_sigterm_is_an_interruption_and_the_handler_is_restored(self, artifacts: Any) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"^Interrupted by SIGTERM$"):
            run_fake(artifacts, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) == before

    def test_a_server_that_does_not_answer_is_an_error_that_names_it(self, artifacts: Any) -> None:
        with pytest.raises(ServiceError, match=r"^Prefect at http://prefect\.example/api does not answer: refused$"):
            run_fake(artifacts, raise_error(httpx.ConnectError("refused")))

    def test_prefect_says_of_a_dead_server_what_we_look_for(self, artifacts: Any) -> None:
        dead = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(dead), pytest.raises(ServiceError, match="does not answer"):
            run_flow(artifacts, lambda: toy, number=7)

    def test_a_defect_is_raised_as_it_is(self, artifacts: Any) -> None:
        with pytest.raises(ZeroDivisionError):
            run_fake(artifacts, raise_error(ZeroDivisionError()))

    def test_the_server_is_flushed_even_after_an_error(self, artifacts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[list[UUID]] = []
        monkeypatch.setattr(session, "flush_and_close_task_runs", lambda ids, **_: calls.append(ids))
        with pytest.raises(ZeroDivisionError):
            run_fake(artifacts, raise_error(ZeroDivisionError()))
        assert calls == [[]]


@pytest.mark.parametrize("mode", MODES)
def test_a_prefect_server_that_is_away_at_the_start_is_reported_before_anything_is_loaded(
    mode: str, monkeypatch: pytest.MonkeyPatch, artifacts: Any
) -> None:
    monkeypatch.setattr(services, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(services, "PAUSE_SECONDS", 0.05)
    with flaky_server() as server:
        monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
        server.fail(mode)
        with pytest.raises(
            ServiceError, match=r"^Prefect at http://127\.0\.0\.1:\d+/api/health does not answer: .*; start"
        ):
            run_flow(artifacts, lambda: pytest.fail("loaded the flow"))


@pytest.mark.parametrize(("mode", "asked_again"), [("refuses", 1), ("hangs", 1), ("answers 500", 0)])
def test_a_server_that_is_lost_in_mid_run_is_told_before_the_call_is_given_up(
    mode: str,
    asked_again: int,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
    artifacts: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(session, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "1")
    with failing_proxy(urlsplit(prefect_api).port or 0) as proxy:
        api = f"http://127.0.0.1:{proxy.port}/api"
        monkeypatch.setenv("PREFECT_API_URL", api)

        def lose_the_server() -> None:
            proxy.plan(Outage(1, mode, FOR_EVER))

        settings = {PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 1}
        with temporary_settings(settings), pytest.raises(ServiceError, match=f"^Prefect at {api} does not answer"):
            run_flow(artifacts, lambda: flow(lose_the_server, name="toy"))
    assert caplog.messages.count(f"Prefect at {api} does not answer; it is asked again") == asked_again
    assert "Error logging to API" not in capfd.readouterr().err


@task
def work() -> None:
    """A task that is never called."""


@pytest.mark.usefixtures("prefect_api")
class TestTaskRuns:
    @pytest.fixture
    def open_runs(self, monkeypatch: pytest.MonkeyPatch) -> tuple[UUID, dict[str, UUID]]:
        """A flow run with task runs in four states; nothing is waited for."""
        monkeypatch.setattr(session, "FLUSH_SECONDS", 0.0)
        states = {
            "running": Running(),
            "pending": Pending(),
            "not ready": Pending(name="NotReady"),
            "done": Completed(),
        }
        with get_client(sync_client=True) as client:
            flow_run = client.create_flow_run(toy, parameters={"number": 1}, state=Running())
            runs = {
                name: client.create_task_run(work, flow_run.id, dynamic_key=name, state=state).id
                for name, state in states.items()
            }
        return flow_run.id, runs

    @staticmethod
    def states(runs: dict[str, UUID]) -> dict[str, str]:
        with get_client(sync_client=True) as client:
            return {name: str(client.read_task_run(identity).state_name) for name, identity in runs.items()}

    def test_runs_that_are_still_open_are_crashed(self, open_runs: tuple[UUID, dict[str, UUID]]) -> None:
        flow_run, runs = open_runs
        flush_and_close_task_runs([flow_run], close=True)
        assert self.states(runs) == {
            "running": "Crashed",
            "pending": "Crashed",
            "not ready": "NotReady",
            "done": "Completed",
        }

    def test_prefect_names_a_task_run_not_ready_whose_input_failed(self) -> None:
        @task(name="fail")
        def fail() -> None:
            raise ValueError

        @flow(name="toy")
        def fail_first() -> str:
            future = work.submit(wait_for=[fail.submit()])
            future.wait()
            return str(future.state.name)

        assert fail_first() == "NotReady"

    def test_on_a_server_that_goes_on_they_are_left_alone(self, open_runs: tuple[UUID, dict[str, UUID]]) -> None:
        flow_run, runs = open_runs
        flush_and_close_task_runs([flow_run], close=False)
        assert self.states(runs)["running"] == "Running"

    def test_runs_of_other_flow_runs_are_left_alone(self, open_runs: tuple[UUID, dict[str, UUID]]) -> None:
        _, runs = open_runs
        flush_and_close_task_runs([], close=True)
        flush_and_close_task_runs([UUID(int=7)], close=True)
        assert self.states(runs)["running"] == "Running"

    def test_a_server_that_is_gone_is_no_error_at_the_end(self, open_runs: tuple[UUID, dict[str, UUID]]) -> None:
        flow_run, _ = open_runs
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
            flush_and_close_task_runs([flow_run], close=True)

    def test_a_server_that_hangs_at_the_end_is_asked_as_during_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "_client_settings", lambda: {PREFECT_CLIENT_MAX_RETRIES: 0})
        with flaky_server() as server:
            server.fail("hangs")
            outside = {PREFECT_API_URL: f"{server.url}/api", PREFECT_API_REQUEST_TIMEOUT: 0.1}
            with temporary_settings({**outside, PREFECT_CLIENT_MAX_RETRIES: 1}):
                flush_and_close_task_runs([UUID(int=7)], close=True)
            assert len(server.asked) == 1


class TestExit:
    @pytest.fixture(autouse=True)
    def exits(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The codes of `os._exit`, which does nothing else here."""
        codes: list[int] = []
        monkeypatch.setattr(os, "_exit", codes.append)
        monkeypatch.setattr(session, "_undelivered", set())
        monkeypatch.setattr(session, "LAST_SECONDS", 0.2)
        return codes

    @pytest.mark.parametrize("code", [0, 3])
    def test_the_process_ends_with_its_code(self, code: int, exits: list[int]) -> None:
        with pytest.raises(SystemExit) as ended:
            exit_process(code)
        assert (ended.value.code, exits) == (code, [])

    def test_an_interrupted_process_does_not_wait_for_its_threads(self, exits: list[int]) -> None:
        blocked = threading.Event()
        thread = threading.Thread(target=blocked.wait)
        thread.start()
        try:
            with pytest.raises(SystemExit):  # which `os._exit` would have prevented
                exit_process(EXIT_INTERRUPTED)
            assert exits == [EXIT_INTERRUPTED]
        finally:
            blocked.set()
            thread.join()

    def test_a_process_does_not_wait_for_what_prefect_does_not_take(
        self, exits: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from prefect.events.worker import EventsWorker

        event: Future[bool] = Future()
        monkeypatch.setattr(EventsWorker, "drain_all", lambda **_: (set(), {event}))
        flush_and_close_task_runs([], close=False)
        with pytest.raises(SystemExit):  # which `os._exit` would have prevented
            exit_process(5)
        assert exits == [5]
        event.set_result(True)  # a slow server has taken it: the process ends as usual
        with pytest.raises(SystemExit):
            exit_process(0)
        assert exits == [5]

    def test_an_interrupted_process_without_other_threads_ends_as_usual(
        self, exits: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(threading, "active_count", lambda: 1)
        with pytest.raises(SystemExit) as ended:
            exit_process(EXIT_INTERRUPTED)
        assert (ended.value.code, exits) == (EXIT_INTERRUPTED, [])

    def test_output_is_flushed_before_the_process_is_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flushed: list[str] = []
        monkeypatch.setattr(threading, "active_count", lambda: 2)
        monkeypatch.setattr(sys.stdout, "flush", lambda: flushed.append("stdout"))
        monkeypatch.setattr(sys.stderr, "flush", lambda: flushed.append("stderr"))
        monkeypatch.setattr(os, "_exit", lambda code: flushed.append(str(code)))
        with pytest.raises(SystemExit):
            exit_process(EXIT_INTERRUPTED)
        assert flushed[:3] == ["stdout", "stderr", str(EXIT_INTERRUPTED)]
