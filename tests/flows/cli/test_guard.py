"""Who gets past our checks to an application behind them."""

import asyncio
import base64
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from flows.cli.guard import OwnAddresses, SecretRequired, cookie_name, login_page
from flows.cli.server_secret import LOGIN_PATH, Secret

SECRET = Secret("gloveflow:password", "7:7 /a")
SITE = "http://127.0.0.1:5055"


def ask(path: str, **options: Any) -> httpx.Response:
    """Ask an application that answers everything and wants the secret, as MLflow's server is set up."""
    asked = SecretRequired(PlainTextResponse("reached"), port=5055, secret=SECRET, open_paths=("/health",))
    login = login_page("work();", cookies={cookie_name(5055): SECRET.cookie(5055)})
    app = OwnAddresses(asked, port=5055, secret=SECRET, login=login)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=SITE) as client:
            return await client.get(path, **options)

    return asyncio.run(ask())


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def cookie(value: str, port: int = 5055) -> dict[str, str]:
    return {"cookie": f"{cookie_name(port)}={value}"}


@pytest.mark.parametrize("headers", [basic(SECRET.text), cookie(SECRET.cookie(5055))], ids=["password", "cookie"])
def test_who_knows_the_secret_gets_through(headers: dict[str, str]) -> None:
    assert ask("/any", headers=headers).text == "reached"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(""),
        basic("gloveflow:"),
        basic("gloveflow:Password"),
        {"authorization": "Basic *"},
        {"authorization": "Basic \xe9"},
        {"authorization": f"Bearer {SECRET.text}"},
        cookie(""),
        cookie(SECRET.text),
        cookie(SECRET.login_token(5055)),
        cookie(SECRET.cookie(5056)),
        cookie(SECRET.cookie(5055), port=5056),
        cookie(SECRET._replace(store="8:8 /b").cookie(5055)),
        cookie(SECRET.cookie(5055)) | basic("wrong"),
    ],
)
def test_who_does_not_is_told_how_to_get_in(headers: dict[str, str]) -> None:
    answer = ask("/any", headers={name: value.encode("latin-1") for name, value in headers.items()})
    assert answer.status_code == 401
    assert "open the link that `gloveflow ui` prints" in answer.text
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_only_the_exact_open_path_is_open() -> None:
    assert ask("/health").text == "reached"
    assert {ask(path).status_code for path in ("/health/", "/health/..", "//health", "/healthy")} == {401}


def test_the_link_logs_a_browser_in_and_leaves_no_token_behind() -> None:
    answer = ask(f"{LOGIN_PATH}?token={SECRET.login_token(5055)}")
    assert answer.status_code == 200
    assert '<script>work();location.replace("/" + location.hash)</script>' in answer.text
    assert (answer.headers["cache-control"], answer.headers["referrer-policy"]) == ("no-store", "no-referrer")
    given = answer.headers["set-cookie"].lower()
    assert "httponly" in given
    assert "samesite=strict" in given
    assert ask("/any", headers={"cookie": given.partition(";")[0]}).text == "reached"


@pytest.mark.parametrize(
    "token", ["", "token=", "token=x", f"token={SECRET.login_token(5056)}", f"token={SECRET.text}"]
)
def test_a_link_with_another_token_sets_no_cookie(token: str) -> None:
    answer = ask(f"{LOGIN_PATH}?{token}")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example"}, {"host": "127.0.0.1:1"}, {"origin": "http://evil.example"}, {"origin": "null"}],
)
def test_foreign_names_and_pages_get_nothing_not_even_with_the_secret(headers: dict[str, str]) -> None:
    for path in ("/any", "/health", "/gloveflow/proof/x", f"{LOGIN_PATH}?token={SECRET.login_token(5055)}"):
        answer = ask(path, headers=basic(SECRET.text) | headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
