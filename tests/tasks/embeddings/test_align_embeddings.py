"""The stage `align_embeddings`: row i is token i's vector, and coverage is worked out by hand."""

import ssl
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.contracts.embeddings import CoverageReport, MatrixDescription
from pipeline_config.contracts.tokens import VocabularyDescription
from pipeline_config.errors import GateError, InputError
from pipeline_config.schemas import EMBEDDINGS_FILE, VECTORS_FILE, VOCABULARY, VOCABULARY_FILE, embeddings_schema
from pipeline_config.settings import AlignmentConfig
from tasks.embeddings.align_embeddings import align_embeddings, fill_matrix, look_up_rows, read_matrix
from tasks.runtime.arrow import as_matrix
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tasks.tokens.vocabulary import Vocabulary
from tasks.vectors.rows import VectorRows
from tasks.vectors.selection import vectors_table
from tests.tasks.embeddings.vector_sets import SET_TOKENS, VECTORS, WORDS, strings, tokens_of


def stored(stage: str, name: str, table: pa.Table) -> ArtifactRef:
    key = stage_key(stage, 1, {"table": table.to_pydict()})
    return commit_output(stage, key, lambda out: out.write_table(name, table, table.schema))[0]


def vocabulary_of(words: list[str], specials: int = 2) -> ArtifactRef:
    numbers = [range(len(words)), words, [0] * len(words), [0] * len(words)]
    table = pa.table([pa.array(c, f.type) for c, f in zip(numbers, VOCABULARY, strict=True)], schema=VOCABULARY)

    def write(out: StageOutput) -> None:
        out.write_table(VOCABULARY_FILE, table, VOCABULARY)
        out.write_model(VocabularyDescription(specials=tuple(words[:specials]), tokenizer="basic_english 1"))

    return commit_output("build_vocabulary", stage_key("build_vocabulary", 1, {"words": words, "n": specials}), write)[
        0
    ]


def align(*, seed: int = 0, words: list[str] | None = None, specials: int = 2, **options: object) -> ArtifactRef:
    return align_embeddings.fn(
        vocabulary_of(words or WORDS, specials),
        stored("download_glove", VECTORS_FILE, vectors_table(strings(SET_TOKENS), VECTORS)),
        tokens_of(),
        AlignmentConfig(**options),
        seed,
    )


def rows_of(words: list[str], set_tokens: list[str], fallbacks: tuple[str, ...]) -> tuple[list[list[int]], list[str]]:
    """Return the rows of the set that make each word's, and its source."""
    pairs, source = look_up_rows(strings(words), strings(set_tokens), fallbacks=fallbacks, specials=2)
    return [pairs[pairs[:, 0] == i, 1].tolist() for i in range(len(words))], source.tolist()


# looking up


@pytest.mark.parametrize(
    ("fallbacks", "rows", "sources"),
    [
        (
            ("lowercase",),
            [[], [], [0], [1], [], [2], [], []],
            ["exact", "lowercase", "missing", "exact", "missing", "missing"],
        ),
        ((), [[], [], [0], [], [], [2], [], []], ["exact", "missing", "missing", "exact", "missing", "missing"]),
    ],
)
def test_a_word_is_looked_up_as_it_is_and_then_in_lower_case(
    fallbacks: tuple[str, ...], rows: list[list[int]], sources: list[str]
) -> None:
    assert rows_of(WORDS, SET_TOKENS, fallbacks) == (rows, ["special", "special", *sources])


SET = ["cafe", "0000", "<number>", "well", "made", "o", "naive", "x0", "1999"]
CHAIN = ("lowercase", "diacritics", "digits", "number", "hyphen")


@pytest.mark.parametrize(
    ("word", "found", "source"),
    [
        ("cafe", ["cafe"], "exact"),
        ("CAFE", ["cafe"], "lowercase"),
        ("caf\u00e9", ["cafe"], "diacritics"),
        ("NA\u00cfVE", ["naive"], "diacritics"),  # each step goes on from the one before
        ("1999", ["1999"], "exact"),
        ("2001", ["0000"], "digits"),
        ("X7", ["x0"], "digits"),
        ("3.14", ["<number>"], "number"),
        ("-5%", ["<number>"], "number"),
        ("12:30", ["<number>"], "number"),
        ("1.2.x", [], "missing"),
        ("well-made", ["well", "made"], "hyphen"),
        ("Well-MADE-caf\u00e9", ["well", "made", "cafe"], "hyphen"),
        ("well-done", [], "missing"),
        ("-well", [], "missing"),
        ("-", [], "missing"),
        ("", [], "missing"),
    ],
)
def test_the_chain_of_fallbacks_by_hand(word: str, found: list[str], source: str) -> None:
    rows, sources = rows_of(["<pad>", "<unk>", word], SET, CHAIN)
    assert ([SET[row] for row in rows[2]], sources[2]) == (found, source)


