"""Backups: whole while runs go on, checked before anything is written, refused if damaged or foreign."""

import gzip
import io
import json
import os
import random
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pipeline_config.errors import ConfigError, InputError
from tasks.housekeeping import archive, restore
from tasks.housekeeping.archive import INDEX, Entry, Index, dump_index
from tasks.housekeeping.backup import write_backup
from tasks.housekeeping.restore import restore_backup
from tasks.store.artifacts import describe_damage
from tasks.store.commit import commit_output
from tasks.store.locks import is_held
from tasks.tracking import models, purge, runs, versions
from tasks.tracking.model_files import verify_version
from tasks.tracking.server import open_client
from tests.tasks.housekeeping.nights import MODEL, play_night


def tree(root: Path) -> dict[str, bytes]:
    """Return the content of all files, but of locks, by name."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def store(artifacts: Path) -> Path:
    """A small artifacts directory without MLflow: two outputs, a report, a secret, a log, a download with its record."""
    for key in ("a" * 32, "b" * 32):
        commit_output("stage", key, lambda output: output.write_json("numbers.json", list(range(500))))
    for name in (
        "reports/some.html",
        "prefect/auth-string",
        "logs/prefect-server.log",
        "downloads/x.zip",
        "downloads/x.zip.sha256",
        "checkpoints/stage/key/checkpoint.safetensors",
    ):
        (artifacts / name).parent.mkdir(parents=True, exist_ok=True)
        (artifacts / name).write_text(f"content of {name} ghp_canary")
    return artifacts


def test_a_backup_holds_what_cannot_be_had_again_and_no_secret(store: Path, tmp_path: Path) -> None:
    target, place = tmp_path / "backup.tar.gz", tmp_path / "restored"
    made = write_backup(store, target)
    assert made.outputs == 2
    assert target.stat().st_mode & 0o777 == 0o600
    restored = restore_backup(target, place)
    assert restored.files == made.files
    wanted = ("store/", "reports/", "downloads/x.zip.sha256")
    assert tree(place) == {name: content for name, content in tree(store).items() if name.startswith(wanted)}
    assert [describe_damage(path) for path in place.glob("store/*/*")] == [None, None]
    assert {path.stat().st_mode & 0o077 for path in place.rglob("*")} == {0}


def test_a_damaged_output_is_left_out(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (store / "store" / "stage" / ("b" * 32) / "numbers.json").write_text("[]")
    assert write_backup(store, tmp_path / "b.tar.gz").outputs == 1
    assert "is damaged" in caplog.text


def test_where_a_backup_cannot_be_written_is_told(store: Path, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    for target, message in (
        (tmp_path / "there", "exists already"),
        (store / "store" / "b.tar.gz", "is in a directory that is backed up"),
        (tmp_path / "missing" / "b", "no such directory"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_backup(store, target)


def test_a_restore_needs_an_empty_directory_and_a_file(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.tar.gz"
    write_backup(store, target)
    before = tree(store)
    with pytest.raises(InputError, match="is not empty, it has checkpoints, downloads"):
        restore_backup(target, store)
    assert tree(store) == before
    with pytest.raises(InputError, match="no such file"):
        restore_backup(tmp_path / "other", tmp_path / "new")


def refusal(source: Path, place: Path) -> str:
    """Restore a backup, and return the error or an empty text."""
    try:
        restore_backup(source, place)
    except InputError as error:
        return str(error)
    return ""


def test_an_archive_that_was_changed_or_cut_off_is_refused_before_anything_is_written(
    store: Path, tmp_path: Path
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    write_backup(store, whole)
    content, draw = whole.read_bytes(), random.Random(5)
    restore_backup(whole, tmp_path / "expected")
    expected = tree(tmp_path / "expected")
    refused = 0
    for number in range(150):
        changed = bytearray(content)
        if number % 3 == 0:
            changed = changed[: draw.randrange(len(changed))]
        else:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        damaged.write_bytes(changed)
        place = tmp_path / f"place-{number}"
        place.mkdir()
        message = refusal(damaged, place)
        if message:
            assert str(damaged) in message
            assert list(place.iterdir()) == []
            refused += 1
        else:  # a field that says nothing, such as the time in the header
            assert tree(place) == expected
    assert refused > 140


def link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("store/link")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


def plain(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = 4
    return member


def make_archive(path: Path, members: list[tarfile.TarInfo], *, index: bool = True) -> None:
    """Write an archive whose members have four bytes each, with a list of them that fits."""
    with tarfile.open(path, "w:gz") as made:
        for member in members:
            made.addfile(member, io.BytesIO(b"evil"[: member.size]))
        if index:
            digest = "4e6fa6e0a1bd0a4cf1ca7f2ba5b1e4a0c0ed6a0a1a5e0f1a2b7ea1c5b4f0b8a1"
            files = {member.name: Entry(size=4, sha256=digest) for member in members}
            content = dump_index(Index(format=1, gloveflow="9", created="now", files=files))
            info = tarfile.TarInfo(INDEX)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (plain("../evil"), "leads out of the directory"),
        (plain("store/../../evil"), "leads out of the directory"),
        (plain("/tmp/evil"), "leads out of the directory"),
        (plain("store//evil"), "leads out of the directory"),
        (plain("./store/evil"), "leads out of the directory"),
        (plain("store/a\nb"), "leads out of the directory"),
        (plain("store\\evil"), "leads out of the directory"),
        (plain("evil"), "is not in store"),
        (plain("prefect/auth-string"), "is not in store"),
        (plain(".restoring/complete"), "is not in store"),
        (link(tarfile.SYMTYPE), "is a link"),
        (link(tarfile.LNKTYPE), "is a link"),
        (link(tarfile.CHRTYPE), "is a link"),
        (link(tarfile.DIRTYPE), "is a link"),
        (link(tarfile.FIFOTYPE), "is a link"),
        (plain("store/evil"), "differs from the list"),
    ],
)
def test_an_archive_that_means_harm_is_refused(tmp_path: Path, member: tarfile.TarInfo, message: str) -> None:
    make_archive(tmp_path / "evil.tar.gz", [member])
    with pytest.raises(InputError, match=message):
        restore_backup(tmp_path / "evil.tar.gz", tmp_path / "place")
    assert not (tmp_path / "place").exists()


def write_text(path: Path) -> None:
    path.write_text("some text")


def write_other_archive(path: Path) -> None:
    make_archive(path, [plain("store/a")], index=False)


def write_twice(path: Path) -> None:
    make_archive(path, [plain("store/a"), plain("store/a")])


def write_later_format(path: Path) -> None:
    content = json.dumps({"format": 2, "gloveflow": "7.0"}).encode()
    with tarfile.open(path, "w:gz") as made:
        info = tarfile.TarInfo(INDEX)
        info.size = len(content)
        made.addfile(info, io.BytesIO(content))


def write_endless_header(path: Path) -> None:
    """Write an archive whose header for a name would need a terabyte of memory."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 40
    with gzip.open(path, "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_text, "no backup of gloveflow"),
        (Path.touch, "no backup of gloveflow"),
        (write_other_archive, "it has no list of its files"),
        (write_twice, "is there twice"),
        (write_later_format, "is of format 2, and this release knows 1; restore it with gloveflow 7.0"),
        (write_endless_header, "asks for 1099511627776 bytes at once"),
    ],
)
def test_another_file_is_told_from_a_backup(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path / "file")
    with pytest.raises(InputError, match=message):
        restore_backup(tmp_path / "file", tmp_path / "place")
    assert not (tmp_path / "place").exists()


