"""Servers of the user's that fail in the middle of a run: refuse, hang, answer 500, or lose the answer, at any call.

A run on an MLflow and a Prefect server, each behind a proxy of ours. After it the servers are well again and the same run
is repeated: nothing may be left open, and no version may be there twice.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from flows.cli.server_process import Server, stop_servers
from flows.cli.servers import mlflow_server, prefect_server
from tests.campaigns.release.failing_proxy import FOR_EVER, MODES, FailingProxy, Outage, failing_proxy
from tests.campaigns.release.forked_runs import Ended, ForkedRuns
from tests.campaigns.release.trials import Part, Trials
from tests.campaigns.release.whole_runs import new_store, output_digests, small_options

TOLD_SECONDS = 15.0
END_SECONDS = 300.0
SERVERS = ("mlflow", "prefect")
TELLING = ("does not answer", "failed at", "did not arrive", "live metrics wait", "lacks", "could not be")
RAW = (
    "Traceback",
    "urllib3",
    "requests.exceptions",
    "httpx.",
    "HTTPConnectionPool",
    "Max retries exceeded",
    "sqlalchemy",
)
DEAD = (
    ("mlflow", "answers 500"), ("prefect", "refuses"), ("mlflow", "refuses"), ("prefect", "answers 500"),
    ("mlflow", "hangs"), ("prefect", "hangs"),
)  # fmt: skip
AGAIN = ("train_classifier", "evaluate_classifier")


class Setting(NamedTuple):
    """The servers, their proxies, the process that runs commands, and the store of an unbroken run."""

    proxies: dict[str, FailingProxy]
    runs: ForkedRuns
    store: Path
    options: list[str]
    digests: dict[str, str]
    calls: dict[str, int]
    servers: dict[str, str]
    logins: dict[str, tuple[str, str]]


def play(trials: Trials) -> None:
    """Play servers that are away from the start, then outages at random calls; modes and durations come in turn."""
    for server, mode in DEAD[: trials.count]:
        trials.check(f"{server} {mode} from the start", "; ".join(_play_dead(server, mode, trials.folder)))
    if trials.count <= len(DEAD):
        return
    with _setting(trials.folder) as setting:
        for number in range(trials.count - len(DEAD)):
            name = SERVERS[number % 2]
            mode = MODES[number // 2 % len(MODES)]
            lasting = (FOR_EVER, 0.0, 4.0)[number // 2 // len(MODES) % 3]
            outage = Outage(trials.draw.randint(1, setting.calls[name]), mode, lasting)
            trials.check(f"{name} {outage}", "; ".join(_play_one(setting, name, outage, number, trials.folder)))


def _play_dead(server: str, mode: str, folder: Path) -> list[str]:
    """Run with a server that never answers, and return what was wrong."""
    place = folder / f"dead-{server}-{mode}"
    place.mkdir()
    with failing_proxy(0, Outage(1, mode, FOR_EVER)) as proxy:
        command_line = new_store(place)
        variable = {"mlflow": "MLFLOW_TRACKING_URI", "prefect": "PREFECT_API_URL"}[server]
        command_line.environment[variable] = f"http://127.0.0.1:{proxy.port}{'/api' if server == 'prefect' else ''}"
        code, output = command_line.run("run", *small_options(place / "inputs"))
        waited = time.monotonic() - (proxy.began or 0)
    problems = [f"exit code {code}: {output}"] if code != 5 or "does not answer" not in output else []
    problems += [f"shows {raw}" for raw in RAW if raw in output]
    problems += [f"told after {waited:.1f} s"] if waited > TOLD_SECONDS else []
    return problems + (["outputs were made"] if output_digests(command_line.artifacts) else [])


PART = Part(
    "outages",
    "an MLflow or Prefect server that fails at any call is told within 15 s, and loses and doubles nothing",
    play,
    count=480,
    quick=2,
)


def _play_one(setting: Setting, name: str, outage: Outage, number: int, folder: Path) -> list[str]:
    """Play one outage and return what was wrong."""
    store, label = folder / f"store-{number}", f"trial-{number}"
    shutil.copytree(setting.store, store)
    options = [*setting.options, "--artifacts", str(store), "--set", f"name={label}"]
    proxy = setting.proxies[name]
    proxy.plan(outage)
    ended = setting.runs.run("run", *options, seconds=END_SECONDS)
    called = proxy.calls[outage.call - 1] if len(proxy.calls) >= outage.call else "nothing"
    problems = _judge(ended, proxy.began)
    if os.environ.get("SHOW_OUTAGES"):
        told = _told(ended, proxy.began or 0)
        after = ended.at - proxy.began if proxy.began else 0
        print(f"  {name} {outage} ({called}): code {ended.code}, told {told}, ended {after:.1f} s after", flush=True)
    if ended.code == 0 and output_digests(store) != setting.digests:
        problems.append("other outputs than the unbroken run")
    proxy.plan(None)
    again = setting.runs.run("run", *options, seconds=END_SECONDS)
    if again.code != 0:
        problems.append(f"the next run ended with {again.code}: {again.output[-300:]}")
    if output_digests(store) != setting.digests:
        problems.append("other outputs than the unbroken run after the next run")
    problems += _left_in_mlflow(setting, label) + _left_in_prefect(setting, label)
    if problems:
        shutil.rmtree(store, ignore_errors=True)
        return [f"({called})", *problems, f"output: {ended.output[-1500:]}"]
    shutil.rmtree(store)
    return []


def _judge(ended: Ended, began: float | None) -> list[str]:
    """Return what is wrong with the end of a run."""
    problems = []
    if ended.code is None:
        return [f"still running after {END_SECONDS:g} s"]
    if ended.code not in (0, 5):
        problems.append(f"exit code {ended.code}")
    if found := [raw for raw in RAW if raw in ended.output]:
        problems.append(f"shows {', '.join(found)}")
    told = _told(ended, began) if began else None
    if ended.code and (told is None or told > TOLD_SECONDS):
        problems.append(f"told after {told} s")
    if ended.code and "gloveflow: " not in ended.output:
        problems.append("no message at the end")
    return problems


def _told(ended: Ended, began: float) -> float | None:
    """Return after how many seconds the first line told of the outage."""
    return next((round(at - began, 1) for at, line in ended.lines if any(text in line for text in TELLING)), None)


def _left_in_mlflow(setting: Setting, label: str) -> list[str]:
    """Return what runs and versions of a trial are left that should not be."""
    problems = []

    def ask(method: str, name: str, **what: Any) -> Any:
        address = f"{setting.servers['mlflow']}/api/2.0/mlflow/{name}"
        return httpx.request(method, address, auth=setting.logins["mlflow"], **what).json()

    found = ask("GET", "experiments/get-by-name", params={"experiment_name": f"gloveflow/{label}"})
    if "experiment" in found:
        query = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 100}
        runs = ask("POST", "runs/search", json=query).get("runs", [])
        states = sorted(run["info"]["status"] for run in runs)
        if "RUNNING" in states or states.count("FINISHED") not in (1, 2):
            problems.append(f"MLflow runs {states}")
        query = {"experiment_ids": query["experiment_ids"], "max_results": 100}
        models = ask("POST", "logged-models/search", json=query).get("models", [])
        states = sorted(model["info"]["status"] for model in models)
        if "LOGGED_MODEL_PENDING" in states or states.count("LOGGED_MODEL_READY") != 1:
            problems.append(f"logged models {states}")
    versions = ask("GET", "model-versions/search", params={"filter": f"name='gloveflow-{label}'"})
    if len(versions.get("model_versions", [])) != 1:
        problems.append(f"{len(versions.get('model_versions', []))} versions")
    return problems


def _left_in_prefect(setting: Setting, label: str) -> list[str]:
    """Return the flow and task runs of a trial that are left open."""
    query: dict[str, Any] = {
        "flow_runs": {"name": {"like_": f"{label} "}, "state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    }
    address = f"{setting.servers['prefect']}/api/flow_runs/filter"
    left = httpx.post(address, json=query, auth=setting.logins["prefect"]).json()
    return [f"Prefect runs {[run['state_name'] for run in left]}"] if left else []


@contextmanager
def _setting(folder: Path) -> Iterator[Setting]:
    """Start servers and proxies, and make the store of an unbroken run."""
    options = small_options(folder / "inputs")
    environment = {**os.environ, "PREFECT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    before = dict(os.environ)
    os.environ.update({"GLOVEFLOW_ARTIFACTS": str(folder / "servers"), "PREFECT_HOME": str(folder / "servers/prefect")})
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    servers: list[Server] = []
    try:
        servers.append(prefect_server(folder / "servers", 0, pages=False))
        servers.append(mlflow_server(folder / "servers", 0))
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_up()
        ports = {server.name: server.port for server in servers}
        with failing_proxy(ports["mlflow"]) as mlflow, failing_proxy(ports["prefect"]) as prefect:
            os.environ["PREFECT_API_AUTH_STRING"] = servers[0].secret.text
            environment |= {
                "PREFECT_API_URL": f"http://127.0.0.1:{prefect.port}/api",
                "PREFECT_API_AUTH_STRING": servers[0].secret.text,
                "MLFLOW_TRACKING_USERNAME": "gloveflow",
                "MLFLOW_TRACKING_PASSWORD": servers[1].secret.text.partition(":")[2],
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow.port}",
            }
            proxies = {"mlflow": mlflow, "prefect": prefect}
            runs = ForkedRuns(environment)
            try:
                yield _run_unbroken(folder, options, proxies, runs, servers)
            finally:
                runs.close()
    finally:
        stop_servers(servers)
        os.environ.clear()
        os.environ.update(before)


def _run_unbroken(
    folder: Path, options: list[str], proxies: dict[str, FailingProxy], runs: ForkedRuns, servers: list[Server]
) -> Setting:
    """Run twice: for the outputs, then without the last stages for the number of calls."""
    store = folder / "unbroken"
    for _ in range(2):
        for proxy in proxies.values():
            proxy.plan(None)
        started = time.monotonic()
        ended = runs.run("run", *options, "--artifacts", str(store), seconds=600)
        if ended.code != 0:
            raise RuntimeError(f"the unbroken run ended with {ended.code}: {ended.output}")
        digests = output_digests(store)
        for stage in AGAIN:
            shutil.rmtree(store / "store" / stage)
        print(
            f"  an unbroken run: {time.monotonic() - started:.1f} s, "
            f"{ {name: len(proxy.calls) for name, proxy in proxies.items()} }",
            flush=True,
        )
    calls = {name: len(proxy.calls) for name, proxy in proxies.items()}
    return Setting(
        proxies,
        runs,
        store,
        options,
        digests,
        calls,
        servers={server.name: server.url for server in servers},
        logins={server.name: ("gloveflow", server.secret.text.partition(":")[2]) for server in servers},
    )
