import contextvars
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pipeline_config.errors import TrainingError
from tasks.runtime import torch_thread
from tasks.runtime.cancellation import WorkStopped, allow_work, stop_work
from tasks.runtime.torch_thread import run_in_torch_thread


class TestRunInTorchThread:
    @pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
    def test_the_number_of_threads_is_restored(self, fails):
        before = torch.get_num_threads()

        def body() -> int:
            if fails:
                raise TrainingError("wrong")
            return torch.get_num_threads()

        try:
            assert run_in_torch_thread(body, threads=before + 1) == before + 1
        except TrainingError:
            assert fails
        assert torch.get_num_threads() == before

    def test_none_leaves_the_number_of_threads(self):
        assert run_in_torch_thread(torch.get_num_threads, threads=None) == torch.get_num_threads()

    def test_denormals_are_zero_in_the_body_on_all_threads_and_nowhere_else(self):
        denormals = torch.full((200_000,), 1e-40)
        assert run_in_torch_thread(lambda: int((denormals * 0.5).count_nonzero()), threads=2) == 0
        assert int((denormals * 0.5).count_nonzero()) == 200_000

    def test_the_body_sees_the_context_of_the_caller(self):
        variable = contextvars.ContextVar("variable", default="none")
        variable.set("of the caller")
        assert run_in_torch_thread(variable.get, threads=1) == "of the caller"

    def test_one_body_runs_at_a_time(self):
        order, entered = [], threading.Event()

        def other() -> None:
            entered.set()
            run_in_torch_thread(lambda: order.append(("other", torch.get_num_threads())), threads=2)

        def first() -> threading.Thread:
            thread = threading.Thread(target=other)
            thread.start()
            entered.wait()
            thread.join(0.2)
            order.append(("first", torch.get_num_threads()))
            return thread

        run_in_torch_thread(first, threads=1).join()
        assert order == [("first", 1), ("other", 2)]

    def test_waiting_ends_when_work_is_stopped(self):
        def wait_inside() -> None:
            stop_work()
            with pytest.raises(WorkStopped):
                run_in_torch_thread(lambda: None, threads=1)

        try:
            run_in_torch_thread(wait_inside, threads=1)
        finally:
            allow_work()


class TestCreation:
    def test_importing_the_module_starts_no_thread_and_creates_no_executor(self):
        source = (
            "import threading; from tasks.runtime import torch_thread as t;"
            "print(threading.active_count(), t._create_torch_thread.cache_info().currsize)"
        )
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1", "0"]

    def test_threads_that_need_it_at_the_same_time_share_one(self, monkeypatch):
        created, all_here = [], threading.Barrier(8)

        class SlowExecutor(ThreadPoolExecutor):
            def __init__(self, *args, **kwargs):
                created.append(self)
                threading.Event().wait(0.05)
                super().__init__(*args, **kwargs)

        def run(_number: int) -> str:
            all_here.wait()
            return run_in_torch_thread(lambda: threading.current_thread().name, threads=None)

        monkeypatch.setattr(torch_thread, "ThreadPoolExecutor", SlowExecutor)
        torch_thread._create_torch_thread.cache_clear()
        try:
            with ThreadPoolExecutor(8) as pool:
                names = set(pool.map(run, range(8)))
        finally:
            torch_thread._create_torch_thread.cache_clear()
        assert len(created) == len(names) == 1
