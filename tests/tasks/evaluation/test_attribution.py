import numpy as np
import pytest

from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.schemas import DOCUMENTS_FILE
from tasks.batches.encoded_split import load_split
from tasks.evaluation.attribution import EncodedText, attribute_documents, choose_sample, encode_documents, match_tokens
from tasks.evaluation.evaluate_classifier import load_network, make_weigh
from tasks.evaluation.mistakes import read_texts
from tasks.served.tokenizers import tokenize_texts
from tasks.tokens.vocabulary import Vocabulary


class TestChooseSample:
    def test_right_ones_are_spread_and_wrong_ones_are_the_most_confident(self):
        first = np.array([0.9, 0.6, 0.7, 0.8, 0.3, 0.1, 0.9, 0.9])
        truth = np.array([0, 0, 0, 0, 0, 0, 0, 1])
        chosen = choose_sample(truth, np.stack([first, 1 - first], axis=1), each=2)
        # right: 0, 1, 2, 3, 6, of which the first and the third; wrong: 4, 5 (0.9), 7 (0.9)
        assert chosen.tolist() == [0, 2, 5, 7]

    def test_there_may_be_fewer_or_none(self):
        one = np.array([[0.9, 0.1]])
        assert choose_sample(np.array([0]), one).tolist() == [0]
        assert choose_sample(np.array([1]), one).tolist() == [0]
        assert choose_sample(np.zeros(0, int), np.zeros((0, 2))).tolist() == []


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        ([10, 11, 12, 13, 14], [0, 1, 2, 3, 4]),
        ([10, 11, 12], [0, 1, 2]),
        ([12, 13, 14], [2, 3, 4]),
        ([10, 11, 14], [0, 1, 4]),
    ],
    ids=["whole", "head", "tail", "head and tail"],
)
def test_tokens_are_cut_as_their_ids_were(ids, kept):
    assert match_tokens(ids, [10, 11, 12, 13, 14]) == kept


def test_a_document_without_tokens_is_named_as_such():
    assert match_tokens([1], []) == []
    document = EncodedText(7, [], [], [1], "b")
    (found,) = attribute_documents(lambda *_: [], [document], ["a", "b"], np.array([[0.25, 0.75]]))
    assert [(one.token, one.weight) for one in found.tokens] == [("(no tokens)", 0.0)]


def test_ids_of_another_text_are_an_error():
    with pytest.raises(ValueError, match="expected 2 token ids"):
        match_tokens([10, 12], [10, 11])


def test_a_sample_of_a_split_has_the_true_tokens_and_weights_for_each(toy):
    split, labels = load_split(toy.buckets, "test"), ["food", "météo", "sport"]
    weigh = make_weigh(load_network(toy.classifier), toy.baseline, toy.evaluation.read_model(Metrics).combination)
    positions = np.array([3, 0])
    texts = read_texts(toy.documents, split.doc_ids[positions].tolist())
    encoded = encode_documents(split, positions, texts, Vocabulary.read(toy.vocabulary), labels)
    probabilities = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    found = attribute_documents(weigh, encoded, labels, probabilities)
    assert [(a.doc_id, a.prediction, a.probability) for a in found] == [
        (int(split.doc_ids[3]), "météo", 0.7),
        (int(split.doc_ids[0]), "food", 0.5),
    ]
    documents = toy.documents.read_table(DOCUMENTS_FILE).to_pandas().set_index("doc_id")
    for attribution in found:
        document = documents.loc[attribution.doc_id]
        assert attribution.label == document["label"]
        (tokens,) = tokenize_texts([document["text"]], toy.config.tokenization.tokenizer)
        assert [t.token for t in attribution.tokens] == tokens[: toy.config.bucketing.max_length]
        assert any(t.weight != 0 for t in attribution.tokens)
    again = attribute_documents(weigh, [EncodedText(*encoded[1])], labels, probabilities[1:])
    assert again == found[1:]
