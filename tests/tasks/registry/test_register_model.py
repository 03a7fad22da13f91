import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from sklearn.metrics import accuracy_score, f1_score

from pipeline_config.errors import ServiceError
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, METRICS_FILE, PREDICTIONS_FILE, WEIGHTS_FILE
from pipeline_config.settings import PipelineConfig
from tasks.registry.bundle import SERVED_MODEL, build_bundle, pip_requirements
from tasks.registry.gate import pass_gate
from tasks.registry.register_model import Registration, _tags, describe, register_model
from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output
from tasks.tokens.vocabulary import Vocabulary
from tasks.tracking import models
from tasks.tracking.models import find_alias, load_model
from tasks.tracking.runs import track_run
from tasks.tracking.server import open_client
from tasks.training.train_classifier import train_classifier

MODEL = "gloveflow-toy"


@pytest.fixture
def registered(artifacts, registered_root, toy_root):
    """The small pipeline with its classifier registered as version 1, in this test's own store and database."""
    shutil.copytree(registered_root / "store", artifacts / "store")
    (artifacts / "mlflow").mkdir()
    shutil.copyfile(registered_root / "mlflow" / "mlflow.db", artifacts / "mlflow" / "mlflow.db")
    open_client()  # lets MLflow's own functions find the database, too
    return toy_root[1]


def gated(config: PipelineConfig, **changes) -> PipelineConfig:
    return config.model_copy(update={"registration": config.registration.model_copy(update=changes)})


def register(toy, *, classifier=None, macro_f1=None, documents=None, config=None) -> Registration:
    """Register as the pipeline does, with another classifier, test score, corpus or configuration."""
    facts = toy.evaluation.facts if macro_f1 is None else {**toy.evaluation.facts, "lstm_macro_f1": macro_f1}
    config = config or toy.config
    with track_run(config, name="run", tags={}) as run:
        return register_model.fn(
            run,
            classifier=classifier or toy.classifier,
            vocabulary=toy.vocabulary,
            evaluation=toy.evaluation.model_copy(update={"facts": facts}),
            documents=documents or toy.documents,
            config=config,
        )


def train_another(toy) -> ArtifactRef:
    config = toy.config
    return train_classifier.fn(
        toy.buckets, toy.vocabulary, toy.embeddings, config.embeddings.dim, config.bucketing.batch_size,
        config.model, config.training.model_copy(update={"epochs": 1}), config.seed + 1,
    )  # fmt: skip


def change_documents(toy, change) -> ArtifactRef:
    """Commit documents of which `change` has replaced the labels of the test split."""
    rows = [
        {**row, "label": change(row["label"])} if row["split"] == "test" else row
        for row in toy.documents.read_table(DOCUMENTS_FILE).to_pylist()
    ]
    table = pa.Table.from_pylist(rows, schema=DOCUMENTS)
    return commit_output(
        "ingest_corpus", "f" * 32, lambda output: output.write_table(DOCUMENTS_FILE, table, DOCUMENTS)
    )[0]


def versions() -> list[int]:
    return sorted(int(v.version) for v in open_client().search_model_versions(f"name = '{MODEL}'"))


def alias(name: str) -> str:
    return str(find_alias(MODEL, name).version)


