import math
import shutil
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.schemas import (
    FIGURES,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    predictions_schema,
)
from tasks.evaluation.evaluate_classifier import (
    compare_seeds,
    evaluate_classifier,
    find_confident_errors,
    predict_splits,
)
from tasks.evaluation.metrics import measure
from tasks.evaluation.prediction import predictions_table
from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output

LABELS = ["a", "b", "c"]


def make_predictions(rows: list[tuple[int, str, str, list[float]]], labels: list[str] = LABELS) -> pa.Table:
    """Predictions of `(doc_id, split, label, probabilities)`."""
    documents = pa.table({name: [row[i] for row in rows] for i, name in enumerate(("doc_id", "split", "label"))})
    return predictions_table(documents, labels, np.array([row[3] for row in rows]))


PREDICTIONS = make_predictions(
    [
        (1, "test", "a", [0.7, 0.2, 0.1]),
        (2, "test", "a", [0.1, 0.8, 0.1]),
        (3, "test", "b", [0.2, 0.5, 0.3]),
        (4, "test", "c", [0.6, 0.3, 0.1]),
        (5, "validation", "c", [0.0, 0.0, 1.0]),
    ]
)


class TestMeasure:
    def test_scores_of_a_split_by_hand(self):
        scores = measure(PREDICTIONS, LABELS, "test")
        # predicted a, b, b, a for the truth a, a, b, c
        assert scores["documents"] == 4
        assert scores["accuracy"] == 0.5
        assert scores["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
        assert scores["log_loss"] == pytest.approx(-(math.log(0.7) + math.log(0.1) + math.log(0.5) + math.log(0.1)) / 4)

    def test_confusion_has_the_truth_in_its_rows(self):
        assert measure(PREDICTIONS, LABELS, "test")["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]

    def test_classes_have_their_own_scores_and_a_class_never_predicted_has_zeros(self):
        classes = measure(PREDICTIONS, LABELS, "test")["classes"]
        assert classes["a"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "support": 2})
        assert classes["b"] == pytest.approx({"precision": 1 / 2, "recall": 1, "f1": 2 / 3, "support": 1})
        assert classes["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1.0}

    def test_only_the_documents_of_the_split_count(self):
        scores = measure(PREDICTIONS, LABELS, "validation")
        assert (scores["documents"], scores["accuracy"]) == (1, 1.0)
        assert scores["confusion"] == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]

    def test_columns_are_found_by_name_not_by_position(self):
        mirrored = make_predictions([(1, "test", "a", [0.1, 0.9])], ["b", "a"])
        assert measure(mirrored, ["a", "b"], "test")["confusion"] == [[1, 0], [0, 0]]


@pytest.mark.usefixtures("artifacts")
class TestCompareSeeds:
    @pytest.fixture
    def evaluations(self) -> list[ArtifactRef]:
        """Three outputs with made-up scores: accuracy, macro F1, log-loss on validation and test."""
        made = [
            ((0.7, 0.6, 0.5), (0.5, 0.4, 1.0)),
            ((0.8, 0.5, 0.6), (0.6, 0.5, 1.1)),
            ((0.6, 0.7, 0.7), (0.7, 0.6, 1.2)),
        ]
        outputs = []
        for number, splits in enumerate(made):
            scores = {
                split: {"lstm": dict(zip(("accuracy", "macro_f1", "log_loss"), values, strict=True))}
                for split, values in zip(("validation", "test"), splits, strict=True)
            }
            write = partial(lambda scores, output: output.write_json(METRICS_FILE, scores), scores)
            outputs.append(commit_output("evaluate_classifier", f"{number:032x}", write)[0])
        return outputs

    @pytest.mark.parametrize(("metric", "best"), [("loss", 0), ("accuracy", 1), ("macro_f1", 2)])
    def test_best_is_that_by_the_validation_metric(self, evaluations, metric, best):
        assert compare_seeds(evaluations, metric)[1] == best

    def test_mean_and_deviation_of_a_sample(self, evaluations):
        spread, _ = compare_seeds(evaluations, "accuracy")
        assert spread["count"] == 3
        assert spread["test_accuracy_mean"] == pytest.approx(0.6)
        assert spread["test_accuracy_deviation"] == pytest.approx(0.1)
        assert spread["validation_log_loss_mean"] == pytest.approx(0.6)

    def test_a_single_seed_has_no_spread(self, evaluations):
        assert compare_seeds(evaluations[1:2], "accuracy") == ({}, 0)


class TestConfidentErrors:
    DOCUMENTS = pa.table({"doc_id": [5, 4, 3, 2, 1], "text": ["five", "four", "three", "two", "one"]})

    def test_wrong_test_predictions_come_with_text_most_confident_first(self):
        assert find_confident_errors(PREDICTIONS, LABELS, self.DOCUMENTS) == [
            {"text": "two", "label": "a", "prediction": "b", "probability": 0.8},
            {"text": "four", "label": "c", "prediction": "a", "probability": 0.6},
        ]

    def test_no_more_come_than_asked_for(self):
        errors = find_confident_errors(PREDICTIONS, LABELS, self.DOCUMENTS, most=1)
        assert [error["text"] for error in errors] == ["two"]

    def test_equally_confident_ones_come_in_the_order_of_the_documents(self):
        rows = [(number, "test", "a", [0.1, 0.9, 0.0]) for number in (3, 1, 2)]
        errors = find_confident_errors(make_predictions(rows), LABELS, self.DOCUMENTS)
        assert [error["text"] for error in errors] == ["one", "two", "three"]

    def test_a_flawless_model_has_none(self):
        flawless = make_predictions([(1, "test", "a", [1.0, 0.0, 0.0])])
        assert find_confident_errors(flawless, LABELS, self.DOCUMENTS) == []


class TestStage:
    def test_predictions_cover_validation_and_test_with_probabilities(self, toy):
        predictions = toy.evaluation.read_table(PREDICTIONS_FILE)
        assert predictions.schema.equals(predictions_schema(["food", "météo", "sport"]))
        frame = predictions.to_pandas()
        documents = toy.documents.read_table("documents.parquet").to_pandas().set_index("doc_id")
        held_out = documents[documents["split"] != "train"]
        assert sorted(frame["doc_id"]) == sorted(held_out.index)
        assert frame["label"].tolist() == held_out.loc[frame["doc_id"], "label"].tolist()
        assert frame["split"].tolist() == held_out.loc[frame["doc_id"], "split"].tolist()
        np.testing.assert_allclose(frame[["p_food", "p_météo", "p_sport"]].sum(axis=1), 1.0, atol=1e-12)

    def test_metrics_are_those_of_the_stored_predictions_of_each_model(self, toy):
        metrics, labels = toy.evaluation.read_json(METRICS_FILE), ["food", "météo", "sport"]
        assert metrics == {
            split: {
                "lstm": measure(toy.evaluation.read_table(PREDICTIONS_FILE), labels, split),
                "baseline": measure(toy.baseline.read_table(PREDICTIONS_FILE), labels, split),
            }
            for split in ("validation", "test")
        }
        assert toy.evaluation.facts["lstm_macro_f1"] == metrics["test"]["lstm"]["macro_f1"]
        assert toy.evaluation.facts["baseline_accuracy"] == metrics["test"]["baseline"]["accuracy"]

    def test_validation_scores_are_those_of_the_best_epoch(self, toy):
        metrics = toy.evaluation.read_json(METRICS_FILE)["validation"]["lstm"]
        assert metrics["macro_f1"] == pytest.approx(toy.classifier.facts["validation_macro_f1"], abs=1e-12)

    def test_a_second_computation_gives_the_same_bytes(self, toy):
        before = {path.name: path.read_bytes() for path in toy.evaluation.directory.iterdir()}
        shutil.rmtree(toy.evaluation.directory)
        again = evaluate_classifier.fn(toy.classifier, toy.buckets, toy.baseline, toy.documents, toy.embeddings)
        assert again.digest == toy.evaluation.digest
        assert {*FIGURES, METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE} == before.keys() - {"manifest.json"}
        assert {name: again.path(name).read_bytes() == content for name, content in before.items()} == {
            name: name != "manifest.json"
            for name in before  # the manifest says how long it took
        }

    def test_without_vectors_the_report_says_so(self, toy):
        output = evaluate_classifier.fn(toy.classifier, toy.buckets, toy.baseline, toy.documents, None)
        assert output.digest != toy.evaluation.digest
        assert output.read_json(METRICS_FILE) == toy.evaluation.read_json(METRICS_FILE)
        assert output.path("coverage.png").read_bytes() != toy.evaluation.path("coverage.png").read_bytes()

    def test_splits_are_predicted_by_the_stored_weights(self, toy):
        predictions = predict_splits(toy.classifier, toy.buckets, ["food", "météo", "sport"])
        assert predictions.equals(toy.evaluation.read_table(PREDICTIONS_FILE))
