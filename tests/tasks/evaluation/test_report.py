import base64
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline_config.contracts.batches import PaddingReport, SchemePadding
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import ClassScores, ModelScores, Scores
from pipeline_config.schemas import FIGURES
from tasks.evaluation.prediction_table import ConfidentError
from tasks.evaluation.report import (
    Evidence,
    draw_confusion,
    draw_corpus,
    draw_coverage,
    draw_figures,
    draw_lengths,
    draw_training,
    render_report,
)

PNG = b"\x89PNG\r\n\x1a\n"


def score_both(labels: list[str], confusion: list[list[int]]) -> ModelScores:
    """Return the same scores for both models."""
    classes = {
        label: ClassScores(
            precision=0.125, recall=0.25, f1=0.375, roc_auc=0.5, pr_auc=0.5, support=float(sum(row)), predicted=1
        )
        for label, row in zip(labels, confusion, strict=True)
    }
    scores = Scores(
        accuracy=0.51234,
        macro_f1=0.41234,
        log_loss=1.23456,
        balanced_accuracy=0.5,
        micro_f1=0.5,
        weighted_f1=0.5,
        mcc=0.5,
        brier=0.5,
        ece=0.1,
        roc_auc=None,
        pr_auc=None,
        intervals={},
        documents=sum(map(sum, confusion)),
        absent_classes=(),
        classes=classes,
        confusion=confusion,
    )
    return ModelScores(lstm=scores, baseline=scores)


def make_evidence(labels: list[str] | None = None, **changes) -> Evidence:
    labels = labels or ["bad", "good"]
    confusion = [[3, 1], [0, 2]]
    evidence = Evidence(
        labels=labels,
        scores=score_both(labels, confusion),
        epochs=pd.DataFrame(
            {
                "epoch": [1, 2],
                "train_loss": [0.9, 0.5],
                "validation_loss": [0.8, 0.7],
                "validation_accuracy": [0.5, 0.6],
                "validation_macro_f1": [0.4, 0.6],
            }
        ),
        lengths=np.array([1, 2, 2, 7]),
        profile=CorpusProfile.model_construct(
            documents={"train": {"bad": 2, "good": 1}, "validation": {"bad": 1}, "test": {"bad": 4, "good": 2}},
            characters_histogram=((1, 3), (5, 7)),
        ),
        padding=PaddingReport.model_construct(
            scheme="quantile",
            schemes={
                name: SchemePadding.model_construct(efficiency=efficiency, boundaries=(2, 7))
                for name, efficiency in (("quantile", 0.9), ("none", 0.4))
            },
        ),
        coverage=CoverageReport.model_construct(
            tokens={"train": 0.9, "validation": 0.8, "test": 0.8}, misses={"arn": 1, "blorp": 4}
        ),
        errors=[ConfidentError("not so bad", label="good", prediction="bad", probability=0.98765)],
    )
    return evidence._replace(**changes)


def render(evidence: Evidence, directory: Path) -> str:
    """The page with placeholders for the figures, which take long to draw."""
    for name in FIGURES:
        (directory / name).write_bytes(PNG + name.encode())
    return render_report(evidence, directory)


def cells(page: str) -> list[str]:
    return re.findall(r"<td>(.*?)</td>", page, re.DOTALL)


class TestPage:
    def test_it_shows_the_numbers_of_both_models(self, tmp_path):
        page = render(make_evidence(), tmp_path)
        assert "<h1>Evaluation on 6 held-out documents</h1>" in page
        assert cells(page)[:8] == [
            "LSTM",
            "0.5123",
            "0.4123",
            "1.2346",
            "TF-IDF + logistic regression",
            "0.5123",
            "0.4123",
            "1.2346",
        ]
        assert cells(page)[8:13] == ["bad", "0.125", "0.250", "0.375", "4"]

    def test_it_names_classes_without_documents_and_gives_them_no_scores(self, tmp_path):
        evidence = make_evidence(["bad", "<b>"])
        lstm = evidence.scores.lstm
        classes = lstm.classes | {"<b>": ClassScores.absent()}
        scores = lstm.model_copy(update={"absent_classes": ("<b>",), "classes": classes})
        page = render(evidence._replace(scores=ModelScores(lstm=scores, baseline=lstm)), tmp_path)
        assert "Macro F1 is over the classes with documents in the split. Without any: &lt;b&gt;." in page
        assert cells(page)[13:18] == ["&lt;b&gt;", "", "", "", "0"]
        assert "Without any" not in render(make_evidence(), tmp_path)

    def test_it_shows_confident_errors(self, tmp_path):
        assert cells(render(make_evidence(), tmp_path))[-4:] == ["good", "bad", "0.988", "not so bad"]

    @pytest.mark.parametrize("where", ["text", "label", "prediction"])
    def test_markup_in_documents_and_labels_is_escaped(self, tmp_path, where):
        hostile = "<script>alert('&\"')</script>"
        error = ConfidentError("t", label="bad", prediction="good", probability=0.9)._replace(**{where: hostile})
        page = render(make_evidence(errors=[error]), tmp_path)
        assert "<script" not in page
        assert "&lt;script&gt;alert(&#x27;&amp;&quot;&#x27;)&lt;/script&gt;" in page

    def test_markup_in_class_names_is_escaped(self, tmp_path):
        page = render(make_evidence(["<img src=x>", "good"]), tmp_path)
        assert "<img src=x>" not in page
        assert "<td>&lt;img src=x&gt;</td>" in page

    @pytest.mark.parametrize("text", ["{body} {0} {{}} %s", "\x00\x1b[31m", "日本語 \U0001f600"])
    def test_odd_texts_are_shown_as_they_are(self, tmp_path, text):
        error = ConfidentError(text, label="bad", prediction="good", probability=0.9)
        assert cells(render(make_evidence(errors=[error]), tmp_path))[-1] == text

    def test_long_texts_are_cut_before_they_are_escaped(self, tmp_path):
        error = ConfidentError("&" * 1000, label="bad", prediction="good", probability=0.9)
        assert cells(render(make_evidence(errors=[error]), tmp_path))[-1] == "&amp;" * 240

    def test_it_contains_every_figure_and_refers_to_no_other_file(self, tmp_path):
        page = render(make_evidence(), tmp_path)
        images = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
        assert images == [(tmp_path / name).read_bytes() for name in FIGURES]
        assert not re.findall(r'(?:src|href)="(?!data:)', page)

    def test_without_errors_it_is_still_made(self, tmp_path):
        assert "Confident errors" in render(make_evidence(errors=[]), tmp_path)


