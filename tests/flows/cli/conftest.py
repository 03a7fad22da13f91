"""Servers that start quickly."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.cli.server_process import Server, listen, stop_servers
from flows.cli.server_secret import make_secret

MakeToy = Callable[..., Server]


@pytest.fixture
def make_toy(tmp_path: Path) -> Iterator[MakeToy]:
    """Return a function that makes a server of `toy_server.py`; the processes end with the test."""
    made: list[Server] = []

    def make_toy(behaviour: str = "good", name: str = "toy") -> Server:
        made.append(toy_server(tmp_path, behaviour, name))
        return made[-1]

    yield make_toy
    for server in made:
        if hasattr(server, "process"):
            server.process.kill()
            server.process.wait()
    stop_servers(made)


def toy_server(root: Path, behaviour: str, name: str) -> Server:
    variables = {"TOY": behaviour, "PYTHONPATH": str(Path(__file__).parents[3])}
    log = root / "logs" / f"{name}.log"
    return Server(name, "tests.flows.cli.toy_server", variables, listen(0), log, make_secret(root))