def test_fallbacks_are_tried_in_the_order_given() -> None:
    assert rows_of(["<pad>", "<unk>", "CAF\u00c9-O"], SET, ("hyphen", "lowercase"))[1][2] == "missing"
    assert rows_of(["<pad>", "<unk>", "5"], ["<number>", "0"], ("number", "digits"))[0][2] == [0]
    assert rows_of(["<pad>", "<unk>", "5"], ["<number>", "0"], ("digits", "number"))[0][2] == [1]


@pytest.mark.parametrize("set_tokens", [["<pad>", "<unk>"], ["x", "<unk>", "<pad>"]])
def test_special_tokens_have_no_vector_even_if_the_set_has_one(set_tokens: list[str]) -> None:
    rows, source = rows_of(["<pad>", "<unk>", "x"], set_tokens, ("lowercase",))
    assert rows[:2] == [[], []]
    assert source[:2] == ["special", "special"]


def test_found_rows_equal_torchtexts_lookup_with_lower_case_backup(
    tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchtext.vocab import Vectors

    lines = [" ".join([token, *map(str, row)]) for token, row in zip(SET_TOKENS, VECTORS.tolist(), strict=True)]
    lines += ["\u03bf\u03b4\u03cc\u03c2 8 9 7", "i\u0307 1.5 2.5 7", "stra\u00dfe 0.1 0.2 7"]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n", "utf-8")
    # Vectors switches the verification of certificates off for the process; this puts it back afterwards
    monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_default_https_context)
    reference = Vectors(str(tmp_path / "vectors.txt"), cache=str(tmp_path))
    words = ["<pad>", "<unk>", "the", "THE", "The", "CAT", "paris", "Paris", "PARIS", "I", "i", "dog",
             "\u039f\u0394\u038c\u03a3", "\u0130", "STRA\u1e9eE", "STRASSE"]  # fmt: skip
    pairs, source = look_up_rows(strings(words), strings(reference.itos), fallbacks=("lowercase",), specials=2)
    matrix = fill_matrix(strings(words), pairs, all_rows(reference.vectors.numpy()), missing="zero", seed=0)
    expected = reference.get_vecs_by_tokens(words, lower_case_backup=True).numpy()  # zero where there is none
    np.testing.assert_array_equal(matrix, expected)
    assert source.tolist().count("missing") == 4  # paris, PARIS, dog, STRASSE


# filling


def matrix_of(words: list[str], *, missing: str = "random", seed: int = 0) -> np.ndarray:
    pairs, _ = look_up_rows(strings(words), strings(SET_TOKENS), fallbacks=("lowercase", "hyphen"), specials=2)
    return fill_matrix(strings(words), pairs, all_rows(VECTORS), missing=missing, seed=seed)


def all_rows(vectors: np.ndarray) -> VectorRows:
    exact = vectors.astype(np.float64)
    return VectorRows(np.arange(len(vectors)), vectors, exact.mean(axis=0), exact.std(axis=0))


@pytest.mark.parametrize("missing", ["random", "mean", "zero"])
def test_found_words_have_their_vector_and_the_padding_is_zero(missing: str) -> None:
    matrix = matrix_of(WORDS, missing=missing)
    assert (matrix.shape, matrix.dtype) == ((8, 3), np.float32)
    np.testing.assert_array_equal(matrix[[2, 3, 5]], VECTORS[[0, 1, 2]])
    np.testing.assert_array_equal(matrix[0], [0, 0, 0])


def test_words_without_a_vector_can_be_zero() -> None:
    assert not matrix_of(WORDS, missing="zero")[[1, 4, 6, 7]].any()


def test_words_without_a_vector_can_have_the_mean_of_the_set() -> None:
    np.testing.assert_array_equal(matrix_of(WORDS, missing="mean")[[1, 4, 6, 7]], [[2, 3, 7]] * 4)