def killed_at(step: int, source: Path, place: Path) -> bool:
    """Restore a backup in a process that ends at some line of the module; return whether it came that far."""
    child = os.fork()
    if child == 0:
        seen = 0

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_filename != restore.__file__:
                return None
            if event == "line":
                seen += 1
                if seen == step:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        restore_backup(source, place)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_restore_that_is_killed_anywhere_ends_well_the_next_time(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.tar.gz"
    write_backup(store, target)
    restore_backup(target, tmp_path / "expected")
    expected, step = tree(tmp_path / "expected"), 1
    while killed_at(step, target, tmp_path / str(step)):
        place = tmp_path / str(step)
        if tree(place) != expected:  # otherwise it was killed at its very end
            restore_backup(target, place)
        assert tree(place) == expected
        step += 13
    assert step > 60


def test_another_backup_does_not_go_on_with_an_interrupted_restore(store: Path, tmp_path: Path) -> None:
    first, second, place = (tmp_path / name for name in ("first", "second", "place"))
    write_backup(store, first)
    (store / "reports" / "more.html").write_text("more")
    write_backup(store, second)
    (place / restore.PLACE).mkdir(parents=True)
    (place / restore.PLACE / restore.MARK).write_text(archive.check_archive(first).checksum)
    with pytest.raises(InputError, match="another backup was interrupted"):
        restore_backup(second, place)


def test_a_backup_while_runs_go_on_is_whole(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play_night(1)
    models.set_alias(MODEL, "champion", "1")
    ended = threading.Event()

    def play_on() -> None:
        for number in range(2, 8):
            play_night(number)
        ended.set()

    with runs.open_run("gloveflow/tiny", name="going on", tags={}) as run:
        thread = threading.Thread(target=play_on)
        thread.start()
        made = []
        while not ended.is_set() or not made:
            made.append(tmp_path / f"{len(made)}.tar.gz")
            write_backup(tracked, made[-1])
        thread.join()
    for target in (made[0], made[len(made) // 2], made[-1]):
        place = tmp_path / f"{target.name}-restored"
        restore_backup(target, place)
        monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(place))
        found = purge.list_versions()
        assert "champion" in next(version.needed for version in found if version.number == 1)
        for version in found:
            verify_version(versions.require_version(MODEL, version.number))
        assert [describe_damage(path) for path in place.glob("store/*/[0-9a-f]*")] == [None] * len(
            list(place.glob("store/*/[0-9a-f]*"))
        )
        assert str(open_client().get_run(run.run_id).info.status) == "RUNNING"
        assert not any(is_held(path) for path in runs.live_directory().iterdir())
        runs.end_dead_runs()
        assert str(open_client().get_run(run.run_id).info.status) == "KILLED"
        assert os.environ["GLOVEFLOW_ARTIFACTS"] in str(open_client().get_run(run.run_id).info.artifact_uri)
