import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.decision import Decision
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.contracts.linear import LinearDescription
from pipeline_config.contracts.training import ModelDescription
from pipeline_config.errors import GateError, ServiceError
from pipeline_config.registration import GateRule
from pipeline_config.schemas import DOCUMENTS_FILE, LINEAR_FILE, PREDICTIONS_FILE
from pipeline_config.settings import PipelineConfig
from tasks.evaluation.prediction_table import tabulate_predictions
from tasks.registry import gate
from tasks.registry.looks import LOOKS_TAG, count_look
from tasks.registry.register_model import require_champion
from tasks.registry.rivals import HeldOut, Rival, ask_champion, read_test_split
from tasks.registry.seen import hash_documents
from tasks.store.artifacts import MANIFEST, ArtifactRef, find_output, manifest_checksum
from tasks.store.commit import commit_output
from tasks.tracking import loading, models
from tasks.tracking.loading import load_model
from tasks.tracking.model_files import FILES_TAG
from tasks.tracking.server import open_client
from tests.registrations import (
    MODEL,
    alias,
    change_answers,
    change_documents,
    commit_documents,
    gated,
    register,
    train_another,
)

MINIMUM = GateRule(against="value", value=0.75, require="any")
AT_LEAST_AS_GOOD = GateRule(require="any")
TRUTH = np.arange(24) % 3


def by_hand(model: str) -> str:
    command = f"`gloveflow models promote 2 --model {model} --why TEXT`"
    return f"To use version 2 in its place, run {command}; `gloveflow doctor` says what it can mend"


def answers_of(right: float) -> np.ndarray:
    """Answers to the made test split of which a share is right, from the first document on."""
    chosen = np.where(np.arange(24) < round(right * 24), TRUTH, (TRUTH + 1) % 3)
    return np.eye(3)[chosen] * 0.7 + 0.1


def made_split(right: float, **changes) -> HeldOut:
    """A test split of 24 documents, of which the baseline gets 20 right, with answers of which a share is right."""
    texts = pa.chunked_array([[f"text {'long ' * (i % 2)}{i}" for i in range(24)]], pa.large_string())
    split = HeldOut(
        labels=("food", "météo", "sport"),
        doc_ids=np.arange(24),
        texts=texts,
        hashes=hash_documents(texts),
        truth=TRUTH,
        ours=answers_of(right),
        baseline=answers_of(20 / 24),
        training_texts=np.array([], np.uint64),
        documents="digest",
    )
    return split._replace(**changes)


@pytest.fixture
def first(monkeypatch):
    """Return a function that decides about version 2, which gets a share right, where there is no champion."""
    looks: dict = {}
    monkeypatch.setattr(models, "find_alias", lambda *_: None)
    monkeypatch.setattr(gate, "count_look", lambda _, split, pair: looks.setdefault(split, [pair]).index(pair) + 1)

    def decide(right: float, *rules: GateRule, **settings) -> Decision:
        settings |= {"rules": rules} if rules else {}
        config = gated(PipelineConfig(name="toy"), **settings)
        return gate.pass_gate("2", digest="2", split=made_split(right), config=config).decision

    return decide


@pytest.fixture
def challenge(first, monkeypatch):
    """Return such a function where version 1 is the champion, which gets 20 of the 24 documents right."""
    champion = SimpleNamespace(name=MODEL, version="1", tags={models.DIGEST_TAG: "1"})
    monkeypatch.setattr(models, "find_alias", lambda *_: champion)
    monkeypatch.setattr(gate, "ask_champion", lambda *_: Rival(answers_of(20 / 24), np.zeros(24, bool)))
    monkeypatch.setattr(gate, "count_look", lambda *_: 2)
    return first


@pytest.fixture
def compete_with(registered):
    """Return a function that registers a second model, which gets a share right; it returns the decision."""
    other = train_another(registered)

    def register_second(right: float, *rules: GateRule, **settings) -> Decision:
        settings |= {"rules": rules} if rules else {}
        config = gated(registered.config, **settings)
        return register(registered, classifier=other, answers=right, config=config).decision

    return register_second


