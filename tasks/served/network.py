"""The classifier's network: embedding, LSTM, pooling over real tokens, linear layer.

Reads and writes tensors only; imports nothing of the project, so that a registered model can carry it as it
is. Shapes: B batch, T tokens, E embedding, H hidden, D directions, C classes, V vocabulary.

There are two roads through the LSTM, and both give the numbers of a packed `nn.LSTM`. A packed one runs step by
step, while a padded one runs oneDNN's fused kernels on CPUs and, up to 128 units, cuDNN's persistent ones on CUDA. So
sequences are padded at the end, where a forward LSTM does not see the padding from real positions, and the backward
direction reads each sequence reversed within its own length. In float32 cuDNN's persistent kernels are off by up to
6e-6, in float64 all are exact.

Every random number of a training pass is drawn from the generator that is handed in, so that a pass is a
function of weights, batch and the generator's seed.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

POOLINGS = ("last", "mean", "max", "mean_max", "attention")
ROADS = ("padded", "packed")
CACHED_TOKENS = 3840  # 20 to 40 % faster than whole batches of long texts at 100 to 250 units
BIGRAM_SCALE = 4.0  # Adam moves each weight by about the learning rate: this makes a difference within a few epochs

# cuDNN copies weights that are in no module, such as those that dropout has thinned out; they are small.
warnings.filterwarnings("ignore", "RNN module weights are not part of", UserWarning)


class PaddedLSTM(nn.Module):
    """Stacked, optionally bidirectional LSTM over sequences that are padded at the end.

    Args:
        input_size: E.
        hidden_size: H, per direction.
        num_layers: stacked layers.
        bidirectional: also read backward.
        dropout: on the outputs of each layer but the last.
        recurrent_dropout: on the hidden-to-hidden weights, one mask per pass (Merity et al. 2018).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        sizes = [input_size] + [hidden_size * directions] * (num_layers - 1)
        self.forward_layers = nn.ModuleList(nn.LSTM(size, hidden_size, batch_first=True) for size in sizes)
        self.backward_layers = nn.ModuleList(
            nn.LSTM(size, hidden_size, batch_first=True) for size in (sizes if bidirectional else [])
        )
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        self.hidden_size, self.output_size = hidden_size, hidden_size * directions
        self.road = "padded"

    def forward(self, inputs: Tensor, lengths: Tensor, generator: Generator | None = None) -> Tensor:
        """Return outputs float[B, T, D*H] for inputs float[B, T, E] and lengths int64[B] >= 1.

        Outputs at padded positions mean nothing.
        """
        return torch.cat(turn_backward(self.run_directions(inputs, lengths, generator), lengths), dim=2)

    def run_directions(self, inputs: Tensor, lengths: Tensor, generator: Generator | None = None) -> list[Tensor]:
        """Return the last layer's outputs float[B, T, H] of each direction, in the order in which it reads.

        Position 0 of the backward direction holds its output at the last token. `road` says how outputs are computed.
        """
        if self.road == "packed":
            return self._run_packed(inputs, lengths, generator)
        outputs: list[Tensor] = []
        for number in range(len(self.forward_layers)):
            if number:
                inputs = torch.cat(turn_backward(outputs, lengths), dim=2)
                inputs = drop(inputs, self.dropout * self.training, generator)
            outputs = [
                self._run(layer, inputs if forward else reverse(inputs, lengths), generator)
                for layer, forward in self._directions(number)
            ]
        return outputs

    def to_lstm(self) -> nn.LSTM:
        """Return a plain `nn.LSTM` with these weights."""
        first, layers = self.forward_layers[0], len(self.forward_layers)
        lstm = nn.LSTM(
            first.input_size, self.hidden_size, num_layers=layers, batch_first=True,
            bidirectional=bool(len(self.backward_layers)), dropout=self.dropout if layers > 1 else 0.0,
            dtype=first.weight_ih_l0.dtype, device=first.weight_ih_l0.device,
        )  # fmt: skip
        lstm.load_state_dict(self._plain_state())
        return lstm

    def load_lstm(self, state: Mapping[str, Tensor]) -> None:
        """Take over the `state_dict` of a plain `nn.LSTM` of the same shape."""
        with torch.no_grad():
            for name, weight in self._plain_state().items():
                weight.copy_(state[name])

    def _run(self, layer: nn.Module, inputs: Tensor, generator: Generator | None) -> Tensor:
        """Return outputs float[B, T, H] of one layer in one direction.

        On CPUs some positions at a time: what the backward pass needs of them stays in the processor's cache meanwhile.
        """
        weights, parts = self._weights(layer, generator), []
        hidden = cell = inputs.new_zeros(1, len(inputs), self.hidden_size)
        width = inputs.shape[1] if inputs.is_cuda else max(1, CACHED_TOKENS // len(inputs))
        for part in torch.split(inputs, width, dim=1):
            outputs, hidden, cell = torch.lstm(part, (hidden, cell), weights, True, 1, 0.0, self.training, False, True)
            parts.append(outputs)
        return torch.cat(parts, dim=1)

    def _run_packed(self, inputs: Tensor, lengths: Tensor, generator: Generator | None) -> list[Tensor]:
        packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
        data, sizes, directions = packed.data, packed.batch_sizes, len(self._directions(0))
        state = inputs.new_zeros(directions, len(inputs), self.hidden_size)
        for number in range(len(self.forward_layers)):
            data = drop(data, self.dropout * self.training, generator) if number else data
            weights = [w for layer, _ in self._directions(number) for w in self._weights(layer, generator)]
            data = torch.lstm(data, sizes, (state, state), weights, True, 1, 0.0, self.training, directions == 2)[0]
        packed = PackedSequence(data, sizes, packed.sorted_indices, packed.unsorted_indices)
        outputs, _ = pad_packed_sequence(packed, batch_first=True, total_length=inputs.shape[1])
        return turn_backward(outputs.chunk(directions, dim=2), lengths)

    def _directions(self, number: int) -> list[tuple[nn.Module, bool]]:
        """Return the modules of a layer, each with whether it reads forward."""
        backward = [(self.backward_layers[number], False)] if len(self.backward_layers) else []
        return [(self.forward_layers[number], True), *backward]

    def _weights(self, layer: Any, generator: Generator | None) -> list[Tensor]:
        recurrent = drop(layer.weight_hh_l0, self.recurrent_dropout * self.training, generator)
        return [layer.weight_ih_l0, recurrent, layer.bias_ih_l0, layer.bias_hh_l0]

    def _plain_state(self) -> dict[str, Tensor]:
        state = {}
        for suffix, layers in (("", self.forward_layers), ("_reverse", self.backward_layers)):
            for number, layer in enumerate(layers):
                for name, weight in layer.named_parameters():
                    state[f"{name.removesuffix('0')}{number}{suffix}"] = weight.data
        return state


class BagOfBigrams(nn.Module):
    """Linear classifier over the tokens of a text and its pairs of neighbours, each of which counts once.

    It is the wide part beside a deep one (Cheng et al. 2016), with the features of Wang & Manning (2012). Pairs are
    hashed (Weinberger et al. 2009). The sum is divided by the root of the number of features, so that logits of long
    texts are no larger.

    Args:
        num_embeddings: V.
        num_buckets: rows that pairs share.
        num_classes: C.
    """

    def __init__(self, num_embeddings: int, num_buckets: int, num_classes: int) -> None:
        super().__init__()
        self.num_embeddings, self.num_buckets = num_embeddings, num_buckets
        self.weight = nn.Parameter(torch.zeros(num_embeddings + num_buckets, num_classes))

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return logits float[B, C] for int64[B, T] token ids, padded at the end, and int64[B] lengths >= 1."""
        real = real_positions(lengths, input_ids.shape[1])
        features = torch.cat([input_ids, self._hash_pairs(input_ids)], dim=1)
        features = features.masked_fill(~torch.cat([real, real[:, 1:]], dim=1), -1).sort(dim=1).values
        new = features >= 0
        new[:, 1:] &= features[:, 1:] != features[:, :-1]
        counted = new.to(self.weight.dtype)
        summed = weighted_sum(nn.functional.embedding(features.clamp(min=0), self.weight), counted)
        return BIGRAM_SCALE * summed / counted.sum(dim=1, keepdim=True).sqrt()

    def _hash_pairs(self, input_ids: Tensor) -> Tensor:
        """Return int64[B, T - 1], the row of each token with the next: high bits of two multiplications in 64 bits."""
        mixed = input_ids[:, :-1] * 0x1E3779B97F4A7C15 + input_ids[:, 1:] * 0x42B2AE3D27D4EB4F
        mixed = (mixed ^ (mixed >> 32)) * 0x165667B19E3779F9
        return self.num_embeddings + (mixed >> 32) % self.num_buckets


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
            (`mean_max`) pool over the real tokens; `attention` is their mean weighted by the softmax of a
            learned linear score.
        dropout: between layers and before the linear layer.
        embedding_dropout: on whole dimensions of a document's embeddings (variational: Gal & Ghahramani 2016).
        word_dropout: on whole tokens, which then read as unknown.
        recurrent_dropout: on the hidden-to-hidden weights.
        layer_norm: normalize the pooled vector (Ba et al. 2016).
        pool_embeddings: join mean and maximum of the embeddings to the pooled outputs.
        bigram_buckets: rows of a table of hashed pairs of tokens, whose linear classifier is added; 0 leaves it out.
        unk_idx: token id of unknown tokens.
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
        embedding_dropout: float = 0.0,
        word_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        layer_norm: bool = False,
        pool_embeddings: bool = False,
        bigram_buckets: int = 0,
        unk_idx: int = 1,
        embeddings: Tensor | None = None,
        freeze_embeddings: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling: got {pooling!r}, expected one of {', '.join(POOLINGS)}")
        self.pretrained = embeddings is not None
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
            embedding_dim, hidden_size, num_layers=num_layers, bidirectional=bidirectional,
            dropout=dropout, recurrent_dropout=recurrent_dropout,
        )  # fmt: skip
        self.pooling, self.pool_embeddings, self.unk_idx = pooling, pool_embeddings, unk_idx
        self.dropout, self.embedding_dropout, self.word_dropout = dropout, embedding_dropout, word_dropout
        self.attention = nn.Linear(self.lstm.output_size, 1, bias=False) if pooling == "attention" else None
        pooled_size = self.lstm.output_size * (2 if pooling == "mean_max" else 1) + 2 * embedding_dim * pool_embeddings
        self.norm = nn.LayerNorm(pooled_size) if layer_norm else None
        self.linear = nn.Linear(pooled_size, num_classes)
        self.bigrams = BagOfBigrams(num_embeddings, bigram_buckets, num_classes) if bigram_buckets else None

    def reset_weights(self, generator: Generator) -> None:
        """Draw all weights anew, pre-trained vectors aside.

        Input weights are Xavier's (Glorot & Bengio 2010), recurrent ones orthogonal per gate (Saxe et al. 2014), the
        forget gate's bias is 1 (Jozefowicz et al. 2015). Those of the bag of bigrams are zero.
        """
        if not self.pretrained:
            nn.init.normal_(self.embedding.weight, generator=generator)
            self.embedding.weight.data[self.embedding.padding_idx] = 0.0
        for layer in (*self.lstm.forward_layers, *self.lstm.backward_layers):
            nn.init.xavier_uniform_(layer.weight_ih_l0, generator=generator)
            for gate in layer.weight_hh_l0.data.chunk(4):
                nn.init.orthogonal_(gate, generator=generator)
            nn.init.zeros_(layer.bias_hh_l0)
            nn.init.zeros_(layer.bias_ih_l0)
            layer.bias_ih_l0.data[self.lstm.hidden_size : 2 * self.lstm.hidden_size] = 1.0
        for linear in filter(None, (self.linear, self.attention)):
            nn.init.kaiming_uniform_(linear.weight, a=5**0.5, generator=generator)
        nn.init.zeros_(self.linear.bias)
        if self.bigrams is not None:
            nn.init.zeros_(self.bigrams.weight)

    def forward(
        self, input_ids: Tensor, lengths: Tensor, generator: Generator | None = None, embedded: Tensor | None = None
    ) -> Tensor:
        """Return logits float[B, C] for int64[B, T] token ids, padded at the end, and int64[B] lengths >= 1.

        `embedded` stands for what `embed` returns, when it is known or something else is wanted.
        """
        embedded = self.embed(input_ids, generator) if embedded is None else embedded
        logits = self._classify(embedded, lengths, generator)
        return logits if self.bigrams is None else logits + self.bigrams(input_ids, lengths)

    def embed(self, input_ids: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the embeddings float[B, T, E] of token ids int64[B, T], after their dropout."""
        if self.training and self.word_dropout:
            dropped = torch.rand(input_ids.shape, generator=generator, device=input_ids.device) < self.word_dropout
            input_ids = input_ids.masked_fill(dropped, self.unk_idx)
        embedded: Tensor = self.embedding(input_ids)
        whole_dimensions = (len(embedded), 1, embedded.shape[2])
        return drop(embedded, self.embedding_dropout * self.training, generator, shape=whole_dimensions)

    def _classify(self, embedded: Tensor, lengths: Tensor, generator: Generator | None) -> Tensor:
        """Return the logits float[B, C] of the deep part for embeddings float[B, T, E]."""
        vectors = self._pool(self.lstm.run_directions(embedded, lengths, generator), lengths)
        if self.pool_embeddings:
            vectors += [pool_mean(embedded, lengths), pool_max(embedded, lengths)]
        pooled = torch.cat(vectors, dim=1)
        pooled = pooled if self.norm is None else self.norm(pooled)
        logits: Tensor = self.linear(drop(pooled, self.dropout * self.training, generator))
        return logits

    def _pool(self, directions: list[Tensor], lengths: Tensor) -> list[Tensor]:
        """Return float[B, H] tensors of outputs float[B, T, H] per direction, each in the order in which it reads."""
        if self.pooling == "last":
            rows = torch.arange(len(lengths), device=lengths.device)
            return [outputs[rows, lengths - 1] for outputs in directions]
        if self.attention is not None:
            return self._attend(directions, lengths)
        means = [pool_mean(outputs, lengths) for outputs in directions] if "mean" in self.pooling else []
        return means + ([pool_max(outputs, lengths) for outputs in directions] if "max" in self.pooling else [])

    def _attend(self, directions: list[Tensor], lengths: Tensor) -> list[Tensor]:
        real = real_positions(lengths, directions[0].shape[1])
        weights = self.attention.weight.view(len(directions), -1, 1)  # type: ignore[union-attr]
        scores = [outputs @ weight for outputs, weight in zip(directions, weights, strict=True)]
        total = torch.stack(turn_backward(scores, lengths)).sum(dim=0)
        attention = total.masked_fill(~real.unsqueeze(2), float("-inf")).softmax(dim=1)
        turned = turn_backward([attention] * len(directions), lengths)
        return [weighted_sum(outputs, a.squeeze(2)) for outputs, a in zip(directions, turned, strict=True)]


def real_positions(lengths: Tensor, width: int) -> Tensor:
    """Return bool[B, T]: True where a position holds a token, False where it holds padding."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def reversal_index(lengths: Tensor, width: int) -> Tensor:
    """Return int64[B, T]: the position to take so that each sequence is reversed within its own length."""
    positions = torch.arange(width, device=lengths.device)
    reverse = lengths.unsqueeze(1) - 1 - positions
    return torch.where(reverse >= 0, reverse, positions)


def reverse(values: Tensor, lengths: Tensor) -> Tensor:
    """Return float[B, T, X] with each sequence reversed within its own length; its padding stays where it is."""
    index = reversal_index(lengths, values.shape[1])
    starts = torch.arange(0, index.numel(), values.shape[1], device=lengths.device)
    reversed_values: Tensor = _Permutation.apply(values, (index + starts.unsqueeze(1)).flatten())  # type: ignore[no-untyped-call]
    return reversed_values


def pool_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Return float[B, X]: the mean over the real positions of float[B, T, X]."""
    real = real_positions(lengths, values.shape[1]).to(values.dtype)
    return weighted_sum(values, real) / lengths.unsqueeze(1)


def pool_max(values: Tensor, lengths: Tensor) -> Tensor:
    """Return float[B, X]: the maximum over the real positions of float[B, T, X]."""
    padding = ~real_positions(lengths, values.shape[1]).unsqueeze(2)
    return (values + torch.zeros_like(padding, dtype=values.dtype).masked_fill(padding, -torch.inf)).max(dim=1).values


def turn_backward(directions: Sequence[Tensor], lengths: Tensor) -> list[Tensor]:
    """Return one tensor per direction with the backward one's turned from its reading order to the text's, or back."""
    return [values if number == 0 else reverse(values, lengths) for number, values in enumerate(directions)]


def weighted_sum(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return float[B, H]: the sum over T of float[B, T, H], weighted by float[B, T]."""
    return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)


def drop(
    values: Tensor, probability: float, generator: Generator | None, *, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Return values of which each is zero with a probability, the others scaled to keep the mean.

    Args:
        values: any shape.
        probability: of a zero; 0 changes nothing and draws nothing.
        generator: where the mask is drawn from; None is torch's own.
        shape: of the mask, which is broadcast; None draws for each value.
    """
    if not probability:
        return values
    mask = torch.empty(shape or values.shape, dtype=values.dtype, device=values.device)
    return values * mask.bernoulli_(1 - probability, generator=generator).div_(1 - probability)


class _Permutation(torch.autograd.Function):
    """Reorder the B*T rows of float[B, T, X] by a permutation that is its own inverse, and so the gradient too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return values.flatten(0, 1).index_select(0, index).view(values.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.flatten(0, 1).index_select(0, index).view(gradient.shape), None
