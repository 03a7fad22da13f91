import pyarrow as pa
import pytest

from pipeline_config import schemas

TABLES = {
    "documents": (schemas.DOCUMENTS, ["doc_id", "text", "label", "split"]),
    "rejected": (schemas.REJECTED, ["row", "file", "line", "reason", "excerpt"]),
    "unlabelled": (schemas.UNLABELLED, ["doc_id", "text"]),
    "tokens": (schemas.TOKENS, ["doc_id", "label", "split", "length", "codes"]),
    "dictionary": (
        schemas.DICTIONARY,
        ["code", "token", "train_count", "validation_count", "test_count", "train_document_count"],
    ),
    "vocabulary": (schemas.VOCABULARY, ["token_id", "token", "count", "document_count"]),
    "buckets": (schemas.BUCKETS, ["doc_id", "label_id", "length", "bucket", "input_ids"]),
    "odd_lines": (schemas.ODD_LINES, ["line", "action", "reason", "excerpt"]),
    "epochs": (
        schemas.EPOCHS,
        ["epoch", "step", "train_loss", "validation_loss", "validation_accuracy", "validation_macro_f1"],
    ),
    "steps": (schemas.STEPS, ["step", "step_loss", "learning_rate", "gradient_norm", "batch_padding_efficiency"]),
    "vectors": (schemas.vectors_schema(3), ["token", "vector"]),
    "embeddings": (schemas.embeddings_schema(3), ["token_id", "token", "source", "vector"]),
    "predictions": (
        schemas.predictions_schema(["sport", "tech"]),
        ["doc_id", "split", "label", "prediction", "p_sport", "p_tech"],
    ),
}


def test_padding_has_id_0_and_unknown_has_id_1():
    assert (schemas.PADDING_IDX, schemas.UNK_IDX) == (0, 1)


def test_splits_are_named_in_the_order_of_use():
    assert schemas.SPLITS == ("train", "validation", "test")


@pytest.mark.parametrize("table", TABLES)
def test_table_has_the_promised_columns_in_order(table):
    schema, columns = TABLES[table]
    assert schema.names == columns


@pytest.mark.parametrize("table", TABLES)
def test_only_line_and_excerpt_of_a_rejected_row_may_be_null(table):
    schema, _ = TABLES[table]
    nullable = [field.name for field in schema if field.nullable]
    assert nullable == (["line", "excerpt"] if table == "rejected" else [])


@pytest.mark.parametrize(
    ("schema", "column", "expected"),
    [
        (schemas.DOCUMENTS, "doc_id", pa.int64()),
        (schemas.DOCUMENTS, "text", pa.large_string()),  # more than 2 GiB of text in a column
        (schemas.DICTIONARY, "train_count", pa.int64()),
        (schemas.VOCABULARY, "token_id", pa.int32()),
        (schemas.BUCKETS, "input_ids", pa.large_list(pa.int32())),
        (schemas.EPOCHS, "validation_macro_f1", pa.float64()),
        (schemas.predictions_schema(["a"]), "p_a", pa.float64()),
    ],
)
def test_column_has_the_promised_type(schema, column, expected):
    assert schema.field(column).type == expected


@pytest.mark.parametrize("make", [schemas.vectors_schema, schemas.embeddings_schema])
def test_vectors_are_float32_lists_of_exactly_dim_values_without_nulls(make):
    vector = make(7).field("vector").type
    assert pa.types.is_fixed_size_list(vector)
    assert (vector.list_size, vector.value_type, vector.value_field.nullable) == (7, pa.float32(), False)


def test_shards_sort_by_name_as_by_number():
    names = [schemas.SHARD_PATTERN.format(shard=number) for number in (0, 2, 10, 99_999)]
    assert names == ["tokens-00000.arrow", "tokens-00002.arrow", "tokens-00010.arrow", "tokens-99999.arrow"]
    assert sorted(names) == names


def test_buckets_have_one_file_per_split():
    assert [schemas.buckets_file(split) for split in schemas.SPLITS] == [
        "train.arrow",
        "validation.arrow",
        "test.arrow",
    ]
