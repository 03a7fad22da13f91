import json
import threading

import pytest
import torch

from pipeline_config.errors import TrainingError
from tasks import machine
from tasks.machine import describe_machine, pick_device, thread_count, uses_bf16
from tasks.progress import WorkStopped, allow_work, stop_work


class TestDevice:
    @pytest.mark.parametrize("name", ["auto", "cpu"])
    def test_without_cuda_it_is_the_cpu(self, monkeypatch, name):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert pick_device(name) == torch.device("cpu")

    @pytest.mark.parametrize(("name", "kind"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
    def test_with_cuda_it_is_cuda_unless_the_cpu_is_asked_for(self, monkeypatch, name, kind):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert pick_device(name).type == kind

    def test_cuda_that_is_not_there_is_an_error_with_advice(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(
            TrainingError, match=r"training\.device: got cuda, but torch sees no CUDA device; use auto or cpu"
        ):
            pick_device("cuda")


class TestThreadCount:
    @pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
    def test_number_is_put_back(self, fails):
        threads = torch.get_num_threads()
        try:
            with thread_count(threads + 1):
                assert torch.get_num_threads() == threads + 1
                if fails:
                    raise TrainingError("wrong")
        except TrainingError:
            assert fails
        assert torch.get_num_threads() == threads

    def test_none_is_the_number_torch_has(self):
        threads = torch.get_num_threads()
        with thread_count(None):
            assert torch.get_num_threads() == threads

    def test_one_body_runs_at_a_time(self):
        order, entered = [], threading.Event()

        def other() -> None:
            entered.set()
            with thread_count(2):
                order.append(("other", torch.get_num_threads()))

        with thread_count(1):
            thread = threading.Thread(target=other)
            thread.start()
            entered.wait()
            thread.join(0.2)
            order.append(("this", torch.get_num_threads()))
        thread.join()
        assert order == [("this", 1), ("other", 2)]

    def test_waiting_ends_when_work_is_stopped(self):
        stop_work()
        try:
            with thread_count(1), pytest.raises(WorkStopped), thread_count(1):
                pass
        finally:
            allow_work()


class TestPrecision:
    @pytest.mark.parametrize(
        ("precision", "tiles", "expected"),
        [("auto", True, True), ("auto", False, False), ("fp32", True, False), ("bf16", False, True)],
    )
    def test_auto_is_bf16_on_processors_with_tiles(self, monkeypatch, precision, tiles, expected):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles})
        assert uses_bf16(precision) is expected


class TestDescribeMachine:
    def test_it_is_json_and_names_what_bits_depend_on(self):
        described = describe_machine(torch.device("cpu"))
        assert json.loads(json.dumps(described)) == described
        assert described["torch"] == torch.__version__
        assert described["threads"] == torch.get_num_threads()
        assert described["device"] == "cpu"
        assert set(described) == {"cpu", "cpu_features", "instructions", "torch", "threads", "device"}

    def test_another_instruction_set_is_another_machine(self, monkeypatch):
        here = describe_machine(torch.device("cpu"))
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
        assert describe_machine(torch.device("cpu"))["cpu_features"] != here["cpu_features"]

    def test_without_proc_the_platform_is_asked(self, monkeypatch):
        monkeypatch.setattr(machine, "Path", lambda _name: (_ for _ in ()).throw(OSError()))
        assert machine._processor()
