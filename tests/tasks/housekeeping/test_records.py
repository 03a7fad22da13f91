"""Old runs and versions go with all that only they need; what has an alias, waits, or runs stays whole."""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tasks.housekeeping.selection import begin, measure
from tasks.store.artifacts import find_output
from tasks.store.locks import lock_before_naming
from tasks.tracking import models, purge, runs, strays, versions
from tasks.tracking.model_files import verify_version
from tasks.tracking.server import mlflow_directory, open_client
from tasks.tracking.version_list import APPROVAL_TAG, UNTIL_TAG
from tests.tasks.housekeeping.nights import MODEL, Night, collect, play_night, search, store_keys


def run_names() -> list[str]:
    return sorted(run.name for run in purge.list_runs())


def numbers() -> list[int]:
    return sorted(version.number for version in purge.list_versions())


def assert_whole(night: Night) -> None:
    """Everything of a night is there: outputs, files of run and model."""
    assert all(find_output(output.stage, output.key) == output for output in night.outputs.values())
    verify_version(versions.require_version(MODEL, int(night.version)))
    assert versions.read_run(night.run_id).outputs.keys() == night.outputs.keys()


def test_nights_with_changing_data_stay_bounded_and_the_champion_whole(tracked: Path) -> None:
    champion = play_night(1)
    models.set_alias(MODEL, "champion", champion.version)
    sizes = []
    for number in range(2, 7):
        last = play_night(number)
        collect(tracked, keep=2)
        sizes.append(measure(tracked / "store") + measure(tracked / "mlflow" / "files"))
        assert_whole(champion)
    assert_whole(last)
    assert numbers() == [1, 5, 6]
    assert run_names() == ["night 1", "night 5", "night 6"]
    assert store_keys(tracked, "ingest_corpus") == ["1", "5", "6"]
    assert max(sizes[2:]) - min(sizes[2:]) < 100  # the seconds in manifests have more or fewer digits
    assert not list((tracked / "store").glob("*/.tmp-*"))
    assert len(list(mlflow_directory().glob("files/*/models/*/artifacts/weights"))) == 3


def test_what_has_an_alias_or_waits_or_is_marked_stays_and_all_else_goes(tracked: Path) -> None:
    nights = [play_night(number) for number in range(1, 6)]
    client = open_client()
    models.set_alias(MODEL, "blue", nights[0].version)
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for night, state, time in ((nights[1], "waiting", until), (nights[2], "rejected", until)):
        versions.set_tag(MODEL, night.version, APPROVAL_TAG, state)
        versions.set_tag(MODEL, night.version, UNTIL_TAG, time)
    client.set_model_version_tag(MODEL, nights[3].version, purge.KEEP_TAG, "audit")
    assert collect(tracked).count("registered versions") == 1
    assert numbers() == [1, 2, 4, 5]
    assert run_names() == ["night 1", "night 2", "night 4", "night 5"]
    for night in (nights[0], nights[1], nights[3], nights[4]):
        assert_whole(night)
    assert not nights[2].outputs["ingest_corpus"].directory.exists()
    versions.set_tag(MODEL, nights[1].version, UNTIL_TAG, datetime(2020, 1, 1, tzinfo=UTC).isoformat())
    collect(tracked)
    assert numbers() == [1, 4, 5]  # nobody answered in time


def test_young_things_stay_and_others_runs_are_not_seen(tracked: Path) -> None:
    client = open_client()
    foreign = client.create_run(client.create_experiment("theirs")).info.run_id
    client.set_terminated(foreign)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", "s3://bucket/model", foreign)
    play_night(1)
    models.set_alias(MODEL, "challenger", play_night(2).version)
    assert collect(tracked, seconds=3600) == []
    assert collect(tracked).count("MLflow runs, with models") == 1
    assert client.get_run(foreign).info.lifecycle_stage == "active"
    assert client.get_model_version("theirs", "1")


