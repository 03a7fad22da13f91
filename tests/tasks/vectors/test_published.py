"""The table of published vector sets."""

import hashlib
import re

import pytest

from pipeline_config.errors import InputError
from tasks.vectors.published import (
    ARCHIVES,
    FASTTEXT_LANGUAGES,
    MEMBERS,
    MIRROR,
    SETS_OF_2024,
    PublishedSet,
    find_published,
)
from tests.published_text import SHA256, published_text


def test_the_table_of_archives_has_exactly_the_glove_sets_of_torchtext() -> None:
    from torchtext.vocab import GloVe

    assert set(ARCHIVES) == set(GloVe.url)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in ARCHIVES.values())


def test_every_glove_alias_of_torchtext_has_its_archive_and_member() -> None:
    from torchtext.vocab import pretrained_aliases

    published = {alias: find_published(alias) for alias in pretrained_aliases if alias.startswith("glove.")}
    assert published == {
        f"glove.{archive}.{dim}d": PublishedSet(
            (f"https://nlp.stanford.edu/data/{zip_name}.zip", f"{MIRROR}{zip_name}.zip"),
            ARCHIVES[archive],
            f"glove.{archive}.{dim}d.txt",
            MEMBERS.get(f"glove.{archive}.{dim}d.txt"),
        )
        for archive, zip_name, dims in [
            ("6B", "glove.6B", (50, 100, 200, 300)),
            ("42B", "glove.42B.300d", (300,)),
            ("840B", "glove.840B.300d", (300,)),
            ("twitter.27B", "glove.twitter.27B", (25, 50, 100, 200)),
        ]
        for dim in dims
    }


def test_each_set_of_2024_has_its_own_archive() -> None:
    assert {name: find_published(name).urls for name in SETS_OF_2024} == {
        f"glove.2024.{name}": (f"https://nlp.stanford.edu/data/wordvecs/glove.2024.{name}.zip",)
        for name in ("wikigiga.50d", "wikigiga.100d", "wikigiga.200d", "wikigiga.300d", "dolma.300d")
    }


def test_an_unknown_set_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"got 'glove\.7B', expected .* glove\.6B\.50d.* glove\.2024\.dolma\.300d, fasttext\.LANGUAGE$"
    ):
        find_published("glove.7B")


def test_every_digest_of_a_member_belongs_to_a_published_member() -> None:
    assert {find_published(name.removesuffix(".txt")).member for name in MEMBERS} == set(MEMBERS)


def test_the_packaged_set_written_as_text_is_the_published_file() -> None:
    digest = hashlib.sha256()
    for lines in published_text():
        digest.update(lines)
    assert digest.hexdigest() == MEMBERS["glove.6B.50d.txt"] == SHA256


@pytest.mark.parametrize("name", ["fasttext.de", "fasttext.cc.de.300", "fasttext.cc.de"])
def test_fasttext_vectors_go_by_their_language(name: str) -> None:
    url = "https://dl.fbaipublicfiles.com/fasttext/vectors-crawl/cc.de.300.vec.gz"
    assert find_published(name) == PublishedSet((url,))


@pytest.mark.parametrize("language", ["en", "simple"])
def test_torchtexts_fasttext_aliases_are_those_of_torchtext(language: str) -> None:
    from torchtext.vocab import FastText

    assert find_published(f"fasttext.{language}.300d").urls == (FastText.url_base.format(language),)


def test_other_names_of_fasttext_and_charngram_are_refused_with_what_to_take() -> None:
    assert {"zh", "ja", "th", "ko", "de", "fr", "ar", "hi"} < FASTTEXT_LANGUAGES
    with pytest.raises(
        InputError, match=r"got 'fasttext\.xx', expected .* fasttext\.LANGUAGE with one of af, als, .* zh$"
    ):
        find_published("fasttext.xx")
    with pytest.raises(InputError, match=r"charngram\.100d has vectors of character n-grams, .*; take glove\.6B\.100d"):
        find_published("charngram.100d")
