"""The files that a registered model is made of, and the packages that it needs."""

import json
import shutil
from importlib import metadata
from pathlib import Path

from pipeline_config.schemas import (
    MODEL_FILE,
    PADDING_IDX,
    UNK_IDX,
    WEIGHTS_FILE,
)
from pipeline_config.settings import PipelineConfig
from tasks import served
from tasks.served.tokenizers import is_columnar
from tasks.store.artifacts import ArtifactRef
from tasks.tokens.vocabulary import Vocabulary

SERVED_MODEL = Path(served.__file__).parent / "model.py"
_REQUIRED = ("mlflow", "torch", "safetensors", "numpy", "pandas", "pyarrow")


def build_bundle(folder: Path, classifier: ArtifactRef, vocabulary: ArtifactRef, config: PipelineConfig) -> None:
    """Write the files that the served model is made of."""
    folder.mkdir()
    text = {
        "tokenizer": config.tokenization.tokenizer, "max_length": config.bucketing.max_length,
        "truncation": config.bucketing.truncation, "padding_idx": PADDING_IDX, "unk_idx": UNK_IDX,
    }  # fmt: skip
    known = Vocabulary.read(vocabulary)
    text |= {"specials": known.specials, "tokenizer_version": known.tokenizer}
    description = {**classifier.read_json(MODEL_FILE), "text": text, "vocabulary_digest": known.digest}
    for name, value in (("model.json", description), ("vocabulary.json", known.itos)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, sort_keys=True, indent=0), "utf-8")
    shutil.copyfile(classifier.path(WEIGHTS_FILE), folder / "weights.safetensors")
    for module in SERVED_MODEL.parent.glob("*.py"):
        if module.name not in ("__init__.py", SERVED_MODEL.name):
            shutil.copyfile(module, folder / module.name)


def pip_requirements(tokenizer: str) -> list[str]:
    """Return what an environment needs to load the model, pinned to the versions of this one."""
    module, _, function = tokenizer.partition(":")
    names = list(_REQUIRED)
    if function:  # a function of the user's: the distribution that has its module, if one has
        names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    elif not is_columnar(tokenizer):
        names.append("torchtext")
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]
