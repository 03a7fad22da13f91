"""What a tokenized corpus and a vocabulary say of themselves."""

from typing import ClassVar, Literal

from pipeline_config.contracts.json_file import JsonFile


class TokenizerDescription(JsonFile):
    """The tokenizer of a tokenized corpus.

    Attributes:
        name: as in `tokenization.tokenizer`.
        version: what `tasks.served.tokenizers.identify_tokenizer` returns, for example `treebank 1`. Equal versions
            give equal tokens.
        normalization: Unicode normalization form of the texts.
    """

    file_name: ClassVar[str] = "tokenizer.json"

    name: str
    version: str
    normalization: Literal["NFC"] = "NFC"


class VocabularyDescription(JsonFile):
    """The special tokens of a vocabulary, in the order of their ids, and the version of the tokenizer."""

    file_name: ClassVar[str] = "specials.json"

    specials: tuple[str, ...]
    tokenizer: str
