"""A registered version behind HTTP: as MLflow's server answers, stricter, and replaced when its alias moves."""

import asyncio
import json
import logging
import random
import shutil
import threading
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from pipeline_config.errors import ServiceError, UnusableModelError
from tasks.tracking import serving
from tasks.tracking.loading import load_model
from tasks.tracking.model_files import write_files_tag
from tasks.tracking.models import find_alias, set_alias
from tasks.tracking.scoring_app import MAX_BYTES, VERSION_HEADER, ScoringApp, Served, StrictModel
from tasks.tracking.server import open_client
from tasks.tracking.serving import AliasWatch, open_served
from tasks.tracking.version_files import FILES_TAG
from tests.campaigns import same_answers, served_requests
from tests.registrations import MODEL, add_versions, damage, model_folder

TEXTS = ["the soup and the bread", "goal for the team"]


def send(app, content: bytes, kind: str | None = "application/json", path: str = "/invocations") -> httpx.Response:
    """Send a request to an application in this process."""

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            if path != "/invocations":
                return await client.get(path)
            return await client.post(path, content=content, headers={"content-type": kind} if kind else {})

    return asyncio.run(call())


def ask(app, body: object) -> httpx.Response:
    return send(app, json.dumps(body).encode())


@pytest.fixture(scope="module")
def model(registered_model):
    return mlflow.pyfunc.load_model(str(registered_model))


@pytest.fixture(scope="module")
def mlflows(model):
    """MLflow's own server of the model."""
    return scoring_server.init(model)


@pytest.fixture
def app(model) -> ScoringApp:
    return ScoringApp(Served("models:/toy/1", StrictModel(model)))


class TestAnswers:
    @pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
    def test_other_paths_answer_as_mlflows_do(self, app, mlflows, path):
        ours, theirs = send(app, b"", path=path), send(mlflows, b"", path=path)
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
        assert ours.headers["content-type"] == theirs.headers["content-type"]
        assert ours.headers[VERSION_HEADER] == "models:/toy/1"

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (json.dumps({"inputs": TEXTS, "params": {"top_k": 1, "explain": True}}), "application/json"),
            (json.dumps({"instances": [{"text": text} for text in TEXTS]}), "application/json; charset=utf-8"),
            (json.dumps({"dataframe_split": {"columns": ["text"], "data": [["a"]]}}), "application/json"),
            (json.dumps({"dataframe_records": [{"id": 1, "text": "a"}]}), "application/json"),
            ("id,text\n1,soup\n", "text/csv"),
            ("text", "text/plain"),
            (json.dumps({"inputs": TEXTS}), "application/json; charset=latin-1"),
        ],
    )
    def test_requests_are_answered_as_mlflow_does(self, app, mlflows, content, kind):
        ours, theirs = (send(one, content.encode(), kind) for one in (app, mlflows))
        assert (ours.status_code, ours.text) == (theirs.status_code, theirs.text)
        assert ours.headers[VERSION_HEADER] == "models:/toy/1"

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"topk": 1}, "params: expected top_k, threshold, explain, on_error, got 'topk'"),
            ({"top_k": "secret"}, "params: top_k: expected a long, got a str"),
            ([], "params: expected an object, got a list"),
            ({"top_k": 0}, "params: top_k: expected a whole number of at least 1, got 0"),
        ],
    )
    def test_params_that_the_signature_does_not_have_are_refused(self, app, params, message):
        response = ask(app, {"inputs": TEXTS, "params": params})
        assert (response.status_code, response.json()["message"]) == (400, message)
        assert response.json()["error_code"] == "INVALID_PARAMETER_VALUE"

    def test_mlflow_itself_drops_unknown_params(self, mlflows):
        assert ask(mlflows, {"inputs": TEXTS, "params": {"topk": 1}}).status_code == 200

    @pytest.mark.parametrize(
        ("content", "kind", "status"),
        [
            ('{"inputs": ["a secret', "application/json", 400),
            ('["a secret"]', "application/json", 400),
            ('{"texts": ["a secret"]}', "application/json", 400),
            ('{"inputs": ["a secret", null]}', "application/json", 400),
            ('{"dataframe_split": {"a secret": 1}}', "application/json", 400),
            ("[" * 100_000 + '"a secret"', "application/json", 400),
            ('text\n"a secret', "text/csv", 400),
            ("a secret", "text/plain", 415),
            ('{"inputs": ["a secret"]}', None, 415),
        ],
    )
    def test_no_error_shows_what_was_sent(self, app, content, kind, status):
        response = send(app, content.encode(), kind)
        assert response.status_code == status
        assert "secret" not in response.text
        assert "expected" in response.text or status == 415

    def test_malformed_requests_get_an_answer_or_a_client_error(self, app):
        assert served_requests.play(lambda *sent: send(app, *sent), requests=150, seed=7) == []

    def test_a_request_above_the_limit_is_refused(self, model, monkeypatch):
        monkeypatch.setenv(MAX_BYTES, "30")
        app = ScoringApp(Served("models:/toy/1", StrictModel(model)))
        assert ask(app, {"inputs": ["soup"]}).status_code == 200
        response = ask(app, {"inputs": ["soup and bread for us"]})
        assert response.status_code == 413
        assert response.json()["message"] == f"expected at most 30 bytes ({MAX_BYTES}), got more"

    def test_a_request_that_takes_too_long_is_given_up(self, model, monkeypatch):
        monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "1")
        done = threading.Event()

        class Slow(StrictModel):
            def predict(self, data, params=None):  # noqa: ARG002
                done.wait(20)

        app = ScoringApp(Served("models:/toy/1", Slow(model)))
        app._timeout = 0.05
        threading.Timer(0.3, done.set).start()  # asyncio waits for the thread at its end
        assert ask(app, {"inputs": TEXTS}).status_code == 504

    def test_an_unexpected_error_is_logged_without_the_text(self, model, caplog):
        class Failing:
            metadata = model.metadata

            def predict(self, data, params=None):  # noqa: ARG002
                raise KeyError(data[0])

        response = ask(ScoringApp(Served("models:/toy/1", StrictModel(Failing()))), {"inputs": ["a secret"]})
        assert response.status_code == 500
        assert response.json()["message"].startswith("unexpected error of the model: KeyError")
        assert "raise KeyError" in caplog.text
        assert "secret" not in response.text + caplog.text


