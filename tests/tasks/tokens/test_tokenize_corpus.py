"""The stage `tokenize_corpus`: codes per document, one dictionary, counts worked out by hand."""

import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.tokens.tokenize_corpus
from pipeline_config.contracts.tokens import TokenizerDescription
from pipeline_config.errors import ConfigError
from pipeline_config.schemas import DICTIONARY, DICTIONARY_FILE, DOCUMENTS, DOCUMENTS_FILE, TOKENS
from pipeline_config.settings import TokenizationConfig
from tasks.served.text import TOKEN_LISTS
from tasks.served.tokenizers import Tokenize, basic_english
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.tokens.availability import check_tokenizer
from tasks.tokens.tokenize_corpus import (
    Chunk,
    TokenDictionary,
    encode_chunk,
    encode_shards,
    iterate_shards,
    read_in_shards,
    tokenize_corpus,
)

# (text, label, split)
CORPUS = [
    ("The cat, the dog", "x", "train"),
    ("A cat!", "y", "test"),
    ('"', "y", "train"),
    ("dog cat dog", "x", "validation"),
    ("The cat", "x", "train"),
]
DOCUMENT_TOKENS = [["the", "cat", ",", "the", "dog"], ["a", "cat", "!"], [], ["dog", "cat", "dog"], ["the", "cat"]]
TOKEN_COUNTS = [  # token, train, validation, test occurrences, train documents
    ("the", 3, 0, 0, 2),
    ("cat", 2, 1, 1, 2),
    (",", 1, 0, 0, 1),
    ("dog", 1, 2, 0, 1),
    ("a", 0, 0, 1, 0),
    ("!", 0, 0, 1, 0),
]


def table_of(corpus: list[tuple[str, str, str]]) -> pa.Table:
    texts, labels, splits = zip(*corpus, strict=True)
    return pa.table([range(len(corpus)), texts, labels, splits], names=DOCUMENTS.names).cast(DOCUMENTS)


@pytest.fixture
def documents(artifacts: Path) -> ArtifactRef:
    table = table_of(CORPUS)
    key = stage_key("ingest_corpus", 1, {"corpus": CORPUS})
    return commit_output("ingest_corpus", key, lambda out: out.write_table(DOCUMENTS_FILE, table, DOCUMENTS))[0]


def decoded(tokens: ArtifactRef) -> list[list[str]]:
    """Return the tokens of each document, by way of codes and dictionary."""
    words = tokens.read_table(DICTIONARY_FILE)["token"].to_pylist()
    return [[words[code] for code in codes] for shard in iterate_shards(tokens) for codes in shard["codes"].to_pylist()]


def test_every_document_gets_the_codes_of_its_tokens(documents: ArtifactRef) -> None:
    tokens = tokenize_corpus.fn(documents, TokenizationConfig(), "version 1")
    assert decoded(tokens) == DOCUMENT_TOKENS


def test_the_dictionary_counts_tokens_per_split_and_train_documents(documents: ArtifactRef) -> None:
    dictionary = tokenize_corpus.fn(documents, TokenizationConfig(), "version 1").read_table(DICTIONARY_FILE)
    assert dictionary.schema == DICTIONARY
    assert dictionary["code"].to_pylist() == list(range(6))
    rows = zip(*(dictionary[name].to_pylist() for name in DICTIONARY.names[1:]), strict=True)
    assert list(rows) == TOKEN_COUNTS


