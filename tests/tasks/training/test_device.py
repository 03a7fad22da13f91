import contextvars
import json
import os
import platform
import subprocess
import sys
import threading

import pytest
import torch

from pipeline_config.errors import ConfigError, TrainingError
from tasks.runtime.cancellation import WorkStopped, allow_work, stop_work
from tasks.runtime.torch_thread import run_in_torch_thread
from tasks.training import device, reproducibility
from tasks.training.device import has_bfloat16_lstm, pick_device, set_precision
from tasks.training.reproducibility import describe_machine


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
            ConfigError, match=r"training\.device: got cuda, but torch sees no CUDA device; use auto or cpu"
        ):
            pick_device("cuda")


class TestRunSteadily:
    @pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
    def test_number_of_threads_is_put_back(self, fails):
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

    def test_none_is_the_number_torch_has(self):
        assert run_in_torch_thread(torch.get_num_threads, threads=None) == torch.get_num_threads()

    def test_denormals_are_zero_in_the_body_on_all_threads_and_nowhere_else(self):
        denormals = torch.full((200_000,), 1e-40)
        assert run_in_torch_thread(lambda: int((denormals * 0.5).count_nonzero()), threads=2) == 0
        assert int((denormals * 0.5).count_nonzero()) == 200_000

    def test_the_context_of_the_caller_is_seen(self):
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


class TestPrecision:
    @pytest.mark.parametrize(
        ("precision", "tiles", "works", "expected"),
        [
            ("auto", True, True, torch.bfloat16), ("auto", True, False, None), ("auto", False, True, None),
            ("fp32", True, True, None), ("bf16", False, True, torch.bfloat16),
        ],
    )  # fmt: skip
    def test_auto_is_bf16_on_processors_with_tiles_whose_lstm_works(
        self, monkeypatch, precision, tiles, works, expected
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": tiles})
        monkeypatch.setattr(device, "has_bfloat16_lstm", lambda: works)
        assert set_precision(precision, torch.device("cpu")) is expected

    def test_bf16_that_does_not_work_is_an_error_with_advice(self, monkeypatch):
        monkeypatch.setattr(device, "has_bfloat16_lstm", lambda: False)
        with pytest.raises(
            ConfigError, match=r"training\.precision: got bf16, but this processor cannot .* auto or fp32"
        ):
            set_precision("bf16", torch.device("cpu"))

    @pytest.mark.parametrize(
        ("precision", "way", "expected"),
        [("auto", "ieee", None), ("tf32", "tf32", None), ("fp32", "ieee", None), ("bf16", "ieee", torch.bfloat16)],
    )
    def test_cuda_multiplies_as_told(self, precision, way, expected):
        modules = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
        before = [module.fp32_precision for module in modules]
        try:
            assert set_precision(precision, torch.device("cuda")) is expected
            assert [module.fp32_precision for module in modules] == [way, way]
        finally:
            for module, told in zip(modules, before, strict=True):
                module.fp32_precision = told

    def test_tf32_without_cuda_is_an_error_with_advice(self):
        with pytest.raises(ConfigError, match=r"training\.precision: got tf32, which only CUDA .* use auto or fp32"):
            set_precision("tf32", torch.device("cpu"))


class TestHasBfloat16Lstm:
    def test_it_is_what_happens_to_a_network_in_bfloat16(self):
        network = torch.nn.LSTM(5, 7, batch_first=True)
        try:
            with torch.autocast("cpu", torch.bfloat16):
                outputs, _ = network(torch.randn(3, 4, 5))
            outputs.float().sum().backward()
            works = outputs.dtype == torch.bfloat16
        except RuntimeError:
            works = False
        assert has_bfloat16_lstm() is works

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="names of instruction sets are those of x86-64")
    @pytest.mark.parametrize("instructions", ["AVX2", "SSE41"])
    def test_without_avx512_it_does_not_work(self, instructions):
        done = subprocess.run(
            [sys.executable, "-c", "from tasks.training.device import has_bfloat16_lstm as has; print(has())"],
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "False"


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
        monkeypatch.setattr(reproducibility, "Path", lambda _name: (_ for _ in ()).throw(OSError()))
        assert reproducibility._processor()