class TestFirstVersion:
    def test_one_that_is_better_than_chance_passes(self, first):
        decision = first(1.0)
        assert (decision.promoted, decision.champion, decision.outcome) == (True, None, None)
        assert decision.reason == "champion: no version had this alias"
        assert [rule.against for rule in decision.rules] == ["chance", "baseline"]

    def test_one_at_chance_does_not_become_champion(self, first):
        decision = first(1 / 3)
        assert not decision.promoted
        assert decision.reason.startswith("not champion: macro F1 0.3315, chance 0.3333: at 95 % ")

    def test_one_far_below_the_baseline_does_not_become_champion(self, first):
        decision = first(0.4, GateRule(against="baseline", require="not_clearly_worse"))
        assert not decision.promoted
        assert ", the baseline 0.83" in decision.reason
        assert ": clearly worse (" in decision.reason

    @pytest.mark.parametrize(("right", "passes"), [(0.7, False), (0.75, True), (0.8, True)])
    def test_a_value_to_reach_decides(self, first, right, passes):
        decision = first(right, GateRule(metric="accuracy", against="value", value=0.75, require="any"))
        assert decision.promoted is passes
        if not passes:
            assert decision.reason.startswith("not champion: accuracy 0.7083, the rule asks for 0.7500")

    def test_without_rules_any_passes(self, first):
        assert first(0.0, rules=()).promoted


class TestAgainstTheChampion:
    """The test split has 24 documents, of which the champion, version 1, gets 20 right."""

    def test_the_champion_stays_champion(self, challenge, monkeypatch):
        monkeypatch.setattr(models, "find_alias", lambda *_: SimpleNamespace(version="2"))
        decision = challenge(0.2)
        assert (decision.promoted, decision.reason) == (True, "champion: this version already has the alias")
        assert decision.look == 0

    def test_a_much_better_one_takes_the_alias(self, challenge):
        decision = challenge(1.0)
        assert (decision.promoted, decision.comparable, decision.champion) == (True, True, "1")
        assert decision.reason.startswith("champion: macro F1 1.0000, version 1 0.8")

    def test_a_clearly_worse_one_does_not(self, challenge):
        decision = challenge(0.2)
        assert (decision.promoted, decision.outcome) == (False, "worse")

    def test_a_tie_that_few_documents_show_is_no_proof_and_does_not_promote(self, challenge):
        """Exactly the answers of the champion: 24 documents cannot show that it is not worse by half a point."""
        decision = challenge(20 / 24)
        assert (decision.promoted, decision.outcome) == (False, "unknown")
        assert decision.rules[0].difference.value == 0
        assert "With these 24 test documents a gain below " in decision.reason

    def test_any_takes_the_figure_as_it_is(self, challenge):
        assert challenge(20 / 24, AT_LEAST_AS_GOOD).promoted
        assert not challenge(19 / 24, AT_LEAST_AS_GOOD).promoted

    def test_the_gain_asked_for_decides(self, challenge):
        assert not challenge(1.0, GateRule(metric="accuracy", require="any", by=0.2)).promoted
        assert challenge(1.0, GateRule(metric="accuracy", require="any", by=0.16)).promoted

    def test_better_needs_more_than_a_handful_of_documents(self, challenge):
        """Four documents that only the new version gets right happen by chance with probability 1/16."""
        decision = challenge(1.0, GateRule(metric="accuracy", require="better"))
        assert (decision.promoted, decision.alpha) == (False, 0.05 / 52)
        assert not challenge(1.0, GateRule(metric="accuracy", require="better"), looks=1).promoted

    def test_every_rule_has_to_pass(self, challenge):
        strict = GateRule(metric="accuracy", against="value", value=0.99, require="any")
        decision = challenge(0.95, AT_LEAST_AS_GOOD, strict)
        assert [rule.passed for rule in decision.rules] == [True, False]
        assert not decision.promoted

    def test_the_f1_of_a_class_can_decide(self, challenge):
        decision = challenge(1.0, GateRule(metric="f1[tennis]", require="any"))
        assert (decision.promoted, decision.rules[0].outcome) == (False, "unknown")
        assert "there are no test documents of the class tennis" in decision.reason
        assert challenge(1.0, GateRule(metric="f1[sport]", require="any")).promoted

    def test_a_slice_can_decide(self, challenge):
        rule = GateRule(metric="accuracy", slice="class=sport", require="any")
        decision = challenge(1.0, rule.model_copy(update={"slice": "length>=9999"}))
        assert (decision.promoted, decision.rules[0].outcome) == (False, "unknown")
        assert challenge(1.0, rule, min_documents=5).promoted

    def test_too_few_documents_decide_nothing(self, challenge):
        decision = challenge(1.0, AT_LEAST_AS_GOOD, min_documents=25)
        assert (decision.promoted, decision.rules[0].outcome) == (False, "unknown")
        assert "24 test documents are left, and 25 are needed" in decision.reason

    def test_names_of_alias_and_metric_are_the_configured_ones(self, first):
        decision = first(0.5, MINIMUM, alias="live", metric="accuracy")
        assert decision.reason.startswith("not live: accuracy 0.5000")

    def test_the_decision_is_in_the_tags(self, compete_with):
        decision = compete_with(0.2)
        tags = models.find_alias(MODEL, "challenger").tags
        assert (tags["gloveflow.decision"], tags["gloveflow.outcome"]) == (decision.reason, "worse")