@pytest.mark.parametrize(("shard_documents", "shards"), [(1, 5), (2, 3), (5, 1), (100, 1)])
@pytest.mark.parametrize("chunk_documents", [1, 3, 1000])
def test_shards_and_chunks_change_nothing_but_the_number_of_files(
    documents: ArtifactRef, monkeypatch: pytest.MonkeyPatch, shard_documents: int, shards: int, chunk_documents: int
) -> None:
    monkeypatch.setattr(tasks.tokens.tokenize_corpus, "CHUNK_DOCUMENTS", chunk_documents)
    tokens = tokenize_corpus.fn(documents, TokenizationConfig(shard_documents=shard_documents), "version 1")
    tables = list(iterate_shards(tokens))
    assert len(tables) == shards
    assert all(table.schema == TOKENS for table in tables)
    together = pa.concat_tables(tables)
    assert together.select(["doc_id", "label", "split"]).equals(
        documents.read_table(DOCUMENTS_FILE).select(["doc_id", "label", "split"])
    )
    assert decoded(tokens) == DOCUMENT_TOKENS
    assert tokens.read_table(DICTIONARY_FILE)["train_count"].to_pylist() == [row[1] for row in TOKEN_COUNTS]


def test_memory_holds_no_more_than_two_shards_of_documents(tmp_path: Path) -> None:
    with pq.ParquetWriter(tmp_path / "d.parquet", DOCUMENTS, compression="none", use_dictionary=False) as writer:
        for start in range(0, 32_000, 1_000):
            table = pa.table(
                {
                    "doc_id": range(start, start + 1_000),
                    "text": [f"{start}".zfill(500)] * 1_000,
                    "label": ["a"] * 1_000,
                    "split": ["train"] * 1_000,
                }
            )
            writer.write_table(table.cast(DOCUMENTS))
    before, rows = pa.total_allocated_bytes(), 0
    for shard in read_in_shards(tmp_path / "d.parquet", 2_000):
        rows += len(shard)
        assert pa.total_allocated_bytes() - before < 6 << 20, "of 16 MiB"
    assert rows == 32_000


def test_facts_count_tokens_and_name_the_tokenizer(documents: ArtifactRef) -> None:
    facts = tokenize_corpus.fn(documents, TokenizationConfig(), "version 1").facts
    assert facts | {"seconds": 0} == {"tokens": 13, "distinct_tokens": 6, "tokenizer": "basic_english", "seconds": 0}


def test_another_tokenizer_gives_other_tokens(documents: ArtifactRef) -> None:
    tokens = tokenize_corpus.fn(documents, TokenizationConfig(tokenizer="whitespace"), "version 1")
    assert decoded(tokens) == [text.split() for text, _, _ in CORPUS]


