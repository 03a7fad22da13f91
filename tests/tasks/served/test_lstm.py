"""The LSTM in both layouts, against a packed `nn.LSTM`."""

import pytest
import torch
from torch import nn

from tasks.served.lstm import LAYOUTS, PaddedLSTM, drop, reversal_index, reverse
from tasks.served.pooling import real_positions
from tests.tasks.served.networks import TOLERANCE, directed_final_states, largest_difference, random_lengths, run_packed

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
class TestBothLayoutsAgainstPackedLSTM:
    @pytest.fixture
    def case(self, num_layers, bidirectional, dtype, layout, device):
        padded = PaddedLSTM(5, 4, num_layers=num_layers, bidirectional=bidirectional).to(device, dtype)
        padded.layout = layout
        lengths = random_lengths(11, 13)
        return padded, torch.randn(11, 13, 5, dtype=dtype).to(device), lengths.to(device)

    @pytest.fixture
    def tolerance(self, device, layout, dtype):
        persistent = device.type == "cuda" and layout == "padded" and dtype == torch.float32
        return 3e-5 if persistent else TOLERANCE[dtype]  # cuDNN's persistent kernels: outputs 6e-6, gradients 1.5e-5

    def test_outputs_at_real_positions_are_equal(self, case, tolerance):
        padded, inputs, lengths = case
        expected, _ = run_packed(padded.to_lstm(), inputs, lengths)
        real = real_positions(lengths, 13)
        assert largest_difference(padded(inputs, lengths)[real], expected[real]) < tolerance

    def test_final_states_are_the_last_outputs(self, case, bidirectional, tolerance):
        padded, inputs, lengths = case
        _, final = run_packed(padded.to_lstm(), inputs, lengths)
        directions = padded.run_directions(inputs, lengths)
        got = torch.cat([outputs[range(11), lengths - 1] for outputs in directions], dim=1)
        assert largest_difference(got, directed_final_states(final, bidirectional=bidirectional)) < tolerance

    def test_gradients_of_weights_and_inputs_are_equal(self, case, dtype, tolerance):
        padded, inputs, lengths = case
        plain = padded.to_lstm()
        direction = torch.randn(11, 13, padded.output_size, dtype=dtype).to(inputs.device)
        direction = direction.masked_fill(~real_positions(lengths, 13).unsqueeze(2), 0.0)
        here, there = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        (padded(here, lengths) * direction).sum().backward()
        (run_packed(plain, there, lengths)[0] * direction).sum().backward()

        expected = dict(plain.named_parameters())
        got = {}
        for suffix, layers in (("", padded.forward_layers), ("_reverse", padded.backward_layers)):
            for number, layer in enumerate(layers):
                got |= {f"{name[:-1]}{number}{suffix}": weight for name, weight in layer.named_parameters()}
        assert got.keys() == expected.keys()
        pairs = {name: (got[name].grad, expected[name].grad) for name in expected} | {"inputs": (here.grad, there.grad)}
        # A gradient sums over all positions and reaches 10, where float32 steps by 1e-6: compare to its scale.
        worst = {name: largest_difference(*pair) / max(1.0, float(pair[1].abs().max())) for name, pair in pairs.items()}
        assert max(worst.values()) < tolerance, worst


def test_the_layout_is_padded_by_default(monkeypatch):
    padded, packed = PaddedLSTM(5, 4), []
    monkeypatch.setattr(padded, "_run_packed", lambda *_: packed.append(1))
    padded.run_directions(torch.randn(2, 3, 5), torch.tensor([3, 1]))
    assert not packed
    padded.layout = "packed"
    padded.run_directions(torch.randn(2, 3, 5), torch.tensor([3, 1]))
    assert packed


def test_dropout_between_layers_acts_in_training_only():
    padded = PaddedLSTM(5, 4, num_layers=2, dropout=0.5)
    inputs, lengths = torch.randn(3, 6, 5), torch.tensor([6, 2, 4])
    assert not torch.equal(padded(inputs, lengths), padded(inputs, lengths))
    padded.eval()
    assert torch.equal(padded(inputs, lengths), padded(inputs, lengths))


def test_one_layer_has_no_dropout_inside_the_lstm():
    padded = PaddedLSTM(5, 4, dropout=0.5).train()
    inputs, lengths = torch.randn(3, 6, 5), torch.tensor([6, 2, 4])
    assert torch.equal(padded(inputs, lengths), padded(inputs, lengths))
    assert padded.to_lstm().dropout == 0.0


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
def test_weights_of_a_plain_lstm_are_taken_over_and_given_back(bidirectional):
    plain = nn.LSTM(5, 4, num_layers=2, bidirectional=bidirectional, batch_first=True)
    padded = PaddedLSTM(5, 4, num_layers=2, bidirectional=bidirectional)
    padded.load_lstm(plain.state_dict())
    returned = padded.to_lstm().state_dict()
    assert returned.keys() == plain.state_dict().keys()
    assert all(torch.equal(returned[name], weight) for name, weight in plain.state_dict().items())


def test_a_plain_lstm_made_from_padded_layers_does_not_share_their_weights():
    padded = PaddedLSTM(5, 4)
    before = padded.forward_layers[0].weight_ih_l0.detach().clone()
    with torch.no_grad():
        padded.to_lstm().weight_ih_l0.zero_()
    assert torch.equal(padded.forward_layers[0].weight_ih_l0, before)


@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "missing"), [(2, False, "weight_ih_l1"), (1, True, "weight_ih_l0_reverse")]
)
def test_weights_of_a_smaller_plain_lstm_are_refused(num_layers, bidirectional, missing):
    state = nn.LSTM(5, 4, batch_first=True).state_dict()
    with pytest.raises(KeyError, match=missing):
        PaddedLSTM(5, 4, num_layers=num_layers, bidirectional=bidirectional).load_lstm(state)


def test_reversal_index_by_hand_keeps_padding_where_it_is():
    assert reversal_index(torch.tensor([3, 1, 4]), 4).tolist() == [[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_reverse_by_hand_and_its_gradient():
    values = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]], requires_grad=True)
    turned = reverse(values, torch.tensor([3, 2]))
    assert turned.flatten().tolist() == [3.0, 2.0, 1.0, 5.0, 4.0, 6.0]
    (turned.flatten() * torch.arange(6.0)).sum().backward()
    assert values.grad.flatten().tolist() == [2.0, 1.0, 0.0, 4.0, 3.0, 5.0]


def test_recurrent_dropout_zeroes_weights_and_scales_the_rest():
    padded = PaddedLSTM(5, 4, recurrent_dropout=0.5)
    inputs, lengths = torch.randn(3, 6, 5), torch.tensor([6, 2, 4])
    got = padded(inputs, lengths, torch.Generator().manual_seed(3))
    plain = padded.to_lstm()
    mask = torch.empty(16, 4).bernoulli_(0.5, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain.weight_hh_l0 *= mask / 0.5
    assert largest_difference(got, plain(inputs)[0]) < 1e-6


def test_drop_keeps_the_mean():
    values = drop(torch.ones(100_000), 0.25, torch.Generator().manual_seed(0))
    assert values.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(values.mean()) == pytest.approx(1.0, abs=0.01)
