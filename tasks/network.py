"""The classifier's network: embedding, LSTM, pooling over real tokens, linear layer.

Reads and writes tensors only; imports nothing of the project, so that a registered model can carry it as it
is. Shapes: B batch, T tokens, E embedding, H hidden, D directions, C classes, V vocabulary.

On the CPU a packed LSTM runs step by step while a padded one runs oneDNN's fused kernel. So sequences are
padded at the end, where a forward LSTM does not see the padding from real positions, and the backward
direction reverses each sequence within its own length, runs a forward LSTM and reverses the outputs back.
The result is that of a packed `nn.LSTM`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

POOLINGS = ("last", "mean", "max", "mean_max")


class PaddedLSTM(nn.Module):
    """Stacked, optionally bidirectional LSTM over sequences that are padded at the end.

    Args:
        input_size: E.
        hidden_size: H, per direction.
        num_layers: stacked layers.
        bidirectional: also read backward.
        dropout: on the outputs of each layer but the last.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        sizes = [input_size] + [hidden_size * directions] * (num_layers - 1)
        self.forward_layers = nn.ModuleList(nn.LSTM(size, hidden_size, batch_first=True) for size in sizes)
        self.backward_layers = nn.ModuleList(
            nn.LSTM(size, hidden_size, batch_first=True) for size in (sizes if bidirectional else [])
        )
        self.dropout = nn.Dropout(dropout)
        self.output_size = hidden_size * directions

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Return outputs float[B, T, D*H] for inputs float[B, T, E] and lengths int64[B] >= 1.

        Outputs at padded positions mean nothing.
        """
        reversal = reversal_index(lengths, inputs.shape[1]) if len(self.backward_layers) else None
        for number, forward_layer in enumerate(self.forward_layers):
            outputs = forward_layer(inputs)[0]
            if reversal is not None:
                backward = self.backward_layers[number](_reorder(inputs, reversal))[0]
                outputs = torch.cat([outputs, _reorder(backward, reversal)], dim=2)
            inputs = self.dropout(outputs) if number + 1 < len(self.forward_layers) else outputs
        return inputs

    def to_lstm(self) -> nn.LSTM:
        """Return a plain `nn.LSTM` with these weights."""
        first, layers = self.forward_layers[0], len(self.forward_layers)
        lstm = nn.LSTM(
            first.input_size, first.hidden_size, num_layers=layers, batch_first=True,
            bidirectional=bool(len(self.backward_layers)), dropout=self.dropout.p if layers > 1 else 0.0,
            dtype=first.weight_ih_l0.dtype,
        )  # fmt: skip
        lstm.load_state_dict(self._plain_state())
        return lstm

    def load_lstm(self, state: Mapping[str, Tensor]) -> None:
        """Take over the `state_dict` of a plain `nn.LSTM` of the same shape."""
        with torch.no_grad():
            for name, weight in self._plain_state().items():
                weight.copy_(state[name])

    def _plain_state(self) -> dict[str, Tensor]:
        state = {}
        for suffix, layers in (("", self.forward_layers), ("_reverse", self.backward_layers)):
            for number, layer in enumerate(layers):
                for name, weight in layer.named_parameters():
                    state[f"{name.removesuffix('0')}{number}{suffix}"] = weight.data
        return state


class TextClassifier(nn.Module):
    """LSTM classifier over token ids.

    Args:
        num_embeddings: V.
        embedding_dim: E.
        num_classes: C.
        padding_idx: token id of the padding.
        hidden_size: H, per direction.
        num_layers: stacked LSTM layers.
        bidirectional: read the text in both directions.
        pooling: `last` takes each direction's output at its last real token; `mean`, `max` and both together
            (`mean_max`) pool over the real tokens.
        dropout: on embeddings, between layers and before the linear layer.
        embeddings: pre-trained float32[V, E]; None starts a fresh layer.
        freeze_embeddings: do not train pre-trained vectors.
    """

    def __init__(
        self,
        *,
        num_embeddings: int,
        embedding_dim: int,
        num_classes: int,
        padding_idx: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = True,
        pooling: str = "last",
        dropout: float = 0.0,
        embeddings: Tensor | None = None,
        freeze_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: got {pooling!r}, expected one of {', '.join(POOLINGS)}")
        if embeddings is None:
            self.embedding = nn.Embedding(num_embeddings, embedding_dim, padding_idx=padding_idx)
        elif embeddings.shape != (num_embeddings, embedding_dim):
            raise ValueError(
                f"embeddings: got shape {tuple(embeddings.shape)}, expected {(num_embeddings, embedding_dim)}"
            )
        else:
            self.embedding = nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]
                embeddings, freeze=freeze_embeddings, padding_idx=padding_idx
            )
        self.lstm = PaddedLSTM(
            embedding_dim, hidden_size, num_layers=num_layers, bidirectional=bidirectional, dropout=dropout
        )
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.lstm.output_size * (2 if pooling == "mean_max" else 1), num_classes)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return logits float[B, C] for int64[B, T] token ids, padded at the end, and int64[B] lengths >= 1."""
        embedded = self.dropout(self.embedding(input_ids))
        outputs = self.lstm(embedded, lengths)
        logits: Tensor = self.linear(self.dropout(self._pool(outputs, lengths)))
        return logits

    def _pool(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        if self.pooling == "last":
            return last_outputs(outputs, lengths, bidirectional=bool(len(self.lstm.backward_layers)))
        real = real_positions(lengths, outputs.shape[1]).unsqueeze(2)
        pooled = []
        if "mean" in self.pooling:
            total = outputs.masked_fill(~real, 0.0).sum(dim=1)
            pooled.append(total / lengths.unsqueeze(1).to(outputs.dtype))
        if "max" in self.pooling:
            pooled.append(outputs.masked_fill(~real, float("-inf")).amax(dim=1))
        return torch.cat(pooled, dim=1)


def real_positions(lengths: Tensor, width: int) -> Tensor:
    """Return bool[B, T]: True where a position holds a token, False where it holds padding."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def reversal_index(lengths: Tensor, width: int) -> Tensor:
    """Return int64[B, T]: the position to take so that each sequence is reversed within its own length."""
    positions = torch.arange(width, device=lengths.device)
    reverse = lengths.unsqueeze(1) - 1 - positions
    return torch.where(reverse >= 0, reverse, positions)


def last_outputs(outputs: Tensor, lengths: Tensor, *, bidirectional: bool) -> Tensor:
    """Gather each sequence's last real output: float[B, D*H] of float[B, T, D*H].

    The backward direction reads its last token at position 0.
    """
    rows = torch.arange(len(lengths), device=lengths.device)
    last = outputs[rows, lengths - 1]
    if not bidirectional:
        return last
    hidden = outputs.shape[2] // 2
    return torch.cat([last[:, :hidden], outputs[:, 0, hidden:]], dim=1)


def _reorder(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(2).expand(-1, -1, values.shape[2]))
