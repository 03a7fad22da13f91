"""Prefect's database is set up beside its place, migrated as a copy, and whole after a kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

from flows.cli import prefect_server
from flows.cli.server_process import REASON
from pipeline_config.errors import StoreError

KILLS = """
import os
import sqlite3
from pathlib import Path
from flows.cli.prefect_server import prepare_prefect_database
from tests.killed_setups import kill_at_size

home = Path(os.environ["PREFECT_HOME"])
print([kill_at_size(prepare_prefect_database, home, size) for size in (1, 100_000, 400_000)])
print((home / "prefect.db").exists(), prepare_prefect_database(), prepare_prefect_database())
print(len(sqlite3.connect(home / "prefect.db").execute("SELECT version_num FROM alembic_version").fetchall()))
print(sorted(path.name for path in home.iterdir() if path.name.startswith(("prefect.db", ".prefect.db"))))
"""


def run_python(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    home.mkdir()
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PREFECT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_set_up_that_is_killed_at_any_size_starts_again(tmp_path: Path) -> None:
    process = run_python(KILLS, tmp_path / "prefect")
    assert process.stdout.splitlines() == [str([True] * 3), "False True True", "1", "['prefect.db']"], process.stderr


def test_a_database_that_cannot_be_migrated_is_the_reason_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise StoreError("prefect.db: cannot be migrated")

    monkeypatch.setattr(prefect_server, "prepare_prefect_database", refuse)
    with pytest.raises(SystemExit) as ended:
        prefect_server.main()
    assert ended.value.code == StoreError.exit_code
    assert capsys.readouterr().err == f"{REASON}prefect.db: cannot be migrated\n"


@pytest.mark.parametrize(
    "address", ["postgresql+asyncpg://user@db/prefect", "sqlite+aiosqlite:///file::memory:?cache=shared&uri=true"]
)
def test_a_database_of_another_kind_is_left_to_prefect(address: str) -> None:
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: address}):
        assert not prefect_server.prepare_prefect_database()
