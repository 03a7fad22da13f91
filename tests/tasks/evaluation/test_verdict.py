import re
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_config.contracts.analysis import Analysis, Calibration, Interval, PairedComparison, ReliabilityBin, Slice
from pipeline_config.contracts.corpus import CorpusProfile, Imbalance, LengthPercentiles
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.schemas import EPOCHS
from pipeline_config.settings import PipelineConfig
from tasks.evaluation import verdict
from tasks.evaluation.verdict import MOST_LINES, write_verdict
from tests.made_predictions import make_metrics, make_scores


def scores_of(
    balanced: tuple[float, float, float] = (0.8, 0.78, 0.82), accuracy: float = 0.8, **classes: tuple[int, int]
):
    """Scores with a balanced accuracy and its interval; classes are (documents, predictions)."""
    scores = make_scores(accuracy=accuracy)
    one = scores.classes["a"]
    counts = classes or {"a": (100, 100), "b": (100, 100)}
    return scores.model_copy(
        update={
            "balanced_accuracy": balanced[0],
            "intervals": {**scores.intervals, "balanced_accuracy": balanced[1:]},
            "classes": {
                name: one.model_copy(update={"support": float(support), "predicted": predicted})
                for name, (support, predicted) in counts.items()
            },
        }
    )


def metrics_of(**options: object) -> Metrics:
    return make_metrics(test=scores_of(**options))


def compared(low: float, value: float, high: float, *, documents: int = 10_000, differ: int = 1000) -> PairedComparison:
    interval = Interval(value=value, low=low, high=high)
    return PairedComparison(
        other="baseline", documents=documents, accuracy=interval, macro_f1=interval, p_value=0.5,
        only_classifier=differ // 2, only_other=differ - differ // 2, examples=(),
    )  # fmt: skip


def slice_of(feature: str, value: str, **options: object) -> Slice:
    fields = {
        "documents": 612, "small": False, "accuracy": Interval(value=0.71, low=0.67, high=0.75),
        "baseline_accuracy": 0.76, "difference": Interval(value=-0.093, low=-0.13, high=-0.05), "p_value": 1.0,
        "baseline_p_value": 1.0,
    }  # fmt: skip
    return Slice(feature=feature, value=value, **{**fields, **options})


def analysis_of(**options: object) -> Analysis:
    calibration = Calibration(
        temperature=1.0, ece=Interval(value=0.02, low=0.01, high=0.03), ece_before=0.02, log_loss=0.5,
        log_loss_before=0.5, bins=(ReliabilityBin(documents=10, confidence=0.9, accuracy=0.7),),
    )  # fmt: skip
    fields = {
        "verdict": (), "calibration": calibration, "kept_shares": (), "class_thresholds": (), "slices": (),
        "comparisons": (compared(0.01, 0.02, 0.03),), "errors": (), "suspects": (), "suspected": 0, "attributions": (),
    }  # fmt: skip
    return Analysis(**{**fields, **options})


def profile_of(*, imbalance: Imbalance | None = None) -> CorpusProfile:
    return CorpusProfile(
        documents={"train": {"a": 900, "b": 100}}, characters=LengthPercentiles(p0=1, p25=1, p50=1, p75=1, p95=1, p99=1, p100=1),
        characters_histogram=(), duplicates=0, conflicting_labels=0, leaked=0, near_duplicates_leaked=0,
        near_duplicate_pairs=None, imbalance=imbalance, rows=1000, unlabelled=0, left_out=0, files=(), rejected={},
        rejected_by_class={}, near_equal_names={}, readings={}, oddities={}, normalization="NFC", splitter="stratified",
    )  # fmt: skip


def coverage_of(*, tokens: float = 0.99, unknown: float = 0.01) -> CoverageReport:
    return CoverageReport(
        types=0.9, tokens={"train": tokens}, tokens_by_class={}, tokens_by_source={}, oov_rate={"test": unknown}, rows={},
        misses={},
    )  # fmt: skip


def epochs_of(*losses: float) -> pa.Table:
    rows = [(i + 1, 10, 0.5, loss, 0.7, 0.7) for i, loss in enumerate(losses)]
    return pa.table([pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), EPOCHS, strict=True)], schema=EPOCHS)


