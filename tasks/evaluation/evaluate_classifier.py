"""Stage `evaluate_classifier`: measure the network, the linear model and both together, and choose which is registered.

Reads the weights, the buckets, the linear model and its predictions, the documents that it shows and the reports of
earlier stages. Writes the scores, the analysis and the calibrated predictions.
"""

import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.analysis import Analysis, Attribution
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import Candidate, Combination, Metric, Metrics, ModelScores
from pipeline_config.contracts.linear import LinearDescription
from pipeline_config.contracts.training import ModelDescription
from pipeline_config.schemas import (
    EPOCHS_FILE,
    KEPT_COLUMNS_FILE,
    LINEAR_FILE,
    OUT_OF_FOLD_FILE,
    PREDICTIONS_FILE,
    WEIGHTS_FILE,
    Split,
)
from pipeline_config.settings import EvaluationConfig
from tasks.batches.bucket_corpus import read_labels
from tasks.batches.encoded_split import EncodedSplit, load_split
from tasks.evaluation.analyse import Evidence, align_answers, analyse
from tasks.evaluation.attribution import Weigh, attribute_documents, choose_sample, encode_documents
from tasks.evaluation.calibration import soften
from tasks.evaluation.combination import Combined, Logits, combine, logarithms
from tasks.evaluation.metrics import measure, read_answers
from tasks.evaluation.mistakes import read_texts
from tasks.evaluation.prediction_table import tabulate_predictions
from tasks.evaluation.verdict import write_verdict
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tasks.served.network import TextClassifier

EVALUATED: tuple[Split, ...] = ("validation", "test")


@stage(version=7)
def evaluate_classifier(
    output: StageOutput,
    classifier: ArtifactRef,
    buckets: ArtifactRef,
    baseline: ArtifactRef,
    documents: ArtifactRef,
    vocabulary: ArtifactRef,
    embeddings: ArtifactRef | None,
    config: EvaluationConfig,
    candidate: Candidate | Literal["best"],
) -> None:
    """Write scores, analysis and predictions; the latter two are of the model that is to be registered.

    Args:
        output: where to write.
        classifier: the network.
        buckets: its splits.
        baseline: the linear model and its predictions.
        documents: the corpus.
        vocabulary: of the network.
        embeddings: of the network; None without vectors.
        config: what the scores are read for.
        candidate: which model is to be registered; `best` leaves it to the validation split.
    """
    labels, splits = read_labels(buckets), {name: load_split(buckets, name) for name in EVALUATED}
    network, combined = combine_models(classifier, baseline, labels, splits, candidate)
    tables = {
        name: tabulate_splits(splits, combined.logits[name], labels, combined.temperatures[name])
        for name in get_args(Candidate)
    }
    metrics = measure_models(tables, labels, combined.combination)
    chosen = metrics.candidate
    table, registered = tables[chosen], metrics.test.of(chosen)
    other: Candidate = "lstm" if chosen == "linear" else "linear"
    weigh = make_weigh(network, baseline, metrics.combination)
    evidence = Evidence(
        labels=labels,
        predictions=table,
        other=other,
        other_predictions=tables[other],
        out_of_fold=baseline.read_table(OUT_OF_FOLD_FILE),
        test=splits["test"],
        logits=combined.logits[chosen],
        temperature=combined.temperatures[chosen],
        columns=read_kept_columns(documents, splits["test"].doc_ids),
        read=partial(read_texts, documents),
        explain=partial(explain_sample, weigh, splits["test"], labels, documents, vocabulary),
    )
    analysis = judge(
        metrics,
        analyse(evidence, wanted_precision=config.wanted_precision),
        classifier=classifier,
        documents=documents,
        embeddings=embeddings,
    )
    for content in (metrics, analysis):
        output.write_model(content)
    output.write_table(PREDICTIONS_FILE, table, table.schema)
    output.facts.update(candidate=chosen, accuracy=registered.accuracy, macro_f1=registered.macro_f1)
    for name, scores in metrics.test.by_model():
        output.facts.update({f"{name}_accuracy": scores.accuracy, f"{name}_macro_f1": scores.macro_f1})


def combine_models(
    classifier: ArtifactRef,
    baseline: ArtifactRef,
    labels: list[str],
    splits: dict[Split, EncodedSplit],
    candidate: Candidate | Literal["best"],
) -> "tuple[TextClassifier, Combined]":
    """Return the network, and what comes of it and the linear model together on the held-out splits."""
    from tasks.runtime.torch_thread import run_in_torch_thread  # not at the top: torch is slow to import

    network = run_in_torch_thread(partial(load_network, classifier), threads=None)
    logits = run_in_torch_thread(partial(predict_splits, network, splits), threads=None)
    return network, combine(
        logits,
        read_linear_logits(baseline, labels, splits),
        splits["validation"].label_ids,
        wanted=candidate,
        linear_temperature=baseline.read_model(LinearDescription).temperature,
    )


def load_network(classifier: ArtifactRef) -> "TextClassifier":
    """Return the trained network in evaluation mode."""
    from safetensors.torch import load_file  # not at the top: torch is slow to import

    from tasks.served.network import TextClassifier

    network = TextClassifier(**classifier.read_model(ModelDescription).architecture.model_dump())
    network.load_state_dict(load_file(classifier.path(WEIGHTS_FILE)))
    return network.eval()


def predict_splits(network: "TextClassifier", splits: dict[Split, EncodedSplit]) -> dict[Split, np.ndarray]:
    """Return the logits float64[N, C] of each split."""
    from tasks.evaluation.prediction import predict_logits  # not at the top: torch is slow to import

    return {name: predict_logits(network, split) for name, split in splits.items()}


