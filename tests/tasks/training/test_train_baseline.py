import logging
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.contracts.linear import LinearDescription
from pipeline_config.errors import InputError
from pipeline_config.schemas import (
    DOCUMENTS,
    DOCUMENTS_FILE,
    LINEAR_FILE,
    OUT_OF_FOLD_FILE,
    PREDICTIONS_FILE,
    SPLITS,
    predictions_schema,
)
from pipeline_config.settings import BaselineConfig, TokenizationConfig
from tasks.evaluation.calibration import soften
from tasks.served.linear import Features, LinearModel
from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output
from tasks.tokens.tokenize_corpus import tokenize_corpus
from tasks.training import train_baseline as stage_module
from tasks.training.linear_fitting import Recipe, choose_keys, fit_linear, list_recipes, predict_out_of_fold
from tasks.training.train_baseline import assign_folds, read_documents, train_baseline

FEW = BaselineConfig(min_df=1, pieces=False, weighting="idf", regularization=16.0)


def make_tokens(rows: list[tuple[str, str, str]]) -> ArtifactRef:
    """Commit documents of `(text, label, split)`, and return their tokens."""
    columns = [list(range(len(rows))), *(list(column) for column in zip(*rows, strict=True))]
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)], schema=DOCUMENTS)
    documents = commit_output(
        "ingest_corpus", "0" * 32, lambda output: output.write_table(DOCUMENTS_FILE, table, DOCUMENTS)
    )[0]
    return tokenize_corpus.fn(documents, TokenizationConfig(tokenizer="whitespace"), "whitespace 1")


def make_features(rows: list[list[int]]) -> Features:
    return Features(np.array([key for row in rows for key in row], np.uint32), np.cumsum([0, *map(len, rows)]))


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
    tokens = make_tokens([("hot hot", "a", "train"), ("cold cold", "b", "train"), *held_out])
    predictions = train_baseline.fn(tokens, FEW).read_table(PREDICTIONS_FILE)
    assert predictions["prediction"].to_pylist() == ["b", "b"]


def test_the_written_model_gives_the_predictions(artifacts):
    rows = [(f"hot w{i} w{i % 3}", "a", SPLITS[i % 3]) for i in range(30)]
    rows += [(f"cold w{i} w{i % 4}", "b", SPLITS[i % 3]) for i in range(30)]
    output = train_baseline.fn(make_tokens(rows), BaselineConfig())
    described = output.read_model(LinearDescription)
    model = LinearModel.read(output.path(LINEAR_FILE), **described.options.model_dump())
    logits = np.array([model.answer_one(text.split()) for text, _, split in rows if split != "train"])
    predictions = output.read_table(PREDICTIONS_FILE)
    found = np.stack([predictions[f"p_{label}"].to_numpy() for label in described.labels], axis=1)
    np.testing.assert_allclose(soften(logits, described.temperature), found, atol=1e-6)


def test_a_class_that_the_train_split_lacks_is_never_predicted(artifacts):
    tokens = make_tokens([*BALANCED, ("lukewarm", "c", "test")])
    predictions = train_baseline.fn(tokens, FEW).read_table(PREDICTIONS_FILE)
    assert predictions.schema.equals(predictions_schema(["a", "b", "c"]))
    assert max(predictions["p_c"].to_pylist()) < 1e-6
    assert set(predictions["prediction"].to_pylist()) == {"a", "b"}


def test_no_frequent_feature_is_an_input_error_that_names_the_setting(artifacts):
    tokens = make_tokens([("one", "a", "train"), ("two", "b", "train"), ("three", "a", "test")])
    with pytest.raises(InputError, match=r"baseline: no n-gram .*\(baseline\.min_df is 2\)"):
        train_baseline.fn(tokens, BaselineConfig(min_df=2, pieces=False))


def test_texts_without_tokens_are_an_input_error(artifacts):
    rows = [("", label, split) for label in "ab" for split in SPLITS]
    with pytest.raises(InputError, match="baseline: no n-gram"):
        train_baseline.fn(make_tokens(rows), BaselineConfig(min_df=1))


def test_many_tokens_are_learned_from_by_an_even_sample_of_each_class_and_that_is_said(artifacts, caplog, monkeypatch):
    monkeypatch.setattr(stage_module, "MOST_TOKENS", 202)
    rows = [(f"hot w{i}", "a", "train") for i in range(400)] + [(f"cold w{i}", "b", "train") for i in range(4)]
    with caplog.at_level(logging.INFO, "tasks.training.train_baseline"):
        train, _, _ = read_documents(make_tokens([*rows, *BALANCED[2:]]))
    assert train.table["doc_id"].to_pylist() == [*range(0, 400, 4), *range(400, 404)]  # no class is lost
    assert "104 of 404 train documents" in caplog.text


