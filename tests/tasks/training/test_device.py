import os
import platform
import subprocess
import sys
import warnings

import pytest
import torch

from pipeline_config.errors import ConfigError
from tasks.training import device
from tasks.training.device import has_bfloat16_lstm, ignore_weight_copies, pick_device, set_precision


class TestDevice:
    @pytest.mark.parametrize("name", ["auto", "cpu"])
    def test_without_cuda_it_is_the_cpu(self, monkeypatch, name):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert pick_device(name) == torch.device("cpu")

    @pytest.mark.parametrize(("name", "kind"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
    def test_with_cuda_it_is_cuda_unless_the_cpu_is_asked_for(self, monkeypatch, name, kind):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert pick_device(name).type == kind

    def test_requested_cuda_that_is_missing_is_an_error_with_advice(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(
            ConfigError, match=r"training\.device: got cuda, but torch sees no CUDA device; use auto or cpu"
        ):
            pick_device("cuda")


class TestPrecision:
    @pytest.mark.parametrize(
        ("precision", "tiles", "works", "expected"),
        [
            ("auto", True, True, torch.bfloat16),
            ("auto", True, False, None),
            ("auto", False, True, None),
            ("fp32", True, True, None),
            ("bf16", False, True, torch.bfloat16),
        ],
    )
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
        ("precision", "products", "expected"),
        [("auto", "ieee", None), ("tf32", "tf32", None), ("fp32", "ieee", None), ("bf16", "ieee", torch.bfloat16)],
    )
    def test_cuda_multiplies_as_configured(self, precision, products, expected):
        modules = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
        before = [module.fp32_precision for module in modules]
        try:
            assert set_precision(precision, torch.device("cuda")) is expected
            assert [module.fp32_precision for module in modules] == [products, products]
        finally:
            for module, precision in zip(modules, before, strict=True):
                module.fp32_precision = precision

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
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "False"


class TestIgnoreWeightCopies:
    MESSAGE = "RNN module weights are not part of single contiguous chunk of memory."

    def test_it_silences_cudnns_warning_and_no_other(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ignore_weight_copies()
            warnings.warn(self.MESSAGE, UserWarning, stacklevel=1)
            with pytest.raises(UserWarning, match="another"):
                warnings.warn("another", UserWarning, stacklevel=1)

    def test_nothing_is_silenced_at_import(self):
        source = (
            "import warnings; before = list(warnings.filters); import torch; before = list(warnings.filters);"
            "import tasks.served.network, tasks.training.fitting; print(warnings.filters == before)"
        )
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"