def test_the_row_of_a_hyphenated_word_is_the_mean_of_its_parts() -> None:
    matrix = matrix_of(["<pad>", "<unk>", "the-cat-I", "cat"])
    np.testing.assert_array_equal(matrix[2:], [[1, 2, 7], [3, 4, 7]])  # (1 + 3 - 1) / 3, (2 + 4 + 0) / 3


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


# the stage


def test_the_stage_writes_row_i_for_token_i(artifacts: Path) -> None:
    table = align().read_table(EMBEDDINGS_FILE)
    assert table.schema == embeddings_schema(3)
    assert table["token_id"].to_pylist() == list(range(8))
    assert table["token"].to_pylist() == WORDS
    assert table["source"].to_pylist() == [
        "special",
        "special",
        "exact",
        "lowercase",
        "random",
        "exact",
        "random",
        "random",
    ]
    np.testing.assert_array_equal(as_matrix(table["vector"]), matrix_of(WORDS))


def test_the_source_of_a_zero_row_is_zero(artifacts: Path) -> None:
    table = align(missing="zero").read_table(EMBEDDINGS_FILE)
    assert table["source"].to_pylist()[6:] == ["zero", "zero"]
    assert not as_matrix(table["vector"])[6:].any()


def test_the_stage_without_lower_case_misses_more(artifacts: Path) -> None:
    reference = align(fallbacks=())
    assert reference.read_table(EMBEDDINGS_FILE)["source"].to_pylist()[3] == "random"
    assert reference.facts["token_coverage"] == pytest.approx(11 / 22)


@pytest.mark.parametrize(
    ("fallbacks", "sources"),
    [(("lowercase", "hyphen"), ["exact", "hyphen"]), (("hyphen", "lowercase"), ["exact", "random"])],
)
def test_the_stage_tries_the_fallbacks_in_their_order(
    artifacts: Path, fallbacks: tuple[str, ...], sources: list[str]
) -> None:
    table = align(words=["<pad>", "<unk>", "the", "THE-Cat"], fallbacks=fallbacks).read_table(EMBEDDINGS_FILE)
    assert table["source"].to_pylist()[2:] == sources


def test_the_facts_are_those_of_the_report(artifacts: Path) -> None:
    reference = align()
    assert reference.facts | {"seconds": 0} == {
        "token_coverage": pytest.approx(15 / 22),
        "token_coverage_validation": pytest.approx(3 / 4),
        "token_coverage_test": pytest.approx(4 / 10),
        "type_coverage": pytest.approx(0.5),
        "dim": 3,
        "rows_exact": 2,
        "rows_lowercase": 1,
        "rows_random": 3,
        "rows_special": 2,
        "seconds": 0,
    }
    assert reference.read_model(CoverageReport).tokens["train"] == pytest.approx(15 / 22)


def test_the_matrix_describes_itself(artifacts: Path) -> None:
    vocabulary = Vocabulary(WORDS, specials=2, tokenizer="basic_english 1")
    expected = MatrixDescription(vocabulary_digest=vocabulary.digest, tokenizer="basic_english 1", dim=3)
    assert align().read_model(MatrixDescription) == expected


def test_the_matrix_is_read_for_its_own_vocabulary_alone(artifacts: Path) -> None:
    embeddings = align()
    matrix = read_matrix(embeddings, Vocabulary(WORDS, specials=2, tokenizer="basic_english 1"))
    np.testing.assert_array_equal(matrix, as_matrix(embeddings.read_table(EMBEDDINGS_FILE)["vector"]))
    for words, tokenizer in ((WORDS, "treebank 1"), (WORDS[::-1], "basic_english 1")):
        other = Vocabulary(words, specials=2, tokenizer=tokenizer)
        with pytest.raises(InputError, match=r"embeddings\.parquet: was made for the vocabulary"):
            read_matrix(embeddings, other)


def test_more_special_tokens_have_no_vector(artifacts: Path) -> None:
    table = align(words=["[PAD]", "[UNK]", "the", "cat"], specials=3).read_table(EMBEDDINGS_FILE)
    assert table["source"].to_pylist() == ["special", "special", "special", "exact"]


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
        "the most frequent tokens without a vector: dog, paris, zebra, rare"
    )
    assert not list((artifacts / "store" / "align_embeddings").glob("[!.]*"))
