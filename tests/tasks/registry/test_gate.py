import json
import shutil
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from sklearn.metrics import accuracy_score, f1_score

from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.errors import GateError, ServiceError
from pipeline_config.schemas import DOCUMENTS_FILE
from pipeline_config.settings import PipelineConfig
from tasks.registry.gate import pass_gate
from tasks.registry.register_model import require_champion
from tasks.store.artifacts import MANIFEST, ArtifactRef, find_output, manifest_checksum
from tasks.tracking import models
from tasks.tracking.model_files import FILES_TAG
from tasks.tracking.models import load_model
from tasks.tracking.server import open_client
from tests.registrations import MODEL, alias, change_documents, change_macro_f1, gated, register, train_another


def by_hand(model: str) -> str:
    command = f"`gloveflow models promote 2 --model {model} --why TEXT`"
    return f"To use version 2 in its place, run {command}; `gloveflow doctor` says what it can mend"


class TestGate:
    """Decisions about version 2, with a champion of given tags or none."""

    @pytest.fixture
    def decide(self, monkeypatch):
        def decide(score: float, *, champion: float | str | None = None, version: str = "1", **gate):
            tags = {"gloveflow.documents_digest": "same", "test_lstm_macro_f1": str(champion)}
            found = None if champion is None else SimpleNamespace(name="toy", version=version, tags=tags)
            monkeypatch.setattr("tasks.registry.gate.verify_version", lambda *_: None)
            monkeypatch.setattr(models, "find_alias", lambda *_: found)
            documents = SimpleNamespace(digest="same")
            return pass_gate("2", score=score, documents=documents, config=gated(PipelineConfig(), **gate))[:2]

        return decide

    def test_the_first_version_passes(self, decide):
        assert decide(0.1) == (True, "champion: no version had this alias")

    def test_below_the_minimum_not_even_the_first_version_passes(self, decide):
        message = "not champion: test macro_f1 0.7000 is below registration.minimum 0.75"
        assert decide(0.7, minimum=0.75) == (False, message)

    @pytest.mark.parametrize("score", [0.75, 0.8])
    def test_at_the_minimum_it_passes(self, decide, score):
        assert decide(score, minimum=0.75)[0]

    def test_the_champion_stays_champion(self, decide):
        assert decide(0.5, champion=0.9, version="2") == (True, "champion: this version already has the alias")

    def test_a_better_one_takes_the_alias(self, decide):
        assert decide(0.9, champion=0.85) == (True, "champion: test macro_f1 0.9000, version 1 has 0.8500")

    def test_a_worse_one_does_not(self, decide):
        message = "version 1 stays champion: test macro_f1 0.8000, version 1 has 0.8500"
        assert decide(0.8, champion=0.85) == (False, message)

    @pytest.mark.parametrize("score", [0.5, 2 / 3, 0.123456789, 0.9999999])
    def test_an_equal_one_takes_the_alias_however_many_digits_the_score_has(self, decide, score):
        assert decide(score, champion=float(str(score)))[0]

    @pytest.mark.parametrize(
        ("min_improvement", "score", "passes"),
        [(0.25, 0.75, True), (0.25, 0.7, False), (-0.25, 0.25, True), (-0.25, 0.2, False)],
    )
    def test_the_improvement_asked_for_decides(self, decide, min_improvement, score, passes):
        assert decide(score, champion=0.5, min_improvement=min_improvement)[0] is passes

    @pytest.mark.parametrize("tag", ["", "nan", "inf", "1.01", "-0.1", "high"])
    def test_a_champion_with_a_senseless_score_stays_and_the_reason_says_how_to_mend_it(self, decide, tag):
        assert decide(1.0, champion=tag) == (
            False,
            f"version 1 stays champion, but it cannot be compared: models:/toy/1: its tag test_lstm_macro_f1 is {tag!r}, "
            f"expected a number from 0 to 1; set it to the test score of its MLflow run. {by_hand('gloveflow-custom')}",
        )

    def test_names_of_alias_and_metric_are_the_configured_ones(self, decide):
        assert decide(0.1, alias="live", metric="accuracy", minimum=0.5)[1].startswith("not live: test accuracy 0.1000")


