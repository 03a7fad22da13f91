"""Stage `evaluate_classifier`: measure the classifier on held-out documents, next to the baseline.

Reads the weights, the buckets, the baseline's predictions and the reports of earlier stages. Writes metrics,
predictions, figures and one self-contained HTML report.
"""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline_config.contracts.batches import PaddingReport
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.schemas import (
    DOCUMENTS_FILE,
    EPOCHS_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    WEIGHTS_FILE,
    Split,
)
from tasks.batches.bucket_corpus import read_labels
from tasks.batches.encoded_split import load_split
from tasks.evaluation.metrics import measure
from tasks.evaluation.prediction import predictions_table
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage

EVALUATED: tuple[Split, ...] = ("validation", "test")


@stage(version=4)
def evaluate_classifier(
    output: StageOutput,
    classifier: ArtifactRef,
    buckets: ArtifactRef,
    baseline: ArtifactRef,
    documents: ArtifactRef,
    embeddings: ArtifactRef | None,
) -> None:
    """Write metrics, predictions, figures and the report."""
    from tasks.evaluation.report import Evidence, draw_figures, render_report
    from tasks.runtime.torch_thread import run_in_torch_thread  # here: torch and matplotlib are slow to import

    labels = read_labels(buckets)
    predictions = run_in_torch_thread(partial(predict_splits, classifier, buckets, labels), threads=None)
    linear = baseline.read_table(PREDICTIONS_FILE)
    metrics: dict[str, Any] = {
        split: {"lstm": measure(predictions, labels, split), "baseline": measure(linear, labels, split)}
        for split in EVALUATED
    }
    output.write_json(METRICS_FILE, metrics)
    output.write_table(PREDICTIONS_FILE, predictions, predictions.schema)
    evidence = Evidence(
        labels=labels,
        metrics=metrics,
        epochs=classifier.read_table(EPOCHS_FILE).to_pandas(),
        lengths={split: load_split(buckets, split).lengths for split in ("train", *EVALUATED)},
        profile=documents.read_model(CorpusProfile),
        padding=buckets.read_model(PaddingReport),
        coverage=embeddings.read_model(CoverageReport) if embeddings else None,
        errors=find_confident_errors(predictions, labels, documents.read_table(DOCUMENTS_FILE)),
    )
    draw_figures(evidence, output.directory)
    output.path(REPORT_FILE).write_text(render_report(evidence, output.directory), "utf-8")
    for name in ("lstm", "baseline"):
        scores = metrics["test"][name]
        output.facts.update({f"{name}_{key}": scores[key] for key in ("accuracy", "macro_f1")})


def predict_splits(classifier: ArtifactRef, buckets: ArtifactRef, labels: list[str]) -> pa.Table:
    """Return the classifier's predictions (`predictions_schema`) on the validation and test splits."""
    from safetensors.torch import load_file  # here: torch is slow to import

    from tasks.evaluation.prediction import predict_probabilities
    from tasks.served.network import TextClassifier

    network = TextClassifier(**classifier.read_json(MODEL_FILE)["architecture"])
    network.load_state_dict(load_file(classifier.path(WEIGHTS_FILE)))
    tables = []
    for name in EVALUATED:
        split = load_split(buckets, name)
        truth = pa.table(
            {
                "doc_id": split.doc_ids,
                "split": [name] * len(split),
                "label": [labels[i] for i in split.label_ids],
            }
        )
        tables.append(predictions_table(truth, labels, predict_probabilities(network, split)))
    return pa.concat_tables(tables)


def compare_seeds(evaluations: Sequence[ArtifactRef], metric: str) -> tuple[dict[str, float], int]:
    """Compare the evaluations of trainings that differ in their seed.

    Args:
        evaluations: one per seed.
        metric: validation metric that decides: `accuracy`, `macro_f1` or `loss`.

    Returns:
        `<split>_<metric>_mean` and `_deviation` (that of a sample) of the LSTM, and the `count` of seeds, empty for a
        single seed; and the position of the best evaluation.
    """
    scores = [evaluation.read_json(METRICS_FILE) for evaluation in evaluations]
    name, sign = ("log_loss", -1) if metric == "loss" else (metric, 1)
    best = max(range(len(scores)), key=lambda number: sign * scores[number]["validation"]["lstm"][name])
    if len(scores) == 1:
        return {}, best
    spread = {"count": float(len(scores))}
    for split in EVALUATED:
        for key in ("accuracy", "macro_f1", "log_loss"):
            values = [score[split]["lstm"][key] for score in scores]
            spread[f"{split}_{key}_mean"] = statistics.mean(values)
            spread[f"{split}_{key}_deviation"] = statistics.stdev(values)
    return spread, best


def find_confident_errors(
    predictions: pa.Table, labels: list[str], documents: pa.Table, most: int = 15
) -> list[dict[str, Any]]:
    """Return the wrong test predictions with the highest probability: text, label, prediction, probability."""
    frame = predictions.to_pandas()
    frame["probability"] = frame[[f"p_{label}" for label in labels]].max(axis=1)
    wrong = frame[(frame["split"] == "test") & (frame["label"] != frame["prediction"])]
    wrong = wrong.sort_values(["probability", "doc_id"], ascending=[False, True]).head(most)
    texts = documents.select(["doc_id", "text"]).to_pandas().set_index("doc_id")["text"]
    wrong = wrong.assign(text=wrong["doc_id"].map(texts))
    rows: list[dict[str, Any]] = wrong[["text", "label", "prediction", "probability"]].to_dict("records")
    return rows
