import numpy as np
import pyarrow as pa

from pipeline_config.schemas import DOCUMENTS_FILE, OUT_OF_FOLD_FILE
from tasks.evaluation.mistakes import find_errors, find_suspects, group_copies, list_suspects, read_texts
from tests.made_predictions import make_predictions

LABELS = ["a", "b"]


class TestReadTexts:
    def test_only_the_wanted_texts_are_returned(self, toy):
        table = toy.documents.read_table(DOCUMENTS_FILE)
        texts = dict(zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), strict=True))
        wanted = sorted(texts)[3:40:7]
        assert read_texts(toy.documents, [*wanted, *wanted]) == {doc_id: texts[doc_id] for doc_id in wanted}
        assert read_texts(toy.documents, []) == {}


class TestFindErrors:
    def test_near_copies_are_shown_once_and_the_most_confident_comes_first(self):
        long = "one two three four five six seven eight nine ten"
        texts = {1: long, 2: "other words", 3: f"{long} eleven", 4: "right", 5: "validation", 6: "again other"}
        predictions = make_predictions(
            [
                (1, "test", "a", [0.2, 0.8]),
                (2, "test", "b", [0.7, 0.3]),
                (3, "test", "a", [0.1, 0.9]),
                (4, "test", "a", [0.9, 0.1]),
                (5, "validation", "a", [0.0, 1.0]),
                (6, "test", "b", [0.7, 0.3]),
            ],
            LABELS,
        )
        asked = []

        def read(doc_ids):
            asked.extend(doc_ids)
            return {doc_id: texts[doc_id] for doc_id in doc_ids}

        errors = find_errors(predictions, LABELS, read)
        found = [(e.doc_id, e.label, e.prediction, e.probability, e.copies) for e in errors]
        assert found == [(3, "a", "b", 0.9, 1), (2, "b", "a", 0.7, 0), (6, "b", "a", 0.7, 0)]
        assert errors[0].text == texts[3]
        assert sorted(asked) == [1, 2, 3, 6]
        assert [e.doc_id for e in find_errors(predictions, LABELS, read, most=2)] == [3, 2]

    def test_without_errors_there_are_none(self):
        predictions = make_predictions([(1, "test", "a", [0.9, 0.1])], LABELS)
        assert find_errors(predictions, LABELS, dict.fromkeys) == ()

    def test_groups_are_connected_over_several_copies(self):
        words = [f"w{i}" for i in range(40)]
        texts = [" ".join(words[:30]), " ".join(words[4:34]), " ".join(words[8:38]), "something else"]
        groups = group_copies(texts)
        assert groups[0] == groups[1] == groups[2] != groups[3]


class TestSuspects:
    def test_the_confident_joint_by_hand(self):
        # thresholds: (0.9 + 0.8 + 0.1) / 3 = 0.6 and (0.8 + 0.7 + 0.05) / 3 = 0.517
        of_first = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.95])
        suspects = find_suspects(np.array([0, 0, 0, 1, 1, 1]), np.stack([of_first, 1 - of_first], axis=1))
        assert suspects.positions.tolist() == [5, 2]  # margins 0.9 and 0.8
        assert suspects.suggested.tolist() == [0, 1]

    def test_a_mistake_below_the_threshold_of_the_other_class_is_no_suspect(self):
        # thresholds 0.7 and 0.9: document 1 is predicted as the second class, but with only 0.6
        of_first = np.array([1.0, 0.4, 0.1, 0.1])
        assert len(find_suspects(np.array([0, 0, 1, 1]), np.stack([of_first, 1 - of_first], axis=1)).positions) == 0

    def test_rows_of_zeros_and_classes_without_documents_say_nothing(self):
        probabilities = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.9], [0.9, 0.1, 0.0]])
        assert len(find_suspects(np.array([0, 0, 0]), probabilities).positions) == 0

    def test_planted_wrong_labels_are_found(self):
        generator = np.random.default_rng(0)
        truth = generator.integers(0, 3, 3000)
        logits = 2 * generator.standard_normal((3000, 3)) + 6 * np.eye(3)[truth]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        given = truth.copy()
        planted = generator.choice(3000, 150, replace=False)
        given[planted] = (given[planted] + 1) % 3
        suspects = find_suspects(given, probabilities)
        first = suspects.positions[:150]
        assert np.isin(first, planted).mean() > 0.8
        assert (suspects.suggested[:150] == truth[first]).mean() > 0.8

    def test_tables_are_joined_by_margin_with_texts_of_those_shown(self):
        def rows(start, split):
            sure = [(start + i, split, label, [p, 1 - p]) for i, (label, p) in enumerate([("a", 0.9), ("b", 0.1)] * 3)]
            return make_predictions(
                [*sure, (start + 9, split, "a", [0.05 if split == "train" else 0.01, 0.95])], LABELS
            )

        texts = {19: "of test", 109: "of train"}
        shown, count = list_suspects(
            [rows(100, "train"), rows(10, "test")], LABELS, lambda ids: {i: texts[i] for i in ids}
        )
        assert count == 2
        assert [(s.doc_id, s.split, s.text, s.label, s.suggested, s.probability) for s in shown] == [
            (19, "test", "of test", "a", "b", 0.95),
            (109, "train", "of train", "a", "b", 0.95),
        ]
        only = list_suspects([rows(100, "train")], LABELS, lambda ids: {i: texts[i] for i in ids}, most=0)
        assert only == ((), 1)


def test_the_predictions_out_of_fold_are_of_the_train_split(toy):
    predictions = toy.baseline.read_table(OUT_OF_FOLD_FILE)
    documents = toy.documents.read_table(DOCUMENTS_FILE)
    train = documents.filter(pa.array(documents["split"].to_numpy() == "train"))
    assert predictions["doc_id"].equals(train["doc_id"])
    assert set(predictions["split"].to_pylist()) == {"train"}
    right = (predictions["label"].to_numpy() == predictions["prediction"].to_numpy()).mean()
    assert 0.6 < right < 1  # chance is a third; one label in ten is wrong
    sums = sum(predictions[f"p_{label}"].to_numpy() for label in ("food", "météo", "sport"))
    np.testing.assert_allclose(sums, 1.0)