class TestRegistering:
    @pytest.mark.usefixtures("registered")
    def test_the_first_version_takes_both_aliases(self):
        assert versions() == [1]
        assert (alias("champion"), alias("challenger")) == ("1", "1")

    def test_a_version_tells_its_scores_corpus_content_and_run(self, registered):
        tags = find_alias(MODEL, "champion").tags
        facts = registered.evaluation.facts
        for name in ("lstm_macro_f1", "lstm_accuracy", "baseline_macro_f1", "baseline_accuracy"):
            assert float(tags[f"test_{name}"]) == facts[name]
        assert tags["gloveflow.documents_digest"] == registered.documents.digest
        assert len(tags["gloveflow.model_digest"]) == 64
        assert open_client().get_run(tags["gloveflow.run_id"]).info.run_name == "toy run"

    def test_its_run_shows_the_model_with_its_scores(self, registered):
        version = find_alias(MODEL, "champion")
        run = open_client().get_run(version.tags["gloveflow.run_id"])
        assert [output.model_id for output in run.outputs.model_outputs] == [models.model_id_of(version)]
        assert run.data.metrics["test_lstm_macro_f1"] == registered.evaluation.facts["lstm_macro_f1"]

    def test_loaded_by_its_alias_it_gives_the_probabilities_of_the_trained_network(self, registered):
        predictions = registered.evaluation.read_table(PREDICTIONS_FILE).to_pandas()
        test = predictions[predictions["split"] == "test"]
        texts = registered.documents.read_table(DOCUMENTS_FILE).to_pandas().set_index("doc_id")["text"]
        for uri in ("models:/gloveflow-toy@champion", "models:/gloveflow-toy/1"):
            answers = mlflow.pyfunc.load_model(uri).predict(texts[test["doc_id"]].tolist())
            got = [list(answer["probabilities"].values()) for answer in answers]
            expected = test[["p_food", "p_météo", "p_sport"]].to_numpy()
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)

    def test_the_same_model_keeps_its_version_and_is_shown_on_its_second_run_too(self, registered):
        again = register(registered)
        assert (again.version, again.created, again.promoted) == ("1", False, True)
        assert again.reason == "champion: has been it already"
        assert versions() == [1]
        model_id = models.model_id_of(find_alias(MODEL, "champion"))
        runs = open_client().search_runs([open_client().get_experiment_by_name("gloveflow/toy").experiment_id])
        assert [[output.model_id for output in run.outputs.model_outputs] for run in runs] == [[model_id]] * 2

    def test_registering_twice_in_one_run_links_the_model_once(self, registered):
        with track_run(registered.config, name="run", tags={}) as run:
            for _ in range(2):
                register_model.fn(
                    run, registered.classifier, registered.vocabulary, registered.evaluation, registered.documents,
                    registered.config,
                )  # fmt: skip
        assert len(open_client().get_run(run.run_id).outputs.model_outputs) == 1

    def test_a_different_model_becomes_version_2_and_challenger(self, registered):
        result = register(registered, classifier=train_another(registered), macro_f1=0.0)
        assert (result.model, result.version, result.created, result.promoted) == (MODEL, "2", True, False)
        assert versions() == [1, 2]
        assert (alias("champion"), alias("challenger")) == ("1", "2")

    def test_a_better_model_becomes_champion(self, registered):
        result = register(registered, classifier=train_another(registered), macro_f1=1.0)
        assert (result.version, result.promoted) == ("2", True)
        assert (alias("champion"), alias("challenger")) == ("2", "2")

    def test_another_tokenizer_setting_is_another_model(self, registered):
        tokenization = registered.config.tokenization.model_copy(update={"tokenizer": "whitespace"})
        config = registered.config.model_copy(update={"tokenization": tokenization})
        assert register(registered, config=config).version == "2"

    def test_other_serving_code_is_another_model(self, registered, monkeypatch, tmp_path):
        code = tmp_path / "model.py"
        code.write_text(SERVED_MODEL.read_text("utf-8").replace("BATCH = 256", "BATCH = 128"), "utf-8")
        monkeypatch.setattr("tasks.registry.register_model.SERVED_MODEL", code)
        assert register(registered).version == "2"

    def test_a_version_whose_files_are_gone_is_registered_anew(self, registered):
        config = registered.config.model_copy(update={"name": "fleeting"})
        assert register(registered, config=config).version == "1"
        files = Path(
            open_client().get_experiment_by_name("gloveflow/fleeting").artifact_location.removeprefix("file://")
        )
        shutil.rmtree(files)
        again = register(registered, config=config)
        assert (again.version, again.created, again.promoted) == ("2", True, True)
        assert load_model("gloveflow-fleeting", "champion")(["soup"])

    def test_a_registration_that_broke_off_is_completed_by_the_next_one(self, registered, monkeypatch):
        def fail(*_: object) -> None:
            raise ServiceError("gone")

        other = train_another(registered)
        with monkeypatch.context() as patch:
            patch.setattr(models, "set_alias", fail)
            with pytest.raises(ServiceError, match="gone"):
                register(registered, classifier=other, macro_f1=1.0)
        assert (versions(), alias("champion")) == ([1, 2], "1")
        result = register(registered, classifier=other, macro_f1=1.0)
        assert (result.version, result.created, result.promoted) == ("2", False, True)
        assert (alias("champion"), alias("challenger")) == ("2", "2")

    def test_a_model_that_cannot_be_stored_leaves_no_version(self, registered, monkeypatch):
        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(MlflowClient, "log_model_artifacts", fail)
        with pytest.raises(OSError, match="disk full"):
            register(registered, classifier=train_another(registered))
        assert versions() == [1]
        experiment = open_client().get_experiment_by_name("gloveflow/toy").experiment_id
        models = open_client().search_logged_models([experiment])
        assert sorted(str(model.status) for model in models) == ["FAILED", "READY"]