def test_what_is_left_open_is_chosen_and_what_is_set_is_not():
    assert len(list_recipes(BaselineConfig(), pieces=True)) == 6
    assert list_recipes(BaselineConfig(weighting="log_ratio", regularization=3.0), pieces=False) == [
        Recipe(False, "log_ratio", 3.0)
    ]


def test_pieces_find_a_class_by_unseen_forms_of_a_word(artifacts):
    forms = {"train": ("spielen", "spieler", "gespielt"), "validation": ("spielte",), "test": ("spielerisch",)}
    rows = [(word, "sport", split) for split, words in forms.items() for word in words]
    forms = {"train": ("kochen", "kocher", "gekocht"), "validation": ("kochte",), "test": ("kochend",)}
    rows += [(word, "food", split) for split, words in forms.items() for word in words]
    config = FEW.model_copy(update={"pieces": True})
    predictions = train_baseline.fn(make_tokens(rows), config).read_table(PREDICTIONS_FILE)
    assert predictions["prediction"].to_pylist() == predictions["label"].to_pylist()


def test_features_are_those_of_enough_documents_and_the_most_frequent_ones():
    features = make_features([[2, 4, 6], [2, 4], [2]])
    keys, counts = choose_keys(features, 2, 10)
    assert (keys.tolist(), counts.tolist()) == ([2, 4], [3, 2])
    keys, _ = choose_keys(features, 1, 1)
    assert keys.tolist() == [2]


@pytest.mark.parametrize("weighting", ["idf", "log_ratio"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_fitted_model_knows_its_documents_and_equal_documents_give_equal_bytes(weighting, classes):
    draw = np.random.default_rng(0)
    label_ids = draw.integers(0, classes, 90)
    rows = [sorted({100 * label + int(i) * 2 for i in draw.integers(0, 20, 9)}) for label in label_ids]
    features, config = make_features(rows), BaselineConfig(min_df=1)
    fitted = fit_linear(features, label_ids, classes, Recipe(False, weighting, 4.0), config).model
    assert (fitted.answer(features).argmax(axis=1) == label_ids).all()
    again = fit_linear(features, label_ids, classes, Recipe(False, weighting, 4.0), config).model
    assert fitted.weights.tobytes() == again.weights.tobytes()


def test_torch_is_imported_before_scikit_learn(artifacts):
    # SciPy looks at a torch that it finds imported, and another thread may be half way through importing it
    source = """
import sys
order = []
class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "scipy"):
            order.append(name)
sys.meta_path.insert(0, Recorder())
from tasks.training.train_baseline import train_baseline
print("imported")
try:
    train_baseline.fn(None, None)
except AttributeError:
    print(*order)
"""
    output = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert output.split()[:2] == ["imported", "torch"]


class TestOutOfFold:
    @pytest.mark.usefixtures("artifacts")
    def test_copies_are_in_one_fold(self):
        rows = [("same text", "a", "train"), ("same  text", "b", "train"), ("x", "a", "test")]
        rows += [(f"text {i}", "a", "train") for i in range(40)]
        folds = assign_folds(read_documents(make_tokens(rows))[0])
        assert folds[0] == folds[1]
        assert set(folds.tolist()) == {0, 1, 2, 3}

    def test_a_document_is_predicted_without_its_own_fold(self):
        # in fold 1 the labels are those of fold 0 turned round, so each fold is predicted wrongly
        features = make_features([[2], [4]] * 20)
        truth, folds = np.array([*([0, 1] * 10), *([1, 0] * 10)]), np.repeat([0, 1], 20)
        got = predict_out_of_fold(features, truth, folds, 2, Recipe(False, "idf", 4.0), BaselineConfig(min_df=1))
        assert (got.argmax(axis=1) != truth).all()

    def test_nothing_is_said_of_a_class_that_the_other_folds_lack(self):
        truth, folds = np.array([0, 1, 0, 1, 2, 0, 1, 0, 1]), np.array([0] * 5 + [1] * 4)
        features = make_features([[2 * i] for i in range(9)])
        got = predict_out_of_fold(features, truth, folds, 3, Recipe(False, "idf", 4.0), BaselineConfig(min_df=1))
        assert np.isnan(got[4]).all()
        assert not np.isnan(np.delete(got, 4, axis=0)).any()

    def test_the_table_has_zeros_where_nothing_is_said_and_probabilities_elsewhere(self, toy):
        table = toy.baseline.read_table(OUT_OF_FOLD_FILE).to_pandas()
        sums = table[["p_food", "p_météo", "p_sport"]].sum(axis=1)
        assert ((sums == 0) | (abs(sums - 1) < 1e-9)).all()
        assert (sums > 0).mean() > 0.9
