"""The profile of a corpus: what `ingest_corpus` found, for the evaluation report, the MLflow run and the Prefect page.

Written and read as `profile.json`, beside the documents and the rejected rows.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.json_file import JsonFile
from pipeline_config.contracts.reading import Reading
from pipeline_config.schemas import PROFILE_FILE, Split


class FileRows(BaseModel):
    """The rows of one file of the corpus; row numbers run on from file to file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    first_row: int
    rows: int


class LengthPercentiles(BaseModel):
    """Percentiles of the lengths of the texts, in characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p0: int
    p25: int
    p50: int
    p75: int
    p95: int
    p99: int
    p100: int


class Imbalance(BaseModel):
    """The largest and the smallest class of the train split, if one is much larger than the other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    largest: str
    largest_documents: int
    smallest: str
    smallest_documents: int


class DocumentsProfile(BaseModel):
    """What the documents are like, and what crosses their splits.

    Attributes:
        documents: documents by split and class.
        characters: lengths of the texts.
        characters_histogram: (smallest length, texts) of each bin.
        duplicates: documents whose text is a copy of another one's, not counting the first of each text.
        conflicting_labels: distinct texts with more than one label.
        leaked: documents that were rejected because a later split has a copy.
        near_duplicates_leaked: held-out documents with a near-duplicate in the train split.
        near_duplicate_pairs: pairs that were found; None if there was no search.
        imbalance: classes of very different size in the train split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: dict[Split, dict[str, int]]
    characters: LengthPercentiles
    characters_histogram: tuple[tuple[int, int], ...]
    duplicates: int
    conflicting_labels: int
    leaked: int
    near_duplicates_leaked: int
    near_duplicate_pairs: int | None
    imbalance: Imbalance | None

    @property
    def labels(self) -> list[str]:
        """Names of the classes that have documents, sorted."""
        return sorted({label for counts in self.documents.values() for label in counts})


class CorpusProfile(DocumentsProfile, JsonFile):
    """What is in a corpus: its rows and files, and its documents.

    Attributes:
        rows: all rows of the files: documents, rejected rows, unlabelled texts and rows left out.
        unlabelled: texts of the train split without a label, in a file of their own.
        left_out: usable rows beyond `corpus.max_documents`.
        files: the files in the order in which they were read.
        rejected: rejected rows by reason.
        rejected_by_class: rejected rows by reason and class; those without a class are not in it.
        near_equal_names: name of a class -> larger class with nearly the same name.
        readings: how the files were read, by format.
        oddities: texts by kind of oddity; kinds that no text has are absent.
        normalization: Unicode normalization form of the texts.
        splitter: how splits were drawn.
    """

    file_name: ClassVar[str] = PROFILE_FILE

    rows: int
    unlabelled: int
    left_out: int
    files: tuple[FileRows, ...]
    rejected: dict[str, int]
    rejected_by_class: dict[str, dict[str, int]]
    near_equal_names: dict[str, str]
    readings: dict[str, Reading]
    oddities: dict[str, int]
    normalization: Literal["NFC"]
    splitter: str
