"""The directory of a container, as far as it can be tried without Docker."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from pipeline_config.errors import ConfigError, UnusableModelError
from tasks.tracking import scoring_app
from tasks.tracking.containers import write_container
from tasks.tracking.loading import load_model
from tasks.tracking.models import find_alias
from tasks.tracking.scoring_app import VERSION_HEADER
from tests.registrations import MODEL, damage

TEXTS = ["soup and bread", "goal for the team"]


@pytest.fixture
def folder(registered, tmp_path) -> Path:
    write_container(find_alias(MODEL, "champion"), tmp_path / "container")
    return tmp_path / "container"


def read_command(dockerfile: str, instruction: str) -> list[str]:
    """Return what an instruction runs, in its JSON form."""
    (found,) = re.findall(rf"^{instruction}.*?(\[.*\])$", dockerfile.replace("\\\n", ""), re.MULTILINE)
    return json.loads(found)


def test_the_command_of_the_container_answers_in_a_clean_environment(folder):
    dockerfile = (folder / "Dockerfile").read_text()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ours = {"python": sys.executable, "0.0.0.0": "127.0.0.1", "8080": str(port)}
    command = [ours.get(part, part) for part in read_command(dockerfile, "CMD")]
    health = [part.replace("8080", str(port)) for part in read_command(dockerfile, "HEALTHCHECK")]
    health[0] = sys.executable
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    assert subprocess.run(health, env=environment, stderr=subprocess.DEVNULL, check=False).returncode != 0
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    response = httpx.post(
                        f"http://127.0.0.1:{port}/invocations", json={"inputs": TEXTS, "params": {"top_k": 1}}
                    )
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            healthy = subprocess.run(health, env=environment, check=False).returncode
            process.terminate()
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert healthy == 0
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert response.headers[VERSION_HEADER] == f"models:/{MODEL}/1"
    expected = load_model(MODEL, "champion").classify(TEXTS, top_k=1)
    assert response.json() == {"predictions": expected}


def test_the_dockerfile_is_slim_and_runs_as_a_user_without_rights(folder):
    lines = (folder / "Dockerfile").read_text().splitlines()
    assert f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim" in lines
    assert "USER model" in lines
    assert "$" not in "".join(lines)
    torch = next(line for line in (folder / "requirements.txt").read_text().splitlines() if line.startswith("torch=="))
    assert f"RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu {torch}" in lines
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.rglob("*"))


def test_only_verified_files_are_written_and_only_into_an_empty_directory(folder, tmp_path):
    champion = find_alias(MODEL, "champion")
    with pytest.raises(ConfigError, match="expected a new or empty directory, got one with files"):
        write_container(champion, folder)
    with pytest.raises(ConfigError, match="expected a new or empty directory, got a file"):
        write_container(champion, folder / "Dockerfile")
    damage("1")
    with pytest.raises(UnusableModelError, match=r"weights\.safetensors was changed"):
        write_container(champion, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_model_that_was_changed_in_the_container_is_refused_without_a_traceback(folder, monkeypatch):
    (folder / "model" / "artifacts" / "bundle" / "text.py").write_text("changed")
    monkeypatch.setattr(sys, "argv", ["server.py", "--model", str(folder / "model")])
    with pytest.raises(SystemExit, match=r"text\.py was changed after the model was registered"):
        scoring_app.main()