class TestLooks:
    def test_each_pair_of_versions_is_one_look_however_often_it_is_decided(self, registered):
        worse = change_answers(registered, 0.2)
        looks = []
        for seed in (1, 1, 2):
            toy = registered._replace(config=registered.config.model_copy(update={"seed": seed}))
            result = register(registered, classifier=train_another(toy), evaluation=worse)
            looks.append(result.decision.look)
        assert looks == [2, 2, 3]  # the champion's own was the first

    def test_a_spent_test_split_lets_no_gain_pass_and_says_what_to_do(self, challenge):
        rule = GateRule(metric="accuracy", require="better")
        decision = challenge(1.0, rule, looks=1)
        assert (decision.look, decision.promoted, decision.rules[0].outcome) == (2, False, "unknown")
        assert "this is decision 2 of the 1 that it is planned for" in decision.reason
        assert "give the corpus new documents" in decision.reason

    def test_a_spent_test_split_still_shows_that_a_version_is_better_than_chance(self, challenge):
        decision = challenge(1.0, looks=1)
        assert (decision.look, decision.promoted) == (2, True)

    def test_at_the_last_look_the_reason_warns(self, challenge):
        decision = challenge(0.2, looks=2)
        assert "The test split is spent: this is decision 2 of the 2" in decision.reason

    @pytest.mark.usefixtures("registered")
    def test_another_test_split_has_a_ledger_of_its_own(self, monkeypatch):
        monkeypatch.setattr("tasks.registry.looks.MAX_SPLITS", 2)
        assert [count_look(MODEL, digest, ("a", "b")) for digest in ("1", "2", "2", "3")] == [1, 1, 1, 1]
        tags = open_client().get_registered_model(MODEL).tags
        assert len([tag for tag in tags if tag.startswith(LOOKS_TAG)]) == 2


