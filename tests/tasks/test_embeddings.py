"""The stage `align_embeddings`: row i is token i's vector, and coverage is worked out by hand."""

import ssl
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import tasks.embeddings
from pipeline_config.errors import GateError
from pipeline_config.schemas import (
    COVERAGE_FILE,
    DICTIONARY,
    DICTIONARY_FILE,
    EMBEDDINGS_FILE,
    VECTORS_FILE,
    VOCABULARY,
    VOCABULARY_FILE,
    embeddings_schema,
)
from pipeline_config.settings import AlignmentConfig
from tasks.embeddings import align_embeddings, as_matrix, fill_matrix, look_up_rows, measure_coverage
from tasks.glove_text import vectors_table
from tasks.store import ArtifactRef, commit_output, stage_key

KNOWN = ["the", "cat", "Paris", "i"]
VECTORS = np.array([[1, 2, 7], [3, 4, 7], [5, 6, 7], [-1, 0, 7]], np.float32)  # the last dimension is constant
WORDS = ["<pad>", "<unk>", "the", "CAT", "paris", "Paris", "dog", "zebra"]
# token, train, validation, test occurrences, train documents
COUNTS = [
    ("the", 10, 2, 3, 4),
    ("CAT", 4, 0, 1, 2),
    ("paris", 2, 0, 0, 1),
    ("Paris", 1, 1, 0, 1),
    ("dog", 2, 1, 0, 1),
    ("zebra", 2, 0, 0, 1),
    ("rare", 1, 0, 6, 1),
]


def strings(words: list[str]) -> pa.Array:
    return pa.array(words, pa.string())


def stored(stage: str, name: str, table: pa.Table) -> ArtifactRef:
    key = stage_key(stage, 1, {"table": table.to_pydict()})
    return commit_output(stage, key, lambda out: out.write_table(name, table, table.schema))[0]


def dictionary_table() -> pa.Table:
    columns = [range(len(COUNTS)), *zip(*COUNTS, strict=True)]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, DICTIONARY, strict=True)], schema=DICTIONARY)


def align(*, seed: int = 0, words: list[str] | None = None, **options: object) -> ArtifactRef:
    words = words or WORDS
    numbers = [range(len(words)), words, [0] * len(words), [0] * len(words)]
    vocabulary = pa.table([pa.array(c, f.type) for c, f in zip(numbers, VOCABULARY, strict=True)], schema=VOCABULARY)
    return align_embeddings.fn(
        stored("build_vocabulary", VOCABULARY_FILE, vocabulary),
        stored("download_glove", VECTORS_FILE, vectors_table(strings(KNOWN), VECTORS)),
        stored("tokenize_corpus", DICTIONARY_FILE, dictionary_table()),
        AlignmentConfig(**options),
        seed,
    )


# looking up


@pytest.mark.parametrize(
    ("lowercase", "rows", "sources"),
    [
        (True, [-1, -1, 0, 1, -1, 2, -1, -1], ["exact", "lowercase", "missing", "exact", "missing", "missing"]),
        (False, [-1, -1, 0, -1, -1, 2, -1, -1], ["exact", "missing", "missing", "exact", "missing", "missing"]),
    ],
)
def test_a_word_is_looked_up_as_it_is_and_then_in_lower_case(
    lowercase: bool, rows: list[int], sources: list[str]
) -> None:
    got_rows, got_sources = look_up_rows(strings(WORDS), strings(KNOWN), lowercase=lowercase)
    assert got_rows.tolist() == rows
    assert got_sources.tolist() == ["special", "special", *sources]


@pytest.mark.parametrize("known", [["<pad>", "<unk>"], ["x", "<unk>", "<pad>"]])
def test_special_tokens_have_no_vector_even_if_the_set_has_one(known: list[str]) -> None:
    rows, source = look_up_rows(strings(["<pad>", "<unk>", "x"]), strings(known), lowercase=True)
    assert rows[:2].tolist() == [-1, -1]
    assert source[:2].tolist() == ["special", "special"]


