import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tasks import network, tokenizers
from tasks.network import POOLINGS, PaddedLSTM, TextClassifier, last_outputs, real_positions, reversal_index

pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-6}
PADDING_IDX = 0
VOCABULARY = 17


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        yield


def random_lengths(count: int, longest: int) -> Tensor:
    """Lengths in no order, the shortest and the longest possible among them."""
    return torch.cat([torch.randint(1, longest + 1, (count - 2,)), torch.tensor([longest, 1])])


def random_documents(count: int = 7, longest: int = 9) -> tuple[Tensor, Tensor]:
    lengths = random_lengths(count, longest)
    input_ids = torch.randint(1, VOCABULARY, (count, longest))
    return input_ids.masked_fill(~real_positions(lengths, longest), PADDING_IDX), lengths


def build_classifier(**changes) -> TextClassifier:
    settings = {
        "num_embeddings": VOCABULARY, "embedding_dim": 5, "num_classes": 3, "padding_idx": PADDING_IDX,
        "hidden_size": 4, "num_layers": 2, "bidirectional": True, "pooling": "mean_max",
    }  # fmt: skip
    return TextClassifier(**{**settings, **changes})


def run_packed(lstm: nn.LSTM, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The reference: outputs (zero at padding) and final states h_n of a packed `nn.LSTM`."""
    packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    outputs, (final, _) = lstm(packed)
    return pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])[0], final


def directed_final_states(final: Tensor, *, bidirectional: bool) -> Tensor:
    """h_n of the last layer, both directions side by side."""
    return torch.cat([final[-2], final[-1]], dim=1) if bidirectional else final[-1]


def largest_difference(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).detach().abs().max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
class TestPaddedAgainstPacked:
    @pytest.fixture
    def case(self, num_layers, bidirectional, dtype):
        padded = PaddedLSTM(5, 4, num_layers=num_layers, bidirectional=bidirectional).to(dtype)
        lengths = random_lengths(11, 13)
        return padded, torch.randn(11, 13, 5, dtype=dtype), lengths

    def test_outputs_at_real_positions_are_equal(self, case, dtype):
        padded, inputs, lengths = case
        expected, _ = run_packed(padded.to_lstm(), inputs, lengths)
        real = real_positions(lengths, 13)
        assert largest_difference(padded(inputs, lengths)[real], expected[real]) < TOLERANCE[dtype]

    def test_final_states_are_the_last_outputs(self, case, bidirectional, dtype):
        padded, inputs, lengths = case
        _, final = run_packed(padded.to_lstm(), inputs, lengths)
        got = last_outputs(padded(inputs, lengths), lengths, bidirectional=bidirectional)
        assert largest_difference(got, directed_final_states(final, bidirectional=bidirectional)) < TOLERANCE[dtype]

    def test_gradients_of_weights_and_inputs_are_equal(self, case, dtype):
        padded, inputs, lengths = case
        plain = padded.to_lstm()
        direction = torch.randn(11, 13, padded.output_size, dtype=dtype)
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
        assert max(worst.values()) < TOLERANCE[dtype], worst


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_equal_those_of_a_packed_lstm_pooled_document_by_document(pooling, bidirectional):
    classifier = build_classifier(pooling=pooling, bidirectional=bidirectional).double().eval()
    input_ids, lengths = random_documents()
    outputs, final = run_packed(classifier.lstm.to_lstm(), classifier.embedding(input_ids), lengths)
    documents = [row[:length] for row, length in zip(outputs, lengths, strict=True)]
    mean = torch.stack([document.mean(dim=0) for document in documents])
    highest = torch.stack([document.max(dim=0).values for document in documents])
    pooled = {
        "last": directed_final_states(final, bidirectional=bidirectional),
        "mean": mean,
        "max": highest,
        "mean_max": torch.cat([mean, highest], dim=1),
    }[pooling]
    expected = pooled @ classifier.linear.weight.T + classifier.linear.bias
    assert largest_difference(classifier(input_ids, lengths), expected) < 1e-10


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
class TestInvariance:
    @pytest.fixture
    def classifier(self, pooling, bidirectional):
        return build_classifier(pooling=pooling, bidirectional=bidirectional).double().eval()

    def test_extra_padding_does_not_change_logits(self, classifier):
        input_ids, lengths = random_documents()
        wider = nn.functional.pad(input_ids, (0, 6), value=PADDING_IDX)
        assert largest_difference(classifier(wider, lengths), classifier(input_ids, lengths)) < 1e-10

    def test_what_stands_at_the_padding_does_not_change_logits(self, classifier):
        input_ids, lengths = random_documents()
        littered = torch.where(real_positions(lengths, input_ids.shape[1]), input_ids, VOCABULARY - 1)
        assert largest_difference(classifier(littered, lengths), classifier(input_ids, lengths)) < 1e-10

    def test_batch_mates_do_not_change_logits(self, classifier):
        input_ids, lengths = random_documents()
        alone = [
            classifier(input_ids[i : i + 1, :length], lengths[i : i + 1]) for i, length in enumerate(lengths.tolist())
        ]
        assert largest_difference(classifier(input_ids, lengths), torch.cat(alone)) < 1e-10

    def test_order_of_the_batch_does_not_change_logits(self, classifier):
        input_ids, lengths = random_documents()
        order = torch.randperm(len(lengths))
        reordered = classifier(input_ids[order], lengths[order])
        assert largest_difference(reordered, classifier(input_ids, lengths)[order]) < 1e-10


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
def test_every_pooling_of_one_token_is_its_output(pooling):
    classifier = build_classifier(pooling=pooling).double().eval()
    input_ids = torch.tensor([[3], [8]])
    outputs, _ = classifier.lstm.to_lstm()(classifier.embedding(input_ids))
    expected = classifier.linear(outputs[:, 0])
    assert largest_difference(classifier(input_ids, torch.tensor([1, 1])), expected) < 1e-10


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


@pytest.mark.parametrize(("freeze", "trained"), [(True, False), (False, True)], ids=["frozen", "trained"])
def test_pretrained_vectors_get_a_gradient_unless_frozen(freeze, trained):
    vectors = torch.randn(VOCABULARY, 5)
    classifier = build_classifier(embeddings=vectors.clone(), freeze_embeddings=freeze)
    assert torch.equal(classifier.embedding.weight, vectors)
    nn.functional.cross_entropy(classifier(*random_documents()), torch.zeros(7, dtype=torch.long)).backward()
    assert classifier.embedding.weight.requires_grad is trained
    assert (classifier.embedding.weight.grad is not None) is trained
    assert classifier.linear.weight.grad is not None


@pytest.mark.parametrize("pretrained", [False, True], ids=["fresh", "pretrained"])
def test_padding_row_gets_no_gradient(pretrained):
    classifier = build_classifier(embeddings=torch.randn(VOCABULARY, 5) if pretrained else None)
    input_ids, lengths = random_documents()
    input_ids[0, 0] = PADDING_IDX  # even where a document has the padding token at a real position
    nn.functional.cross_entropy(classifier(input_ids, lengths), torch.zeros(7, dtype=torch.long)).backward()
    gradient = classifier.embedding.weight.grad
    assert torch.equal(gradient[PADDING_IDX], torch.zeros(5))
    assert gradient[input_ids[1, 0]].abs().sum() > 0


def test_without_vectors_the_embedding_layer_starts_fresh_and_is_trained():
    classifier = build_classifier(embeddings=None, freeze_embeddings=True)
    assert classifier.embedding.weight.shape == (VOCABULARY, 5)
    assert classifier.embedding.weight.requires_grad
    assert torch.equal(classifier.embedding.weight[PADDING_IDX], torch.zeros(5))


@pytest.mark.parametrize("shape", [(VOCABULARY, 4), (VOCABULARY + 1, 5)])
def test_vectors_of_a_wrong_shape_are_refused_with_both_shapes(shape):
    with pytest.raises(ValueError, match=rf"embeddings: got shape \({shape[0]}, {shape[1]}\), expected \(17, 5\)"):
        build_classifier(embeddings=torch.zeros(shape))


def test_an_unknown_pooling_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="pooling: got 'median', expected one of last, mean, max, mean_max"):
        build_classifier(pooling="median")


def test_real_positions_by_hand():
    assert real_positions(torch.tensor([2, 0, 3]), 3).tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, True],
    ]


def test_reversal_index_by_hand_keeps_padding_where_it_is():
    assert reversal_index(torch.tensor([3, 1, 4]), 4).tolist() == [[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]]


@pytest.mark.parametrize(
    ("bidirectional", "expected"),
    [(False, [[2.0, 20.0], [5.0, 50.0]]), (True, [[2.0, 10.0], [5.0, 40.0]])],
    ids=["one-way", "two-way"],
)
def test_last_outputs_by_hand(bidirectional, expected):
    outputs = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], [[4.0, 40.0], [5.0, 50.0], [6.0, 60.0]]])
    assert last_outputs(outputs, torch.tensor([2, 2]), bidirectional=bidirectional).tolist() == expected


@pytest.mark.parametrize("module", [network, tokenizers], ids=lambda module: module.__name__)
def test_a_module_that_models_carry_imports_nothing_of_the_project(module):
    imported = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." if node.level else str(node.module).partition(".")[0])
    assert imported
    assert not imported & {"flows", "tasks", "pipeline_config", "."}
