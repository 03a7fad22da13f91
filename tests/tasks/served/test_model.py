import ast
import asyncio
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import validate_serving_input
from mlflow.pyfunc import PyFuncModel, scoring_server
from safetensors.torch import load_file

from pipeline_config.schemas import (
    CARD_FILE,
    DOCUMENTS_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    REFERENCE_FILE,
    TRAINING_TEXTS_FILE,
    WEIGHTS_FILE,
)
from tasks import served
from tasks.batches.encoded_split import load_split
from tasks.evaluation.evaluate_classifier import load_network, predict_splits, tabulate_splits
from tasks.served import model as serving_model
from tasks.served.attribution import attribute_tokens
from tasks.served.network import TextClassifier
from tests.campaigns import served_requests

CARRIED = (
    *(
        "attribution",
        "bigrams",
        "inputs",
        "languages",
        "linear",
        "lstm",
        "network",
        "pooling",
        "text",
        "threads",
        "tokenizers",
    ),
    "word_breaks",
)
LABELS = ["food", "météo", "sport"]
TEXTS = ["the soup and the bread", "goal for the team", "Rain, again!", "we"]

LOAD_ALONE = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("flows", "tasks", "pipeline_config"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Blocker())
import mlflow
answers = mlflow.pyfunc.load_model(sys.argv[1]).predict(json.loads(sys.argv[2]))
known = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"answers": answers, "project": sorted(known & {"flows", "tasks", "pipeline_config"})}))
"""


@pytest.fixture(scope="module")
def model(registered_model) -> PyFuncModel:
    return mlflow.pyfunc.load_model(str(registered_model))


@pytest.fixture
def serving(model):
    """The Python model itself, free to be changed."""
    return copy.copy(model.unwrap_python_model())


@pytest.fixture
def network_alone(serving):
    """The Python model without its linear model, free to be changed."""
    serving.linear = None
    return serving


def probabilities_of(answers: list[dict]) -> np.ndarray:
    return np.array([[answer["probabilities"][label] for label in LABELS] for answer in answers])


def renew_digest(path: Path) -> None:
    """Give a changed file of a bundle its new digest in the description."""
    description = json.loads((path.parent / "model.json").read_text("utf-8"))
    description["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "model.json").write_text(json.dumps(description), "utf-8")


class TestAnswers:
    @pytest.mark.parametrize("temperature", [0.5, 2.5])
    def test_a_temperature_gives_the_probabilities_that_the_evaluation_writes(self, toy, network_alone, temperature):
        network, splits = load_network(toy.classifier), {"test": load_split(toy.buckets, "test")}
        expected = tabulate_splits(splits, predict_splits(network, splits), LABELS, temperature).to_pandas()
        documents = toy.documents.read_table(DOCUMENTS_FILE).to_pandas().set_index("doc_id")
        network_alone.temperature = temperature
        answers = network_alone.predict(None, documents.loc[expected["doc_id"], ["text"]])
        columns = [f"p_{label}" for label in LABELS]
        np.testing.assert_allclose(probabilities_of(answers), expected[columns].to_numpy(), rtol=0, atol=1e-6)

    def test_probabilities_are_those_of_the_trained_network_on_the_test_split(self, toy, model):
        documents = toy.documents.read_table(DOCUMENTS_FILE).to_pandas()
        expected = toy.evaluation.read_table(PREDICTIONS_FILE).to_pandas()
        expected = expected[expected["split"] == "test"]
        texts = documents.set_index("doc_id").loc[expected["doc_id"], "text"].tolist()
        answers = model.predict(texts)
        assert len(answers) == 24
        columns = [f"p_{label}" for label in LABELS]
        np.testing.assert_allclose(probabilities_of(answers), expected[columns].to_numpy(), rtol=0, atol=1e-6)
        assert [answer["label"] for answer in answers] == expected["prediction"].tolist()

    def test_label_and_score_are_those_of_the_highest_probability(self, model):
        for answer in model.predict(TEXTS):
            assert list(answer["probabilities"]) == LABELS
            assert sum(answer["probabilities"].values()) == pytest.approx(1.0)
            assert answer["score"] == max(answer["probabilities"].values())
            assert answer["probabilities"][answer["label"]] == answer["score"]

    @pytest.mark.parametrize(
        "texts",
        [pd.Series(TEXTS), pd.DataFrame({"text": TEXTS}), pd.DataFrame({"any name": TEXTS}), np.array(TEXTS)],
        ids=["Series", "DataFrame", "another column", "array"],
    )
    def test_series_and_tables_are_answered_as_lists_are(self, model, texts):
        assert model.predict(texts) == model.predict(TEXTS)

    @pytest.mark.parametrize(
        "text", ["", " \t\n", "zyzzyva", "!!!", "\U0001f600 日本語", "\x00", "Cafe\u0301", "<pad> <unk>", "soup " * 500]
    )
    def test_odd_texts_get_an_answer(self, model, text):
        (answer,) = model.predict([text])
        assert answer["label"] in LABELS
        assert 1 / 3 <= answer["score"] <= 1

    def test_a_text_without_tokens_is_one_unknown_word(self, model):
        assert model.predict([""]) == model.predict(["zyzzyva"])

    @pytest.mark.parametrize("token", ["<pad>", "<unk>"])
    def test_a_special_token_in_a_text_is_a_word_like_any_other(self, network_alone, token):
        assert network_alone.predict(None, [token]) == network_alone.predict(None, ["zyzzyva"])

    def test_composed_and_decomposed_letters_are_the_same(self, model):
        assert model.predict(["cafe\u0301"]) == model.predict(["café"])
        assert model.predict(["café"]) != model.predict(["zyzzyva"])

    def test_batch_mates_and_order_do_not_change_an_answer(self, model):
        alone = np.concatenate([probabilities_of(model.predict([text])) for text in TEXTS])
        many = probabilities_of(model.predict((TEXTS * 100)[::-1]))[::-1]  # more than a batch
        assert len(many) > serving_model.BATCH
        np.testing.assert_allclose(many, np.tile(alone, (100, 1)), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("side", "kept"), [("head", "soup bread"), ("tail", "goal team"), ("head_tail", "soup team")]
    )
    def test_the_network_reads_the_configured_end_of_long_texts(self, network_alone, side, kept):
        network_alone.text = {**network_alone.text, "truncation": side, "max_length": 2}
        long, short = network_alone.predict(None, pd.DataFrame({"text": ["soup bread rain goal team", kept]}))
        np.testing.assert_allclose(probabilities_of([long]), probabilities_of([short]), rtol=0, atol=1e-6)
        assert long["label"] != network_alone.predict(None, pd.DataFrame({"text": ["rain"]}))[0]["label"]

    def test_without_a_linear_model_answers_are_the_softmax_of_the_networks_logits(self, toy, network_alone):
        network = TextClassifier(**toy.classifier.read_json(MODEL_FILE)["architecture"]).eval()
        network.load_state_dict(load_file(toy.classifier.path(WEIGHTS_FILE)))
        ids = [network_alone.token_ids["soup"], network_alone.token_ids["the"]]
        logits = network(torch.tensor([ids]), torch.tensor([2])) / network_alone.temperature
        expected = logits.softmax(dim=1).detach().numpy()
        (answer,) = network_alone.predict(None, pd.DataFrame({"text": ["Soup  THE"]}))
        np.testing.assert_allclose(probabilities_of([answer]), expected, rtol=0, atol=1e-6)

    def test_without_a_network_answers_are_the_softmax_of_the_linear_models_logits(self, serving):
        serving.network = None
        (answer,) = serving.predict(None, pd.DataFrame({"text": ["Soup  THE"]}))
        logits = serving.linear.answer_one(["soup", "the"]) / serving.linear_temperature
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(probabilities_of([answer])[0], expected, rtol=0, atol=1e-9)
        (explained,) = serving.predict(None, ["Soup  THE"], {"explain": True})
        assert [part["token"] for part in explained["tokens"]] == ["soup", "the"]


NOT_TEXT = [
    ([1, 2], "row 0: expected a string, got a number"),
    ([1.5], "row 0: expected a string, got a number"),
    ([True], "row 0: expected a string, got a boolean"),
    ([None], "row 0: expected a string, got null"),
    (["fine", None], "row 1: expected a string, got null"),
    (["fine", {"deep": 1}], "row 1: expected a string, got an object"),
]


class TestRefusals:
    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            *NOT_TEXT,
            (["fine", "too", 7], "row 2: expected a string, got a number"),
            ([b"bytes"], "row 0: expected a string, got bytes"),
            (pd.DataFrame({"text": [3]}), "row 0: expected a string, got a number"),
            (pd.DataFrame({"text": ["fine", None]}), "row 1: expected a string, got null"),
            (["fine", "\ud800"], "row 1: expected Unicode text, got a string with a lone surrogate"),
            ([], "expected at least one text, got none"),
            ({}, "expected a column 'text', or a table of one column, got no columns"),
            ([["a", "b"]], "expected one text in each row, got rows of 2 values"),
            ({"a": ["x"], "b": ["y", "z"]}, "expected columns of equal length, got 1 and 2 rows"),
        ],
    )
    def test_the_first_row_that_is_not_a_string_is_named(self, model, inputs, message):
        with pytest.raises(MlflowException) as caught:
            model.predict(inputs)
        assert caught.value.message == message
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


SEVERAL = pd.DataFrame({"id": ["7"], "soup and bread, was it": ["no"]})


class TestColumns:
    @pytest.mark.parametrize(
        "inputs",
        [
            pd.DataFrame({"id": [1, 2, 3, 4], "text": TEXTS}),
            {"id": [1, 2, 3, 4], "text": TEXTS},
            {"any": np.array(TEXTS)},
            [{"id": 1, "text": text} for text in TEXTS],
            [[text] for text in TEXTS],
            np.array([[text] for text in TEXTS]),
            tuple(TEXTS),
        ],
        ids=["table", "dict", "one column", "records", "rows", "matrix", "tuple"],
    )
    def test_the_text_is_found_by_its_name_whatever_stands_before_it(self, model, inputs):
        assert model.predict(inputs) == model.predict(TEXTS)

    def test_several_columns_without_it_are_refused_and_no_text_is_shown(self, model):
        with pytest.raises(MlflowException) as caught:
            model.predict(SEVERAL)
        assert caught.value.message == (
            "expected a column 'text', or a table of one column, got 2 columns: 'id', (no plain name)"
        )

    def test_the_columns_of_the_models_corpus_are_joined_as_the_corpus_was(self, serving):
        serving.reading = {"text_column": ["title", "body"], "text_joiner": " "}
        table = pd.DataFrame({"id": ["a", "b", "c"], "body": ["bread", "rain", " "], "title": ["soup", None, "goal"]})
        expected = serving.predict(None, ["soup bread", "rain", "goal"])
        assert serving.predict(None, table) == expected
        (alone,) = serving.predict(None, pd.DataFrame({"id": [1], "text": ["rain"]}))
        np.testing.assert_allclose(probabilities_of([alone]), probabilities_of(expected[1:2]), rtol=0, atol=1e-6)
        with pytest.raises(MlflowException, match="expected the columns 'title' and 'body', or a column 'text', or a"):
            serving.predict(None, table[["id", "title"]])
        with pytest.raises(MlflowException, match="row 1: expected a string, got null"):
            serving.predict(None, pd.DataFrame({"title": ["soup", None], "body": ["x", None]}))

    def test_a_column_that_is_there_twice_is_refused(self, model):
        with pytest.raises(MlflowException, match="expected one column 'text', got 2"):
            model.predict(pd.DataFrame([["a", "b"]], columns=["text", "text"]))

    def test_a_table_without_rows_has_no_answers(self, model):
        assert model.predict(pd.DataFrame({"text": []})) == []


class TestParams:
    def test_one_bad_row_does_not_spoil_the_others(self, model, serving):
        texts = [TEXTS[0], None, 7, "x" * 11, TEXTS[1]]
        serving.limits = serving.limits._replace(characters=10)
        expected = model.predict([TEXTS[0], TEXTS[1]])
        assert [answer["error"] for answer in model.predict(texts, params={"on_error": "row"})] == [
            None,
            "expected a string, got null",
            "expected a string, got a number",
            None,
            None,
        ]
        serving.limits = serving.limits._replace(characters=25)
        answers = serving.predict(None, [TEXTS[0], None, "x" * 26, TEXTS[1]], {"on_error": "row"})
        assert answers[0] == {**expected[0], "error": None}
        assert answers[3] == {**expected[1], "error": None}
        assert answers[1] == {
            "label": None, "score": None, "probabilities": {}, "error": "expected a string, got null"
        }  # fmt: skip
        assert answers[2]["error"] == "expected at most 25 characters (GLOVEFLOW_SERVING_MAX_CHARACTERS), got 26"

    def test_top_k_keeps_the_highest_probabilities_in_order(self, model):
        for whole, best in zip(model.predict(TEXTS), model.predict(TEXTS, params={"top_k": 2}), strict=True):
            ranked = sorted(whole["probabilities"].items(), key=lambda item: -item[1])
            assert list(best["probabilities"].items()) == ranked[:2]
        assert model.predict(TEXTS, params={"top_k": 9})[0].keys() == model.predict(TEXTS)[0].keys()

    def test_an_answer_below_the_threshold_is_marked(self, model):
        scores = [answer["score"] for answer in model.predict(TEXTS)]
        middle = sorted(scores)[2]  # equal to one of the scores, which is not below it
        answers = model.predict(TEXTS, params={"threshold": middle})
        assert [answer["abstained"] for answer in answers] == [score < middle for score in scores]
        assert sum(answer["abstained"] for answer in answers) == 2

    def test_weights_are_those_of_the_attribution(self, toy, model, serving):
        network = load_network(toy.classifier)
        (answer, empty) = model.predict(["Soup for the team!", ""], params={"explain": True})
        tokens = ["soup", "for", "the", "team", "!"]
        ids = [serving.token_ids.get(token, serving.text["unk_idx"]) for token in tokens]
        target = LABELS.index(answer["label"])
        expected = np.array(attribute_tokens(network, ids, target)) / serving.temperature
        expected += np.array(serving.linear.attribute(tokens, target)) / serving.linear_temperature
        assert [part["token"] for part in answer["tokens"]] == tokens
        np.testing.assert_allclose([part["weight"] for part in answer["tokens"]], expected, atol=1e-6)
        assert empty["tokens"] == []

    def test_weights_are_only_of_tokens_that_the_network_reads(self, serving):
        serving.text = {**serving.text, "truncation": "head_tail", "max_length": 2}
        (answer,) = serving.predict(None, ["soup bread rain goal team"], {"explain": True})
        assert [part["token"] for part in answer["tokens"]] == ["soup", "team"]

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"top_k": 0}, "params: top_k: expected a whole number of at least 1, got 0"),
            ({"threshold": 1.5}, "params: threshold: expected a number from 0 to 1, got 1.5"),
            ({"threshold": float("nan")}, "params: threshold: expected a number from 0 to 1, got nan"),
            ({"on_error": "skip"}, "params: on_error: expected row or request, got 'skip'"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused(self, model, params, message):
        with pytest.raises(MlflowException) as caught:
            model.predict(TEXTS, params=params)
        assert caught.value.message == message

    def test_an_unknown_one_is_refused_by_the_model_but_dropped_by_mlflow(self, model, serving):
        with pytest.raises(MlflowException, match="params: expected top_k, threshold, explain, on_error, got 'topk'"):
            serving.predict(None, TEXTS, {"topk": 1})
        assert model.predict(TEXTS, params={"topk": 1}) == model.predict(TEXTS)

    @pytest.mark.parametrize("params", [{"top_k": "two"}, {"explain": 1}, {"threshold": "high"}, {"on_error": 3}])
    def test_the_types_are_in_the_signature(self, model, params):
        with pytest.raises(MlflowException, match="Invalid parameters found"):
            model.predict(TEXTS, params=params)


class TestLimits:
    def test_they_come_from_the_environment(self, serving, monkeypatch):
        assert serving.inputs.read_limits() == (100_000, 1_000_000, 20_000_000, 100)
        monkeypatch.setenv("GLOVEFLOW_SERVING_MAX_ROWS", "3")
        assert serving.inputs.read_limits().rows == 3
        monkeypatch.setenv("GLOVEFLOW_SERVING_MAX_ROWS", "none")
        with pytest.raises(ValueError, match="MAX_ROWS: expected a whole number of at least 1, got 'none'"):
            serving.inputs.read_limits()

    @pytest.mark.parametrize(
        ("limit", "params", "message"),
        [
            ({"rows": 3}, {}, r"at most 3 rows in a request \(GLOVEFLOW_SERVING_MAX_ROWS\), got 4"),
            ({"tokens": 13}, {}, r"at most 13 tokens in a request \(GLOVEFLOW_SERVING_MAX_TOKENS\), got 14"),
            ({"explained": 3}, {"explain": True}, "at most 3 texts with explain in a request .*_EXPLAINED.*, got 4"),
        ],
    )
    def test_a_request_above_one_is_refused_and_one_at_it_is_answered(self, serving, limit, params, message):
        ((name, most),) = limit.items()
        serving.limits = serving.limits._replace(**limit)
        with pytest.raises(MlflowException, match=message):
            serving.predict(None, TEXTS, {**params, "on_error": "row"})
        serving.limits = serving.limits._replace(**{name: most + 1})
        assert len(serving.predict(None, TEXTS, params)) == 4


class TestEvaluation:
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of MLflow's use of pandas
    def test_mlflow_evaluates_its_labels(self, model, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        table = pd.DataFrame({"text": TEXTS, "truth": [answer["label"] for answer in model.predict(TEXTS)]})
        table.loc[0, "truth"] = next(label for label in LABELS if label != table.loc[0, "truth"])
        before = mlflow.get_tracking_uri()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which MLflow sets too, for the rest of the process
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'evaluated.db'}")
        try:
            with mlflow.start_run():
                result = mlflow.models.evaluate(
                    lambda texts: [answer["label"] for answer in model.predict(texts)],
                    table,
                    targets="truth",
                    model_type="classifier",
                )
        finally:
            mlflow.set_tracking_uri(before)
        assert result.metrics["accuracy_score"] == 0.75

    def test_mlflow_predicts_with_it_in_this_environment(self, registered_model, model, tmp_path):
        output = tmp_path / "answers.json"
        mlflow.models.predict(str(registered_model), {"text": TEXTS}, env_manager="local", output_path=str(output))
        assert json.loads(output.read_text()) == {"predictions": model.predict(TEXTS)}

    @pytest.mark.filterwarnings("ignore:.*validate_serving_input.* is deprecated:FutureWarning")
    def test_mlflow_can_serve_its_own_example(self, registered_model, model):
        example = (registered_model / "serving_input_example.json").read_text()
        assert validate_serving_input(str(registered_model), example) == model.predict(["what a fine day"])


@pytest.fixture(scope="module")
def post(model):
    """Post a body to the model server, which runs in this process."""
    server = scoring_server.init(model)

    async def send(content: bytes, kind: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=server)
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            return await client.post("/invocations", content=content, headers={"content-type": kind})

    return lambda content, kind: asyncio.run(send(content, kind))


@pytest.fixture(scope="module")
def invoke(post):
    return lambda body: post(json.dumps(body).encode(), "application/json")


class TestServer:
    @pytest.mark.parametrize(
        "body",
        [
            {"inputs": TEXTS},
            {"inputs": {"text": TEXTS}},
            {"inputs": [{"id": 1, "text": text} for text in TEXTS]},
            {"instances": TEXTS},
            {"instances": [{"text": text, "id": 1} for text in TEXTS]},
            {"dataframe_split": {"columns": ["id", "text"], "data": [[1, text] for text in TEXTS]}},
            {"dataframe_split": {"data": [[text] for text in TEXTS]}},
            {"dataframe_records": [{"id": 1, "text": text} for text in TEXTS]},
        ],
        ids=lambda body: " ".join(body),
    )
    def test_it_answers_as_the_model_does(self, invoke, model, body):
        response = invoke(body)
        assert response.status_code == 200
        assert response.json() == {"predictions": model.predict(TEXTS)}

    def test_it_answers_csv(self, post, model):
        table = pd.DataFrame({"id": range(4), "text": TEXTS}).to_csv(index=False)
        assert post(table.encode(), "text/csv").json() == {"predictions": model.predict(TEXTS)}

    def test_params_reach_the_model(self, invoke, model):
        params = {"top_k": 1, "threshold": 0.99, "explain": True, "on_error": "row"}
        body = {"dataframe_split": {"columns": ["text"], "data": [["soup"], [None], [7]]}, "params": params}
        response = invoke(body)
        assert response.status_code == 200
        assert response.json() == {"predictions": model.predict(pd.DataFrame({"text": ["soup", None, 7]}), params)}

    @pytest.mark.parametrize(("inputs", "message"), NOT_TEXT)
    def test_rows_that_are_not_strings_are_a_client_error(self, invoke, inputs, message):
        response = invoke({"inputs": inputs})
        assert response.status_code == 400
        assert response.json()["error_code"] == "INVALID_PARAMETER_VALUE"
        assert response.json()["message"] == message

    @pytest.mark.parametrize(
        "body",
        [
            {"inputs": ["a secret", None]},
            {"dataframe_records": [{"a": "a secret", "b": "x"}]},
            {"dataframe_split": {"columns": ["the first line, a secret", "b"], "data": [["a", "b"]]}},
            {"inputs": ["a secret"], "params": {"top_k": 0}},
            {"inputs": ["a secret"] * 101, "params": {"explain": True}},
        ],
        ids=["row", "columns", "names", "params", "limit"],
    )
    def test_an_error_of_the_model_shows_no_text(self, invoke, body):
        response = invoke(body)
        assert response.status_code == 400
        assert "secret" not in response.text

    def test_an_unusable_body_is_a_client_error(self, invoke):
        assert invoke({"texts": TEXTS}).status_code == 400

    def test_malformed_requests_get_an_answer_or_a_client_error(self, post):
        assert served_requests.play(post, requests=150, seed=5) == []


class TestFiles:
    def test_they_are_code_json_text_and_safetensors(self, registered_model):
        files = {str(path.relative_to(registered_model)) for path in registered_model.rglob("*") if path.is_file()}
        files = {name for name in files if not name.startswith("__pycache__")}  # MLflow's, of the code that it runs
        assert files == {
            "MLmodel",
            "conda.yaml",
            "python_env.yaml",
            "requirements.txt",
            "model.py",
            "input_example.json",
            "serving_input_example.json",
            "artifacts/bundle/model.json",
            "artifacts/bundle/vocabulary.json",
            "artifacts/bundle/weights.safetensors",
            "artifacts/bundle/linear.safetensors",
            f"artifacts/bundle/{CARD_FILE}",
            f"artifacts/bundle/{TRAINING_TEXTS_FILE}",
            f"artifacts/bundle/{REFERENCE_FILE}",
            *(f"artifacts/bundle/{name}.py" for name in CARRIED),
        }

    def test_none_of_them_is_a_pickle(self, registered_model):
        starts = {path.name: path.read_bytes()[:2] for path in registered_model.rglob("*") if path.is_file()}
        pickled = {name for name, start in starts.items() if start[:1] == b"\x80" or start == b"PK"}
        assert pickled == set()

    def test_carried_code_is_the_projects(self, registered_model):
        here = Path(serving_model.__file__).parent
        bundle = registered_model / "artifacts" / "bundle"
        assert (registered_model / "model.py").read_bytes() == (here / "model.py").read_bytes()
        for name in CARRIED:
            assert (bundle / f"{name}.py").read_bytes() == (here / f"{name}.py").read_bytes()

    def test_requirements_are_pinned(self, registered_model):
        lines = (registered_model / "requirements.txt").read_text().split()
        assert {line.partition("==")[0] for line in lines} == {
            "mlflow",
            "torch",
            "safetensors",
            "numpy",
            "scipy",
            "pandas",
            "pyarrow",
        }
        assert f"torch=={torch.__version__.partition('+')[0]}" in lines


class TestIndependence:
    def test_it_loads_without_the_project_and_with_pickle_forbidden(self, registered_model, model, tmp_path):
        done = subprocess.run(
            [sys.executable, "-I", "-c", LOAD_ALONE, str(registered_model), json.dumps(TEXTS)],
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["project"] == []
        np.testing.assert_allclose(
            probabilities_of(result["answers"]), probabilities_of(model.predict(TEXTS)), rtol=0, atol=1e-6
        )

    def test_versions_in_one_process_do_not_share_code(self, registered_model, model, tmp_path):
        before = model.predict(TEXTS)
        other = tmp_path / "other"
        shutil.copytree(registered_model, other)
        network = other / "artifacts" / "bundle" / "network.py"
        source = network.read_text("utf-8")
        assert source.count("return logits\n") == 1  # those of the deep part, which is all in this model
        network.write_text(source.replace("return logits\n", "return logits * 0\n"), "utf-8")
        renew_digest(network)
        code = other / "model.py"
        code.write_text(code.read_text("utf-8").replace('"score": ', '"certainty": '), "utf-8")

        changed = mlflow.pyfunc.load_model(str(other))
        changed.unwrap_python_model().linear = None
        np.testing.assert_allclose(probabilities_of(changed.predict(TEXTS)), 1 / 3)
        assert set(changed.predict(TEXTS)[0]) == {"label", "certainty", "probabilities"}
        assert model.predict(TEXTS) == before
        assert mlflow.pyfunc.load_model(str(registered_model)).predict(TEXTS) == before

    def test_a_function_that_the_model_names_is_imported_only_if_this_machine_lists_it(
        self, registered_model, tmp_path, monkeypatch
    ):
        other, marker = tmp_path / "other", tmp_path / "ran"
        shutil.copytree(registered_model, other)
        description = other / "artifacts" / "bundle" / "model.json"
        values = json.loads(description.read_text("utf-8"))
        values["text"]["tokenizer"] = "served_tokens:split"
        description.write_text(json.dumps(values), "utf-8")
        source = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nsplit = str.split\n"
        (tmp_path / "served_tokens.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(
            ValueError, match="'served_tokens:split' is a function, and GLOVEFLOW_TOKENIZERS does not list"
        ):
            mlflow.pyfunc.load_model(str(other))
        assert not marker.exists()
        monkeypatch.setenv("GLOVEFLOW_TOKENIZERS", "served_tokens:split")
        assert len(mlflow.pyfunc.load_model(str(other)).predict(TEXTS)) == len(TEXTS)
        assert marker.exists()


class TestCheckedFiles:
    """The model alone, as MLflow's server loads it, without the project."""

    @pytest.fixture
    def bundle(self, registered_model, tmp_path):
        shutil.copytree(registered_model, tmp_path / "model")
        return tmp_path / "model" / "artifacts" / "bundle"

    @staticmethod
    def refusal(bundle: Path) -> str:
        with pytest.raises(MlflowException) as caught:
            mlflow.pyfunc.load_model(str(bundle.parent.parent))
        return caught.value.message

    @pytest.mark.parametrize(
        "name", ["vocabulary.json", "weights.safetensors", *(f"{module}.py" for module in CARRIED)]
    )
    def test_a_changed_or_missing_file_is_refused_by_name(self, bundle, name):
        content = bytearray((bundle / name).read_bytes())
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content)
        expected = f"{bundle / name} was changed after the model was registered; register the model again"
        assert self.refusal(bundle) == expected
        (bundle / name).unlink()
        assert self.refusal(bundle) == f"{bundle / name} is missing; register the model again"

    @pytest.mark.parametrize("name", ["re.py", "lstm/__init__.py", "__pycache__/lstm.cpython-311.pyc"])
    def test_an_added_file_is_refused_by_name(self, bundle, name):
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).touch()
        assert self.refusal(bundle).startswith(f"{bundle / name} was added")

    def test_an_added_link_to_a_directory_is_refused(self, bundle, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (bundle / "lstm").symlink_to(tmp_path / "elsewhere")
        assert self.refusal(bundle).startswith(f"{bundle / 'lstm'} was added")

    def test_code_that_was_changed_does_not_run(self, bundle, tmp_path):
        with (bundle / "text.py").open("a") as file:
            file.write(f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
        assert "text.py was changed" in self.refusal(bundle)
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", sorted(Path(served.__file__).parent.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_module_of_a_registered_model_imports_only_its_siblings_from_the_project(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + str(node.module).partition(".")[0])
    assert imported
    assert not imported & {"flows", "tasks", "pipeline_config"}
    assert all((path.parent / f"{name[1:]}.py").exists() for name in imported if name.startswith("."))
