import logging
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.errors import InputError
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, PREDICTIONS_FILE, SPLITS, predictions_schema
from pipeline_config.settings import BaselineConfig
from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output
from tasks.training.train_baseline import assign_folds, build_baseline, predict_out_of_fold, train_baseline


def make_documents(rows: list[tuple[str, str, str]]) -> ArtifactRef:
    """Commit documents of `(text, label, split)`."""
    columns = [list(range(len(rows))), *(list(column) for column in zip(*rows, strict=True))]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)], schema=DOCUMENTS)
    return commit_output(
        "ingest_corpus", "0" * 32, lambda output: output.write_table(DOCUMENTS_FILE, table, DOCUMENTS)
    )[0]


BALANCED = [
    (f"{word} {word} {split}", label, split) for split in SPLITS for word, label in (("hot", "a"), ("cold", "b"))
]


def test_it_beats_chance_clearly_on_held_out_documents(toy):
    predictions = toy.baseline.read_table(PREDICTIONS_FILE).to_pandas()
    test = predictions[predictions["split"] == "test"]
    assert (test["label"] == test["prediction"]).mean() > 0.6  # chance is a third; one label in ten is wrong


def test_predictions_are_probabilities_of_every_held_out_document(toy):
    predictions = toy.baseline.read_table(PREDICTIONS_FILE)
    assert predictions.schema.equals(predictions_schema(["food", "météo", "sport"]))
    frame = predictions.to_pandas()
    documents = toy.documents.read_table(DOCUMENTS_FILE).to_pandas()
    assert frame["doc_id"].tolist() == documents.loc[documents["split"] != "train", "doc_id"].tolist()
    probabilities = frame[["p_food", "p_météo", "p_sport"]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-9)
    assert frame["prediction"].tolist() == probabilities.idxmax(axis=1).str.removeprefix("p_").tolist()


def test_it_learns_from_the_train_split_only(artifacts):
    held_out = [(f"cold {split}", "a", split) for split in ("validation", "test")]
    documents = make_documents([("hot hot", "a", "train"), ("cold cold", "b", "train"), *held_out])
    predictions = train_baseline.fn(documents, BaselineConfig(min_df=1)).read_table(PREDICTIONS_FILE)
    assert predictions["prediction"].to_pylist() == ["b", "b"]


def test_a_class_that_the_train_split_lacks_has_probability_zero(artifacts):
    documents = make_documents([*BALANCED, ("lukewarm", "c", "test")])
    predictions = train_baseline.fn(documents, BaselineConfig(min_df=1)).read_table(PREDICTIONS_FILE)
    assert predictions.schema.equals(predictions_schema(["a", "b", "c"]))
    assert predictions["p_c"].to_pylist() == [0.0] * 5
    assert set(predictions["prediction"].to_pylist()) == {"a", "b"}


def test_no_frequent_n_gram_is_an_input_error_that_names_the_setting(artifacts):
    with pytest.raises(InputError, match=r"baseline: .*no terms remain.*\(baseline\.min_df is 2\)"):
        train_baseline.fn(
            make_documents([("one", "a", "train"), ("two", "b", "train"), ("three", "a", "test")]),
            BaselineConfig(min_df=2),
        )


def test_texts_without_words_are_an_input_error(artifacts):
    rows = [("? !", label, split) for label in "ab" for split in SPLITS]
    with pytest.raises(InputError, match="baseline: empty vocabulary"):
        train_baseline.fn(make_documents(rows), BaselineConfig(min_df=1))


def test_no_convergence_is_logged_once_and_predictions_are_still_made(toy, caplog):
    with caplog.at_level(logging.WARNING, "tasks.training.train_baseline"):
        output = train_baseline.fn(toy.documents, BaselineConfig(max_iterations=1))
    assert [record.getMessage() for record in caplog.records] == ["the baseline did not converge in 1 iterations"]
    assert output.read_table(PREDICTIONS_FILE).num_rows == 48
    assert output.facts["iterations"] == 1


def test_convergence_is_not_logged(toy, caplog):
    train_baseline.fn(toy.documents, BaselineConfig(ngram_max=1))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("ngram_max", "features"), [(1, {"a1", "b1", "c1"}), (2, {"a1", "b1", "c1", "a1 b1", "b1 c1"})]
)
def test_features_are_word_n_grams_up_to_the_longest(ngram_max, features):
    vectorizer = build_baseline(BaselineConfig(ngram_max=ngram_max, min_df=1))[0].fit(["a1 b1 c1"])
    assert set(vectorizer.vocabulary_) == features


def test_features_are_sublinear_tf_times_smoothed_idf_in_unit_length():
    # two documents; a1 is three times in the first, b1 once in both, c1 once in the second
    vectorizer = build_baseline(BaselineConfig(ngram_max=1, min_df=1))[0]
    got = vectorizer.fit_transform(["a1 a1 a1 b1", "b1 c1"]).toarray()
    rare, common = math.log(3 / 2) + 1, math.log(3 / 3) + 1  # ln((1 + documents) / (1 + documents with it)) + 1
    first = [(1 + math.log(3)) * rare, common, 0.0]  # 1 + ln(occurrences)
    second = [0.0, common, rare]
    expected = [[value / math.hypot(*row) for value in row] for row in (first, second)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_torch_is_imported_before_scikit_learn(artifacts):
    # SciPy looks at a torch that it finds imported, and another thread may be half way through importing it
    source = """
import sys
order = []
class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "scipy.stats"):
            order.append(name)
sys.meta_path.insert(0, Recorder())
from tasks.training.train_baseline import train_baseline
try:
    train_baseline.fn(None, None)
except AttributeError:
    print(*order)
"""
    output = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["torch", "scipy.stats"]


class TestOutOfFold:
    def test_copies_are_in_one_fold(self):
        folds = assign_folds(
            pa.array(["Same  text", "same text", *(f"text {i}" for i in range(40))], pa.large_string())
        )
        assert folds[0] == folds[1]
        assert set(folds.tolist()) == {0, 1, 2, 3}

    def test_a_document_is_predicted_without_its_own_fold(self):
        # in fold 1 the labels are those of fold 0 turned round, so each fold is predicted wrongly
        features = np.array([[1.0, 0.0], [0.0, 1.0]] * 20)
        truth, folds = np.array([*("ab" * 10), *("ba" * 10)]), np.repeat([0, 1], 20)
        got = predict_out_of_fold(features, truth, folds, ["a", "b"], BaselineConfig())
        assert (np.array(["a", "b"])[got.argmax(axis=1)] != truth).all()

    def test_nothing_is_said_of_a_class_that_the_other_folds_lack(self):
        truth, folds = np.array([*"abab", "c", *"abab"]), np.array([0] * 5 + [1] * 4)
        features = np.eye(9)
        got = predict_out_of_fold(features, truth, folds, ["a", "b", "c"], BaselineConfig())
        assert got[4].tolist() == [0.0, 0.0, 0.0]
        np.testing.assert_allclose(np.delete(got, 4, axis=0).sum(axis=1), 1.0)
