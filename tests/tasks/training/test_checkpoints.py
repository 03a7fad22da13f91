import logging

import pytest
import torch

from pipeline_config.errors import TrainingError
from tasks.training import checkpoints as module
from tasks.training.checkpoints import CHECKPOINT, Checkpoints

HERE = {"cpu": "a", "threads": 2}
TENSORS = {"weights/a": torch.arange(6.0).reshape(2, 3), "optimizer/0/step": torch.tensor(7.0)}
STATE = {"step": 7, "epoch_loss": 0.1 + 0.2, "epochs": [{"epoch": 1, "validation_loss": 1 / 3}]}


@pytest.fixture
def saved(tmp_path):
    Checkpoints(tmp_path / "c", HERE).save(TENSORS, STATE)
    return tmp_path / "c"


def load(directory, machine=HERE, **options):
    return Checkpoints(directory, machine, **options).load()


def test_a_checkpoint_is_loaded_bit_for_bit_as_it_was_saved(saved):
    tensors, state = load(saved)
    assert state == STATE
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [path.name for path in saved.iterdir()] == [CHECKPOINT]


def test_without_a_file_there_is_no_checkpoint(tmp_path):
    assert load(tmp_path) is None


def test_a_newer_checkpoint_replaces_the_older(saved):
    Checkpoints(saved, HERE).save(TENSORS, {"step": 8})
    assert load(saved)[1] == {"step": 8}


@pytest.mark.parametrize("place", [20, -3], ids=["header", "tensor"])
def test_a_damaged_checkpoint_is_reported_and_not_used(saved, caplog, place):
    content = bytearray((saved / CHECKPOINT).read_bytes())
    content[place] ^= 1
    (saved / CHECKPOINT).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert load(saved) is None
    assert "training starts from the beginning" in caplog.text


def test_a_truncated_checkpoint_is_reported_and_not_used(saved, caplog):
    content = (saved / CHECKPOINT).read_bytes()
    (saved / CHECKPOINT).write_bytes(content[: len(content) // 2])
    assert load(saved) is None
    assert "cannot be read, training starts from the beginning" in caplog.text


@pytest.mark.parametrize("step", ["save_file", "sync"])
def test_a_checkpoint_that_cannot_be_written_is_reported_and_the_previous_one_stays(saved, monkeypatch, caplog, step):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, step, fail)
    Checkpoints(saved, HERE).save(TENSORS, {"step": 8})
    assert "the checkpoint could not be saved, training continues" in caplog.text
    assert load(saved)[1] == STATE
    assert [path.name for path in saved.iterdir()] == [CHECKPOINT]


def test_the_file_is_synced_before_it_is_renamed_and_its_directory_after(tmp_path, monkeypatch):
    directory, synced = tmp_path / "c", []
    monkeypatch.setattr(module, "sync", lambda path: synced.append((path, (directory / CHECKPOINT).exists())))
    Checkpoints(directory, HERE).save(TENSORS, STATE)
    assert synced == [(directory / f".{CHECKPOINT}.tmp", False), (directory, True)]


class TestMachines:
    def test_a_checkpoint_of_another_machine_is_refused_with_the_differences(self, saved):
        with pytest.raises(TrainingError) as caught:
            load(saved, {"cpu": "b", "threads": 2})
        assert "made on another machine (cpu: 'a', here 'b')" in str(caught.value)
        assert "training.resume_elsewhere=true" in str(caught.value)

    def test_with_another_number_of_threads_training_starts_over_with_a_warning(self, saved, caplog):
        assert load(saved, {**HERE, "threads": 3}) is None
        assert f"made with another number of threads (threads: {HERE['threads']}, here 3)" in caplog.text
        assert f"resumes with training.threads={HERE['threads']}" in caplog.text
        assert load(saved)[1] == STATE  # the file is still there

    def test_it_is_used_if_allowed_and_every_machine_is_recorded(self, saved):
        there = Checkpoints(saved, {"cpu": "b", "threads": 2}, accept_others=True)
        assert there.load()[1] == STATE
        assert there.machines == [HERE]
        there.save(TENSORS, STATE)
        again = Checkpoints(saved, {"cpu": "b", "threads": 2})
        again.load()
        assert again.machines == [HERE]

    def test_on_one_machine_no_other_is_recorded(self, saved):
        here = Checkpoints(saved, HERE)
        here.load()
        assert here.machines == []


class TestDue:
    def test_by_steps(self, tmp_path):
        due = Checkpoints(tmp_path, HERE, every_steps=3).is_due
        assert [step for step in range(1, 10) if due(step)] == [3, 6, 9]

    def test_by_minutes_since_the_last_one(self, tmp_path, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
        checkpoints = Checkpoints(tmp_path, HERE, every_minutes=2)
        now[0] += 119
        assert not checkpoints.is_due(1)
        now[0] += 1
        assert checkpoints.is_due(1)
        checkpoints.save(TENSORS, STATE)
        assert not checkpoints.is_due(1)

    def test_never_when_both_are_off(self, tmp_path):
        assert not any(Checkpoints(tmp_path, HERE).is_due(step) for step in range(100))
