"""What the buckets of a corpus say of themselves, and the report of their padding."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.json_file import JsonFile

BatchingScheme = Literal["quantile", "fixed_width", "optimal", "sorted_pool", "token_budget", "none"]


class BucketsDescription(JsonFile):
    """What a reader of the buckets needs to know.

    Attributes:
        labels: class names; the position is the `label_id`.
        vocabulary_digest: `Vocabulary.digest` of the vocabulary that the token ids belong to.
        tokenizer: version of the tokenizer that the vocabulary comes from.
        special_tokens: how many of the first token ids are special tokens.
        scheme: how batches are planned.
        token_budget: padded tokens per batch at most, for the scheme `token_budget`; None is the batch size times
            the mean length.
    """

    file_name: ClassVar[str] = "buckets.json"

    labels: tuple[str, ...]
    vocabulary_digest: str
    tokenizer: str
    special_tokens: int
    scheme: BatchingScheme
    token_budget: int | None


class SchemePadding(BaseModel):
    """The batches that a scheme makes of the train split in the first epoch.

    Attributes:
        efficiency: real tokens divided by padded tokens.
        batches: number of batches.
        batch_tokens: 5th, 50th and 95th percentile of the padded tokens of a batch.
        batch_documents: the same percentiles of the documents of a batch.
        boundaries: largest length of each bucket, rising.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    efficiency: float
    batches: int
    batch_tokens: tuple[int, int, int]
    batch_documents: tuple[int, int, int]
    boundaries: tuple[int, ...]


class Truncation(BaseModel):
    """How many documents were cut, how many tokens that left out, and how many documents had no tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents_cut: int
    tokens_cut: int
    documents_empty: int


class PaddingReport(JsonFile):
    """What padding costs under each scheme, and what was cut. For reports only: no stage decides by it.

    Attributes:
        scheme: the configured scheme.
        schemes: padding by scheme.
        truncation: counts over all splits.
    """

    file_name: ClassVar[str] = "padding.json"

    scheme: BatchingScheme
    schemes: dict[BatchingScheme, SchemePadding]
    truncation: Truncation

    @property
    def chosen(self) -> SchemePadding:
        """Padding under the configured scheme."""
        return self.schemes[self.scheme]