def tabulate_splits(
    splits: dict[Split, EncodedSplit], logits: dict[Split, np.ndarray], labels: list[str], temperature: float
) -> pa.Table:
    """Return predictions (`predictions_schema`) with the probabilities of logits that are divided by a temperature."""
    tables = []
    for name, split in splits.items():
        truth = pa.table(
            {"doc_id": split.doc_ids, "split": [name] * len(split), "label": [labels[i] for i in split.label_ids]}
        )
        tables.append(tabulate_predictions(truth, labels, soften(logits[name], temperature)))
    return pa.concat_tables(tables)


def read_linear_logits(baseline: ArtifactRef, labels: list[str], splits: dict[Split, EncodedSplit]) -> Logits:
    """Return the logarithms of the linear model's probabilities, float64[N, C], in the order of each split."""
    table, found = baseline.read_table(PREDICTIONS_FILE), {}
    for name, split in splits.items():
        answers = align_answers(read_answers(table, labels, name), split.doc_ids)
        found[name] = logarithms(answers.probabilities)
    return found


def make_weigh(network: "TextClassifier", baseline: ArtifactRef, combination: Combination) -> Weigh:
    """Return the function that weighs the tokens of a document in the model that is registered."""
    from tasks.served.attribution import weigh_tokens  # not at the top: torch is slow to import
    from tasks.served.linear import LinearModel

    linear = None
    if combination.linear_temperature:
        options = baseline.read_model(LinearDescription).options
        linear = LinearModel.read(baseline.path(LINEAR_FILE), **options.model_dump())
    return partial(
        weigh_tokens,
        network=network if combination.network_temperature else None,
        temperature=combination.network_temperature or 1.0,
        linear=linear,
        linear_temperature=combination.linear_temperature or 1.0,
    )


def explain_sample(
    weigh: Weigh,
    split: EncodedSplit,
    labels: list[str],
    documents: ArtifactRef,
    vocabulary: ArtifactRef,
    probabilities: np.ndarray,
) -> tuple[Attribution, ...]:
    """Return the weights of the tokens of some right and some wrong predictions."""
    from tasks.runtime.torch_thread import run_in_torch_thread  # not at the top: torch is slow to import

    chosen = choose_sample(split.label_ids, probabilities)
    texts = read_texts(documents, split.doc_ids[chosen].tolist())
    encoded = encode_documents(split, chosen, texts, Vocabulary.read(vocabulary), labels)
    attribute = partial(attribute_documents, weigh, encoded, labels, probabilities[chosen])
    return run_in_torch_thread(attribute, threads=None)


def read_kept_columns(documents: ArtifactRef, doc_ids: Iterable[int]) -> dict[str, list[str | None]]:
    """Return the kept columns of documents by name, in the order of `doc_ids`; none if the corpus keeps none."""
    if not documents.path(KEPT_COLUMNS_FILE).exists():
        return {}
    table = documents.read_table(KEPT_COLUMNS_FILE)
    places = pa.compute.index_in(pa.array(doc_ids, pa.int64()), table["doc_id"].combine_chunks())
    kept = table.drop_columns(["doc_id"]).take(places)
    return {name: kept[name].to_pylist() for name in kept.column_names}


def judge(
    metrics: Metrics,
    analysis: Analysis,
    *,
    classifier: ArtifactRef,
    documents: ArtifactRef,
    embeddings: ArtifactRef | None,
) -> Analysis:
    """Return the analysis with its verdict."""
    verdict = write_verdict(
        metrics.test.of(metrics.candidate),
        analysis,
        profile=documents.read_model(CorpusProfile),
        epochs=classifier.read_table(EPOCHS_FILE),
        best_epoch=classifier.read_model(ModelDescription).best_epoch,
        coverage=embeddings.read_model(CoverageReport) if embeddings else None,
    )
    return analysis.model_copy(update={"verdict": verdict})


def measure_models(tables: dict[Candidate, pa.Table], labels: list[str], combination: Combination) -> Metrics:
    """Return the scores of all models' predictions on both held-out splits."""
    scores = {
        split: ModelScores(
            baseline=measure(tables["linear"], labels, split),
            lstm=measure(tables["lstm"], labels, split),
            hybrid=measure(tables["hybrid"], labels, split),
        )
        for split in EVALUATED
    }
    return Metrics(combination=combination, test=scores["test"], validation=scores["validation"])


def compare_seeds(evaluations: Sequence[ArtifactRef], metric: Metric) -> tuple[dict[str, float], int]:
    """Compare the evaluations of trainings that differ in their seed.

    Args:
        evaluations: one per seed.
        metric: validation metric that decides which is the best.

    Returns:
        `<split>_<metric>_mean` and `_deviation` (sample standard deviation) of the models that are registered, and the
        `count` of seeds; empty for a single seed. And the position of the best evaluation.
    """
    metrics = [evaluation.read_model(Metrics) for evaluation in evaluations]
    sign = -1 if metric == "loss" else 1
    best = max(
        range(len(metrics)), key=lambda i: sign * metrics[i].validation.of(metrics[i].candidate).value_of(metric)
    )
    if len(metrics) == 1:
        return {}, best
    spread = {"count": float(len(metrics))}
    for split in EVALUATED:
        by_seed = [dict(seed.by_split())[split].of(seed.candidate).headlines() for seed in metrics]
        for key in by_seed[0]:
            values = [scores[key] for scores in by_seed]
            spread[f"{split}_{key}_mean"] = statistics.mean(values)
            spread[f"{split}_{key}_deviation"] = statistics.stdev(values)
    return spread, best
