"""The files that make up a registered model, and the packages that it needs."""

import json
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.evaluation import Combination
from pipeline_config.contracts.linear import LinearDescription, ServedLinear
from pipeline_config.contracts.training import ModelDescription, ServedDescription, TextOptions
from pipeline_config.schemas import (
    CARD_FILE,
    LINEAR_FILE,
    PADDING_IDX,
    REFERENCE_FILE,
    TRAINING_TEXTS_FILE,
    UNK_IDX,
    WEIGHTS_FILE,
)
from pipeline_config.settings import PipelineConfig
from tasks import served
from tasks.monitoring.sample import write_sample
from tasks.registry.seen import write_training_texts
from tasks.served.languages import LANGUAGES
from tasks.served.tokenizers import is_columnar
from tasks.store.artifacts import ArtifactRef, file_digest
from tasks.tokens.vocabulary import Vocabulary

SERVED_MODEL = Path(served.__file__).parent / "model.py"
_REQUIRED = ("mlflow", "torch", "safetensors", "numpy", "scipy", "pandas", "pyarrow")


def build_bundle(
    folder: Path,
    *,
    classifier: ArtifactRef,
    vocabulary: ArtifactRef,
    baseline: ArtifactRef,
    training_texts: np.ndarray,
    reference: pa.Table,
    config: PipelineConfig,
    combination: Combination,
    card: str,
) -> None:
    """Write the files of a model into a new folder.

    They are the vocabulary, the weights of the network and of the linear model as far as it has them, the hashes of its
    training texts, the sample of its held-out documents, the modules of its code, its card, and a description, which
    holds the digests of the other files.
    """
    folder.mkdir()
    tokens = Vocabulary.read(vocabulary)
    _write_json(folder / "vocabulary.json", tokens.itos)
    if combination.network_temperature:
        shutil.copyfile(classifier.path(WEIGHTS_FILE), folder / WEIGHTS_FILE)
    if combination.linear_temperature:
        shutil.copyfile(baseline.path(LINEAR_FILE), folder / LINEAR_FILE)
    (folder / CARD_FILE).write_text(card, "utf-8")
    write_training_texts(folder / TRAINING_TEXTS_FILE, training_texts)
    write_sample(folder / REFERENCE_FILE, reference)
    for module in SERVED_MODEL.parent.glob("*.py"):
        if module.name not in ("__init__.py", SERVED_MODEL.name):
            shutil.copyfile(module, folder / module.name)
    files = {path.name: file_digest(path) for path in folder.iterdir()}
    network, linear = classifier.read_model(ModelDescription), baseline.read_model(LinearDescription)
    description = describe_served(network, linear, combination, tokens, config, files)
    _write_json(folder / ServedDescription.file_name, description.model_dump(mode="json"))


def describe_served(
    network: ModelDescription,
    linear: LinearDescription,
    combination: Combination,
    vocabulary: Vocabulary,
    config: PipelineConfig,
    files: dict[str, str],
) -> ServedDescription:
    """Return the description of a registered model: its parts, its classes, how texts are read and encoded."""
    temperature, linear_temperature = combination.network_temperature, combination.linear_temperature
    text = TextOptions(
        tokenizer=config.tokenization.tokenizer,
        tokenizer_version=vocabulary.tokenizer,
        max_length=config.bucketing.max_length,
        truncation=config.bucketing.truncation,
        padding_idx=PADDING_IDX,
        unk_idx=UNK_IDX,
        specials=vocabulary.specials,
    )
    return ServedDescription(
        architecture=network.architecture if temperature else None,
        temperature=temperature or 1.0,
        linear=ServedLinear(options=linear.options, temperature=linear_temperature) if linear_temperature else None,
        labels=network.labels,
        best_epoch=network.best_epoch,
        text=text,
        vocabulary_digest=vocabulary.digest,
        files=files,
        reading=config.corpus.reading.model_copy(update={"keep_columns": ()}),  # files to score need none of them
    )


def pip_requirements(tokenizer: str) -> list[str]:
    """Return what an environment needs to load the model, pinned to the versions installed here."""
    module, _, function = tokenizer.partition(":")
    names = list(_REQUIRED)
    if function:  # a tokenizer of the user's: the distribution that its module belongs to, if there is one
        names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    elif tokenizer in LANGUAGES:
        names += LANGUAGES[tokenizer].distributions
    elif not is_columnar(tokenizer):
        names.append("torchtext")
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True, indent=0), "utf-8")
