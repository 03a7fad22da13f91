"""Attacks on our servers: pages of other sites, names that resolve to 127.0.0.1, other users of the machine."""

import base64
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import get_client

from flows.cli.guard import run_server
from flows.cli.server_process import Server, login_link, stop_servers
from flows.cli.server_secret import identify_server, make_secret
from flows.cli.servers import mlflow_server
from tests.flows.cli.test_session import toy

EVIL = "http://evil.example"


@pytest.fixture
def deployment(prefect_api: str) -> str:
    """A deployment, as `gloveflow serve` makes one; returns the address that creates runs of it."""
    with get_client(sync_client=True) as client:
        identity = client.create_deployment(flow_id=client.create_flow(toy), name="attacked")
    return f"{prefect_api}/deployments/{identity}/create_flow_run"


@pytest.fixture
def login(prefect_api: str) -> dict[str, str]:
    """The header of a client that knows the secret."""
    secret = os.environ["PREFECT_API_AUTH_STRING"]
    return {"authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}


def post_run(deployment: str, headers: dict[str, str]) -> int:
    body = {"parameters": {"config": {"tokenization": {"tokenizer": "os:system"}}}, "enforce_parameter_schema": False}
    for _ in range(30):
        code = httpx.post(deployment, json=body, headers=headers, timeout=30).status_code
        if code != 503:  # its database is busy: Prefect's own client asks again, too
            break
        time.sleep(0.5)
    return code


def host_of(url: str, name: str) -> dict[str, str]:
    return {"host": f"{name}:{urlsplit(url).port}"}


def test_a_client_with_the_secret_creates_a_run(deployment: str, login: dict[str, str]) -> None:
    """Otherwise the refusals below would prove nothing."""
    assert post_run(deployment, login) == 201
    assert post_run(deployment, login | host_of(deployment, "localhost")) == 201
    own_page = {"origin": f"http://127.0.0.1:{urlsplit(deployment).port}"}
    assert post_run(deployment, login | own_page) == 201


@pytest.mark.parametrize("password", [None, "gloveflow:", "gloveflow:wrong"])
def test_another_user_of_the_machine_creates_no_run(deployment: str, password: str | None) -> None:
    guess = {} if password is None else {"authorization": f"Basic {base64.b64encode(password.encode()).decode()}"}
    assert post_run(deployment, guess) == 401
    api = deployment.partition("/deployments")[0]
    assert httpx.post(f"{api}/flow_runs/filter", json={}, headers=guess).status_code == 401
    assert httpx.get(f"{api}/admin/settings", headers=guess).status_code == 401


@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1", "http://127.0.0.1:1", "https://localhost"])
def test_a_page_of_another_site_is_refused_even_with_the_secret(
    deployment: str, login: dict[str, str], origin: str
) -> None:
    assert post_run(deployment, login | {"origin": origin}) == 403
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    answer = httpx.options(deployment, headers=preflight)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "user@127.0.0.1", "0.0.0.0"])
def test_a_foreign_name_for_this_machine_is_refused_even_with_the_secret(
    deployment: str, login: dict[str, str], name: str
) -> None:
    assert post_run(deployment, login | host_of(deployment, name)) == 403
    assert post_run(deployment, login | {"host": "127.0.0.1:1"}) == 403
    page = f"http://{urlsplit(deployment).netloc}/"
    assert httpx.get(page, headers=host_of(deployment, name)).status_code == 403


@pytest.mark.parametrize("headers", [{"origin": EVIL}, {"host": "evil.example"}])
def test_foreign_web_sockets_are_refused(prefect_api: str, headers: dict[str, str]) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-protocol": "prefect"}
    upgrade |= {"sec-websocket-version": "13", "sec-websocket-key": base64.b64encode(bytes(16)).decode()}
    assert httpx.get(f"{prefect_api}/events/out", headers=upgrade).status_code == 101
    assert httpx.get(f"{prefect_api}/events/out", headers=upgrade | headers).status_code == 403


def test_the_pages_ask_for_the_secret_and_never_contain_it(prefect_api: str) -> None:
    site = prefect_api.removesuffix("/api")
    secret = os.environ["PREFECT_API_AUTH_STRING"]
    settings = httpx.get(f"{site}/ui-settings")
    assert settings.json()["auth"] == "BASIC"
    assert settings.json()["api_url"] == prefect_api
    page = httpx.get(site, headers={"accept": "text/html"}, follow_redirects=True)
    assert page.status_code == 200
    assert "<script" in page.text
    assert secret.partition(":")[2] not in settings.text + page.text


def test_the_server_proves_that_it_is_ours(prefect_api: str, prefect_server_root: Path, tmp_path: Path) -> None:
    site, secret = prefect_api.removesuffix("/api"), make_secret(prefect_server_root)
    assert secret.text == os.environ["PREFECT_API_AUTH_STRING"]
    assert identify_server(site, secret)
    assert identify_server(site, secret._replace(text="gloveflow:wrong")) is None
    assert identify_server(site, make_secret(tmp_path)) is None