class TestFigures:
    @pytest.mark.parametrize(
        "label",
        [
            "$x_1$",
            "a$b",
            "$$",
            "cost: 5$ \\$",
            "überraschend",
            "日本語",
            "\U0001f600",
            "a\nb",
            "\x01\x7f",
            "\\",
            "x" * 300,
        ],
    )
    def test_odd_class_names_are_drawn_without_a_warning(self, label):
        draw_confusion(make_evidence([label, "good"])).draw_without_rendering()

    @pytest.mark.parametrize(
        "token", ["$", "$5$", "$\\frac", "é", "ẞ", "한국어", "\x02", "\x7f", "_^{}", "%", "x" * 300]
    )
    def test_odd_tokens_are_drawn_without_a_warning(self, token):
        coverage = CoverageReport.model_construct(tokens={"train": 0.5}, misses={token: 3, "x": 1})
        draw_coverage(make_evidence(coverage=coverage)).draw_without_rendering()

    def test_without_vectors_the_coverage_figure_says_so(self):
        figure = draw_coverage(make_evidence(coverage=None))
        assert figure.get_suptitle() == "No pre-trained vectors: the embedding layer starts fresh"

    def test_without_misses_coverage_is_drawn(self):
        draw_coverage(
            make_evidence(coverage=CoverageReport.model_construct(tokens={"train": 1.0}, misses={}))
        ).draw_without_rendering()

    def test_the_most_frequent_misses_are_on_top(self):
        _, misses = draw_coverage(make_evidence()).axes
        assert [label.get_text() for label in misses.get_yticklabels()] == ["arn", "blorp"]
        assert [bar.get_width() for bar in misses.patches] == [1, 4]

    def test_rows_of_the_confusion_figure_are_the_truth(self):
        axes = draw_confusion(make_evidence()).axes[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
        written = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
        assert written == {(0, 0): "3\n75%", (1, 0): "1\n25%", (0, 1): "0\n0%", (1, 1): "2\n100%"}

    def test_corpus_figure_has_every_document_of_each_split_and_length(self):
        classes, lengths = draw_corpus(make_evidence()).axes
        assert [container.get_label() for container in classes.containers] == ["train", "validation", "test"]
        assert [[bar.get_width() for bar in container] for container in classes.containers] == [[2, 1], [1, 0], [4, 2]]
        assert [bar.get_height() for bar in lengths.patches] == [3, 7]
        assert [label.get_text() for label in lengths.get_xticklabels()] == ["1", "5"]

    def test_a_class_without_test_documents_is_drawn(self):
        labels = ["bad", "good"]
        axes = draw_confusion(make_evidence(scores=score_both(labels, [[3, 1], [0, 0]]))).axes[0]
        assert "0\n0%" in [text.get_text() for text in axes.texts]

    def test_training_figure_has_the_history(self):
        loss, scores = draw_training(make_evidence()).axes
        assert [line.get_ydata().tolist() for line in loss.lines] == [[0.9, 0.5], [0.8, 0.7]]
        assert [line.get_ydata().tolist() for line in scores.lines] == [[0.5, 0.6], [0.4, 0.6]]

    def test_length_figure_has_every_document_and_boundary(self):
        histogram, bars = draw_lengths(make_evidence()).axes
        assert sum(bar.get_height() for bar in histogram.patches) == 4
        assert [line.get_xdata()[0] for line in histogram.lines] == [2, 7]
        assert [bar.get_width() for bar in bars.patches] == [0.9, 0.4]

    @pytest.mark.parametrize("draw", [draw_training, draw_lengths])
    def test_one_epoch_and_one_length_are_drawn(self, draw):
        evidence = make_evidence(lengths=np.array([1, 1]))
        draw(evidence._replace(epochs=evidence.epochs.head(1))).draw_without_rendering()

    def test_same_evidence_gives_the_same_bytes(self, tmp_path):
        drawn = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            draw_figures(make_evidence(), tmp_path / name)
            drawn.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
        assert drawn[0].keys() == set(FIGURES)
        assert all(image.startswith(PNG) for image in drawn[0].values())
        assert drawn[0] == drawn[1]
