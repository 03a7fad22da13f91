"""Stage `ingest_corpus`: turn a labelled corpus into validated documents with a split.

Reads CSV, TSV, JSON lines, Parquet or a folder per class: a local path, an HTTPS URL, or data files of an
installed distribution (which is not imported). Writes `documents`, `rejected` (row, reason) and a profile.
Every row is accounted for: rows = documents + rejected + rows left out by `corpus.max_documents`.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from prefect import task

from pipeline_config.errors import InputError
from pipeline_config.schemas import (
    DOCUMENTS,
    DOCUMENTS_FILE,
    PROFILE_FILE,
    REJECTED,
    REJECTED_FILE,
    SPLITS,
)
from pipeline_config.settings import CorpusConfig
from tasks.corpus_formats import Row, detect_format, list_class_files, read_rows
from tasks.download import download_file
from tasks.stage import stage
from tasks.store import SourceRef, StageOutput, file_digest, tree_digest
from tasks.tokenizers import normalize_text

logger = logging.getLogger(__name__)
_SPLIT_NAMES: dict[str, str] = {
    **dict(zip(SPLITS, SPLITS, strict=True)),
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
}


def locate_corpus(config: CorpusConfig) -> SourceRef:
    """Tell where the corpus is and its digest; a URL is downloaded first.

    Raises:
        InputError: there is no such file, folder or distribution.
        ServiceError: the URL cannot be fetched.
    """
    path = _corpus_path(config.source)
    if not path.exists():
        raise InputError(f"corpus.source: {path}: no such file or folder")
    kind = detect_format(path, config.format)
    try:
        digest = tree_digest(list_class_files(path)) if kind == "folder" else file_digest(path)
    except OSError as error:
        raise InputError(f"corpus.source: {error.filename or path}: cannot be read: {error.strerror}") from error
    return SourceRef(location=str(path), kind=kind, digest=digest)


find_corpus = task(name="find_corpus", task_run_name="find corpus", persist_result=False)(locate_corpus)


@stage(version=1)
def ingest_corpus(output: StageOutput, source: SourceRef, config: CorpusConfig, seed: int) -> None:
    """Write the documents with their splits, the rejected rows and a profile of the corpus.

    Raises:
        InputError: no usable documents, one class only, a class too small, a split without documents, or a column
            that is not there.
    """
    rows = list(read_rows(Path(source.location), source.kind, config))
    documents, rejected = validate_rows(rows, config)
    documents, rejected, left_out = select_documents(documents, rejected, config, where=source.location)
    documents["split"] = assign_splits(documents, config, seed)
    _check_splits(documents, where=source.location)
    rejected = rejected.sort_values("row", kind="stable")
    output.write_table(DOCUMENTS_FILE, _arrow(documents, DOCUMENTS), DOCUMENTS)
    output.write_table(REJECTED_FILE, _arrow(rejected, REJECTED), REJECTED)
    profile = profile_corpus(documents, rejected)
    output.write_json(PROFILE_FILE, {**profile, "rows": len(rows), "left_out": left_out, "normalization": "NFC"})
    output.facts.update(
        documents=len(documents),
        rows_rejected=len(rejected),
        classes=documents["label"].nunique(),
        rows=len(rows),
        rows_left_out=left_out,
        duplicates=profile["duplicates"],
        conflicting_labels=profile["conflicting_labels"],
    )


def label_text(value: Any) -> str | None:
    """Return a label as text by rule: `1`, `1.0` and `"1"` are "1", true is "true", null and NaN are None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def validate_rows(rows: list[Row], config: CorpusConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Separate usable rows from rejected ones.

    Returns:
        Documents with `doc_id` (the row number, from 0), `text`, `label`, `given_split`; and the rejected rows
        with `row`, `reason`, `excerpt`.
    """
    documents, rejected = [], []
    for number, row in enumerate(rows):
        text, label, reason = _checked(row, config)
        if reason:
            excerpt = text if isinstance(text, str) else repr(text)
            rejected.append((number, reason, excerpt[:80].encode("utf-8", "replace").decode()))
        else:
            split = _SPLIT_NAMES.get(str(row.split).strip().lower()) if config.split_column else None
            documents.append((number, text, label, split))
    return (
        pd.DataFrame(documents, columns=["doc_id", "text", "label", "given_split"]),
        pd.DataFrame(rejected, columns=["row", "reason", "excerpt"]),
    )


def select_documents(
    documents: pd.DataFrame, rejected: pd.DataFrame, config: CorpusConfig, *, where: str
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Apply `max_documents` and the rule for small classes, and check that there is something to learn.

    Returns:
        Documents, rejected rows, and how many usable rows were left out by `max_documents`.

    Raises:
        InputError: no documents, fewer than two classes, or a class too small.
    """
    usable = len(documents)
    if config.max_documents and usable > config.max_documents:
        documents = documents.iloc[[i * usable // config.max_documents for i in range(config.max_documents)]]
    left_out = usable - len(documents)
    distinct = documents.assign(key=_text_keys(documents["text"])).groupby("label")["key"].nunique()
    small = distinct[distinct < config.min_class_documents]
    if len(small) and config.small_classes == "error":
        found = ", ".join(f"{label!r} has {count}" for label, count in small.items())
        raise InputError(
            f"{where}: a class needs {config.min_class_documents} distinct texts (corpus.min_class_documents), {found};"
            " corpus.small_classes=reject leaves such classes out"
        )
    small_documents = documents[documents["label"].isin(small.index)]
    columns = {"row": small_documents["doc_id"], "excerpt": small_documents["text"].str[:80]}
    rejected = pd.concat([rejected, pd.DataFrame({**columns, "reason": "small_class"})])
    documents = documents.drop(small_documents.index)
    classes = sorted(documents["label"].unique())
    if len(classes) < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected["reason"].value_counts().items())
        raise InputError(
            f"{where}: expected at least two classes with documents, got {', '.join(classes) or 'none'} "
            f"after rejecting {len(rejected)} rows ({reasons or 'none'})"
        )
    return documents.reset_index(drop=True), rejected, left_out


def assign_splits(documents: pd.DataFrame, config: CorpusConfig, seed: int) -> pd.Series:
    """Return each document's split: as given in the split column, else stratified by class.

    Documents with the same text (case and white space aside) get the same split. Within a class, texts are
    ordered by a keyed hash of the text, so the result depends on the seed and the texts alone. A split that
    the column does not give is taken out of the train documents.
    """
    frame = documents.assign(key=_text_keys(documents["text"]))
    split = frame["given_split"].fillna("train").astype(object)
    wanted = {
        name: fraction
        for name, fraction in (("test", config.test_fraction), ("validation", config.validation_fraction))
        if not (split == name).any()
    }
    free = frame[split == "train"].drop_duplicates("key")
    assigned: dict[str, str] = {}
    for _, keys in free.groupby("label", sort=True)["key"]:
        ordered = sorted(keys, key=lambda key: _keyed_hash(seed, key))
        start = 0
        for others, (name, fraction) in zip(range(len(wanted), 0, -1), wanted.items(), strict=True):
            most = max(0, len(ordered) - start - others)  # leaves a text to each split that is still to come
            count = min(max(1, round(len(ordered) * fraction)), most)
            assigned.update(dict.fromkeys(ordered[start : start + count], name))
            start += count
    return split.where(split != "train", [assigned.get(key, "train") for key in frame["key"]])


def profile_corpus(documents: pd.DataFrame, rejected: pd.DataFrame) -> dict[str, Any]:
    """Describe a corpus: class counts per split, text lengths in characters, duplicates, conflicts, leaks."""
    keys = _text_keys(documents["text"])
    train_keys = set(keys[documents["split"] == "train"])
    held_out = documents["split"] != "train"
    counts = Counter(zip(documents["split"], documents["label"], strict=True))
    lengths = documents["text"].str.len()
    return {
        "documents": {
            split: {label: n for (name, label), n in sorted(counts.items()) if name == split} for split in SPLITS
        },
        "rejected": {reason: int(n) for reason, n in rejected["reason"].value_counts().items()},
        "characters": {f"p{q}": int(lengths.quantile(q / 100)) for q in (0, 25, 50, 75, 95, 100)},
        "duplicates": int(keys.duplicated().sum()),
        "conflicting_labels": int((documents["label"].groupby(keys).nunique() > 1).sum()),
        "leaked": int(keys[held_out].isin(train_keys).sum()),
    }


def _checked(row: Row, config: CorpusConfig) -> tuple[Any, str, str | None]:
    if row.problem:
        return row.text, "", row.problem
    if row.text is None or (isinstance(row.text, float) and math.isnan(row.text)):
        return "", "", "null_text"
    text, label = row.text, label_text(row.label)
    if not isinstance(text, str):
        return text, "", "text_is_no_string"
    if any("\ud800" <= c <= "\udfff" for c in text) or (label and any("\ud800" <= c <= "\udfff" for c in label)):
        return text, "", "undecodable"
    text = normalize_text(text)
    if len(text.strip()) < config.min_characters:
        return text, "", "empty_text" if not text.strip() else "short_text"
    if label is None:
        return text, "", "no_label"
    if config.split_column and str(row.split).strip().lower() not in _SPLIT_NAMES:
        return text, "", "unknown_split"
    return text, config.label_map.get(label, label), None


def _check_splits(documents: pd.DataFrame, *, where: str) -> None:
    counts = {split: int((documents["split"] == split).sum()) for split in SPLITS}
    if not all(counts.values()):
        got = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(f"{where}: expected documents in every split, got {got}")


def _corpus_path(source: str) -> Path:
    if source.startswith("https://"):
        return download_file([source])
    if "://" in source:
        raise InputError(f"corpus.source: {source}: expected a path, an https URL or package:<distribution>:<path>")
    if not source.startswith("package:"):
        return Path(source).expanduser().absolute()
    name, _, inside = source.removeprefix("package:").partition(":")
    if not name or not inside:
        raise InputError(f"corpus.source: got {source!r}, expected package:<distribution>:<path>")
    try:
        return Path(str(metadata.distribution(name).locate_file(inside)))
    except metadata.PackageNotFoundError:
        raise InputError(f"corpus.source: the distribution {name!r} is not installed") from None


def _text_keys(texts: pd.Series) -> pd.Series:
    return texts.map(lambda text: " ".join(text.casefold().split()))


def _keyed_hash(seed: int, text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, key=seed.to_bytes(8, "little")).digest()


def _arrow(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    columns: Mapping[str, list[Any]] = {name: frame[name].tolist() for name in schema.names}
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
