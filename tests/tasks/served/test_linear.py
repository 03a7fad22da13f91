from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.served.linear import Features, LinearModel, find_features, hash_tokens

WORDS = ["a", "b", "word", "größe", "😀x", ""]


def features_of(texts: list[list[str]], *, ngrams: int = 3, pieces: bool = True) -> Features:
    distinct = list(dict.fromkeys(token for text in texts for token in text))
    codes = np.array([distinct.index(token) for text in texts for token in text], int)
    offsets = np.cumsum([0, *map(len, texts)])
    return find_features(codes, offsets, hash_tokens(distinct, pieces=pieces), ngrams=ngrams)


def expected_features(text: list[str], ngrams: int) -> set[tuple[str, ...]]:
    """Return n-grams as tuples of tokens, and pieces as tuples that begin with an empty string, without our code."""
    found = {tuple(text[i : i + n]) for n in range(1, ngrams + 1) for i in range(len(text) - n + 1)}
    for token in text:
        marked = f"<{token}>"
        for n in (3, 4, 5):
            found |= {("", "piece", marked[i : i + n]) for i in range(len(marked) - n + 1) if n < len(marked)}
    return found


def make_model(texts: list[list[str]], classes: int = 3) -> LinearModel:
    draw = np.random.default_rng(0)
    keys = np.unique(features_of(texts).keys)[::2]
    weights = draw.normal(size=(len(keys), classes)).astype(np.float32)
    sizes = draw.uniform(0.5, 2, len(keys)).astype(np.float32)
    return LinearModel(keys, weights, sizes, np.array([0.5, 0.0, -1.0], np.float32), ngrams=3, pieces=True)


TEXTS = [["a", "b", "a"], [], ["word", "größe", "word", "a"], ["😀x"], ["b"] * 5, ["größe"]]


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_there_are_as_many_features_as_distinct_n_grams_and_pieces(ngrams: int) -> None:
    found = features_of(TEXTS, ngrams=ngrams)
    assert np.diff(found.offsets).tolist() == [len(expected_features(text, ngrams)) for text in TEXTS]
    without = features_of(TEXTS, ngrams=ngrams, pieces=False)
    assert np.diff(without.offsets).tolist() == [
        len({one for one in expected_features(text, ngrams) if one[0] != ""}) for text in TEXTS
    ]


def test_equal_features_have_equal_hashes_and_others_have_others() -> None:
    draw = np.random.default_rng(1)
    texts = [[WORDS[i] for i in draw.integers(0, 5, draw.integers(0, 8))] for _ in range(60)]
    found = features_of(texts)
    sets = [set(found.keys[a:b].tolist()) for a, b in zip(found.offsets, found.offsets[1:], strict=False)]
    wanted = [expected_features(text, 3) for text in texts]
    for i in range(60):
        for j in range(i):
            assert len(sets[i] & sets[j]) == len(wanted[i] & wanted[j])


def test_the_last_bit_tells_pieces_from_n_grams() -> None:
    found = features_of([["word", "b"]])
    assert (found.keys & 1).sum() == len([one for one in expected_features(["word", "b"], 3) if one[0] == ""])


def test_features_of_a_text_do_not_depend_on_the_others() -> None:
    together = features_of(TEXTS)
    for number, text in enumerate(TEXTS):
        alone = features_of([text])
        assert alone.keys.tolist() == together.keys[together.offsets[number] : together.offsets[number + 1]].tolist()
        assert together.take(np.array([number])).keys.tolist() == alone.keys.tolist()


def test_logits_are_the_weights_of_the_known_features_over_their_length() -> None:
    model = make_model(TEXTS)
    got = model.answer(features_of(TEXTS))
    for row, text in zip(got, TEXTS, strict=True):
        known = [i for i, key in enumerate(model.keys.tolist()) if key in set(features_of([text]).keys.tolist())]
        length = np.sqrt(model.sizes[known].sum(dtype=float)) if known else 1.0
        np.testing.assert_allclose(
            row, model.weights[known].sum(axis=0, dtype=float) / length + model.bias, rtol=1e-5, atol=1e-6
        )


def test_all_ways_to_ask_give_the_same_logits() -> None:
    model, features = make_model(TEXTS), features_of(TEXTS)
    expected = model.answer(features)
    np.testing.assert_allclose([model.answer_one(text) for text in TEXTS], expected, rtol=1e-5, atol=1e-6)
    column = pa.array([["x"], *TEXTS, ["y"]], pa.large_list(pa.large_string())).slice(1, len(TEXTS))
    np.testing.assert_array_equal(model.answer_tokens(column), expected)
    np.testing.assert_array_equal(model.answer_tokens(column.slice(0, 0)), np.zeros((0, 3)))
    np.testing.assert_allclose(model.answer_tokens(column.slice(2, 1)), expected[2:3], rtol=1e-5, atol=1e-6)


def test_a_text_without_known_features_gets_the_bias() -> None:
    assert make_model(TEXTS).answer_one(["unheard-of"]).tolist() == [0.5, 0.0, -1.0]
    empty = LinearModel(
        *(np.zeros(0, kind) for kind in (np.uint32,)),
        np.zeros((0, 2), np.float32),
        np.zeros(0, np.float32),
        np.array([1.0, 2.0], np.float32),
        ngrams=1,
        pieces=False,
    )
    assert empty.answer(features_of([["a"], []])).tolist() == [[1.0, 2.0]] * 2
    assert empty.answer_one(["a"]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("text", [text for text in TEXTS if text])
def test_the_weights_of_tokens_sum_to_the_logit_less_the_mean(text: list[str]) -> None:
    model = make_model(TEXTS)
    logits = model.answer_one(text) - model.bias
    weights = model.attribute(text, 2)
    assert len(weights) == len(text)
    assert sum(weights) == pytest.approx(logits[2] - logits.mean(), abs=1e-6)


def test_equal_tokens_with_equal_neighbours_share_a_weight() -> None:
    weights = make_model(TEXTS).attribute(["b"] * 5, 0)
    assert weights == pytest.approx(weights[::-1])


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    model = make_model(TEXTS)
    model.write(tmp_path / "linear.safetensors")
    again = LinearModel.read(tmp_path / "linear.safetensors", ngrams=3, pieces=True)
    features = features_of(TEXTS)
    np.testing.assert_array_equal(again.answer(features), model.answer(features))
