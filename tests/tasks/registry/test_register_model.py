import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.errors import ServiceError
from pipeline_config.schemas import CARD_FILE, DOCUMENTS_FILE, PREDICTIONS_FILE
from tasks.registry.bundle import SERVED_MODEL
from tasks.registry.register_model import describe_scores, register_model
from tasks.tracking import models
from tasks.tracking.loading import load_model
from tasks.tracking.models import find_alias
from tasks.tracking.runs import track_run
from tasks.tracking.server import open_client
from tests.registrations import MODEL, alias, model_folder, register, train_another, versions


class TestRegistering:
    @pytest.mark.usefixtures("registered")
    def test_the_first_version_takes_both_aliases(self):
        assert versions() == [1]
        assert (alias("champion"), alias("challenger")) == ("1", "1")

    def test_tags_of_a_version_name_its_scores_corpus_content_and_run(self, registered):
        tags = find_alias(MODEL, "champion").tags
        test = registered.evaluation.read_model(Metrics).test
        for model, scores in (("lstm_", test.lstm), ("baseline_", test.baseline), ("", test.hybrid)):
            assert float(tags[f"test_{model}macro_f1"]) == scores.macro_f1
            assert float(tags[f"test_{model}accuracy"]) == scores.accuracy
        assert tags["gloveflow.documents_digest"] == registered.documents.digest
        assert len(tags["gloveflow.model_digest"]) == 64
        assert open_client().get_run(tags["gloveflow.run_id"]).info.run_name == "toy run"

    def test_its_run_shows_the_model_with_its_scores(self, registered):
        version = find_alias(MODEL, "champion")
        run = open_client().get_run(version.tags["gloveflow.run_id"])
        assert [output.model_id for output in run.outputs.model_outputs] == [models.model_id_of(version)]
        assert run.data.metrics["test_lstm_macro_f1"] == registered.evaluation.read_model(Metrics).test.lstm.macro_f1

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
        assert again.reason == "champion: this version already has the alias"
        assert versions() == [1]
        model_id = models.model_id_of(find_alias(MODEL, "champion"))
        runs = open_client().search_runs([open_client().get_experiment_by_name("gloveflow/toy").experiment_id])
        assert [[output.model_id for output in run.outputs.model_outputs] for run in runs] == [[model_id]] * 2

    def test_registering_twice_in_one_run_links_the_model_once(self, registered):
        with track_run(registered.config, name="run", tags={}) as run:
            for _ in range(2):
                register_model.fn(
                    run,
                    registered.classifier,
                    registered.vocabulary,
                    registered.evaluation,
                    registered.documents,
                    registered.baseline,
                    registered.config,
                )
        assert len(open_client().get_run(run.run_id).outputs.model_outputs) == 1

    def test_a_different_model_becomes_version_2_and_challenger(self, registered):
        result = register(registered, classifier=train_another(registered), answers=0.0)
        assert (result.model, result.version, result.created, result.promoted) == (MODEL, "2", True, False)
        assert versions() == [1, 2]
        assert (alias("champion"), alias("challenger")) == ("1", "2")

    def test_a_better_model_becomes_champion(self, registered):
        result = register(registered, classifier=train_another(registered), answers=1.0)
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

    def test_a_model_whose_files_are_gone_gets_a_new_version(self, registered):
        config = registered.config.model_copy(update={"name": "fleeting"})
        assert register(registered, config=config).version == "1"
        files = Path(
            open_client().get_experiment_by_name("gloveflow/fleeting").artifact_location.removeprefix("file://")
        )
        shutil.rmtree(files)
        again = register(registered, config=config)
        assert (again.version, again.created, again.promoted) == ("2", True, False)
        assert load_model("gloveflow-fleeting", "challenger").classify(["soup"])

    def test_an_interrupted_registration_is_completed_by_the_next_one(self, registered, monkeypatch):
        def fail(*_: object) -> None:
            raise ServiceError("gone")

        other = train_another(registered)
        with monkeypatch.context() as patch:
            patch.setattr(models, "set_alias", fail)
            with pytest.raises(ServiceError, match="gone"):
                register(registered, classifier=other, answers=1.0)
        assert (versions(), alias("champion")) == ([1, 2], "1")
        result = register(registered, classifier=other, answers=1.0)
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


def test_description_of_a_version_is_a_table_of_the_test_scores(toy):
    metrics = toy.evaluation.read_model(Metrics)
    lines = describe_scores(metrics).splitlines()
    assert lines[0] == "Classes: food, météo, sport"
    lstm = metrics.test.lstm
    scores = [f"{value:.4f}" for value in (lstm.accuracy, lstm.macro_f1, lstm.log_loss)]
    assert f"| LSTM | {' | '.join(scores)} |" in lines


def test_labels_in_the_description_of_a_version_are_shown_and_not_run(toy):
    metrics = toy.evaluation.read_model(Metrics)
    hostile = ["a|b", "[x](https://attacker.example)", "<img src=x onerror=alert(1)>", "`a`\n\n# head", "=1"]
    some = next(iter(metrics.test.lstm.classes.values()))
    lstm = metrics.test.lstm.model_copy(update={"classes": dict.fromkeys(hostile, some)})
    test = metrics.test.model_copy(update={"lstm": lstm})
    lines = describe_scores(metrics.model_copy(update={"test": test})).splitlines()
    assert lines[0] == (
        r"Classes: a\|b, \[x\](https://attacker.example), &lt;img src=x onerror=alert(1)&gt;, \`a\` \# head, =1"
    )
    assert lines[1:] == describe_scores(metrics).splitlines()[1:]


def test_the_card_is_the_description_of_a_version_and_a_file_of_its_model(registered):
    version = find_alias(MODEL, "champion")
    card = (model_folder(version.version) / "artifacts" / "bundle" / CARD_FILE).read_text("utf-8")
    assert version.description == card
    accuracy = registered.evaluation.read_model(Metrics).test.hybrid.accuracy
    assert f"| accuracy | {accuracy:.4f} (" in card
    assert "| météo | " in card
    for of_one_run in (
        version.run_id,
        version.tags["gloveflow.run_id"],
        "toy run",
        str(registered.config.corpus.source),
    ):
        assert of_one_run not in card
