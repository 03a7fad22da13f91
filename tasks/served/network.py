"""The network of the classifier: embedding, LSTM, pooling over real tokens, linear layer.

It takes and returns tensors only. It imports only modules of this package, so that a registered model can carry it
unchanged. Shapes: B batch, T tokens, E embedding, H hidden, D directions, C classes, V vocabulary.

All random numbers of a training pass come from the generator that is passed in. So a pass depends only on the weights,
the batch and the seed of the generator.
"""

import torch
from torch import Generator, Tensor, nn

from .bigrams import BagOfBigrams
from .lstm import PaddedLSTM, drop, turn_backward
from .pooling import pool_max, pool_mean, real_positions, weighted_sum

POOLINGS = ("last", "mean", "max", "mean_max", "attention")


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
        pooling: `last` is the output of each direction at the last token that it reads; `mean`, `max` and both
            together (`mean_max`) pool over the real tokens; `attention` is their mean weighted by the softmax of a
            learned linear score.
        unk_idx: token id of unknown tokens.
        dropout: between layers and before the linear layer.
        embedding_dropout: on whole dimensions of a document's embeddings (variational: Gal & Ghahramani 2016).
        word_dropout: on whole tokens, which are replaced by the unknown token.
        recurrent_dropout: on the hidden-to-hidden weights.
        layer_norm: normalize the pooled vector (Ba et al. 2016).
        pool_embeddings: append mean and maximum of the embeddings to the pooled outputs.
        bigram_buckets: rows of hashed bigrams, whose linear classifier is added to the logits; 0 leaves it out.
        embeddings: pre-trained float32[V, E]; None starts with random embeddings.
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
        num_layers: int,
        bidirectional: bool,
        pooling: str,
        unk_idx: int,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        word_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        layer_norm: bool = False,
        pool_embeddings: bool = False,
        bigram_buckets: int = 0,
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
        """Draw new weights for everything except pre-trained vectors.

        Input weights are drawn after Glorot & Bengio (2010), recurrent weights orthogonal per gate (Saxe et al. 2014).
        The bias of the forget gate is 1 (Jozefowicz et al. 2015), the weights of the bag of bigrams are zero.
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

        `embedded` float[B, T, E] replaces the result of `embed`; adversarial training passes moved embeddings.
        """
        embedded = self.embed(input_ids, generator) if embedded is None else embedded
        logits = self.classify_embedded(embedded, lengths, generator)
        return logits if self.bigrams is None else logits + self.bigrams(input_ids, lengths)

    def embed(self, input_ids: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the embeddings float[B, T, E] of token ids int64[B, T], after their dropout."""
        if self.training and self.word_dropout:
            dropped = torch.rand(input_ids.shape, generator=generator, device=input_ids.device) < self.word_dropout
            input_ids = input_ids.masked_fill(dropped, self.unk_idx)
        embedded: Tensor = self.embedding(input_ids)
        whole_dimensions = (len(embedded), 1, embedded.shape[2])
        return drop(embedded, self.embedding_dropout * self.training, generator, shape=whole_dimensions)

    def classify_embedded(self, embedded: Tensor, lengths: Tensor, generator: Generator | None = None) -> Tensor:
        """Return the logits float[B, C] of the deep part for embeddings float[B, T, E]."""
        vectors = self._pool(self.lstm.run_directions(embedded, lengths, generator), lengths)
        if self.pool_embeddings:
            vectors = [*vectors, pool_mean(embedded, lengths), pool_max(embedded, lengths)]
        pooled = torch.cat(vectors, dim=1)
        pooled = pooled if self.norm is None else self.norm(pooled)
        logits: Tensor = self.linear(drop(pooled, self.dropout * self.training, generator))
        return logits

    def _pool(self, directions: list[Tensor], lengths: Tensor) -> list[Tensor]:
        """Return pooled float[B, H] tensors.

        Args:
            directions: outputs float[B, T, H] of each direction, in the order in which it reads.
            lengths: int64[B].
        """
        if self.pooling == "last":
            rows = torch.arange(len(lengths), device=lengths.device)
            return [outputs[rows, lengths - 1] for outputs in directions]
        if self.attention is not None:
            return self._attend(directions, lengths)
        means = [pool_mean(outputs, lengths) for outputs in directions] if "mean" in self.pooling else []
        return means + ([pool_max(outputs, lengths) for outputs in directions] if "max" in self.pooling else [])

    def _attend(self, directions: list[Tensor], lengths: Tensor) -> list[Tensor]:
        """Return the outputs of each direction, float[B, H], summed by the attention over both directions."""
        real = real_positions(lengths, directions[0].shape[1])
        weights = self.attention.weight.view(len(directions), -1, 1)  # type: ignore[union-attr]
        scores = [outputs @ weight for outputs, weight in zip(directions, weights, strict=True)]
        total = torch.stack(turn_backward(scores, lengths)).sum(dim=0)
        attention = total.masked_fill(~real.unsqueeze(2), float("-inf")).softmax(dim=1)
        turned = turn_backward([attention] * len(directions), lengths)
        return [weighted_sum(outputs, a.squeeze(2)) for outputs, a in zip(directions, turned, strict=True)]
