"""What a tokenized corpus and a vocabulary say of themselves."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

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


class CorpusFacts(BaseModel):
    """What the train split of a tokenized corpus is like; the rules for settings go by it.

    Attributes:
        documents: number of documents.
        classes: number of classes.
        tokens: number of tokens of all documents.
        usual_length: smallest number of tokens with which, if longer documents are cut, 98 % of all tokens are kept.
    """

    model_config = ConfigDict(frozen=True)

    documents: int
    classes: int
    tokens: int
    usual_length: int