def lines(metrics: Metrics | None = None, analysis: Analysis | None = None, **options: object) -> list[tuple[str, str]]:
    found = write_verdict((metrics or metrics_of()).test.lstm, analysis or analysis_of(), **options)
    return [(finding.level, finding.text) for finding in found]


class TestBaseline:
    def test_better(self):
        assert lines() == [
            (
                "good",
                "Better than the baseline: accuracy 80.0 %, 2.0 points more than the baseline (95 % interval 1.0 to 3.0).",
            )
        ]

    def test_worse(self):
        ((level, text),) = lines(analysis=analysis_of(comparisons=(compared(-0.03, -0.02, -0.01),)))
        assert level == "bad"
        assert text.startswith(
            "Worse than the baseline: accuracy 80.0 %, 2.0 points less than the baseline (95 % interval -3.0 to -1.0)"
        )

    @pytest.mark.parametrize(("low", "high"), [(-0.01, 0.02), (0.0, 0.02), (-0.02, 0.0)])
    def test_an_interval_that_holds_zero_cannot_tell(self, low, high):
        ((level, text),) = lines(analysis=analysis_of(comparisons=(compared(low, 0.004, high),)))
        assert (level, text[:37]) == ("note", "Cannot be told apart from the baselin")

    def test_nothing_to_compare_with(self):
        assert lines(analysis=analysis_of(comparisons=())) == []


def other_lines(*args: object, **options: object) -> list[tuple[str, str]]:
    return lines(*args, **options)[1:]


class TestRules:
    def test_chance(self):
        ((level, text),) = other_lines(metrics_of(balanced=(0.52, 0.49, 0.55)))
        assert level == "bad"
        assert text.startswith(
            "At chance: balanced accuracy 52.0 % (95 % interval 49.0 % to 55.0 %), and guessing has 50.0 %"
        )

    def test_no_better_than_the_largest_class(self):
        ((level, text),) = other_lines(metrics_of(accuracy=0.9, a=(900, 800), b=(100, 200)))
        assert level == "bad"
        assert text.startswith("Always answering 'a' would be right as often: 90.0 % of the test documents.")

    def test_classes_that_are_never_predicted(self):
        metrics = metrics_of(a=(100, 300), b=(100, 0), c=(100, 0), d=(1, 0), e=(5, 0), f=(0, 0))
        ((level, text),) = other_lines(metrics)
        assert level == "bad"
        assert text.startswith("Never predicted: 'b', 'c', 'd' and 1 more, of 6 classes.")

    def test_slices_that_lose_to_the_baseline_or_are_below_the_rest(self):
        slices = (
            slice_of("length", "1 to 7 tokens", p_value=0.01, baseline_accuracy=0.7, difference=Interval(value=-0.01, low=-0.02, high=-0.005)),
            slice_of("length", "24 and more tokens", p_value=0.001, baseline_p_value=0.01),
            slice_of("class", "x", small=True, p_value=0.0, baseline_p_value=0.0),
            slice_of("class", "y", p_value=0.06, baseline_p_value=0.06, baseline_accuracy=0.6),
            slice_of("class", "z", p_value=0.01, baseline_p_value=0.01, baseline_accuracy=0.6, difference=Interval(value=0.1, low=0.05, high=0.15)),
        )  # fmt: skip
        found = other_lines(analysis=analysis_of(slices=slices))
        assert [(level, text.split(". ")[0]) for level, text in found] == [
            ("bad", "Loses to the baseline on length '24 and more tokens' (612 documents): accuracy 71.0 % against 76.0 %"),
            ("note", "Weak on length '24 and more tokens' (612 documents): accuracy 71.0 %, 9.3 points below the rest, and on 1 other slice"),
        ]  # fmt: skip

    def test_slices_without_a_gain_are_told_of_a_better_classifier(self):
        slices = (
            slice_of("length", "24 and more tokens", baseline_accuracy=0.712),
            slice_of("length", "1 to 7 tokens", baseline_accuracy=0.7),
            slice_of("class", "x", baseline_accuracy=0.71, documents=1000),
            slice_of("class", "y", baseline_accuracy=0.9, small=True),
        )
        assert other_lines(analysis=analysis_of(slices=slices)) == [
            (
                "note",
                "No gain over the baseline on length '24 and more tokens' (612 documents), 71.0 % against 71.2 %; and class 'x' "
                "(1,000 documents), 71.0 % against 71.0 %.",
            )
        ]
        assert other_lines(analysis=analysis_of(slices=slices, comparisons=(compared(-0.01, 0.0, 0.01),))) == []

    def test_poor_calibration(self):
        calibration = analysis_of().calibration.model_copy(update={"ece": Interval(value=0.08, low=0.06, high=0.1)})
        ((level, text),) = other_lines(analysis=analysis_of(calibration=calibration))
        assert level == "note"
        assert text.startswith(
            "Probabilities are 8.0 points off on average (95 % interval 6.0 to 10.0): the classifier is too sure."
        )

    @pytest.mark.parametrize(
        ("losses", "best", "told"),
        [((0.6, 0.5), 2, True), ((0.6, 0.5), 1, False), ((0.6, 0.598), 2, False), ((0.6,), 1, True)],
    )
    def test_still_improving(self, losses, best, told):
        found = other_lines(epochs=epochs_of(*losses), best_epoch=best)
        assert [text for _, text in found] == [
            f"Still improving when training ended: the last of {len(losses)} epochs was the best. Try "
            f"training.epochs={2 * len(losses)}."
        ] * told

    def test_few_documents(self):
        # (1.96 + 0.84) * sqrt(0.16 / 220) = 0.0755
        ((level, text),) = other_lines(
            analysis=analysis_of(comparisons=(compared(0.01, 0.05, 0.1, documents=220, differ=35),))
        )
        assert level == "note"
        assert text.startswith("Few test documents: with 220, differences below 7.5 points cannot be seen.")

    def test_suspected_labels(self):
        assert other_lines(analysis=analysis_of(suspected=49), profile=profile_of()) == []
        ((level, text),) = other_lines(analysis=analysis_of(suspected=53), profile=profile_of())
        assert level == "note"
        assert text.startswith("53 labels are doubtful (5.3 % of the documents): models that were not trained on them")

    def test_imbalance(self):
        found = Imbalance(largest="a", largest_documents=900, smallest="b", smallest_documents=100)
        ((level, text),) = other_lines(profile=profile_of(imbalance=found))
        assert (level, text.split(". ")[0]) == ("note", "Unequal classes: 900 train documents of 'a', 100 of 'b'")

    def test_vectors_and_vocabulary(self):
        assert other_lines(coverage=coverage_of()) == []
        found = other_lines(coverage=coverage_of(tokens=0.62, unknown=0.15))
        assert [text.split(". ")[0] for _, text in found] == [
            "Only 62 % of the train tokens have a vector",
            "15 % of the test tokens are outside the vocabulary",
        ]