def test_found_rows_equal_torchtexts_lookup_with_lower_case_backup(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchtext.vocab import Vectors

    lines = [" ".join([token, *map(str, row)]) for token, row in zip(KNOWN, VECTORS.tolist(), strict=True)]
    lines += ["\u03bf\u03b4\u03cc\u03c2 8 9 7", "i\u0307 1.5 2.5 7", "stra\u00dfe 0.1 0.2 7"]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n", "utf-8")
    # Vectors switches the verification of certificates off for the process; this puts it back afterwards
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_default_https_context)
    reference = Vectors(str(tmp_path / "vectors.txt"), cache=str(tmp_path))
    words = ["<pad>", "<unk>", "the", "THE", "The", "CAT", "paris", "Paris", "PARIS", "I", "i", "dog",
             "\u039f\u0394\u038c\u03a3", "\u0130", "STRA\u1e9eE", "STRASSE"]  # fmt: skip
    rows, source = look_up_rows(strings(words), strings(reference.itos), lowercase=True)
    matrix = fill_matrix(strings(words), rows, reference.vectors.numpy(), missing="zero", seed=0)
    expected = reference.get_vecs_by_tokens(words, lower_case_backup=True).numpy()  # zero where there is none
    np.testing.assert_array_equal(matrix, expected)
    assert source.tolist().count("missing") == 4  # paris, PARIS, dog, STRASSE


# filling


def matrix_of(words: list[str], *, missing: str = "random", seed: int = 0) -> np.ndarray:
    rows, _ = look_up_rows(strings(words), strings(KNOWN), lowercase=True)
    return fill_matrix(strings(words), rows, VECTORS, missing=missing, seed=seed)


@pytest.mark.parametrize("missing", ["random", "zero"])
def test_found_words_have_their_vector_and_the_padding_is_zero(missing: str) -> None:
    matrix = matrix_of(WORDS, missing=missing)
    assert (matrix.shape, matrix.dtype) == ((8, 3), np.float32)
    np.testing.assert_array_equal(matrix[[2, 3, 5]], VECTORS[[0, 1, 2]])
    np.testing.assert_array_equal(matrix[0], [0, 0, 0])


def test_words_without_a_vector_can_be_zero() -> None:
    assert not matrix_of(WORDS, missing="zero")[[1, 4, 6, 7]].any()


def test_a_random_row_depends_on_the_seed_and_the_token_alone() -> None:
    matrix = matrix_of(WORDS)
    others = matrix_of(["<pad>", "<unk>", "zebra", "new", "cat", "dog"])
    np.testing.assert_array_equal(matrix[[1, 6, 7]], others[[1, 5, 2]])  # <unk>, dog, zebra
    assert len(np.unique(matrix[[1, 4, 6, 7]], axis=0)) == 4
    assert (matrix[[1, 4, 6, 7], :2] != matrix_of(WORDS, seed=1)[[1, 4, 6, 7], :2]).all()


def test_random_rows_have_the_mean_and_the_deviation_of_the_set() -> None:
    words = ["<pad>", "<unk>", *(f"no such word {i}" for i in range(4000))]
    rows = matrix_of(words)[1:].astype(np.float64)
    np.testing.assert_array_equal(rows[:, 2], 7.0)  # a dimension without deviation is its mean
    # by hand: means 2 and 3, deviations sqrt(5); four standard errors of 4001 draws
    np.testing.assert_allclose(rows[:, :2].mean(axis=0), [2, 3], atol=4 * 5**0.5 / 4001**0.5)
    np.testing.assert_allclose(rows[:, :2].std(axis=0), [5**0.5] * 2, atol=4 * 5**0.5 / (2 * 4001) ** 0.5)


def test_filling_leaves_numpys_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    matrix_of(WORDS)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("cuts", [[], [1], [2, 3]])
def test_a_column_of_vectors_becomes_a_matrix_whatever_its_chunks(cuts: list[int]) -> None:
    column = vectors_table(strings(KNOWN), VECTORS)["vector"].combine_chunks()
    borders = [0, *cuts, len(column)]
    chunks = [column.slice(a, b - a) for a, b in pairwise(borders)]
    np.testing.assert_array_equal(as_matrix(pa.chunked_array(chunks)), VECTORS)