def test_a_version_that_gets_an_alias_after_the_search_stays_with_its_run(tracked: Path) -> None:
    first, _ = play_night(1), play_night(2)
    limits = begin(0, 0)
    found = [item for item in search(tracked, limits._replace(now=limits.now + 120)) if item.remove]
    models.set_alias(MODEL, "champion", first.version)
    done = [item.kind for item in found if item.remove and item.remove()]
    assert "registered versions" not in done
    assert "MLflow runs, with models" not in done
    verify_version(versions.require_version(MODEL, int(first.version)))


def test_a_run_that_is_going_on_stays_with_everything_it_has_used(tracked: Path) -> None:
    night, _ = play_night(1), play_night(2)
    with runs.open_run("gloveflow/tiny", name="going on", tags={}) as run:
        lock_before_naming(tracked / "prefect" / "live" / "1.lock")
        again = play_night(1)  # a stage of the run finds the outputs of the first night
        collect(tracked)
        assert {entry.name for entry in purge.list_runs()} >= {"going on"}
        assert all(find_output(output.stage, output.key) for output in night.outputs.values())
        assert open_client().get_run(run.run_id).info.lifecycle_stage == "active"
    assert again.outputs == night.outputs


def test_a_run_whose_flow_run_waits_for_a_person_stays_though_it_has_ended(tracked: Path) -> None:
    night = play_night(1)
    models.set_alias(MODEL, "challenger", play_night(2).version)
    held = lock_before_naming(tracked / "prefect" / "live" / "1.lock")  # the flow run of the first night
    collect(tracked)
    assert open_client().get_run(night.run_id).info.lifecycle_stage == "active"
    os.close(held)
    assert "MLflow runs, with models" in collect(tracked)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(step: int) -> Any:
    """Return a trace function that raises `Killed` at some line of the modules that delete."""
    seen = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal seen
        name = frame.f_code.co_filename
        if not name.endswith(("tasks/tracking/purge.py", "removal.py")) or "Killed" in str(sys.exc_info()[0]):
            return None
        if frame.f_code.co_name not in ("purge_version", "purge_run", "remove_whole", "_remove_folder"):
            return None
        if event == "line":
            seen += 1
            if seen == step:
                raise Killed
        return trace

    return trace


def test_a_deletion_that_is_killed_anywhere_goes_on_the_next_time(tracked: Path) -> None:
    champion = play_night(1)
    models.set_alias(MODEL, "champion", champion.version)
    number = 2
    for step in (2, 17, 31, 44):
        victim = play_night(number)
        play_night(number + 1)
        number += 2
        before = sys.gettrace()
        sys.settrace(kill_at(step))
        try:
            with pytest.raises(Killed):
                collect(tracked)
        finally:
            sys.settrace(before)
        for entry in purge.list_versions():  # no version that is registered has lost a file
            verify_version(versions.require_version(MODEL, entry.number))
        collect(tracked)
        assert run_names() == ["night 1", f"night {number - 1}"]
        assert store_keys(tracked, "ingest_corpus") == ["1", f"{number - 1:x}"]
        assert strays.find_orphans() == []
        assert not purge._marked_models()
        with pytest.raises(Exception, match=victim.run_id):
            open_client().get_run(victim.run_id)
        assert_whole(champion)


def test_directories_without_a_record_are_found_and_others_are_not(tracked: Path) -> None:
    night = play_night(1)
    (experiment,) = (mlflow_directory() / "files").iterdir()
    lost = [experiment / ("0" * 32), experiment / "models" / f"m-{'0' * 32}"]
    for folder in (*lost, experiment / "notes", mlflow_directory() / "files" / "by-hand" / ("1" * 32)):
        (folder / "artifacts").mkdir(parents=True)
    assert strays.find_orphans() == sorted(lost)
    assert collect(tracked).count("files without a record") == 2
    assert (experiment / "notes").exists()
    assert_whole(night)