def test_at_most_eight_lines_the_baseline_first_then_what_is_bad():
    imbalance = Imbalance(largest="a", largest_documents=900, smallest="b", smallest_documents=100)
    calibration = analysis_of().calibration.model_copy(update={"ece": Interval(value=0.08, low=0.06, high=0.1)})
    slices = (slice_of("length", "24 and more tokens", p_value=0.001, baseline_p_value=0.01),)
    found = lines(
        metrics_of(balanced=(0.5, 0.4, 0.6), a=(900, 1000), b=(100, 0)),
        analysis_of(
            comparisons=(compared(-0.1, 0.0, 0.1, documents=220, differ=35),),
            slices=slices,
            calibration=calibration,
            suspected=100,
        ),
        profile=profile_of(imbalance=imbalance),
        epochs=epochs_of(0.6, 0.5),
        best_epoch=2,
        coverage=coverage_of(tokens=0.5, unknown=0.5),
    )
    assert len(found) == MOST_LINES
    assert [level for level, _ in found] == ["note", "bad", "bad", "bad", "note", "note", "note", "note"]
    assert found[0][1].startswith("Cannot be told apart from the baseline")
    assert max(len(text) for _, text in found) < 260


def test_settings_that_are_named_exist():
    named = set(re.findall(r"\b([a-z]+)\.([a-z_]+)\b", Path(verdict.__file__).read_text().split('"""', 2)[2]))
    sections = PipelineConfig.model_fields
    settings = {(section, field) for section, field in named if section in sections}
    assert len(settings) > 10
    for section, field in settings:
        assert field in sections[section].annotation.model_fields, f"{section}.{field}"
