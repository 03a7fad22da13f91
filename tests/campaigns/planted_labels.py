"""Planted wrong labels in the corpus of a preset, and how many of them the search for wrong labels finds.

    python -m tests.campaigns.planted_labels [--preset sentiment] [--share 0.05] [--seed 0]

All labels of the corpus count as right, so precision is a lower bound: the corpus has wrong labels of its own. The
baseline of chance is the share of planted labels.
"""

import argparse
import os
import tempfile

import numpy as np

from pipeline_config.resolve import resolve_config
from pipeline_config.schemas import DICTIONARY_FILE
from tasks.corpus.ingest_corpus import ingest_corpus, locate_corpus
from tasks.evaluation.calibration import fit_temperature, soften
from tasks.evaluation.mistakes import find_suspects
from tasks.served.linear import hash_tokens
from tasks.served.tokenizers import identify_tokenizer
from tasks.tokens.tokenize_corpus import tokenize_corpus
from tasks.training.linear_fitting import choose_out_of_fold, list_recipes, take_evenly
from tasks.training.train_baseline import MOST_CHECKED, assign_folds, read_documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sentiment")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are made wrong")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = resolve_config(preset=options.preset).config
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLOVEFLOW_ARTIFACTS"] = folder
        documents = ingest_corpus.fn(locate_corpus(config.corpus), config.corpus, config.seed)
        tokenizer = identify_tokenizer(config.tokenization.tokenizer)
        tokens = tokenize_corpus.fn(documents, config.tokenization, tokenizer)
        train, _, labels = read_documents(tokens)
        dictionary = tokens.read_table(DICTIONARY_FILE)["token"].to_pylist()
    train = train.take(take_evenly(len(train.label_ids), MOST_CHECKED))
    truth = train.label_ids
    generator = np.random.default_rng(options.seed)
    planted = generator.random(len(truth)) < options.share
    given = np.where(planted, (truth + generator.integers(1, len(labels), len(truth))) % len(labels), truth)
    features = train.find_features(hash_tokens(dictionary, pieces=True), config.baseline.ngram_max)
    recipes = list_recipes(config.baseline, pieces=True)
    _, logits = choose_out_of_fold(features, given, assign_folds(train), len(labels), recipes, config.baseline)
    probabilities = np.nan_to_num(soften(logits, fit_temperature(logits, given)))
    suspects = find_suspects(given, probabilities)
    print(f"{len(truth):,} documents, {planted.sum():,} planted wrong labels, {len(suspects.positions):,} suspected")
    for count in (100, 300, 1000, len(suspects.positions)):
        hit = planted[suspects.positions[:count]]
        restored = suspects.suggested[:count] == truth[suspects.positions[:count]]
        print(
            f"first {len(hit):5,}: precision {hit.mean():.3f}, recall {hit.sum() / planted.sum():.3f}, "
            f"right class suggested for {restored[hit].mean():.3f} of those found"
        )


if __name__ == "__main__":
    main()