class TestBundle:
    def test_same_inputs_give_the_same_bytes(self, toy, tmp_path):
        for name in ("one", "two"):
            build_bundle(tmp_path / name, toy.classifier, toy.vocabulary, toy.config)
        one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
        assert one == two
        assert one["weights.safetensors"] == toy.classifier.path(WEIGHTS_FILE).read_bytes()

    def test_description_holds_what_scoring_needs(self, toy, tmp_path):
        build_bundle(tmp_path / "bundle", toy.classifier, toy.vocabulary, toy.config)
        description = json.loads((tmp_path / "bundle" / "model.json").read_text("utf-8"))
        assert description["text"] == {
            "tokenizer": "basic_english", "tokenizer_version": "basic_english 1", "max_length": 12,
            "truncation": "head", "padding_idx": 0, "unk_idx": 1, "specials": 2,
        }  # fmt: skip
        assert description["labels"] == ["food", "météo", "sport"]
        assert description["vocabulary_digest"] == Vocabulary.read(toy.vocabulary).digest
        vocabulary = json.loads((tmp_path / "bundle" / "vocabulary.json").read_text("utf-8"))
        assert vocabulary[:2] == ["<pad>", "<unk>"]
        assert len(vocabulary) == description["architecture"]["num_embeddings"]

    @pytest.mark.parametrize(
        ("tokenizer", "needed"),
        [
            ("basic_english", False),
            ("treebank", False),
            ("whitespace", False),
            ("toktok", True),
            ("my.module:f", False),
        ],
    )
    def test_torchtext_is_required_only_by_tokenizers_of_its_own(self, tokenizer, needed):
        requirements = pip_requirements(tokenizer)
        assert ("torchtext==0.6.0" in requirements) is needed
        assert all("==" in requirement and "+" not in requirement for requirement in requirements)

    def test_the_distribution_of_a_tokenizer_of_ones_own_is_required(self):
        assert "nltk" in {
            requirement.partition("==")[0] for requirement in pip_requirements("nltk.tokenize:wordpunct_tokenize")
        }
        assert pip_requirements("no_such_module:f") == pip_requirements("basic_english")

    def test_description_of_a_version_is_a_table_of_the_test_scores(self, toy):
        test = toy.evaluation.read_json(METRICS_FILE)["test"]
        lines = describe(toy.evaluation).splitlines()
        assert lines[0] == "Classes: food, météo, sport"
        scores = [f"{test['lstm'][name]:.4f}" for name in ("accuracy", "macro_f1", "log_loss")]
        assert f"| LSTM | {' | '.join(scores)} |" in lines


