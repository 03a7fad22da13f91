"""What stages promise each other: file names, Arrow schemas, split names and special token ids.

A stage's writer and its readers both take these from here; `tasks.store.artifacts` checks each table against its
schema when it is written.
"""

from typing import Final, Literal

import pyarrow as pa

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

# ids of the first two special tokens, whatever they are called (`vocabulary.specials`)
PADDING_IDX: Final = 0
UNK_IDX: Final = 1

# file names of the stage outputs
VECTORS_FILE: Final = "vectors.parquet"
ODD_LINES_FILE: Final = "odd_lines.parquet"
DOCUMENTS_FILE: Final = "documents.parquet"
REJECTED_FILE: Final = "rejected.parquet"
UNLABELLED_FILE: Final = "unlabelled.parquet"
PROFILE_FILE: Final = "profile.json"
DICTIONARY_FILE: Final = "dictionary.parquet"
SHARD_PATTERN: Final = "tokens-{shard:05d}.arrow"
VOCABULARY_FILE: Final = "vocabulary.parquet"
EMBEDDINGS_FILE: Final = "embeddings.parquet"
PREDICTIONS_FILE: Final = "predictions.parquet"
OUT_OF_FOLD_FILE: Final = "out-of-fold.parquet"
METRICS_FILE: Final = "metrics.json"
ANALYSIS_FILE: Final = "analysis.json"
DECISION_FILE: Final = "decision.json"
TRAINING_TEXTS_FILE: Final = "training-texts.u64"
REFERENCE_FILE: Final = "reference.parquet"
KEPT_COLUMNS_FILE: Final = "kept-columns.parquet"
WEIGHTS_FILE: Final = "weights.safetensors"
LAST_WEIGHTS_FILE: Final = "last-weights.safetensors"
MODEL_FILE: Final = "model.json"
EPOCHS_FILE: Final = "epochs.parquet"
STEPS_FILE: Final = "steps.parquet"
CARD_FILE: Final = "card.md"
LINEAR_FILE: Final = "linear.safetensors"

_DOCUMENT = [pa.field("doc_id", pa.int64(), nullable=False)]

DOCUMENTS: Final = pa.schema(
    [
        *_DOCUMENT,
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
REJECTED: Final = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64()),  # or row of a table, from 1; null for documents in files of their own
        pa.field("reason", pa.string(), nullable=False),
        pa.field("excerpt", pa.string()),
    ]
)
UNLABELLED: Final = pa.schema([*_DOCUMENT, pa.field("text", pa.large_string(), nullable=False)])
TOKENS: Final = pa.schema(
    [
        *_DOCUMENT,
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("codes", pa.large_list(pa.int32()), nullable=False),
    ]
)
DICTIONARY: Final = pa.schema(
    [
        pa.field("code", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        *(pa.field(f"{split}_count", pa.int64(), nullable=False) for split in SPLITS),
        pa.field("train_document_count", pa.int64(), nullable=False),
    ]
)
VOCABULARY: Final = pa.schema(
    [
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("document_count", pa.int64(), nullable=False),
    ]
)
BUCKETS: Final = pa.schema(
    [
        *_DOCUMENT,
        pa.field("label_id", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("bucket", pa.int32(), nullable=False),
        pa.field("input_ids", pa.large_list(pa.int32()), nullable=False),
    ]
)
ODD_LINES: Final = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("action", pa.string(), nullable=False),  # dropped or repaired
        pa.field("reason", pa.string(), nullable=False),
        pa.field("excerpt", pa.string(), nullable=False),
    ]
)
EPOCHS: Final = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in ("train_loss", "validation_loss", "validation_accuracy", "validation_macro_f1")
        ),
    ]
)
STEPS: Final = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in ("step_loss", "learning_rate", "gradient_norm", "batch_padding_efficiency")
        ),
    ]
)


def buckets_file(split: Split) -> str:
    """Return the file name of a split's buckets: Arrow IPC, so that training can map it into memory."""
    return f"{split}.arrow"


def vectors_schema(dim: int) -> pa.Schema:
    """Return the schema of a vector set with `dim` values per token."""
    return pa.schema([_token(), _vector(dim)])


def embeddings_schema(dim: int) -> pa.Schema:
    """Return the schema of an aligned matrix; `source` tells where each row comes from."""
    return pa.schema(
        [
            pa.field("token_id", pa.int32(), nullable=False),
            _token(),
            pa.field("source", pa.string(), nullable=False),
            _vector(dim),
        ]
    )


def kept_columns_schema(names: tuple[str, ...]) -> pa.Schema:
    """Return the schema of the kept columns of the documents: one string column for each name."""
    return pa.schema([*_DOCUMENT, *(pa.field(name, pa.string()) for name in names)])


def predictions_schema(labels: list[str]) -> pa.Schema:
    """Return the schema of predictions: one float64 probability column `p_<label>` per class."""
    return pa.schema(
        [
            *_DOCUMENT,
            pa.field("split", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("prediction", pa.string(), nullable=False),
            *(pa.field(f"p_{label}", pa.float64(), nullable=False) for label in labels),
        ]
    )


def _token() -> pa.Field:
    return pa.field("token", pa.string(), nullable=False)


def _vector(dim: int) -> pa.Field:
    return pa.field("vector", pa.list_(pa.field("item", pa.float32(), nullable=False), dim), nullable=False)