# coverage


def test_coverage_is_counted_by_type_and_by_token_per_split() -> None:
    _, source = look_up_rows(strings(WORDS), strings(KNOWN), lowercase=True)
    report = measure_coverage(strings(WORDS), source, dictionary_table())
    assert report["types"] == pytest.approx(3 / 6)  # the, CAT, Paris of six words
    # the + CAT + Paris: 15 of 22 in train, 3 of 4 in validation, 4 of 10 in test
    assert report["tokens"] == pytest.approx({"train": 15 / 22, "validation": 3 / 4, "test": 4 / 10})
    # outside the vocabulary is only "rare"
    assert report["oov_rate"] == pytest.approx({"train": 1 / 22, "validation": 0, "test": 6 / 10})
    assert report["rows"] == {"exact": 2, "lowercase": 1, "missing": 3, "special": 2}
    assert list(report["misses"].items()) == [("dog", 2), ("paris", 2), ("zebra", 2), ("rare", 1)]


def test_misses_are_the_most_frequent_ones_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.embeddings, "MOST_MISSES", 2)
    _, source = look_up_rows(strings(WORDS), strings(KNOWN), lowercase=True)
    assert measure_coverage(strings(WORDS), source, dictionary_table())["misses"] == {"dog": 2, "paris": 2}


# the stage


def test_the_stage_writes_row_i_for_token_i(artifacts: Path) -> None:
    table = align().read_table(EMBEDDINGS_FILE)
    assert table.schema == embeddings_schema(3)
    assert table["token_id"].to_pylist() == list(range(8))
    assert table["token"].to_pylist() == WORDS
    assert table["source"].to_pylist() == [
        "special", "special", "exact", "lowercase", "random", "exact", "random", "random",
    ]  # fmt: skip
    np.testing.assert_array_equal(as_matrix(table["vector"]), matrix_of(WORDS))


def test_the_source_of_a_zero_row_is_zero(artifacts: Path) -> None:
    table = align(missing="zero").read_table(EMBEDDINGS_FILE)
    assert table["source"].to_pylist()[6:] == ["zero", "zero"]
    assert not as_matrix(table["vector"])[6:].any()


def test_the_stage_without_lower_case_misses_more(artifacts: Path) -> None:
    reference = align(lowercase_fallback=False)
    assert reference.read_table(EMBEDDINGS_FILE)["source"].to_pylist()[3] == "random"
    assert reference.facts["token_coverage"] == pytest.approx(11 / 22)


def test_the_facts_are_those_of_the_report(artifacts: Path) -> None:
    reference = align()
    assert reference.facts | {"seconds": 0} == {
        "token_coverage": pytest.approx(15 / 22),
        "type_coverage": pytest.approx(0.5),
        "dim": 3,
        "rows_exact": 2,
        "rows_lowercase": 1,
        "rows_random": 3,
        "rows_special": 2,
        "seconds": 0,
    }
    assert reference.read_json(COVERAGE_FILE)["tokens"]["train"] == pytest.approx(15 / 22)


def test_the_seed_changes_the_output(artifacts: Path) -> None:
    assert align(seed=0) == align(seed=0)
    assert align(seed=0).digest != align(seed=1).digest


@pytest.mark.parametrize("minimum", [None, 0.0, 0.68])
def test_enough_coverage_passes_the_gate(artifacts: Path, minimum: float | None) -> None:
    assert align(min_token_coverage=minimum).facts["token_coverage"] == pytest.approx(15 / 22)  # 0.6818


def test_too_little_coverage_is_an_error_that_names_the_misses_and_leaves_no_output(artifacts: Path) -> None:
    with pytest.raises(GateError) as caught:
        align(min_token_coverage=0.7)
    assert str(caught.value) == (
        "68.2% of the train tokens have a vector, expected at least 70.0% (alignment.min_token_coverage); "
        "the most frequent without: dog, paris, zebra, rare"
    )
    assert not list((artifacts / "store" / "align_embeddings").glob("[!.]*"))