def test_the_link_gives_the_pages_of_prefect_the_password(prefect_api: str, prefect_server_root: Path) -> None:
    secret = make_secret(prefect_server_root)
    site = prefect_api.removesuffix("/api")
    page = httpx.get(login_link(site, secret))
    password = base64.b64encode(secret.text.encode()).decode()
    assert f'localStorage.setItem("prefect-password", "{password}")' in page.text
    assert password not in httpx.get(f"{site}/gloveflow/login?token=wrong").text
    sent = {"authorization": f"Basic {password}"}  # what the pages do with it
    assert httpx.get(f"{prefect_api}/admin/version", headers=sent).status_code == 200


def test_without_a_secret_no_server_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOVEFLOW_SERVER_SECRET", raising=False)
    with pytest.raises(KeyError, match="GLOVEFLOW_SERVER_SECRET"):
        run_server(lambda *_: pytest.fail("made the application"))


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server as `gloveflow ui` starts it, by a user whose environment switches its checks off."""
    root = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
        patch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "*")
        patch.setenv("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "*")
        server = mlflow_server(root, 0)
        server.start()
    try:
        server.wait_until_up()
        yield server
    finally:
        stop_servers([server])


@pytest.fixture
def mlflow_client(mlflow: Server, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a notebook, with the secret in its environment."""
    user, _, password = mlflow.secret.text.partition(":")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    return MlflowClient(mlflow.url, mlflow.url)


def test_a_client_with_the_secret_uses_mlflow(mlflow: Server, mlflow_client: MlflowClient, tmp_path: Path) -> None:
    run = mlflow_client.create_run(mlflow_client.create_experiment("whose files the server keeps"))
    (tmp_path / "note.txt").write_text("hello")
    mlflow_client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert Path(mlflow_client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path))).read_text() == "hello"
    mlflow_client.create_registered_model("ours")
    assert [model.name for model in mlflow_client.search_registered_models()] == ["ours"]
    assert httpx.get(f"{mlflow.url}/health").text == "OK"


@pytest.mark.parametrize("password", [None, "wrong"])
def test_another_user_of_the_machine_reads_no_run_and_registers_no_model(
    mlflow: Server, mlflow_client: MlflowClient, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    run = mlflow_client.create_run("0").info.run_id
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "gloveflow")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    stranger = MlflowClient(mlflow.url, mlflow.url)
    for call in (
        lambda: stranger.get_run(run),
        lambda: stranger.create_registered_model("theirs"),
        lambda: stranger.list_artifacts(run),
    ):
        with pytest.raises(MlflowException, match="401"):
            call()
    for path in ("/", "/static-files/index.html", "/version", f"/get-artifact?run_id={run}&path=x"):
        assert httpx.get(f"{mlflow.url}{path}").status_code == 401
    asked = {"authorization": f"Basic {base64.b64encode(mlflow.secret.text.encode()).decode()}"}
    found = httpx.get(f"{mlflow.url}/api/2.0/mlflow/registered-models/search", headers=asked).json()
    assert "theirs" not in str(found)


def test_the_link_opens_the_pages_of_mlflow(mlflow: Server) -> None:
    with httpx.Client(base_url=mlflow.url) as browser:
        assert browser.get("/").status_code == 401
        assert browser.get(mlflow.link).status_code == 200
        page = browser.get("/")
        assert page.status_code == 200
        assert "<script" in page.text
        assert browser.post("/ajax-api/2.0/mlflow/experiments/search", json={"max_results": 1}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (lambda _: {}, 200),
        (lambda url: {"origin": url}, 200),
        (lambda url: host_of(url, "localhost"), 200),
        (lambda _: {"origin": EVIL}, 403),
        (lambda _: {"origin": "null"}, 403),
        (lambda _: {"origin": "http://127.0.0.1:1"}, 403),
        (lambda url: host_of(url, "evil.example"), 403),
        (lambda url: host_of(url, "10.0.0.1"), 403),
    ],
    ids=["a client", "its own page", "localhost", "another site", "a file", "another port", "a name", "an address"],
)
def test_mlflow_answers_only_its_own_names_and_pages(
    mlflow: Server, headers: Callable[[str], dict[str, str]], status: int
) -> None:
    asked = {"authorization": f"Basic {base64.b64encode(mlflow.secret.text.encode()).decode()}"} | headers(mlflow.url)
    search = f"{mlflow.url}/api/2.0/mlflow/experiments/search"
    assert httpx.post(search, json={"max_results": 1}, headers=asked).status_code == status


def test_mlflows_own_checks_are_on(mlflow: Server) -> None:
    """They stand behind ours: its health address does not check the host, and its pages forbid frames."""
    asked = {"authorization": f"Basic {base64.b64encode(mlflow.secret.text.encode()).decode()}"}
    assert httpx.get(mlflow.url, headers=asked).headers["x-frame-options"] == "SAMEORIGIN"
