import time

import pytest

from pipeline_config.errors import ServiceError
from tasks.runtime import services
from tasks.runtime.services import hide_credentials, require_answer
from tests.flaky_server import flaky_server


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(services, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(services, "PAUSE_SECONDS", 0.05)


def ask(url: str) -> None:
    require_answer("Toy", url, advice="start it")


class TestRequireAnswer:
    @pytest.mark.parametrize("status", [200, 401, 403, 404])
    def test_every_answer_below_500_counts(self, status):
        with flaky_server() as server:
            server.statuses["GET"] = status
            ask(f"{server.url}/health")
            assert server.asked == ["/health"]

    @pytest.mark.parametrize(
        ("mode", "problem"),
        [("refuses", "Connection refused"), ("hangs", "no answer within 0.2 s"), ("answers 500", "HTTP status 500")],
    )
    def test_an_outage_is_reported_soon_with_its_kind_and_what_to_do(self, mode, problem):
        with flaky_server() as server:
            server.fail(mode)
            started = time.monotonic()
            with pytest.raises(ServiceError) as caught:
                ask(f"{server.url}/health")
            assert time.monotonic() - started < 2
            expected = f"Toy at {server.url}/health does not answer: {problem} (tried 2 times); start it"
            assert str(caught.value) == expected

    def test_a_server_that_is_back_at_the_second_try_is_there(self, monkeypatch):
        with flaky_server() as server:
            server.fail("answers 500")
            monkeypatch.setattr(services.time, "sleep", lambda _: server.recover())
            ask(server.url)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "no address", "http://[::1"])
    def test_an_address_that_is_none_is_no_server(self, url):
        with pytest.raises(ServiceError, match="does not answer"):
            ask(url)

    def test_user_and_password_are_neither_sent_nor_shown(self):
        with flaky_server() as server:
            address = server.url.replace("//", "//me:secret@")
            ask(address)
            server.fail("answers 500")
            with pytest.raises(ServiceError) as caught:
                ask(address)
        assert "secret" not in str(caught.value)

    def test_the_slowest_answer_is_within_15_seconds(self, monkeypatch):
        monkeypatch.undo()
        assert services.TRIES * services.ANSWER_SECONDS + (services.TRIES - 1) * services.PAUSE_SECONDS <= 15


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host:1/path@2", "https://host:1/path@2"),
        ("http://host/a//b@c", "http://host/a//b@c"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("databricks", "databricks"),
    ],
)
def test_user_and_password_are_cut_out_of_an_address(url, shown):
    assert hide_credentials(url) == shown
