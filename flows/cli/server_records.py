"""Which servers run for an artifacts directory, and which ports the last ones had.

`<artifacts>/servers.json` holds the servers of `gloveflow ui` and `gloveflow serve` while they run. An entry is
believed only if the server at its address proves that it serves this directory. Imports only the standard library.
"""

import json
import os
from pathlib import Path
from typing import Any

from flows.cli.server_secret import identify_server, read_secret
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory

DEFAULT_PORTS = {"prefect": 4200, "mlflow": 5000}


def read_servers(root: Path) -> dict[str, str]:
    """Return the addresses of the servers that run for these artifacts, by name; of several, the youngest."""
    secret = read_secret(root)
    found: dict[str, str] = {}
    for entry in reversed(_read_entries(root)) if secret else ():
        if entry["name"] not in found and secret and identify_server(entry["url"], secret):
            found[entry["name"]] = entry["url"]
    return found


def record_servers(root: Path, servers: dict[str, str]) -> None:
    """Record the addresses of this process's servers, and their ports for the next start."""
    own = [{"name": name, "url": url, "process": os.getpid()} for name, url in servers.items()]
    with _locked(root):
        _write(root / "servers.json", [*(entry for entry in _read_entries(root) if _is_alive(entry)), *own])
        ports = {name: int(url.rpartition(":")[2]) for name, url in servers.items()}
        _write(_ports_path(root), {**_read_ports(root), **ports})


def dead_servers(root: Path) -> list[str]:
    """Return the addresses of recorded servers whose process is gone."""
    return [entry["url"] for entry in _read_entries(root) if not _is_alive(entry)]


def forget_servers(root: Path) -> None:
    """Remove the servers of this process, and those whose process is gone, from the record; an empty one goes."""
    with _locked(root):
        others = [entry for entry in _read_entries(root) if _is_alive(entry) and entry["process"] != os.getpid()]
        if others:
            _write(root / "servers.json", others)
        else:
            (root / "servers.json").unlink(missing_ok=True)


def last_port(root: Path, name: str) -> int:
    """Return the port that the last server of this name had, or the usual one."""
    return _read_ports(root).get(name, DEFAULT_PORTS[name])


def _read_entries(root: Path) -> list[dict[str, Any]]:
    """Return the recorded servers, the oldest first; what is not such a record counts as none."""
    entries = _read_json(root / "servers.json")
    if not isinstance(entries, list):
        return []
    kinds = {"name": str, "url": str, "process": int}
    return [
        entry
        for entry in entries
        if isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
    ]


def _read_ports(root: Path) -> dict[str, int]:
    ports = _read_json(_ports_path(root))
    if not isinstance(ports, dict):
        return {}
    return {name: port for name, port in ports.items() if isinstance(port, int) and 0 < port < 65536}


def _ports_path(root: Path) -> Path:
    return root / "prefect" / "ports.json"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, content: Any) -> None:
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content), "utf-8")
    temporary.replace(path)


def _locked(root: Path) -> Any:
    return file_lock(root / "prefect" / ".servers.lock", waiting_for="another command to record its servers")


def _is_alive(entry: dict[str, Any]) -> bool:
    try:
        os.kill(entry["process"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