class TestChampionOnNewDocuments:
    @pytest.fixture
    def measured(self, registered):
        """The champion's answers to the test split, and its documents relabelled so that most of them are wrong."""
        swap = {"food": "sport", "sport": "food", "météo": "météo"}
        documents = change_documents(registered, lambda label: swap[label])
        test = [row for row in documents.read_table(DOCUMENTS_FILE).to_pylist() if row["split"] == "test"]
        answers = load_model(MODEL, "champion").classify([row["text"] for row in test])
        return documents, [row["label"] for row in test], [answer["label"] for answer in answers]

    def test_it_is_measured_by_macro_f1_on_the_new_test_split(self, registered, measured):
        documents, truth, predicted = measured
        score = f1_score(truth, predicted, average="macro")
        config = registered.config
        assert pass_gate("2", score=score + 1e-9, documents=documents, config=config)[0]
        assert pass_gate("2", score=score - 1e-9, documents=documents, config=config)[:2] == (
            False,
            f"version 1 stays champion: test macro_f1 {score:.4f}, version 1 has {score:.4f}",
        )
        assert score < registered.evaluation.read_model(Metrics).test.lstm.macro_f1 - 0.1  # not what its tag says

    def test_it_is_measured_by_accuracy_if_that_decides(self, registered, measured):
        documents, truth, predicted = measured
        score, config = accuracy_score(truth, predicted), gated(registered.config, metric="accuracy")
        assert pass_gate("2", score=score + 1e-9, documents=documents, config=config)[0]
        assert not pass_gate("2", score=score - 1e-9, documents=documents, config=config)[0]

    def test_a_class_without_test_documents_does_not_count(self, registered):
        documents = change_documents(registered, lambda label: {"food": "sport"}.get(label, label), ["test"])
        test = [row for row in documents.read_table(DOCUMENTS_FILE).to_pylist() if row["split"] == "test"]
        truth = [row["label"] for row in test]
        answers = load_model(MODEL, "champion").classify([row["text"] for row in test])
        present = ["météo", "sport"]
        score = f1_score(truth, [answer["label"] for answer in answers], labels=present, average="macro")
        assert pass_gate("2", score=score + 1e-9, documents=documents, config=registered.config)[0]
        assert not pass_gate("2", score=score - 1e-9, documents=documents, config=registered.config)[0]

    def test_one_with_other_classes_stays(self, registered):
        documents = change_documents(registered, lambda label: {"food": "cuisine"}.get(label, label))
        assert pass_gate("2", score=1.0, documents=documents, config=registered.config)[:2] == (
            False,
            "version 1 stays champion, but it cannot be compared: it has the classes food, météo, sport, and the corpus has "
            f"cuisine, météo, sport. {by_hand(MODEL)}",
        )