class TestGate:
    """Decisions about version 2, with a champion of given tags or none."""

    @pytest.fixture
    def decide(self, monkeypatch):
        def decide(score: float, *, champion: float | None = None, version: str = "1", **gate):
            tags = {"gloveflow.documents_digest": "same", "test_lstm_macro_f1": str(champion)}
            known = None if champion is None else SimpleNamespace(version=version, tags=tags)
            monkeypatch.setattr(models, "find_alias", lambda *_: known)
            documents = SimpleNamespace(digest="same")
            return pass_gate("2", score, documents, gated(PipelineConfig(), **gate))

        return decide

    def test_the_first_version_passes(self, decide):
        assert decide(0.1) == (True, "champion: the first one")

    def test_below_the_minimum_not_even_the_first_version_passes(self, decide):
        message = "no champion: test macro_f1 0.7000 is below registration.minimum 0.75"
        assert decide(0.7, minimum=0.75) == (False, message)

    @pytest.mark.parametrize("score", [0.75, 0.8])
    def test_at_the_minimum_it_passes(self, decide, score):
        assert decide(score, minimum=0.75)[0]

    def test_the_champion_stays_champion(self, decide):
        assert decide(0.5, champion=0.9, version="2") == (True, "champion: has been it already")

    def test_a_better_one_takes_the_alias(self, decide):
        assert decide(0.9, champion=0.85) == (True, "champion: test macro_f1 0.9000 against 0.8500 of version 1")

    def test_a_worse_one_does_not(self, decide):
        message = "version 1 stays champion: test macro_f1 0.8000 against 0.8500 of version 1"
        assert decide(0.8, champion=0.85) == (False, message)

    @pytest.mark.parametrize("score", [0.5, 2 / 3, 0.123456789, 0.9999999])
    def test_an_equal_one_takes_it_however_many_digits_the_score_has(self, decide, score):
        tag = _tags({"lstm_macro_f1": score}, SimpleNamespace(digest="same"))["test_lstm_macro_f1"]
        assert decide(score, champion=float(tag))[0]

    @pytest.mark.parametrize(
        ("min_improvement", "score", "passes"),
        [(0.25, 0.75, True), (0.25, 0.7, False), (-0.25, 0.25, True), (-0.25, 0.2, False)],
    )
    def test_the_improvement_asked_for_decides(self, decide, min_improvement, score, passes):
        assert decide(score, champion=0.5, min_improvement=min_improvement)[0] is passes

    def test_names_of_alias_and_metric_are_the_configured_ones(self, decide):
        assert decide(0.1, alias="live", metric="accuracy", minimum=0.5)[1].startswith("no live: test accuracy 0.1000")


class TestChampionOnNewDocuments:
    @pytest.fixture
    def measured(self, registered):
        """The champion's answers to the test split, and its documents relabelled so that most of them are wrong."""
        swap = {"food": "sport", "sport": "food", "météo": "météo"}
        documents = change_documents(registered, lambda label: swap[label])
        test = [row for row in documents.read_table(DOCUMENTS_FILE).to_pylist() if row["split"] == "test"]
        answers = load_model(MODEL, "champion")([row["text"] for row in test])
        return documents, [row["label"] for row in test], [answer["label"] for answer in answers]

    def test_it_is_measured_by_macro_f1_on_the_new_test_split(self, registered, measured):
        documents, truth, predicted = measured
        score = f1_score(truth, predicted, average="macro")
        config = registered.config
        assert pass_gate("2", score + 1e-9, documents, config)[0]
        assert pass_gate("2", score - 1e-9, documents, config) == (
            False, f"version 1 stays champion: test macro_f1 {score:.4f} against {score:.4f} of version 1"
        )  # fmt: skip
        assert score < registered.evaluation.facts["lstm_macro_f1"] - 0.1  # not what its tag says

    def test_it_is_measured_by_accuracy_if_that_decides(self, registered, measured):
        documents, truth, predicted = measured
        score, config = accuracy_score(truth, predicted), gated(registered.config, metric="accuracy")
        assert pass_gate("2", score + 1e-9, documents, config)[0]
        assert not pass_gate("2", score - 1e-9, documents, config)[0]

    def test_one_that_knows_other_classes_gives_way(self, registered):
        documents = change_documents(registered, lambda label: {"food": "cuisine"}.get(label, label))
        assert pass_gate("2", 0.01, documents, registered.config) == (
            True, "champion: version 1 cannot be compared, it knows other classes"
        )  # fmt: skip

    def test_one_that_cannot_be_loaded_decides_nothing(self, registered, monkeypatch):
        def fail(*_: object) -> None:
            raise ServiceError("no answer")

        monkeypatch.setattr(models, "load_model", fail)
        with pytest.raises(ServiceError, match="no answer"):
            pass_gate("2", 1.0, change_documents(registered, lambda label: label + "s"), registered.config)
