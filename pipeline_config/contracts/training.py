"""The description of a trained network and its classes, as the training and the registered model write it."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.json_file import JsonFile
from pipeline_config.contracts.linear import ServedLinear
from pipeline_config.contracts.reading import Reading
from pipeline_config.schemas import MODEL_FILE


class Architecture(BaseModel):
    """The arguments that build a `TextClassifier`, whose docstring says what each of them means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_embeddings: int
    embedding_dim: int
    num_classes: int
    padding_idx: int
    unk_idx: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    pooling: str
    dropout: float
    embedding_dropout: float
    word_dropout: float
    recurrent_dropout: float
    layer_norm: bool
    pool_embeddings: bool
    bigram_buckets: int


class ModelDescription(JsonFile):
    """`model.json` of `train_classifier`: what builds the network, besides the weights, and names its classes.

    `labels` are the class names in the order of their ids. `best_epoch` counts from 1.
    """

    file_name: ClassVar[str] = MODEL_FILE

    architecture: Architecture
    labels: tuple[str, ...]
    best_epoch: int


class TextOptions(BaseModel):
    """How a registered model turns a text into token ids.

    `specials` is the number of special tokens, whose ids come first. `tokenizer_version` identifies the code of the
    tokenizer that made the vocabulary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenizer: str
    tokenizer_version: str
    max_length: int
    truncation: str
    padding_idx: int
    unk_idx: int
    specials: int


class ServedDescription(JsonFile):
    """`model.json` of a registered model: what builds it, besides the weights, and how texts are encoded for it.

    A text gets the softmax of the logits of the network, divided by `temperature`, plus those of the linear model,
    divided by its own. `architecture` is None without a network, `linear` without a linear model.

    `files` holds the SHA-256 of each other file of the bundle, which the served model checks before it uses them.
    `reading` is how the files of its corpus were read, as configured. Models of older releases have the defaults.
    """

    file_name: ClassVar[str] = MODEL_FILE

    architecture: Architecture | None
    labels: tuple[str, ...]
    best_epoch: int
    text: TextOptions
    vocabulary_digest: str
    files: dict[str, str]
    reading: Reading = Reading()
    temperature: float = 1.0
    linear: ServedLinear | None = None