class TestChampionOnNewDocuments:
    """Its own answers are measured on the test split of this run, not its tags."""

    @pytest.fixture
    def moved(self, registered):
        """The documents with two classes swapped, and the answers of the classifier to them."""
        swap = {"food": "sport", "sport": "food", "météo": "météo"}
        return change_documents(registered, lambda label: swap[label])

    def test_it_is_loaded_and_answers(self, registered, moved):
        split = read_test_split(
            classifier=registered.classifier,
            evaluation=registered.evaluation,
            baseline=registered.baseline,
            documents=moved,
        )
        rows = [row for row in moved.read_table(DOCUMENTS_FILE).to_pylist() if row["split"] == "test"]
        answers = load_model(MODEL, "champion").classify([row["text"] for row in rows])
        expected = [[answer["probabilities"][label] for label in split.labels] for answer in answers]
        rival = ask_champion(models.find_alias(MODEL, "champion"), split)
        np.testing.assert_allclose(rival.probabilities, expected, atol=1e-6)
        assert [split.labels[i] for i in split.truth] == [row["label"] for row in rows]
        assert not rival.seen.any()

    def test_its_stored_answers_are_those_that_it_gives(self, registered, monkeypatch):
        split = read_test_split(
            classifier=registered.classifier,
            evaluation=registered.evaluation,
            baseline=registered.baseline,
            documents=registered.documents,
        )
        champion = models.find_alias(MODEL, "champion")
        with monkeypatch.context() as patch:
            patch.setattr(loading, "load_version", None)
            stored = ask_champion(champion, split)
        shutil.rmtree(registered.evaluation.directory)
        np.testing.assert_allclose(stored.probabilities, ask_champion(champion, split).probabilities, atol=1e-6)

    def test_a_class_without_test_documents_opens_nothing(self, registered):
        documents = change_documents(registered, lambda label: {"food": "sport"}.get(label, label), ["test"])
        evaluation = change_answers(registered, 0.2, documents)
        result = register(registered, classifier=train_another(registered), evaluation=evaluation, documents=documents)
        assert (result.promoted, result.decision.comparable) == (False, True)

    def test_texts_that_one_of_both_was_trained_on_are_left_out(self, registered):
        """As with another `seed`: of the new test split the champion was trained on all but its old test texts."""
        rows = registered.documents.read_table(DOCUMENTS_FILE).to_pylist()
        test = [row for row in rows if row["split"] == "test"]
        train = [row for row in rows if row["split"] == "train"]
        for row in train[:30]:
            row["split"] = "test"
        for row in test[:2]:
            row["split"] = "train"
        documents = commit_documents(registered, rows, "e" * 32)
        evaluation, baseline = self.answer(registered, rows), self.answer(registered, rows, "train_baseline")
        result = register(
            registered,
            classifier=train_another(registered),
            evaluation=evaluation,
            baseline=baseline,
            documents=documents,
        )
        decision = result.decision
        assert (decision.documents, decision.seen, decision.promoted) == (22, 30, True)
        assert "30 test documents are left out, because one of both versions was trained on them; 22 are left" in (
            decision.reason
        )

    @staticmethod
    def answer(registered, rows, stage: str = "evaluate_classifier") -> ArtifactRef:
        """Commit right answers to all documents."""
        metrics = registered.evaluation.read_model(Metrics)
        labels = list(metrics.test.lstm.classes)
        table = pa.table({key: [row[key] for row in rows] for key in ("doc_id", "split", "label")})
        right = np.eye(len(labels))[[labels.index(row["label"]) for row in rows]]
        predictions = tabulate_predictions(table, labels, right)

        def write(output) -> None:
            output.write_model(metrics)
            output.write_model(registered.evaluation.read_model(Analysis))
            output.write_table(PREDICTIONS_FILE, predictions, predictions.schema)
            output.write_model(registered.baseline.read_model(LinearDescription))
            shutil.copyfile(registered.baseline.path(LINEAR_FILE), output.path(LINEAR_FILE))

        return commit_output(stage, "d" * 32, write)[0]


