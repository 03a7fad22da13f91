"""An LSTM over sequences that are padded at the end, with the results of a packed `nn.LSTM`.

There are two layouts of sequences, and both give the same results up to rounding. `packed` runs step by step. `padded`
runs the fused kernels of oneDNN on CPUs and, up to 128 units, the persistent ones of cuDNN on CUDA. A forward LSTM
reads the padding at the end only after all real positions; the backward direction reads each sequence reversed within
its own length. In float32 the persistent kernels of cuDNN deviate by up to 6e-6; in float64 all agree to 1e-10.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

LAYOUTS = ("padded", "packed")
CACHED_TOKENS = 3840  # tokens per call on CPUs: 20 to 40 % faster than whole batches of long texts at 100 to 250 units


class PaddedLSTM(nn.Module):
    """Stacked, optionally bidirectional LSTM over sequences that are padded at the end.

    The attribute `layout`, one of `LAYOUTS`, decides how the outputs are computed.

    Args:
        input_size: E.
        hidden_size: H, per direction.
        num_layers: stacked layers.
        bidirectional: also read backward.
        dropout: on the outputs of each layer except the last.
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
        self.layout: str = "padded"

    def forward(self, inputs: Tensor, lengths: Tensor, generator: Generator | None = None) -> Tensor:
        """Return outputs float[B, T, D*H] for inputs float[B, T, E] and lengths int64[B] >= 1.

        The values at padded positions are undefined.
        """
        return torch.cat(turn_backward(self.run_directions(inputs, lengths, generator), lengths), dim=2)

    def run_directions(self, inputs: Tensor, lengths: Tensor, generator: Generator | None = None) -> list[Tensor]:
        """Return the last layer's outputs float[B, T, H] of each direction, in the order in which it reads.

        So position 0 of the backward direction holds its output at the last token.
        """
        if self.layout == "packed":
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
            first.input_size,
            self.hidden_size,
            num_layers=layers,
            batch_first=True,
            bidirectional=bool(len(self.backward_layers)),
            dropout=self.dropout if layers > 1 else 0.0,
            dtype=first.weight_ih_l0.dtype,
            device=first.weight_ih_l0.device,
        )
        lstm.load_state_dict(self._plain_state())
        return lstm

    def load_lstm(self, state: Mapping[str, Tensor]) -> None:
        """Copy the weights from the `state_dict` of a plain `nn.LSTM` of the same shape."""
        with torch.no_grad():
            for name, weight in self._plain_state().items():
                weight.copy_(state[name])

    def _run(self, layer: nn.Module, inputs: Tensor, generator: Generator | None) -> Tensor:
        """Return outputs float[B, T, H] of one layer in one direction.

        On CPUs each call takes `CACHED_TOKENS` tokens, so that its buffers for the backward pass fit the cache.
        """
        weights, outputs = self._weights(layer, generator), []
        hidden = cell = inputs.new_zeros(1, len(inputs), self.hidden_size)
        width = inputs.shape[1] if inputs.is_cuda else max(1, CACHED_TOKENS // len(inputs))
        for span in torch.split(inputs, width, dim=1):
            output, hidden, cell = torch.lstm(span, (hidden, cell), weights, True, 1, 0.0, self.training, False, True)
            outputs.append(output)
        return torch.cat(outputs, dim=1)

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
        """Return the modules of a layer, each with True if it reads forward."""
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


def reversal_index(lengths: Tensor, width: int) -> Tensor:
    """Return int64[B, T]: the source position of each position when sequences are reversed within their lengths."""
    positions = torch.arange(width, device=lengths.device)
    reverse = lengths.unsqueeze(1) - 1 - positions
    return torch.where(reverse >= 0, reverse, positions)


def reverse(values: Tensor, lengths: Tensor) -> Tensor:
    """Return float[B, T, X] with each sequence reversed within its own length; its padding stays where it is."""
    index = reversal_index(lengths, values.shape[1])
    starts = torch.arange(0, index.numel(), values.shape[1], device=lengths.device)
    reversed_values: Tensor = _Permutation.apply(values, (index + starts.unsqueeze(1)).flatten())  # type: ignore[no-untyped-call]
    return reversed_values


def turn_backward(directions: Sequence[Tensor], lengths: Tensor) -> list[Tensor]:
    """Reverse the tensor of the backward direction: from its reading order to the order of the text, or back.

    Args:
        directions: one float[B, T, X], the forward direction, or two, forward and backward.
        lengths: int64[B].
    """
    return [values if number == 0 else reverse(values, lengths) for number, values in enumerate(directions)]


def drop(
    values: Tensor, probability: float, generator: Generator | None, *, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Set each value to zero with a probability, and scale the others so that the mean stays (dropout).

    Args:
        values: any shape.
        probability: of a zero; 0 returns `values` unchanged and draws nothing.
        generator: draws the mask; None is torch's default generator.
        shape: of the mask, which is broadcast; None draws one number per value.
    """
    if not probability:
        return values
    mask = torch.empty(shape or values.shape, dtype=values.dtype, device=values.device)
    return values * mask.bernoulli_(1 - probability, generator=generator).div_(1 - probability)


class _Permutation(torch.autograd.Function):
    """Reorder the B*T rows of float[B, T, X] by a permutation that is its own inverse; the gradient likewise."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return values.flatten(0, 1).index_select(0, index).view(values.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.flatten(0, 1).index_select(0, index).view(gradient.shape), None
