"""Samples of texts as numbers."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.monitoring import sample as module
from tasks.monitoring.sample import (
    SAMPLE,
    Answers,
    draw_sample,
    hash_word_bits,
    hash_words,
    join_samples,
    read_sample,
    token_coverage,
    write_sample,
)


def draw(rows: range, before: pa.Table | None = None, seed: int = 3) -> pa.Table:
    texts = pa.array([f"text number {row}" for row in rows], pa.large_string())
    answers = Answers(["a"] * len(rows), np.full(len(rows), 0.5), np.array(rows), np.ones(len(rows), int))
    return draw_sample(texts, np.array(rows), answers, seed=seed, before=before)


def test_words_are_hashes_of_distinct_words_in_lower_case() -> None:
    found = hash_words(pa.array(["The cat, the CAT", "", "北京"], pa.large_string()))
    words = [["the", "cat", ","], [], ["北", "京"]]
    assert found.to_pylist() == [sorted(map(hash_word_bits, text)) for text in words]
    assert hash_words(pa.array([], pa.large_string())).to_pylist() == []


def test_words_of_many_texts_are_those_of_each_alone() -> None:
    texts = [f"word{number % 7} and {number}" for number in range(1100)]
    whole = hash_words(pa.array(texts, pa.large_string())).to_pylist()
    assert whole == [hash_words(pa.array([text], pa.large_string())).to_pylist()[0] for text in texts]


def test_the_sample_of_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 50)
    whole, joined = draw(range(400)), SAMPLE.empty_table()
    for start in range(0, 400, 30):
        joined = join_samples([joined, draw(range(start, min(start + 30, 400)), before=joined)])
    assert len(whole) == 50
    assert joined.equals(whole)
    assert join_samples([draw(range(200, 400)), draw(range(200))]).equals(whole)


def test_the_same_rows_count_once_and_another_file_is_drawn_otherwise() -> None:
    assert join_samples([draw(range(20)), draw(range(20))]).equals(draw(range(20)))
    assert len(join_samples([draw(range(20)), draw(range(20), seed=4)])) == 40


def test_every_row_is_drawn_as_often_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 10)
    counts = np.zeros(20)
    for seed in range(300):
        counts[draw(range(20), seed=seed)["row"].to_numpy()] += 1
    assert counts.sum() == 3000
    assert counts.min() > 110
    assert counts.max() < 190


def test_a_file_holds_no_texts_and_gives_the_sample_back(tmp_path) -> None:
    sample = draw(range(30))
    for name in ("one", "two"):
        write_sample(tmp_path / name, sample)
    assert read_sample(tmp_path / "one").equals(sample)
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "two").read_bytes()
    assert b"number" not in content


def test_coverage_is_the_share_of_known_tokens() -> None:
    assert token_coverage(draw(range(1, 4))) == pytest.approx(1 - 3 / 6)
    assert token_coverage(SAMPLE.empty_table()) is None
