"""Stage `evaluate_classifier`: measure the classifier and the baseline on the held-out documents.

Reads the weights, the buckets, the baseline's predictions and the reports of earlier stages. Writes metrics,
predictions, figures and one self-contained HTML report.
"""

import statistics
from collections.abc import Sequence
from functools import partial

import pyarrow as pa

from pipeline_config.contracts.batches import PaddingReport
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import Metric, Metrics, ModelScores
from pipeline_config.contracts.training import ModelDescription
from pipeline_config.schemas import DOCUMENTS_FILE, EPOCHS_FILE, PREDICTIONS_FILE, REPORT_FILE, WEIGHTS_FILE, Split
from tasks.batches.bucket_corpus import read_labels
from tasks.batches.encoded_split import load_split
from tasks.evaluation.metrics import measure
from tasks.evaluation.prediction_table import find_confident_errors, tabulate_predictions
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage

EVALUATED: tuple[Split, ...] = ("validation", "test")


@stage(version=5)
def evaluate_classifier(
    output: StageOutput,
    classifier: ArtifactRef,
    buckets: ArtifactRef,
    baseline: ArtifactRef,
    documents: ArtifactRef,
    embeddings: ArtifactRef | None,
) -> None:
    """Write metrics, predictions, figures and the report."""
    from tasks.evaluation.report import Evidence, draw_figures, render_report  # not at the top: matplotlib and torch
    from tasks.runtime.torch_thread import run_in_torch_thread  # are slow to import

    labels = read_labels(buckets)
    predictions = run_in_torch_thread(partial(predict_splits, classifier, buckets, labels), threads=None)
    metrics = measure_models(predictions, baseline.read_table(PREDICTIONS_FILE), labels)
    output.write_model(metrics)
    output.write_table(PREDICTIONS_FILE, predictions, predictions.schema)
    evidence = Evidence(
        labels=labels,
        scores=metrics.test,
        epochs=classifier.read_table(EPOCHS_FILE).to_pandas(),
        lengths=load_split(buckets, "train").lengths,
        profile=documents.read_model(CorpusProfile),
        padding=buckets.read_model(PaddingReport),
        coverage=embeddings.read_model(CoverageReport) if embeddings else None,
        errors=find_confident_errors(predictions, labels, documents.read_table(DOCUMENTS_FILE)),
    )
    draw_figures(evidence, output.directory)
    output.path(REPORT_FILE).write_text(render_report(evidence, output.directory), "utf-8")
    for name, scores in (("lstm", metrics.test.lstm), ("baseline", metrics.test.baseline)):
        output.facts.update({f"{name}_accuracy": scores.accuracy, f"{name}_macro_f1": scores.macro_f1})


def measure_models(classifier: pa.Table, baseline: pa.Table, labels: list[str]) -> Metrics:
    """Return the scores of both models' predictions on both held-out splits."""
    return Metrics(
        **{
            split: ModelScores(lstm=measure(classifier, labels, split), baseline=measure(baseline, labels, split))
            for split in EVALUATED
        }
    )


def predict_splits(classifier: ArtifactRef, buckets: ArtifactRef, labels: list[str]) -> pa.Table:
    """Return the classifier's predictions (`predictions_schema`) on the validation and test splits."""
    from safetensors.torch import load_file  # not at the top: torch is slow to import

    from tasks.evaluation.prediction import predict_probabilities
    from tasks.served.network import TextClassifier

    network = TextClassifier(**classifier.read_model(ModelDescription).architecture.model_dump())
    network.load_state_dict(load_file(classifier.path(WEIGHTS_FILE)))
    tables = []
    for name in EVALUATED:
        split = load_split(buckets, name)
        truth = pa.table(
            {"doc_id": split.doc_ids, "split": [name] * len(split), "label": [labels[i] for i in split.label_ids]}
        )
        tables.append(tabulate_predictions(truth, labels, predict_probabilities(network, split)))
    return pa.concat_tables(tables)


def compare_seeds(evaluations: Sequence[ArtifactRef], metric: Metric) -> tuple[dict[str, float], int]:
    """Compare the evaluations of trainings that differ in their seed.

    Args:
        evaluations: one per seed.
        metric: validation metric that decides which is the best.

    Returns:
        `<split>_<metric>_mean` and `_deviation` (sample standard deviation) of the LSTM, and the `count` of seeds;
        empty for a single seed. And the position of the best evaluation.
    """
    metrics = [evaluation.read_model(Metrics) for evaluation in evaluations]
    sign = -1 if metric == "loss" else 1
    best = max(range(len(metrics)), key=lambda number: sign * metrics[number].validation.lstm.value_of(metric))
    if len(metrics) == 1:
        return {}, best
    spread = {"count": float(len(metrics))}
    for split in EVALUATED:
        by_seed = [dict(seed.by_split())[split].lstm.headlines() for seed in metrics]
        for key in by_seed[0]:
            values = [scores[key] for scores in by_seed]
            spread[f"{split}_{key}_mean"] = statistics.mean(values)
            spread[f"{split}_{key}_deviation"] = statistics.stdev(values)
    return spread, best