class TestUnusableChampion:
    """The run ends well, its version becomes the challenger, and the reason says what is wrong."""

    @pytest.fixture
    def compete(self, registered):
        def compete(*, documents: ArtifactRef | None = None) -> str:
            other = train_another(registered)
            result = register(registered, classifier=other, macro_f1=1.0, documents=documents)
            assert (result.version, result.created, result.promoted) == ("2", True, False)
            assert (alias("champion"), alias("challenger")) == ("1", "2")
            start = "version 1 stays champion, but it cannot be compared: "
            assert result.reason.startswith(start)
            assert result.reason.endswith(f". {by_hand(MODEL)}")
            return result.reason.removeprefix(start).removesuffix(f". {by_hand(MODEL)}")

        return compete

    def test_its_files_are_gone(self, compete, monkeypatch, tmp_path):
        uri = (tmp_path / "nowhere").as_uri()
        monkeypatch.setattr(MlflowClient, "get_model_version_download_uri", lambda *_: uri)
        assert compete().startswith("models:/gloveflow-toy/1: ")

    def test_a_file_was_changed(self, compete, monkeypatch, registered_model, tmp_path):
        shutil.copytree(registered_model, tmp_path / "model")
        (tmp_path / "model" / "model.py").write_text("raise SystemExit('it ran')\n")
        monkeypatch.setattr(MlflowClient, "get_model_version_download_uri", lambda *_: (tmp_path / "model").as_uri())
        assert compete() == "models:/gloveflow-toy/1: its file model.py was changed after it was registered"

    def test_a_run_that_demands_a_champion_ends_with_the_reason_after_registration(self, registered, compete):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        reason = compete()
        result = register(registered, classifier=train_another(registered), macro_f1=1.0)
        require_champion(result, registered.config)
        with pytest.raises(GateError, match="version 2 is registered, but version 1 stays champion") as caught:
            require_champion(result, gated(registered.config, require_champion=True))
        assert caught.value.exit_code == 6
        assert reason in str(caught.value)
        assert by_hand(MODEL) in str(caught.value)

    def test_below_the_minimum_it_is_noticed_too(self, registered):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        result = register(
            registered, classifier=train_another(registered), config=gated(registered.config, minimum=1.0)
        )
        assert (result.promoted, result.comparable) == (False, False)

    def test_it_has_no_digests(self, compete):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        assert compete().startswith(f"models:/gloveflow-toy/1: it has no tag {FILES_TAG} with the digests of its files")

    def test_its_score_is_missing(self, compete):
        open_client().delete_model_version_tag(MODEL, "1", "test_lstm_macro_f1")
        assert "its tag test_lstm_macro_f1 is '', expected a number from 0 to 1" in compete()

    def test_it_does_not_load_with_the_packages_here(self, registered, compete, monkeypatch):
        def fail(*_: object) -> None:
            raise ImportError("no lstm")

        monkeypatch.setattr("mlflow.pyfunc.load_model", fail)
        documents = change_documents(registered, {"food": "sport", "sport": "food", "météo": "météo"}.get)
        assert compete(documents=documents) == "models:/gloveflow-toy/1: cannot be loaded: ImportError: no lstm"

    def test_it_has_no_tags_but_the_digests_and_is_measured(self, registered):
        for tag in ("gloveflow.documents_digest", "test_lstm_macro_f1", "test_lstm_accuracy"):
            open_client().delete_model_version_tag(MODEL, "1", tag)
        assert register(registered, classifier=train_another(registered), macro_f1=1.0).promoted

    def test_mlflow_out_of_reach_is_an_error_and_no_verdict_on_the_champion(self, registered, monkeypatch):
        def fail(*_: object) -> None:
            raise ServiceError("no answer")

        monkeypatch.setattr(models, "find_alias", fail)
        with pytest.raises(ServiceError, match="no answer"):
            pass_gate("2", score=1.0, documents=registered.documents, config=registered.config)


class TestEditedOutputs:
    """What decides is read from content that a digest covers."""

    @staticmethod
    def edit_facts(output: ArtifactRef, **facts: float) -> ArtifactRef:
        """Change the facts of an output on disk and load a reference to it as a later run does."""
        path = output.directory / MANIFEST
        manifest = json.loads(path.read_text("utf-8"))
        manifest["facts"] |= facts
        manifest["checksum"] = manifest_checksum(manifest)
        path.write_text(json.dumps(manifest), "utf-8")
        return find_output(output.stage, output.key)

    @pytest.mark.parametrize(("honest", "forged"), [(0.0, 1.0), (1.0, 0.0)])
    def test_forged_facts_do_not_change_the_decision(self, registered, honest, forged):
        evaluation = self.edit_facts(change_macro_f1(registered, honest), lstm_macro_f1=forged)
        assert evaluation.facts["lstm_macro_f1"] == forged
        result = register(registered, classifier=train_another(registered), evaluation=evaluation)
        assert result.version == "2"
        assert result.promoted is (honest == 1.0)
        assert alias("champion") == ("2" if honest == 1.0 else "1")

    def test_forged_facts_do_not_reach_the_tags_of_the_version(self, registered):
        evaluation = self.edit_facts(change_macro_f1(registered, 0.25), lstm_macro_f1=1.0, baseline_accuracy=1.0)
        register(registered, classifier=train_another(registered), evaluation=evaluation)
        tags = models.find_alias(MODEL, "challenger").tags
        assert float(tags["test_lstm_macro_f1"]) == 0.25
        assert float(tags["test_baseline_accuracy"]) == registered.evaluation.read_model(Metrics).test.baseline.accuracy

    def test_an_output_with_edited_metrics_is_refused(self, registered):
        path = registered.evaluation.path(Metrics.file_name)
        text = path.read_text("utf-8")
        path.write_text(text.replace('"macro_f1": 0', '"macro_f1": 1'), "utf-8")
        assert path.read_text("utf-8") != text
        with pytest.raises(ValueError, match=r"metrics\.json is damaged"):
            ArtifactRef.model_validate(registered.evaluation.model_dump())
        assert find_output("evaluate_classifier", registered.evaluation.key) is None
