"""Every figure of `metrics.json`, computed again from the tables of predictions by code that shares nothing with ours."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from pipeline_config.schemas import METRICS_FILE, PREDICTIONS_FILE
from tasks.evaluation.evaluate_classifier import measure_models
from tests.made_predictions import LSTM_ALONE, make_predictions


def recompute(frame: pd.DataFrame, labels: list[str]) -> dict:
    """The scores of one model on one split, as `metrics.json` has them, without the intervals."""
    truth, probabilities = frame["label"].to_numpy(), frame[[f"p_{label}" for label in labels]].to_numpy()
    predicted = np.array(labels, dtype=object)[probabilities.argmax(axis=1)]
    assert (predicted == frame["prediction"]).all()
    present = [label for label in labels if label in set(truth)]
    rows = dict(
        zip(
            labels,
            zip(*sk.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0), strict=True),
            strict=True,
        )
    )
    one_hot = (truth[:, None] == np.array(labels, dtype=object)).astype(float)
    given = probabilities[one_hot == 1]
    classes = {}
    for number, label in enumerate(labels):
        scores = {"support": int((truth == label).sum()), "predicted": int((predicted == label).sum())}
        scores |= dict.fromkeys(("precision", "recall", "f1", "roc_auc", "pr_auc"))
        if label in present:
            scores |= dict(zip(("precision", "recall", "f1"), map(float, rows[label][:3]), strict=True))
        if label in present and len(present) > 1:
            scores["roc_auc"] = sk.roc_auc_score(truth == label, probabilities[:, number])
            scores["pr_auc"] = sk.average_precision_score(truth == label, probabilities[:, number])
        classes[label] = scores
    confusion = sk.confusion_matrix(truth, predicted, labels=labels)

    def mean(name: str) -> float | None:
        values = [classes[label][name] for label in present]
        return None if None in values else float(np.mean(values))

    return {
        "accuracy": float((truth == predicted).mean()),
        "macro_f1": mean("f1"),
        "log_loss": float(-np.log(np.maximum(given, 2.0**-52)).mean()),
        "balanced_accuracy": mean("recall"),
        "micro_f1": sk.f1_score(truth, predicted, average="micro"),
        "weighted_f1": sk.f1_score(truth, predicted, average="weighted", zero_division=0),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "brier": float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        "ece": calibration_error(probabilities.max(axis=1), truth == predicted),
        "roc_auc": mean("roc_auc"),
        "pr_auc": mean("pr_auc"),
        "documents": len(frame),
        "absent_classes": [label for label in labels if label not in present],
        "classes": classes,
        "confusion": confusion.tolist(),
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """With bins that begin at every k-th of the sorted confidences, where equal ones are together."""
    bins = max(1, min(15, len(confidence) // 20))
    starts = sorted({sorted(confidence)[len(confidence) * k // bins] for k in range(1, bins)})
    total = 0.0
    for low, high in zip([-np.inf, *starts], [*starts, np.inf], strict=True):
        inside = (confidence >= low) & (confidence < high)
        total += abs(correct[inside].sum() - confidence[inside].sum())
    return float(total / len(confidence))


def bootstrap(frame: pd.DataFrame, labels: list[str], resamples: int = 300) -> dict[str, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(11))
    truth, probabilities = frame["label"].to_numpy(), frame[[f"p_{label}" for label in labels]].to_numpy()
    right = np.array(labels, dtype=object)[probabilities.argmax(axis=1)] == truth
    given = probabilities[truth[:, None] == np.array(labels, dtype=object)]
    rows = generator.integers(0, len(frame), (resamples, len(frame)))
    return {"accuracy": right[rows].mean(axis=1), "log_loss": -np.log(given)[rows].mean(axis=1)}


def made_table(count: int, labels: list[str], seed: int):
    generator = np.random.Generator(np.random.PCG64(seed))
    truth = generator.choice(len(labels) - 1, count)  # the last class has no documents
    logits = generator.standard_normal((count, len(labels)))
    logits[np.arange(count), truth] += 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    splits = np.where(np.arange(count) % 3, "test", "validation")
    return make_predictions(
        [(i, str(splits[i]), labels[truth[i]], probabilities[i].tolist()) for i in range(count)], labels
    )


def compare(found: dict, expected: dict) -> None:
    assert found.keys() - {"intervals"} == expected.keys()
    for name, value in expected.items():
        if name == "classes":
            assert found[name].keys() == value.keys()
            for label, scores in value.items():
                assert found[name][label] == pytest.approx(scores, abs=1e-12), label
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, abs=1e-12), name
        else:
            assert found[name] == value, name


def test_scores_of_made_predictions_are_those_computed_again():
    labels = ["b", "ä", "a c", "none"]
    tables = {name: made_table(900, labels, seed) for seed, name in enumerate(("lstm", "linear", "hybrid"), 1)}
    found = json.loads(measure_models(tables, labels, LSTM_ALONE).model_dump_json())
    for model, table in zip(("lstm", "baseline", "hybrid"), tables.values(), strict=True):
        frame = table.to_pandas()
        for split in ("validation", "test"):
            rows, scores = frame[frame["split"] == split], found[split][model]
            compare(scores, recompute(rows, labels))
            for name, values in bootstrap(rows, labels).items():
                ends = pytest.approx(np.quantile(values, (0.025, 0.975)), abs=0.35 * values.std())
                assert scores["intervals"][name] == ends, name


def test_scores_of_the_small_pipeline_are_those_computed_again(toy):
    found, labels = toy.evaluation.read_json(METRICS_FILE), ["food", "météo", "sport"]
    for model, output in (("hybrid", toy.evaluation), ("baseline", toy.baseline)):
        frame = output.read_table(PREDICTIONS_FILE).to_pandas()
        for split in ("validation", "test"):
            compare(found[split][model], recompute(frame[frame["split"] == split], labels))
