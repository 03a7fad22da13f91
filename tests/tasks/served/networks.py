"""Small networks and documents, and a packed `nn.LSTM` as their reference."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tasks.served.network import TextClassifier
from tasks.served.pooling import real_positions

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}


PADDING_IDX = 0


VOCABULARY = 17


def random_lengths(count: int, longest: int) -> Tensor:
    """Lengths in no order, the shortest and the longest possible among them."""
    return torch.cat([torch.randint(1, longest + 1, (count - 2,)), torch.tensor([longest, 1])])


def random_documents(count: int = 7, longest: int = 9) -> tuple[Tensor, Tensor]:
    lengths = random_lengths(count, longest)
    input_ids = torch.randint(1, VOCABULARY, (count, longest))
    return input_ids.masked_fill(~real_positions(lengths, longest), PADDING_IDX), lengths


def build_classifier(**changes) -> TextClassifier:
    settings = {
        "num_embeddings": VOCABULARY,
        "embedding_dim": 5,
        "num_classes": 3,
        "padding_idx": PADDING_IDX,
        "unk_idx": 1,
        "hidden_size": 4,
        "num_layers": 2,
        "bidirectional": True,
        "pooling": "mean_max",
    }
    return TextClassifier(**{**settings, **changes})


def build_like(classifier: TextClassifier, **changes) -> TextClassifier:
    """The same weights under other settings, in evaluation mode."""
    other = build_classifier(**changes)
    other.load_state_dict(classifier.state_dict())
    return other.eval()


def run_packed(lstm: nn.LSTM, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The reference: outputs (zero at padding) and final states h_n of a packed `nn.LSTM`."""
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    outputs, (final, _) = lstm(packed)
    return pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])[0], final


def directed_final_states(final: Tensor, *, bidirectional: bool) -> Tensor:
    """h_n of the last layer, both directions side by side."""
    return torch.cat([final[-2], final[-1]], dim=1) if bidirectional else final[-1]


def largest_difference(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).detach().abs().max())
