"""Which files go: by age, by need, and never those that somebody holds or has used since."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from tasks.fetching.mirrors import lock_download
from tasks.housekeeping import removal
from tasks.housekeeping.files import find_files, find_outputs, find_reports
from tasks.housekeeping.selection import Item, Limits, oldest_live_start, used_since
from tasks.scoring.work import list_unfinished
from tasks.store.commit import commit_output
from tasks.store.locks import file_lock, last_use, lock_before_naming, locked_at_once

KEY = "c" * 32
OLD = 1_000_000_000


def make_old(*paths: Path) -> None:
    for path in paths:
        for found in (path, *(path.rglob("*") if path.is_dir() else ())):
            os.utime(found, (OLD, OLD))


def limits(seconds: float = 86400) -> Limits:
    return Limits(0, seconds, time.time())


def write_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("some content")
    return path


def going(items: list[Item]) -> list[Item]:
    return [item for item in items if item.remove]


def remove(item: Item) -> bool:
    assert item.remove
    return item.remove()


@pytest.fixture
def output(artifacts: Path) -> Path:
    """An old output, with an old lock."""
    directory = commit_output("stage", KEY, lambda out: out.write_json("a.json", 1))[0].directory
    make_old(directory, lock_of(directory))
    return directory


def lock_of(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.lock")


def test_an_old_output_goes_with_its_lock_and_leaves_nothing(artifacts: Path, output: Path) -> None:
    (item,) = going(list(find_outputs(artifacts, limits(), set())))
    assert item.size > 0
    assert remove(item)
    assert list(output.parent.iterdir()) == []


def test_an_output_that_is_needed_young_held_or_used_again_stays(artifacts: Path, output: Path) -> None:
    assert not going(list(find_outputs(artifacts, limits(), {("stage", KEY)})))
    assert not going(list(find_outputs(artifacts, limits(time.time()), set())))
    (item,) = going(list(find_outputs(artifacts, limits(), set())))
    assert item.remove
    with lock_of(output).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not item.remove()
    commit_output("stage", KEY, lambda _: pytest.fail("it is there"))
    assert not item.remove()
    assert output.exists()


def test_an_output_that_a_run_used_stays_as_long_as_the_run_goes_on(artifacts: Path, output: Path) -> None:
    live = artifacts / "prefect" / "live" / "run.lock"
    held = lock_before_naming(live)
    os.utime(live, (OLD - 10, OLD - 10))  # it began before it used the output
    assert oldest_live_start(artifacts) == OLD - 10
    assert used_since(artifacts, limits()) < OLD - 10
    (item,) = going(list(find_outputs(artifacts, limits(), set())))
    assert item.remove
    assert not item.remove()
    os.close(held)
    assert item.remove()


def test_a_clock_that_is_behind_does_not_make_a_use_look_old(artifacts: Path, output: Path) -> None:
    (item,) = going(list(find_outputs(artifacts, limits(0), set())))
    late = time.time() - 30
    os.utime(lock_of(output), (late, late))
    assert not remove(item)


def test_an_output_without_a_lock_file_is_not_taken_for_a_new_one(artifacts: Path, output: Path) -> None:
    lock_of(output).unlink()
    (item,) = going(list(find_outputs(artifacts, limits(), set())))
    assert remove(item)


def test_whoever_waits_for_a_lock_that_is_removed_gets_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    make_old(path)
    with locked_at_once(path) as free:
        assert free
        assert last_use(path) == OLD  # a look is no use
        path.unlink()
    with file_lock(path, waiting_for="nobody"):
        assert path.exists()
        with locked_at_once(path) as free:
            assert not free
    assert last_use(path) > OLD
    with locked_at_once(tmp_path / "new.lock") as free:
        assert free
        assert last_use(tmp_path / "new.lock") == 0
    assert sorted(found.name for found in tmp_path.iterdir()) == ["new.lock", "x.lock"]


def test_other_files_go_by_age_and_keep_what_pins_a_download(artifacts: Path) -> None:
    names = [
        "downloads/01234567-glove.zip",
        "downloads/01234567-glove.6B.50d.txt",  # of that archive
        "downloads/query-0123.parquet",
        f"checkpoints/train_classifier/{KEY}/checkpoint.safetensors",
        "scoring/abc/key/000000-record",
        f"store/stage/.tmp-{KEY}-12345678/half",
        "moved-aside/20200101-000000-1/stage/x",
        "logs/prefect-server.log.1",
        "reports/gloveflow-tiny-1.html",
        "reports/gloveflow-tiny-1-reviews.html",
    ]
    stay = ["downloads/01234567-glove.zip.sha256", "logs/prefect-server.log", "reports/gloveflow-tiny-12.html"]
    for name in [*names, *stay]:
        write_file(artifacts / name)
    with lock_download(artifacts / "downloads" / "01234567-glove.zip", "https://example.org"):
        pass
    make_old(artifacts)
    items = [*find_files(artifacts, limits()), *find_reports(artifacts, limits(), {("gloveflow-tiny", 12)})]
    assert len(going(items)) == len(names)
    assert len(items) == len(names) + 1
    assert all(remove(item) for item in going(items))
    assert [name for name in names if (artifacts / name).exists()] == []
    assert all((artifacts / name).exists() for name in stay)


def test_a_download_that_was_used_lately_stays_with_what_came_from_its_archive(artifacts: Path) -> None:
    archive, member = (artifacts / "downloads" / f"01234567-{name}" for name in ("glove.zip", "glove.txt"))
    for path in (archive, member):
        write_file(path)
        make_old(path)
    with lock_download(archive, "https://example.org"):
        pass
    assert not going(list(find_files(artifacts, limits())))


def test_a_scoring_that_lost_its_name_is_not_taken_for_an_unfinished_one(artifacts: Path) -> None:
    write_file(artifacts / "scoring" / ".tmp-abc-12345678" / "key" / "000000-record")
    assert list_unfinished(artifacts) == []
    (item,) = find_files(artifacts, limits())
    assert remove(item)


def test_a_removal_that_is_killed_half_way_leaves_nothing_that_passes_for_the_whole(
    artifacts: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_one_file(folder: Path) -> None:
        next(folder.iterdir()).unlink()
        raise KeyboardInterrupt

    (item,) = going(list(find_outputs(artifacts, limits(), set())))
    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", remove_one_file)
        with pytest.raises(KeyboardInterrupt):
            remove(item)
    assert not output.exists()
    (left,) = find_files(artifacts, limits())
    assert (left.kind, remove(left)) == ("leftovers", True)
    assert not list(output.parent.glob(".tmp-*"))


def test_leases_of_no_slot_go_and_those_of_a_slot_stay(artifacts: Path) -> None:
    for name, content in (("a-1", '{"resource_ids": []}'), ("b-2", '{"resource_ids": ["x"]}'), ("c-3", "{")):
        place = write_file(artifacts / "prefect" / "concurrency_leases" / f"{name}.json")
        place.write_text(content)
        make_old(place)
    write_file(artifacts / "prefect" / "concurrency_leases" / "expirations.json")
    write_file(artifacts / "prefect" / "concurrency_leases" / "d-4.json").write_text('{"resource_ids": []}')
    assert [Path(item.name).name for item in going(list(find_files(artifacts, limits(0))))] == ["a-1.json"]
