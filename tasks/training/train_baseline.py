"""Stage `train_baseline`: a linear model on the same documents, to compare the classifier with and to join it.

Reads `tokens`. Writes the linear model, its predictions on the validation and test splits, and on train documents those
of models that were not trained on them, by which the evaluation finds wrong labels.
"""

import logging
import zlib
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.linear import LinearDescription, LinearOptions
from pipeline_config.errors import InputError
from pipeline_config.schemas import DICTIONARY_FILE, LINEAR_FILE, OUT_OF_FOLD_FILE, PREDICTIONS_FILE
from pipeline_config.settings import BaselineConfig
from tasks.evaluation.calibration import fit_temperature, soften
from tasks.evaluation.prediction_table import tabulate_predictions
from tasks.runtime.cancellation import raise_if_stopped
from tasks.runtime.progress import show_elapsed
from tasks.served.linear import Features, HashedTokens, find_features, hash_tokens, plan_blocks
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.tokens.tokenize_corpus import iterate_shards
from tasks.training.linear_fitting import (
    Fitted,
    Recipe,
    choose_out_of_fold,
    fit_linear,
    list_recipes,
    predict_out_of_fold,
    take_evenly,
)

logger = logging.getLogger(__name__)
FOLDS = 4
MOST_CHECKED = 20_000  # train documents that are predicted by models of the other folds
MOST_TOKENS = 8_000_000  # of the train documents that are learned from
MOST_FEATURES = 24_000_000  # of all train documents; with more, pieces of words are left out
MOST_TRIED = 6_000_000  # features times classes of the train documents by which a recipe is chosen
_SAMPLE = 500  # documents by which the number of features is estimated
_BLOCK = 1 << 18  # tokens whose features are looked for at once


class Documents(NamedTuple):
    """Documents as tokens.

    Attributes:
        table: `doc_id`, `split` and `label` of each.
        label_ids: int64[N].
        codes: int32, the codes of the tokens of all, joined.
        offsets: int64[N + 1], where each begins in `codes`.
    """

    table: pa.Table
    label_ids: np.ndarray
    codes: np.ndarray
    offsets: np.ndarray

    def take(self, rows: np.ndarray) -> "Documents":
        """Return some documents, by their positions in rising order."""
        inside = np.zeros(len(self.label_ids), bool)
        inside[rows] = True
        sizes = np.diff(self.offsets)
        kept = self.codes[np.repeat(inside, sizes)]
        return Documents(self.table.take(rows), self.label_ids[rows], kept, _join_sizes(sizes[rows]))

    def find_features(self, hashed: HashedTokens, ngrams: int) -> Features:
        """Return their features."""
        parts = []
        for start, stop in plan_blocks(self.offsets, _BLOCK):
            raise_if_stopped()
            codes = self.codes[self.offsets[start] : self.offsets[stop]]
            parts.append(
                find_features(codes, self.offsets[start : stop + 1] - self.offsets[start], hashed, ngrams=ngrams)
            )
        keys = np.concatenate([np.zeros(0, np.uint32), *(part.keys for part in parts)])
        return Features(keys, _join_sizes(np.concatenate([np.zeros(0, int), *(np.diff(p.offsets) for p in parts)])))


@stage(version=3)
def train_baseline(output: StageOutput, tokens: ArtifactRef, config: BaselineConfig) -> None:
    """Write the linear model, its predictions on the validation and test splits, and those out of fold on train ones.

    Raises:
        InputError: no feature of the train split occurs in `baseline.min_df` documents.
    """
    import torch  # noqa: F401 (before scikit-learn: SciPy fails if another thread has imported torch only in part)

    train, held_out, labels = read_documents(tokens)
    dictionary = tokens.read_table(DICTIONARY_FILE, columns=["token"])["token"].to_pylist()
    pieces = use_pieces(train, dictionary, config)
    hashed, classes = hash_tokens(dictionary, pieces=pieces), len(labels)
    features = train.find_features(hashed, config.ngram_max)
    checked = take_evenly(len(train.label_ids), MOST_CHECKED)
    with show_elapsed(f"try linear models on {len(checked):,} documents"):
        recipe, logits = choose_recipe(train, features, checked, classes, list_recipes(config, pieces=pieces), config)
    temperature = fit_known_temperature(logits, train.label_ids[checked])
    try:
        with show_elapsed(f"fit the linear model to {len(train.label_ids):,} documents"):
            fitted = fit_linear(features, train.label_ids, classes, recipe, config)
    except ValueError as error:
        raise InputError(f"baseline: {error} (baseline.min_df is {config.min_df})") from error
    answers = fitted.model.answer(held_out.find_features(hashed, config.ngram_max))
    _write(output, PREDICTIONS_FILE, held_out, labels, soften(answers, temperature))
    _write(output, OUT_OF_FOLD_FILE, train.take(checked), labels, np.nan_to_num(soften(logits, temperature)))
    fitted.model.write(output.path(LINEAR_FILE))
    output.write_model(describe(fitted, recipe, temperature, labels))
    output.facts.update(features=len(fitted.model.keys), iterations=fitted.iterations, **recipe._asdict())