class TestUnusableChampion:
    """The run ends well, its version becomes the challenger, and the reason says what is wrong."""

    @pytest.fixture
    def compete(self, registered):
        def compete(*, documents: ArtifactRef | None = None, classifier: ArtifactRef | None = None) -> str:
            evaluation = change_answers(registered, 1.0, documents)
            result = register(
                registered,
                classifier=classifier or train_another(registered),
                evaluation=evaluation,
                documents=documents,
            )
            assert (result.version, result.created, result.promoted) == ("2", True, False)
            assert (result.decision.comparable, result.decision.outcome) == (False, "unknown")
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

    def test_it_has_other_classes_than_the_new_model_even_if_the_sample_does_not_show_it(self, registered):
        """The classes are those of the models: no document has to have the class that is new."""
        model = registered.classifier.read_model(ModelDescription)
        changed = model.model_copy(update={"labels": ("cuisine", *model.labels[1:])})

        def write(output) -> None:
            for path in registered.classifier.directory.iterdir():
                if path.name not in (MANIFEST, ModelDescription.file_name):
                    shutil.copyfile(path, output.path(path.name))
            output.write_model(changed)

        classifier = commit_output("train_classifier", "c" * 32, write)[0]
        documents = change_documents(registered, lambda label: {"food": "cuisine"}.get(label, label))
        metrics = registered.evaluation.read_model(Metrics)
        names = {"food": "cuisine"}
        lstm = metrics.test.lstm
        renamed = {names.get(label, label): scores for label, scores in lstm.classes.items()}
        test = metrics.test.model_copy(update={"lstm": lstm.model_copy(update={"classes": renamed})})

        def write_evaluation(output) -> None:
            output.write_model(metrics.model_copy(update={"test": test}))
            output.write_model(registered.evaluation.read_model(Analysis))

        toy = registered._replace(evaluation=commit_output("evaluate_classifier", "b" * 32, write_evaluation)[0])
        baseline = TestChampionOnNewDocuments.answer(
            toy, documents.read_table(DOCUMENTS_FILE).to_pylist(), "train_baseline"
        )
        evaluation = TestChampionOnNewDocuments.answer(toy, documents.read_table(DOCUMENTS_FILE).to_pylist())
        for choice, promoted in (("keep", False), ("replace", True)):
            result = register(
                registered,
                classifier=classifier,
                evaluation=evaluation,
                baseline=baseline,
                documents=documents,
                config=gated(registered.config, on_incomparable=choice),
            )
            assert (result.promoted, result.decision.comparable) == (promoted, False)
            assert (
                "cannot be compared: it has other classes than the new version: it lacks cuisine and has besides food"
                in result.reason
            )
        assert result.reason.endswith("(registration.on_incomparable is replace)")
        assert (alias("champion"), alias("previous")) == ("2", "1")

    def test_one_that_replaces_it_has_to_pass_the_other_rules(self, compete_with):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        decision = compete_with(1 / 3, on_incomparable="replace")
        assert (decision.promoted, decision.comparable) == (False, False)
        assert "Version 2 does not replace it: macro F1 0.3" in decision.reason

    def test_a_broken_one_that_is_replaced_does_not_become_the_previous_one(self, compete_with):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        assert compete_with(1.0, on_incomparable="replace").promoted
        assert alias("champion") == "2"
        assert models.find_alias(MODEL, "previous") is None

    def test_a_run_that_demands_a_champion_ends_with_the_reason_after_registration(self, registered, compete):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        reason = compete()
        result = register(registered, classifier=train_another(registered), answers=1.0)
        require_champion(result, registered.config)
        with pytest.raises(GateError, match="version 2 is registered, but version 1 stays champion") as caught:
            require_champion(result, gated(registered.config, require_champion=True))
        assert caught.value.exit_code == 6
        assert reason in str(caught.value)
        assert by_hand(MODEL) in str(caught.value)

    def test_below_the_minimum_it_is_noticed_too(self, compete_with):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        decision = compete_with(0.5, MINIMUM)
        assert (decision.promoted, decision.comparable) == (False, False)

    def test_it_has_no_digests(self, compete):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        assert compete().startswith(f"models:/gloveflow-toy/1: it has no tag {FILES_TAG} with the digests of its files")

    def test_it_does_not_load_with_the_packages_here(self, registered, compete, monkeypatch):
        def fail(*_: object) -> None:
            raise ImportError("no lstm")

        monkeypatch.setattr("mlflow.pyfunc.load_model", fail)
        documents = change_documents(registered, {"food": "sport", "sport": "food", "météo": "météo"}.get)
        assert compete(documents=documents) == "models:/gloveflow-toy/1: cannot be loaded: ImportError: no lstm"

    def test_it_has_no_list_of_its_training_texts_and_other_documents(self, registered, compete, monkeypatch):
        monkeypatch.setattr("tasks.registry.seen.TRAINING_TEXTS_FILE", "none.u64")
        documents = change_documents(registered, {"food": "sport", "sport": "food", "météo": "météo"}.get)
        assert compete(documents=documents).startswith(
            "models:/gloveflow-toy/1: it has no usable list of its training texts (none.u64)"
        )

    def test_it_has_no_tags_but_the_digests_and_is_measured(self, compete_with):
        for tag in ("gloveflow.documents_digest", "gloveflow.evaluation", "test_lstm_macro_f1", "test_lstm_accuracy"):
            open_client().delete_model_version_tag(MODEL, "1", tag)
        assert compete_with(1.0).promoted

    def test_mlflow_out_of_reach_is_an_error_and_no_verdict_on_the_champion(self, registered, monkeypatch):
        def fail(*_: object) -> None:
            raise ServiceError("no answer")

        monkeypatch.setattr(models, "find_alias", fail)
        with pytest.raises(ServiceError, match="no answer"):
            gate.pass_gate("2", digest="", split=None, config=registered.config)


