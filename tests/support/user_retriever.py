"""What a user might bring to a retriever: an encoder and an index of their own."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from ragjax.models.encoder import Encoder
from ragjax.models.layers import unit_length
from ragjax.retrieval.base import Index, best


class PlainModule(nn.Module):
    """Rows of a table, summed up."""

    vocab_size: int
    width: int

    @nn.compact
    def __call__(self, x, idf, side):
        table = self.param("rows", nn.initializers.normal(1.0), (self.vocab_size, self.width))
        return unit_length(jnp.sum(jnp.where((x > 0)[..., None], table[x], 0.0), axis=-2))


@dataclass(frozen=True)
class Plain(Encoder):
    """A bag without weights."""

    width: int = 6

    def build(self, vocab_size, dtype):
        return PlainModule(vocab_size, self.width)


@dataclass(frozen=True)
class Sparse(Index):
    """A tree of two arrays, the embeddings in halves; a passage that scores too little is not found.

    It leaves at a miss whatever stood there, as some libraries do.

    Attributes:
      least: score that a passage has to exceed; 2 finds nothing at all.
    """

    scores_all: ClassVar[bool] = True

    least: float = 0.0

    def build(self, embeddings):
        half = embeddings.shape[-1] // 2
        return {"left": embeddings[:, :half], "right": embeddings[:, half:]}

    def rows(self, index):
        return jnp.concatenate([index["left"], index["right"]], axis=-1)

    def scores(self, index, query):
        half = index["left"].shape[-1]
        return query[..., :half] @ index["left"].T + query[..., half:] @ index["right"].T

    def search(self, index, query, k):
        found = best(self.scores(index, query), k)
        return found.replace(valid=found.scores > self.least)