def read_documents(tokens: ArtifactRef) -> tuple[Documents, Documents, list[str]]:
    """Return train documents, some of each class if they have too many tokens, held-out ones, and the class names."""
    shards = list(iterate_shards(tokens))
    columns = [
        pa.concat_tables(shard.select([name]) for shard in shards)[name] for name in ("split", "length", "label")
    ]
    split, lengths = columns[0].to_numpy(), columns[1].to_numpy()
    labels = sorted(columns[2].unique().to_pylist())
    train = np.flatnonzero(split == "train")
    total = int(lengths[train].sum())
    if total > MOST_TOKENS:
        kept = take_of_each_class(columns[2].take(train), MOST_TOKENS / total)
        logger.info("the linear model learns from %d of %d train documents, spread evenly", len(kept), len(train))
        train = train[kept]
    chosen = np.isin(np.arange(len(split)), train)
    return _gather(shards, chosen, labels), _gather(shards, split != "train", labels), labels


def take_of_each_class(labels: pa.ChunkedArray, share: float) -> np.ndarray:
    """Return int64 positions in rising order: a share of each label's, spread evenly, but not under 20."""
    ids = labels.dictionary_encode().combine_chunks().indices.to_numpy()
    order = np.argsort(ids, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(ids[order])) + 1)
    return np.sort(np.concatenate([part[take_evenly(len(part), max(20, int(len(part) * share)))] for part in parts]))


def use_pieces(train: Documents, dictionary: list[str], config: BaselineConfig) -> bool:
    """Return whether pieces of words are features: if it is left open, unless there would be too many of all."""
    if config.pieces != "auto":
        return config.pieces
    sample = train.take(take_evenly(len(train.label_ids), _SAMPLE))
    found = sample.find_features(hash_tokens(dictionary, pieces=True), config.ngram_max)
    return len(found.keys) / len(sample.label_ids) * len(train.label_ids) <= MOST_FEATURES


def choose_recipe(
    train: Documents,
    features: Features,
    checked: np.ndarray,
    classes: int,
    recipes: list[Recipe],
    config: BaselineConfig,
) -> tuple[Recipe, np.ndarray]:
    """Return the recipe that is best out of fold, and the logits out of fold of the checked train documents.

    Args:
        train: N train documents.
        features: theirs.
        checked: int64, the positions of some of them.
        classes: C.
        recipes: to choose from, by a part of the checked documents if they have many features.
        config: of the baseline.
    """
    density = max(1.0, len(features.keys) / len(train.label_ids))
    most = max(int(MOST_TRIED / density / (1 if classes == 2 else classes)), 20 * classes)
    folds = assign_folds(train.take(checked))
    tried = take_evenly(len(checked), most)
    rows = checked[tried]
    recipe, logits = choose_out_of_fold(
        features.take(rows), train.label_ids[rows], folds[tried], classes, recipes, config
    )
    logger.info(
        "the linear model: n-grams%s, weighted by %s, strength %g; the best of %d by %d train documents",
        " and pieces of words" if recipe.pieces else "",
        recipe.weighting,
        recipe.regularization,
        len(recipes),
        len(rows),
    )
    if len(rows) < len(checked):
        part = features.take(checked)
        logits = predict_out_of_fold(part, train.label_ids[checked], folds, classes, recipe, config)
    return recipe, logits


def fit_known_temperature(logits: np.ndarray, label_ids: np.ndarray) -> float:
    """Return the temperature of logits float64[N, C], of which rows may be NaN; 1.0 if all are."""
    made = ~np.isnan(logits[:, 0])
    return fit_temperature(logits[made], label_ids[made]) if made.any() else 1.0


def assign_folds(documents: Documents) -> np.ndarray:
    """Return int64[N], the fold of each document, by the hash of its tokens, so that copies are in one fold."""
    texts = (documents.codes[start:end].tobytes() for start, end in pairwise(documents.offsets))
    return np.array([zlib.crc32(text) % FOLDS for text in texts], np.int64)


def describe(fitted: Fitted, recipe: Recipe, temperature: float, labels: list[str]) -> LinearDescription:
    """Return the description of a linear model."""
    return LinearDescription(
        options=LinearOptions(ngrams=fitted.model.ngrams, pieces=recipe.pieces),
        weighting=recipe.weighting,
        regularization=recipe.regularization,
        temperature=temperature,
        labels=tuple(labels),
    )


def _gather(shards: Iterable[pa.Table], chosen: np.ndarray, labels: list[str]) -> Documents:
    """Return the chosen documents, bool[all documents], of shards."""
    tables, codes, begin = [], [np.zeros(0, np.int32)], 0
    for shard in shards:
        part = shard.filter(pa.array(chosen[begin : begin + len(shard)]))
        begin += len(shard)
        tables.append(part.select(["doc_id", "split", "label", "length"]))
        codes += [np.asarray(pc.list_flatten(chunk)) for chunk in part["codes"].chunks]
    table = pa.concat_tables(tables)
    ids = pc.index_in(table["label"], pa.array(labels)).to_numpy().astype(np.int64)
    offsets = _join_sizes(table["length"].to_numpy())
    return Documents(table.drop_columns(["length"]), ids, np.concatenate(codes), offsets)


def _join_sizes(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _write(output: StageOutput, name: str, documents: Documents, labels: list[str], probabilities: np.ndarray) -> None:
    columns = documents.table.select(["doc_id", "split", "label"])
    predictions = tabulate_predictions(columns, labels, probabilities)
    output.write_table(name, predictions, predictions.schema)
