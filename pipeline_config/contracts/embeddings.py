"""What an aligned matrix says of itself, and the report of its coverage."""

from typing import ClassVar

from pipeline_config.contracts.json_file import JsonFile
from pipeline_config.schemas import Split


class MatrixDescription(JsonFile):
    """The vocabulary that an aligned matrix was made for.

    Attributes:
        vocabulary_digest: `Vocabulary.digest`.
        tokenizer: version of the tokenizer that the vocabulary comes from.
        dim: values per vector.
    """

    file_name: ClassVar[str] = "matrix.json"

    vocabulary_digest: str
    tokenizer: str
    dim: int


class CoverageReport(JsonFile):
    """Which share of the vocabulary and of the tokens has a vector. For reports only: no stage decides by it.

    Attributes:
        types: covered share of the vocabulary, special tokens aside.
        tokens: covered share of the tokens of each split.
        tokens_by_class: the same for each class of a split that has tokens.
        tokens_by_source: share of the tokens of each split by the `source` of their row; `outside` is outside the
            vocabulary.
        oov_rate: share of the tokens of each split that is outside the vocabulary.
        rows: rows of the matrix by source.
        misses: the most frequent train tokens without a vector, and how often each occurs there.
    """

    file_name: ClassVar[str] = "coverage.json"

    types: float
    tokens: dict[Split, float]
    tokens_by_class: dict[Split, dict[str, float]]
    tokens_by_source: dict[Split, dict[str, float]]
    oov_rate: dict[Split, float]
    rows: dict[str, int]
    misses: dict[str, int]
