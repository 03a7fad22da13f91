import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.contracts.linear import LinearDescription
from pipeline_config.schemas import ANALYSIS_FILE, LINEAR_FILE, METRICS_FILE, PREDICTIONS_FILE, predictions_schema
from tasks.batches.encoded_split import load_split
from tasks.evaluation.analyse import align_answers
from tasks.evaluation.evaluate_classifier import compare_seeds, evaluate_classifier, load_network
from tasks.evaluation.metrics import SplitAnswers, measure, read_answers
from tasks.evaluation.prediction import predict_logits
from tasks.served.linear import LinearModel
from tasks.served.tokenizers import tokenize_texts
from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output
from tests.made_predictions import make_metrics, make_scores


@pytest.mark.usefixtures("artifacts")
class TestCompareSeeds:
    @pytest.fixture
    def evaluations(self) -> list[ArtifactRef]:
        """Three outputs with made-up scores: accuracy, macro F1, log-loss on validation and test."""
        names = ("accuracy", "macro_f1", "log_loss")
        made = [
            ((0.7, 0.6, 0.5), (0.5, 0.4, 1.0)),
            ((0.8, 0.5, 0.6), (0.6, 0.5, 1.1)),
            ((0.6, 0.7, 0.7), (0.7, 0.6, 1.2)),
        ]
        outputs = []
        for number, splits in enumerate(made):
            validation, test = (make_scores(**dict(zip(names, values, strict=True))) for values in splits)
            metrics = make_metrics(validation=validation, test=test)
            write = partial(lambda metrics, output: output.write_model(metrics), metrics)
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
        metrics, labels = toy.evaluation.read_model(Metrics), ["food", "météo", "sport"]
        registered, baseline = (output.read_table(PREDICTIONS_FILE) for output in (toy.evaluation, toy.baseline))
        assert metrics.candidate == "hybrid"
        assert metrics.test.hybrid == measure(registered, labels, "test")
        assert metrics.validation.hybrid == measure(registered, labels, "validation")
        for name in ("accuracy", "macro_f1", "log_loss"):
            expected = getattr(measure(baseline, labels, "validation"), name)
            assert getattr(metrics.validation.baseline, name) == pytest.approx(expected, abs=1e-12)
        assert toy.evaluation.facts["lstm_macro_f1"] == metrics.test.lstm.macro_f1
        assert toy.evaluation.facts["baseline_accuracy"] == metrics.test.baseline.accuracy

    @pytest.mark.parametrize("candidate", ["lstm", "linear", "hybrid"])
    def test_the_temperatures_divide_the_logits_of_both_models_on_both_splits(self, toy, candidate):
        output = evaluate(toy, toy.embeddings, candidate)
        combination = output.read_model(Metrics).combination
        assert combination.candidate == candidate
        frame, columns = output.read_table(PREDICTIONS_FILE).to_pandas(), ["p_food", "p_météo", "p_sport"]
        network, options = load_network(toy.classifier), toy.baseline.read_model(LinearDescription).options
        linear = LinearModel.read(toy.baseline.path(LINEAR_FILE), **options.model_dump())
        texts = toy.documents.read_table("documents.parquet").to_pandas().set_index("doc_id")["text"]
        for name in ("validation", "test"):
            split, logits = load_split(toy.buckets, name), 0.0
            if combination.network_temperature:
                logits = logits + predict_logits(network, split) / combination.network_temperature
            if combination.linear_temperature:
                tokens = tokenize_texts(texts.loc[split.doc_ids], toy.config.tokenization.tokenizer)
                logits = logits + np.array([linear.answer_one(one) for one in tokens]) / combination.linear_temperature
            expected = torch.from_numpy(logits).softmax(dim=1)
            rows = frame[frame["split"] == name].set_index("doc_id").loc[split.doc_ids]
            np.testing.assert_allclose(rows[columns], expected, rtol=0, atol=1e-6)

    def test_the_linear_model_alone_is_compared_with_the_network(self, toy):
        (comparison,) = evaluate(toy, toy.embeddings, "linear").read_model(Analysis).comparisons
        assert comparison.other == "LSTM"

    def test_the_calibration_is_that_of_the_test_scores(self, toy):
        calibration, scores = (
            toy.evaluation.read_model(Analysis).calibration,
            toy.evaluation.read_model(Metrics).test.hybrid,
        )
        assert calibration.ece.value == pytest.approx(scores.ece, abs=1e-12)
        assert (calibration.ece.low, calibration.ece.high) == pytest.approx(scores.intervals["ece"], abs=1e-12)
        assert calibration.log_loss == pytest.approx(scores.log_loss, abs=1e-12)
        assert sum(part.documents for part in calibration.bins) == scores.documents

    def test_the_analysis_has_every_part(self, toy):
        analysis, metrics = toy.evaluation.read_model(Analysis), toy.evaluation.read_model(Metrics)
        documents = toy.documents.read_table("documents.parquet").to_pandas().set_index("doc_id")
        assert [part.label for part in analysis.class_thresholds] == ["food", "météo", "sport"]
        assert analysis.kept_shares[0].accuracy == metrics.test.hybrid.accuracy
        assert {"length", "unknown tokens", "class"} == {part.feature for part in analysis.slices}
        (comparison,) = analysis.comparisons
        gain = metrics.test.hybrid.accuracy - metrics.test.baseline.accuracy
        assert comparison.accuracy.value == pytest.approx(gain, abs=1e-12)
        for shown in (*analysis.errors, *analysis.suspects, *comparison.examples):
            assert (shown.text, shown.label) == tuple(documents.loc[shown.doc_id, ["text", "label"]])
        assert analysis.attributions
        assert all(part.doc_id in documents.index for part in analysis.attributions)
        assert analysis.verdict

    def test_validation_scores_are_those_of_the_best_epoch(self, toy):
        scores = toy.evaluation.read_model(Metrics).validation.lstm
        assert scores.macro_f1 == pytest.approx(toy.classifier.facts["validation_macro_f1"], abs=1e-12)

    def test_a_second_computation_gives_the_same_bytes(self, toy):
        directory = toy.evaluation.directory  # the manifest says how long it took
        before = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"}
        shutil.rmtree(directory)
        again = evaluate(toy, toy.embeddings)
        assert again.digest == toy.evaluation.digest
        assert before.keys() == {METRICS_FILE, ANALYSIS_FILE, PREDICTIONS_FILE}
        assert {name: again.path(name).read_bytes() for name in before} == before

    def test_without_vectors_the_scores_are_the_same(self, toy):
        output = evaluate(toy, None)
        assert output.read_json(METRICS_FILE) == toy.evaluation.read_json(METRICS_FILE)

    def test_answers_of_another_order_are_aligned(self, toy):
        answers = read_answers(toy.evaluation.read_table(PREDICTIONS_FILE), ["food", "météo", "sport"], "test")
        mixed = SplitAnswers(*(column[::-1] for column in answers))
        for aligned, column in zip(align_answers(mixed, answers.doc_ids), answers, strict=True):
            np.testing.assert_array_equal(aligned, column)


def evaluate(toy, embeddings, candidate="best") -> ArtifactRef:
    return evaluate_classifier.fn(
        toy.classifier,
        toy.buckets,
        toy.baseline,
        toy.documents,
        toy.vocabulary,
        embeddings,
        toy.config.evaluation,
        candidate,
    )


def test_importing_the_stages_imports_no_heavy_package():
    # a run whose stages are all cached needs none of them
    source = (
        "import sys; import tasks.training.train_classifier, tasks.training.train_baseline, tasks.registry.register_model;"
        "import tasks.evaluation.evaluate_classifier;"
        "print([name for name in ('torch', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