def add_changed(number: str, file: str, before: str, after: str, folder: Path) -> str:
    """Register a copy of a version with a changed file, with right digests, and return its number."""
    shutil.copytree(model_folder(number), folder, ignore=shutil.ignore_patterns("__pycache__", "registered_model_meta"))
    source = (folder / file).read_text("utf-8")
    assert before in source
    (folder / file).write_text(source.replace(before, after), "utf-8")
    version = open_client().create_model_version(MODEL, folder.as_uri(), tags={FILES_TAG: write_files_tag(folder)})
    return str(version.version)


@pytest.fixture
def served(registered) -> ScoringApp:
    """The champion, version 1, served; there are versions 2 and 3 with the same files."""
    add_versions("1", copies=2)
    return ScoringApp(open_served(find_alias(MODEL, "champion")))


@pytest.fixture
def watch(served) -> AliasWatch:
    return AliasWatch(served, MODEL, "champion", 0.01)


class TestFollowingTheAlias:
    def test_the_version_that_the_alias_names_answers_next(self, served, watch):
        watch.look()
        assert ask(served, {"inputs": TEXTS}).headers[VERSION_HEADER] == f"models:/{MODEL}/1"
        set_alias(MODEL, "champion", "2")
        watch.look()
        assert ask(served, {"inputs": TEXTS}).headers[VERSION_HEADER] == f"models:/{MODEL}/2"

    def test_a_request_that_has_begun_keeps_its_version(self, served, watch):
        began, go_on, before = threading.Event(), threading.Event(), served.served

        class Waiting(StrictModel):
            def predict(self, data, params=None):
                began.set()
                assert go_on.wait(30)
                return super().predict(data, params)

        served.served = before._replace(model=Waiting(before.model._model))
        found: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: found.append(ask(served, {"inputs": TEXTS})))
        thread.start()
        assert began.wait(30)
        set_alias(MODEL, "champion", "2")
        watch.look()
        assert ask(served, {"inputs": TEXTS}).headers[VERSION_HEADER].endswith("/2")
        go_on.set()
        thread.join()
        assert (found[0].status_code, found[0].headers[VERSION_HEADER]) == (200, f"models:/{MODEL}/1")

    def test_a_version_that_cannot_be_used_is_told_once_and_tried_again_later(
        self, served, watch, monkeypatch, caplog, tmp_path
    ):
        broken = add_changed("1", "model.py", '"score": probabilities[best]', '"score": float("nan")', tmp_path / "m")
        set_alias(MODEL, "champion", broken)
        for _ in range(3):
            watch.look()
        answer = f"models:/{MODEL}/{broken}: answers two texts without a label and a probability of each"
        assert [record.message for record in caplog.records] == [f"{answer}; models:/{MODEL}/1 goes on"]
        assert ask(served, {"inputs": TEXTS}).headers[VERSION_HEADER] == f"models:/{MODEL}/1"
        monkeypatch.setattr(serving, "open_served", lambda version: Served(serving.version_uri(version), None))
        watch.look()
        assert served.served.uri.endswith("/1")
        watch._again = 0.0
        watch.look()
        assert served.served.uri == f"models:/{MODEL}/{broken}"

    def test_no_code_of_a_version_with_changed_files_runs(self, served, watch, caplog):
        damage("1")  # the files of all three versions; the first is loaded already
        set_alias(MODEL, "champion", "2")
        watch.look()
        assert "artifacts/bundle/weights.safetensors was changed after it was registered" in caplog.text
        assert ask(served, {"inputs": TEXTS}).headers[VERSION_HEADER] == f"models:/{MODEL}/1"
        set_alias(MODEL, "champion", "1")
        watch.look()
        caplog.clear()
        set_alias(MODEL, "champion", "2")
        watch.look()
        assert "was changed" in caplog.text

    def test_a_version_without_digests_is_refused(self, served, watch, caplog):
        open_client().delete_model_version_tag(MODEL, "2", FILES_TAG)
        set_alias(MODEL, "champion", "2")
        watch.look()
        assert f"has no tag {FILES_TAG}" in caplog.text
        assert served.served.uri.endswith("/1")

    def test_without_the_alias_and_without_the_registry_the_old_version_goes_on(
        self, served, watch, monkeypatch, caplog
    ):
        open_client().delete_registered_model_alias(MODEL, "champion")
        watch.look()
        assert "no version has this alias any more" in caplog.text

        def fail(*_):
            raise ServiceError("MLflow does not answer")

        monkeypatch.setattr(serving, "find_alias", fail)
        watch.look()
        assert f"MLflow does not answer; models:/{MODEL}/1 goes on" in caplog.text
        assert ask(served, {"inputs": TEXTS}).status_code == 200

    def test_the_thread_survives_what_nobody_expects(self, served, monkeypatch, caplog):
        watch, asked = AliasWatch(served, MODEL, "champion", 0.0), threading.Event()
        calls = iter([MlflowException("odd"), RuntimeError("odder")])

        def fail(*_):
            error = next(calls, None)
            if error is None:
                asked.set()
                threading.Event().wait()  # a thread that ends with the process
            raise error

        monkeypatch.setattr(serving, "find_alias", fail)
        with caplog.at_level(logging.ERROR):
            watch.start()
            assert asked.wait(30)
        assert "RuntimeError: odder" in caplog.text


