import ast
import itertools
import random
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tasks import served
from tasks.served.bigrams import BIGRAM_SCALE, BagOfBigrams
from tasks.served.lstm import LAYOUTS, PaddedLSTM, drop, reversal_index, reverse
from tasks.served.network import POOLINGS, TextClassifier
from tasks.served.pooling import real_positions

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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("road", LAYOUTS)
class TestBothRoadsAgainstPackedLSTM:
    @pytest.fixture
    def case(self, num_layers, bidirectional, dtype, road, device):
        padded = PaddedLSTM(5, 4, num_layers=num_layers, bidirectional=bidirectional).to(device, dtype)
        padded.layout = road
        lengths = random_lengths(11, 13)
        return padded, torch.randn(11, 13, 5, dtype=dtype).to(device), lengths.to(device)

    @pytest.fixture
    def tolerance(self, device, road, dtype):
        persistent = device.type == "cuda" and road == "padded" and dtype == torch.float32
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


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two-way"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_equal_those_of_a_packed_lstm_pooled_document_by_document(pooling, bidirectional):
    classifier = build_classifier(pooling=pooling, bidirectional=bidirectional).double().eval()
    input_ids, lengths = random_documents()
    outputs, final = run_packed(classifier.lstm.to_lstm(), classifier.embedding(input_ids), lengths)
    documents = [row[:length] for row, length in zip(outputs, lengths, strict=True)]
    scorer = classifier.attention or nn.Linear(outputs.shape[2], 1, bias=False).double()
    weights = [scorer(document).softmax(dim=0) for document in documents]
    mean = torch.stack([document.mean(dim=0) for document in documents])
    highest = torch.stack([document.max(dim=0).values for document in documents])
    pooled = {
        "last": directed_final_states(final, bidirectional=bidirectional),
        "mean": mean,
        "max": highest,
        "mean_max": torch.cat([mean, highest], dim=1),
        "attention": torch.stack([(w * document).sum(dim=0) for w, document in zip(weights, documents, strict=True)]),
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


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_every_pooling_of_one_token_is_its_output(pooling):
    classifier = build_classifier(pooling=pooling).double().eval()
    input_ids = torch.tensor([[3], [8]])
    outputs, _ = classifier.lstm.to_lstm()(classifier.embedding(input_ids))
    expected = classifier.linear(outputs[:, 0])
    assert largest_difference(classifier(input_ids, torch.tensor([1, 1])), expected) < 1e-10


@pytest.mark.parametrize("seed", range(20))
def test_random_shapes_give_the_packed_lstm_on_both_roads(seed):
    draw = random.Random(seed)
    longest = draw.choice([1, 2, 30])
    settings = {
        "pooling": draw.choice(POOLINGS), "bidirectional": draw.random() < 0.5, "num_layers": draw.randint(1, 3),
        "layer_norm": draw.random() < 0.5, "pool_embeddings": draw.random() < 0.5,
        "bigram_buckets": draw.choice([0, 50]),
    }  # fmt: skip
    classifier = build_classifier(**settings).double()
    input_ids, lengths = random_documents(draw.randint(2, 9), longest)
    results = []
    for road in LAYOUTS:
        classifier.zero_grad()
        classifier.lstm.layout = road
        logits = classifier(input_ids, lengths)
        nn.functional.cross_entropy(logits, torch.arange(len(lengths)) % 3).backward()
        gradients = torch.cat([weight.grad.flatten() for weight in classifier.parameters()])
        results.append((logits, gradients))
        alone = torch.cat([classifier(input_ids[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths)])
        assert largest_difference(logits, alone) < 1e-10
    (padded, packed), (padded_gradients, packed_gradients) = zip(*results, strict=True)
    assert largest_difference(padded, packed) < 1e-10
    assert largest_difference(padded_gradients, packed_gradients) < 1e-10


def test_road_is_padded_on_the_cpu_unless_told_otherwise(monkeypatch):
    padded, packed = PaddedLSTM(5, 4), []
    monkeypatch.setattr(padded, "_run_packed", lambda *_: packed.append(1))
    padded.run_directions(torch.randn(2, 3, 5), torch.tensor([3, 1]))
    assert not packed
    padded.layout = "packed"
    padded.run_directions(torch.randn(2, 3, 5), torch.tensor([3, 1]))
    assert packed


class TestDropout:
    """Every mask comes from the generator that is handed in."""

    RATES: ClassVar = {"dropout": 0.4, "embedding_dropout": 0.3, "word_dropout": 0.2, "recurrent_dropout": 0.3}

    @pytest.mark.parametrize("name", RATES)
    def test_acts_in_training_only(self, name):
        classifier, documents = build_classifier(**{name: 0.5}), random_documents()
        assert not torch.equal(classifier(*documents), classifier(*documents))
        classifier.eval()
        assert torch.equal(classifier(*documents), classifier(*documents))
        assert torch.equal(classifier(*documents), build_like(classifier, **{name: 0.0})(*documents))

    def test_a_pass_is_a_function_of_the_seed_and_leaves_torchs_own_generator_alone(self):
        classifier, documents = build_classifier(**self.RATES), random_documents()
        before = torch.random.get_rng_state()
        one, again, other = (classifier(*documents, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_recurrent_dropout_zeroes_weights_and_scales_the_rest(self):
        padded = PaddedLSTM(5, 4, recurrent_dropout=0.5)
        inputs, lengths = torch.randn(3, 6, 5), torch.tensor([6, 2, 4])
        got = padded(inputs, lengths, torch.Generator().manual_seed(3))
        plain = padded.to_lstm()
        mask = torch.empty(16, 4).bernoulli_(0.5, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            plain.weight_hh_l0 *= mask / 0.5
        assert largest_difference(got, plain(inputs)[0]) < 1e-6

    def test_embedding_dropout_takes_whole_dimensions_and_word_dropout_whole_tokens(self, monkeypatch):
        seen = []
        vectors = torch.ones(VOCABULARY, 5)
        vectors[2] = 0.0
        classifier = build_classifier(embeddings=vectors, embedding_dropout=0.5, word_dropout=0.5, unk_idx=2)
        run = classifier.lstm.run_directions
        monkeypatch.setattr(classifier.lstm, "run_directions", lambda *a: seen.append(a[0].detach()) or run(*a))
        classifier(torch.ones(4, 50, dtype=torch.long), torch.full((4,), 50))
        (embedded,) = seen
        dimensions, tokens = embedded.amax(dim=1), embedded.amax(dim=2)
        assert set(embedded.unique().tolist()) == {0.0, 2.0}
        assert torch.equal(embedded, dimensions.unsqueeze(1) * tokens.unsqueeze(2) / 2)
        assert 0.3 < (tokens == 0).float().mean() < 0.7

    def test_drop_keeps_the_mean(self):
        values = drop(torch.ones(100_000), 0.25, torch.Generator().manual_seed(0))
        assert values.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert float(values.mean()) == pytest.approx(1.0, abs=0.01)


class TestResetWeights:
    def test_weights_are_a_function_of_the_seed(self):
        one, again, other = (build_classifier(pooling="attention") for _ in range(3))
        for classifier, seed in ((one, 5), (again, 5), (other, 6)):
            classifier.reset_weights(torch.Generator().manual_seed(seed))
        for name, weight in one.named_parameters():
            assert torch.equal(weight, again.get_parameter(name))
            assert "bias" in name or not torch.equal(weight, other.get_parameter(name))

    def test_every_weight_is_drawn(self):
        classifier = build_classifier(pooling="attention", bigram_buckets=50)
        with torch.no_grad():
            for weight in classifier.parameters():
                weight.fill_(torch.nan)
        classifier.reset_weights(torch.Generator().manual_seed(1))
        assert all(torch.isfinite(weight).all() for weight in classifier.parameters())
        assert torch.equal(classifier.embedding.weight[PADDING_IDX], torch.zeros(5))

    def test_recurrent_gates_are_orthogonal_and_the_forget_gate_is_open(self):
        classifier = build_classifier(hidden_size=6)
        classifier.reset_weights(torch.Generator().manual_seed(1))
        for layer in (*classifier.lstm.forward_layers, *classifier.lstm.backward_layers):
            for gate in layer.weight_hh_l0.detach().chunk(4):
                assert largest_difference(gate @ gate.T, torch.eye(6)) < 1e-5
            assert (layer.bias_ih_l0 + layer.bias_hh_l0).tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 12

    def test_pretrained_vectors_stay(self):
        vectors = torch.randn(VOCABULARY, 5)
        classifier = build_classifier(embeddings=vectors.clone())
        classifier.reset_weights(torch.Generator().manual_seed(1))
        assert torch.equal(classifier.embedding.weight, vectors)


def test_pooled_embeddings_are_joined_to_the_pooled_outputs():
    classifier = build_classifier(pool_embeddings=True, bidirectional=False, num_layers=1).double().eval()
    input_ids, lengths = random_documents()
    documents = [classifier.embedding(row[:length]) for row, length in zip(input_ids, lengths, strict=True)]
    outputs = [classifier.lstm.to_lstm()(document)[0] for document in documents]
    pooled = torch.stack(
        [
            torch.cat([o.mean(dim=0), o.amax(dim=0), e.mean(dim=0), e.amax(dim=0)])
            for o, e in zip(outputs, documents, strict=True)
        ]
    )
    assert largest_difference(classifier(input_ids, lengths), classifier.linear(pooled)) < 1e-10


class TestBagOfBigrams:
    def bag(self, buckets: int = 50) -> BagOfBigrams:
        bag = BagOfBigrams(VOCABULARY, buckets, 3).double()
        nn.init.normal_(bag.weight)
        return bag

    def row_of(self, bag: BagOfBigrams, pair: tuple[int, int]) -> int:
        return int(bag._hash_pairs(torch.tensor([pair])))

    def test_logits_are_the_weights_of_what_is_there_each_counted_once(self):
        bag, (input_ids, lengths) = self.bag(), random_documents(30, 40)
        for logits, row, length in zip(bag(input_ids, lengths), input_ids.tolist(), lengths.tolist(), strict=True):
            tokens = row[:length]
            there = {*tokens, *(self.row_of(bag, pair) for pair in itertools.pairwise(tokens))}
            expected = BIGRAM_SCALE * bag.weight[sorted(there)].sum(dim=0) / len(there) ** 0.5
            assert largest_difference(logits, expected) < 1e-10

    def test_a_pair_is_told_from_its_mirror_image_and_from_its_tokens(self):
        bag = self.bag(1 << 18)
        pairs = torch.cartesian_prod(torch.arange(VOCABULARY), torch.arange(VOCABULARY))
        rows, mirrored = bag._hash_pairs(pairs), bag._hash_pairs(pairs.flip(1))
        assert ((rows == mirrored) == (pairs[:, :1] == pairs[:, 1:])).all()
        assert rows.min() >= VOCABULARY
        assert rows.max() < len(bag.weight)

    @pytest.mark.parametrize("buckets", [1 << 18, 100_003])
    @pytest.mark.parametrize("step", [1, 64, 911])
    def test_pairs_share_rows_no_more_than_by_chance(self, buckets, step):
        tokens = torch.arange(400) * step
        pairs = torch.cartesian_prod(tokens, tokens)
        filled = len(BagOfBigrams(400 * step, buckets, 2)._hash_pairs(pairs).unique())
        assert filled / buckets > 0.98 * (1 - (1 - 1 / buckets) ** len(pairs))

    def test_it_adds_to_the_logits_of_the_network_and_begins_with_nothing(self):
        classifier = build_classifier(bigram_buckets=50).eval()
        classifier.reset_weights(torch.Generator().manual_seed(1))
        input_ids, lengths = random_documents()
        plain = classifier(input_ids, lengths)
        nn.init.normal_(classifier.bigrams.weight)
        added = classifier.bigrams(input_ids, lengths)
        assert torch.equal(classifier(input_ids, lengths), plain + added)
        nn.init.zeros_(classifier.bigrams.weight)
        assert torch.equal(classifier(input_ids, lengths), plain)


def test_embeddings_can_be_handed_in():
    classifier = build_classifier().eval()
    input_ids, lengths = random_documents()
    embedded = classifier.embed(input_ids)
    assert torch.equal(classifier(input_ids, lengths, None, embedded), classifier(input_ids, lengths))
    assert not torch.equal(classifier(input_ids, lengths, None, embedded + 1), classifier(input_ids, lengths))


def test_layer_norm_normalizes_the_pooled_vector():
    classifier = build_classifier(layer_norm=True).double().eval()
    with torch.no_grad():
        classifier.linear.weight.copy_(torch.eye(3, 16))
        classifier.linear.bias.zero_()
    input_ids, lengths = random_documents()
    pooled = torch.cat(
        classifier._pool(classifier.lstm.run_directions(classifier.embedding(input_ids), lengths), lengths), 1
    )
    expected = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    assert largest_difference(classifier(input_ids, lengths), expected[:, :3]) < 1e-10


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
    with pytest.raises(ValueError, match="pooling: got 'median', expected one of last, mean, max, mean_max, attention"):
        build_classifier(pooling="median")


def test_real_positions_by_hand():
    assert real_positions(torch.tensor([2, 0, 3]), 3).tolist() == [
        [True, True, False],
        [False, False, False],
        [True, True, True],
    ]


def test_reversal_index_by_hand_keeps_padding_where_it_is():
    assert reversal_index(torch.tensor([3, 1, 4]), 4).tolist() == [[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_reverse_by_hand_and_its_gradient():
    values = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]], requires_grad=True)
    turned = reverse(values, torch.tensor([3, 2]))
    assert turned.flatten().tolist() == [3.0, 2.0, 1.0, 5.0, 4.0, 6.0]
    (turned.flatten() * torch.arange(6.0)).sum().backward()
    assert values.grad.flatten().tolist() == [2.0, 1.0, 0.0, 4.0, 3.0, 5.0]


@pytest.mark.parametrize("path", sorted(Path(served.__file__).parent.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_module_that_models_carry_imports_nothing_of_the_project_but_its_siblings(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + str(node.module).partition(".")[0])
    assert imported
    assert not imported & {"flows", "tasks", "pipeline_config"}
    assert all((path.parent / f"{name[1:]}.py").exists() for name in imported if name.startswith("."))
