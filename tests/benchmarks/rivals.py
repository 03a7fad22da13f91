"""Training an LSTM over word vectors with Keras and with Flair, for `training.py --rivals`.

    pip install keras tensorflow-cpu "flair[word-embeddings]"

Both get the same documents, vectors, hidden size, batch size and optimizer as the other ways, in random batches, and do
not train the vectors.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tasks.batches.encoded_split import EncodedSplit

Batches = list[np.ndarray]


def run_keras(split: EncodedSplit, vectors: np.ndarray, *, hidden: int, classes: int) -> Callable[[Batches], None]:
    """Return `train_on_batch` of a masked embedding, a bidirectional LSTM and a dense layer, on TensorFlow.

    Batches are padded to their longest document.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    start = keras.initializers.Constant(vectors)
    table = keras.layers.Embedding(*vectors.shape, mask_zero=True, trainable=False, embeddings_initializer=start)
    layers = [table, keras.layers.Bidirectional(keras.layers.LSTM(hidden)), keras.layers.Dense(classes)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def run(batches: Batches) -> None:
        for documents in batches:
            model.train_on_batch(split.pad_batch(documents)[0], split.label_ids[documents])

    return run


def run_flair(split: EncodedSplit, vectors: np.ndarray, *, hidden: int) -> Callable[[Batches], None]:
    """Return the training steps of a `TextClassifier` over `DocumentRNNEmbeddings` of `WordEmbeddings`."""
    import flair
    import torch
    from flair.data import Dictionary, Sentence
    from flair.embeddings import DocumentRNNEmbeddings, WordEmbeddings
    from flair.models import TextClassifier

    flair.device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors.txt")
        np.savetxt(path, vectors, "%.5f", header="", comments="")
        path.write_text("".join(f"w{i} {line}\n" for i, line in enumerate(path.read_text().splitlines())))
        words = WordEmbeddings(str(path), no_header=True)
    document = DocumentRNNEmbeddings(
        [words], hidden_size=hidden, rnn_type="LSTM", bidirectional=True, reproject_words=False, dropout=0.0
    )
    labels = Dictionary(add_unk=False)
    for name in sorted({str(label) for label in split.label_ids}):
        labels.add_item(name)
    model = TextClassifier(document, label_type="class", label_dictionary=labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def sentence(document: int) -> Sentence:
        ids = split.input_ids[split.offsets[document] : split.offsets[document + 1]]
        made = Sentence([f"w{i}" for i in ids.tolist()])
        made.add_label("class", str(split.label_ids[document]))
        return made

    def run(batches: Batches) -> None:
        model.train()
        for documents in batches:
            optimizer.zero_grad()
            loss, count = model.forward_loss([sentence(i) for i in documents.tolist()])
            (loss / count).backward()
            optimizer.step()

    return run