def test_served_scored_and_in_process_answers_agree(registered, tmp_path):
    draw = random.Random(5)
    words = ["soup", "bread", "goal", "team", "rain", "snow", "wind", "the", "a", "was", "unheard", "!", "7"]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 30))) for _ in range(300)]
    app = ScoringApp(open_served(find_alias(MODEL, "champion")))
    found = same_answers.compare(
        lambda body: ask(app, body).json()["predictions"], load_model(MODEL, "champion"), MODEL, texts, tmp_path
    )
    assert found.pop("served: difference") <= same_answers.TOLERANCE
    assert found.pop("scored: difference") <= same_answers.TOLERANCE
    assert found == {"served: labels": 0, "scored: labels": 0}


def test_a_comparison_of_other_answers_says_so(registered, tmp_path):
    loaded = load_model(MODEL, "champion")
    texts = ["soup and bread", "goal for the team"] * 20
    found = same_answers.compare(lambda body: loaded.classify(body["inputs"][::-1]), loaded, MODEL, texts, tmp_path)
    assert found["served: difference"] > 0.01
    assert found["served: labels"] == 40


def test_a_version_whose_code_fails_is_refused(registered, tmp_path):
    number = add_changed("1", "model.py", "def load_context", "def load_contexts", tmp_path / "m")
    with pytest.raises(UnusableModelError, match=f"models:/{MODEL}/{number}: cannot classify texts: AttributeError"):
        open_served(open_client().get_model_version(MODEL, number))
