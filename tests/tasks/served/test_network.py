"""The classifier's network: logits, invariance, dropout, initial weights."""

import random
from typing import ClassVar, get_args

import pytest
import torch
from torch import nn

from pipeline_config.settings import ModelConfig, TrainingConfig
from tasks.served.lstm import LAYOUTS
from tasks.served.network import POOLINGS
from tasks.served.pooling import real_positions
from tests.tasks.served.networks import (
    PADDING_IDX,
    VOCABULARY,
    build_classifier,
    build_like,
    directed_final_states,
    largest_difference,
    random_documents,
    run_packed,
)

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


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
def test_random_shapes_give_the_packed_lstm_in_both_layouts(seed):
    draw = random.Random(seed)
    longest = draw.choice([1, 2, 30])
    settings = {
        "pooling": draw.choice(POOLINGS),
        "bidirectional": draw.random() < 0.5,
        "num_layers": draw.randint(1, 3),
        "layer_norm": draw.random() < 0.5,
        "pool_embeddings": draw.random() < 0.5,
        "bigram_buckets": draw.choice([0, 50]),
    }
    classifier = build_classifier(**settings).double()
    input_ids, lengths = random_documents(draw.randint(2, 9), longest)
    results = []
    for layout in LAYOUTS:
        classifier.zero_grad()
        classifier.lstm.layout = layout
        logits = classifier(input_ids, lengths)
        nn.functional.cross_entropy(logits, torch.arange(len(lengths)) % 3).backward()
        gradients = torch.cat([weight.grad.to_dense().flatten() for weight in classifier.parameters()])
        results.append((logits, gradients))
        alone = torch.cat([classifier(input_ids[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths)])
        assert largest_difference(logits, alone) < 1e-10
    (padded, packed), (padded_gradients, packed_gradients) = zip(*results, strict=True)
    assert largest_difference(padded, packed) < 1e-10
    assert largest_difference(padded_gradients, packed_gradients) < 1e-10


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


def test_bigrams_add_to_the_logits_and_start_at_zero():
    classifier = build_classifier(bigram_buckets=50).eval()
    classifier.reset_weights(torch.Generator().manual_seed(1))
    input_ids, lengths = random_documents()
    plain = classifier(input_ids, lengths)
    nn.init.normal_(classifier.bigrams.weight)
    added = classifier.bigrams(input_ids, lengths)
    assert torch.equal(classifier(input_ids, lengths), plain + added)
    nn.init.zeros_(classifier.bigrams.weight)
    assert torch.equal(classifier(input_ids, lengths), plain)


def test_the_settings_offer_exactly_the_poolings_and_layouts_of_the_network():
    assert get_args(ModelConfig.model_fields["pooling"].annotation) == POOLINGS
    assert get_args(TrainingConfig.model_fields["layout"].annotation) == LAYOUTS