def test_the_comparison_with_the_champion_shows_what_only_one_of_both_gets_right(challenge, monkeypatch):
    seen = np.arange(24) >= 23
    monkeypatch.setattr(gate, "ask_champion", lambda *_: Rival(answers_of(20 / 24), seen))
    config = gated(PipelineConfig(name="toy"))
    found = gate.pass_gate("2", digest="2", split=made_split(1.0), config=config).comparison
    assert (found.other, found.documents, found.only_classifier, found.only_other) == ("version 1", 23, 3, 0)
    assert found.accuracy.value == pytest.approx(3 / 23)
    assert {example.text for example in found.examples} == {"text 20", "text long 21", "text 22"}
    example = next(example for example in found.examples if example.doc_id == 20)
    assert (example.label, example.classifier, example.other) == ("sport", "sport", "food")


def test_without_a_champion_nothing_is_compared(first):
    config = gated(PipelineConfig(name="toy"))
    assert gate.pass_gate("2", digest="2", split=made_split(1.0), config=config).comparison is None


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
        evaluation = self.edit_facts(change_answers(registered, honest), lstm_macro_f1=forged)
        assert evaluation.facts["lstm_macro_f1"] == forged
        result = register(registered, classifier=train_another(registered), evaluation=evaluation)
        assert result.version == "2"
        assert result.promoted is (honest == 1.0)
        assert alias("champion") == ("2" if honest == 1.0 else "1")

    def test_forged_tags_of_the_champion_do_not_change_the_decision(self, compete_with):
        open_client().set_model_version_tag(MODEL, "1", "test_macro_f1", "0.0")
        assert not compete_with(0.2).promoted

    def test_forged_facts_do_not_reach_the_tags_of_the_version(self, registered):
        evaluation = self.edit_facts(change_answers(registered, 0.25), lstm_macro_f1=1.0, baseline_accuracy=1.0)
        register(registered, classifier=train_another(registered), evaluation=evaluation)
        tags = models.find_alias(MODEL, "challenger").tags
        assert float(tags["test_macro_f1"]) == evaluation.read_model(Metrics).test.hybrid.macro_f1
        assert float(tags["test_baseline_accuracy"]) == registered.evaluation.read_model(Metrics).test.baseline.accuracy

    def test_an_output_with_edited_metrics_is_refused(self, registered):
        path = registered.evaluation.path(Metrics.file_name)
        text = path.read_text("utf-8")
        path.write_text(text.replace('"macro_f1": 0', '"macro_f1": 1'), "utf-8")
        assert path.read_text("utf-8") != text
        with pytest.raises(ValueError, match=r"metrics\.json is damaged"):
            ArtifactRef.model_validate(registered.evaluation.model_dump())
        assert find_output("evaluate_classifier", registered.evaluation.key) is None
