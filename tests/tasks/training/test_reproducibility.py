import hashlib
import json
import platform

import pytest
import torch

from tasks.training import reproducibility
from tasks.training.reproducibility import describe_machine, describe_processor

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
stepping\t: 8
flags\t\t: fpu vme sse avx512f amx_bf16

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8480+
"""
CORE = """\
processor\t: {number}
BogoMIPS\t: 2100.00
Features\t: fp asimd sve bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: {part}
CPU revision\t: 1

"""
ARM = "".join(CORE.format(number=number, variant="0x1", part="0xd40") for number in range(4))
BIG_LITTLE = CORE.format(number=0, variant="0x1", part="0xd40") + CORE.format(number=1, variant="0x0", part="0xd05")


@pytest.fixture
def cpuinfo(monkeypatch, tmp_path):
    """Return a function that replaces /proc/cpuinfo."""

    def replace(content: str) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(content)
        monkeypatch.setattr(reproducibility, "CPUINFO", path)

    return replace


class TestDescribeProcessor:
    def test_on_x86_64_it_is_only_the_model_name(self, cpuinfo):
        cpuinfo(X86)
        assert describe_processor() == "Intel(R) Xeon(R) Platinum 8480+"

    def test_on_aarch64_it_is_implementer_variant_and_part(self, cpuinfo):
        cpuinfo(ARM)
        assert describe_processor() == "CPU implementer 0x41, CPU variant 0x1, CPU part 0xd40"

    def test_every_kind_of_core_is_named(self, cpuinfo):
        cpuinfo(BIG_LITTLE)
        assert describe_processor() == (
            "CPU implementer 0x41, CPU variant 0x0, CPU part 0xd05; CPU implementer 0x41, CPU variant 0x1, CPU part 0xd40"
        )

    @pytest.mark.parametrize("content", ["", "processor\t: 0\n", "CPU implementer\t: 0x41\n"])
    def test_without_these_fields_the_platform_is_asked(self, cpuinfo, content):
        cpuinfo(content)
        assert describe_processor() == (platform.processor() or platform.machine())

    def test_without_the_file_the_platform_is_asked(self, monkeypatch, tmp_path):
        monkeypatch.setattr(reproducibility, "CPUINFO", tmp_path / "absent")
        assert describe_processor() == (platform.processor() or platform.machine())


class TestFeatures:
    @staticmethod
    def fingerprint(monkeypatch, capabilities: dict) -> str:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        return describe_machine(torch.device("cpu"))["cpu_features"]

    def test_on_x86_64_they_are_only_the_names_of_the_instruction_sets(self, monkeypatch):
        capabilities = {
            "avx2": True,
            "avx512_f": True,
            "amx_bf16": False,
            "architecture": "x86_64",
            "l1d_cache_size": 32768,
            "num_physical_cores": 2,
        }
        expected = hashlib.sha256(b"avx2,avx512_f").hexdigest()[:12]
        assert self.fingerprint(monkeypatch, capabilities) == expected

    def test_on_aarch64_the_lengths_of_vectors_count_too(self, monkeypatch):
        capabilities = {"neon": True, "sve": True, "sve_max_length": 32, "sme": False, "architecture": "aarch64"}
        expected = hashlib.sha256(b"neon,sve,sve_max_length=32").hexdigest()[:12]
        assert self.fingerprint(monkeypatch, capabilities) == expected
        assert self.fingerprint(monkeypatch, {**capabilities, "sve_max_length": 16}) != expected

    def test_cache_sizes_and_numbers_of_cores_do_not_count(self, monkeypatch):
        one, other = ({"avx2": True, "l2_cache_size": size, "num_logical_cores": size} for size in (2, 4))
        assert self.fingerprint(monkeypatch, one) == self.fingerprint(monkeypatch, other)


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
