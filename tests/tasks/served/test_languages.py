"""Tokenizers of languages without spaces; those whose package is missing are skipped, and how that is told."""

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import pytest

from pipeline_config.errors import ConfigError
from pipeline_config.settings import TokenizationConfig
from tasks.registry.bundle import pip_requirements
from tasks.served import languages
from tasks.served.languages import LANGUAGES, MAX_CHARACTERS
from tasks.served.tokenizers import identify_tokenizer, is_columnar, load_tokenizer, tokenize_texts
from tasks.tokens.availability import check_tokenizer
from tests.tasks.served.texts import ODD, column

IMPORTED = {"chinese": "rjieba", "japanese": "sudachipy", "thai": "pythainlp"}
SPLIT = {
    "chinese": ("\u6211\u6765\u5230\u5317\u4eac\u6e05\u534e\u5927\u5b66\u3002 iPhone\n\u5f88\u597d", "\u6211 \u6765\u5230 \u5317\u4eac \u6e05\u534e\u5927\u5b66 \u3002 iphone \u5f88 \u597d"),
    "japanese": ("\u6771\u4eac\u90fd\u306b\u884c\u304d\u307e\u3057\u305f\u3002\u3000iPhone", "\u6771\u4eac \u90fd \u306b \u884c\u304d \u307e\u3057 \u305f \u3002 iphone"),
    "thai": ("\u0e1c\u0e21\u0e23\u0e31\u0e01\u0e1b\u0e23\u0e30\u0e40\u0e17\u0e28\u0e44\u0e17\u0e22 iPhone", "\u0e1c\u0e21 \u0e23\u0e31\u0e01 \u0e1b\u0e23\u0e30\u0e40\u0e17\u0e28 \u0e44\u0e17\u0e22 iphone"),
}  # fmt: skip


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(IMPORTED[request.param])
    return str(request.param)


def test_texts_are_split_into_words_in_lower_case_without_white_space(language: str) -> None:
    text, words = SPLIT[language]
    assert tokenize_texts([text, "", " \n"], language) == [words.split(), [], []]
    assert not is_columnar(language)


def test_no_letter_is_lost(language: str) -> None:
    letters = ["".join(text.split()).casefold() for text in [*ODD, SPLIT[language][0]]]
    for tokens, expected in zip(
        load_tokenizer(language)(column([*ODD, SPLIT[language][0]])).to_pylist(), letters, strict=True
    ):
        assert "".join("".join(tokens).split()).casefold() == expected


@pytest.mark.parametrize("ends", ["\u3002", " ", ""])
def test_a_text_of_any_length_is_split(language: str, ends: str) -> None:
    text = (SPLIT[language][0].replace(" ", "").replace("\u3000", "").replace("\n", "") + ends) * (
        3 * MAX_CHARACTERS // 20
    )
    (tokens,) = tokenize_texts([text], language)
    assert "".join(tokens) == text.replace(" ", "").lower()


def test_several_threads_share_a_tokenizer(language: str) -> None:
    tokenize = load_tokenizer(language)
    text, words = SPLIT[language]
    with ThreadPoolExecutor(4) as pool:
        for tokens in pool.map(tokenize, [column([text] * 50)] * 8):
            assert tokens.to_pylist() == [words.split()] * 50


def test_the_version_and_the_requirements_of_a_model_name_the_packages(language: str) -> None:
    packages = LANGUAGES[language].distributions
    assert identify_tokenizer(language) == " ".join([language, *(f"{p} {metadata.version(p)}" for p in packages)])
    assert pip_requirements(language)[-len(packages) :] == [f"{p}=={metadata.version(p)}" for p in packages]


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_missing_package_is_told_before_anything_is_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(distribution: str) -> str:
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(languages.metadata, "version", absent)
    packages, before = LANGUAGES[name].distributions, set(sys.modules)
    expected = (
        f"tokenizer '{name}' needs the package {packages[0]}, which is not installed; run: pip install "
        f"{' '.join(packages)} (the extra '{name}' of gloveflow)"
    )
    for use in (load_tokenizer, identify_tokenizer):
        with pytest.raises(ValueError) as caught:
            use(name)
        assert str(caught.value) == expected
    with pytest.raises(ConfigError) as caught:
        check_tokenizer(TokenizationConfig(tokenizer=name))
    assert str(caught.value) == f"tokenization.tokenizer: {expected}"
    assert set(sys.modules) == before