def test_an_unknown_tokenizer_is_a_configuration_error_and_leaves_no_output(
    documents: ArtifactRef, artifacts: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^tokenization\.tokenizer: tokenizer 'wordpiece': Requested tokenizer"):
        tokenize_corpus.fn(documents, TokenizationConfig(tokenizer="wordpiece"), "version 1")
    assert not list((artifacts / "store" / "tokenize_corpus").glob("[!.]*"))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def only(shards: Iterator[pa.Table]) -> pa.Table:
    (shard,) = shards
    return shard


def given(lists: list[list[str]]) -> Tokenize:
    """Return a tokenizer that finds the number of a list in a text."""
    return lambda texts: pa.array([lists[int(text)] for text in texts.to_pylist()], TOKEN_LISTS)


def encoded(dictionary: TokenDictionary, lists: list[list[str]], splits: list[str]) -> np.ndarray:
    table = table_of([(str(i), "x", split) for i, split in enumerate(splits)])
    return dictionary.add([encode_chunk(table, given(lists))])


def test_a_shard_is_encoded_with_the_codes_that_a_dictionary_already_has(pool: ThreadPoolExecutor) -> None:
    dictionary = TokenDictionary()
    dictionary.codes = {"cat": 0, "the": 1}
    table = only(encode_shards([table_of(CORPUS[:1])], tokenize=basic_english, dictionary=dictionary, pool=pool))
    assert table["codes"].to_pylist() == [[1, 0, 2, 1, 3]]
    assert table["length"].to_pylist() == [5]
    assert dictionary.codes == {"cat": 0, "the": 1, ",": 2, "dog": 3}


def test_a_dictionary_goes_on_counting_from_call_to_call() -> None:
    dictionary = TokenDictionary()
    first = encoded(dictionary, [["a", "b", "a"], ["a"]], ["train", "test"])
    second = encoded(dictionary, [["c", "a"], []], ["train", "train"])
    assert (first.tolist(), second.tolist()) == ([0, 1, 0, 0], [2, 0])
    assert first.dtype == np.int32
    assert dictionary.table().to_pydict() == {
        "code": [0, 1, 2],
        "token": ["a", "b", "c"],
        "train_count": [3, 1, 1],
        "validation_count": [0, 0, 0],
        "test_count": [1, 0, 0],
        "train_document_count": [2, 1, 1],
    }


def test_a_dictionary_grows_without_losing_counts() -> None:
    dictionary = TokenDictionary()
    lists = [[f"w{i}" for i in range(start, start + 700)] for start in range(0, 5000, 500)]
    for words in lists:
        encoded(dictionary, [words], ["train"])
    counts = dict(zip(dictionary.codes, dictionary.table()["train_count"].to_pylist(), strict=True))
    assert counts == Counter(word for words in lists for word in words)


def test_chunks_of_a_call_share_their_codes() -> None:
    dictionary = TokenDictionary()
    chunks: list[Chunk] = [
        encode_chunk(table_of([("0", "x", "train")]), given([words])) for words in (["b", "a"], ["a", "c", "b"])
    ]
    assert dictionary.add(chunks).tolist() == [0, 1, 1, 2, 0]
    assert dictionary.table()["train_document_count"].to_pylist() == [2, 2, 1]


def test_documents_without_any_tokens_give_an_empty_dictionary(pool: ThreadPoolExecutor) -> None:
    dictionary = TokenDictionary()
    shard = table_of([('"', "x", "train"), (" ", "y", "test")])
    table = only(encode_shards([shard], tokenize=basic_english, dictionary=dictionary, pool=pool))
    assert table["codes"].to_pylist() == [[], []]
    assert dictionary.table() == DICTIONARY.empty_table()


def test_the_output_says_which_tokenizer_it_is_of(documents: ArtifactRef) -> None:
    first, second = (
        tokenize_corpus.fn(documents, TokenizationConfig(tokenizer="whitespace"), version) for version in ("w 1", "w 2")
    )
    expected = TokenizerDescription(name="whitespace", version="w 1", normalization="NFC")
    assert first.read_model(TokenizerDescription) == expected
    assert first.key != second.key
    assert first.digest != second.digest


def shout(text: str) -> list[str]:
    return text.upper().split()


def test_a_function_of_ones_own_can_be_the_tokenizer(
    documents: ArtifactRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_tokens.py").write_text("def shout(text):\n    return text.upper().split()\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = TokenizationConfig(tokenizer="my_tokens:shout")
    for use in (check_tokenizer, lambda config: tokenize_corpus.fn(documents, config, "version 1")):
        with pytest.raises(
            ConfigError, match=r"^tokenization\.tokenizer: tokenizer 'my_tokens:shout' is a function, and"
        ):
            use(config)
    assert "my_tokens" not in sys.modules
    monkeypatch.setenv("GLOVEFLOW_TOKENIZERS", "my_tokens:shout")
    check_tokenizer(config)
    assert decoded(tokenize_corpus.fn(documents, config, "version 1")) == [shout(text) for text, _, _ in CORPUS]


@pytest.mark.parametrize("seed", range(3))
def test_counts_agree_with_counting_one_by_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lists = [[f"w{i}" for i in generator.zipf(1.5, generator.integers(0, 12)) % 30] for _ in range(50)]
    splits = generator.choice(["train", "validation", "test"], len(lists))
    dictionary = TokenDictionary()
    for start in range(0, len(lists), 7):
        encoded(dictionary, lists[start : start + 7], splits[start : start + 7].tolist())
    for row in dictionary.table().to_pylist():
        token = row["token"]
        for split in ("train", "validation", "test"):
            assert row[f"{split}_count"] == sum(
                words.count(token) for words, name in zip(lists, splits, strict=True) if name == split
            )
        assert row["train_document_count"] == sum(
            token in words for words, name in zip(lists, splits, strict=True) if name == "train"
        )
