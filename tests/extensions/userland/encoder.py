"""An encoder: the sum of the embeddings of a text's tokens, each as often as it occurs."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp

from ragjax.models.encoder import Encoder
from ragjax.models.layers import unit_length


class SumModule(nn.Module):
    """Embeds [...,n] tokens as [...,D]."""

    vocab_size: int
    width: int

    @nn.compact
    def __call__(self, tokens, idf, side):
        table = self.param("embedding", nn.initializers.normal(1.0), (self.vocab_size, self.width))
        weights = jnp.where(tokens > 0, idf + 0.1, 0.0)
        return unit_length(jnp.einsum("...n,...nd->...d", weights, table[tokens]))


@dataclass(frozen=True)
class SumEncoder(Encoder):
    """The sum of embeddings, weighted by idf.

    Attributes:
      width: D.
    """

    width: int = 32

    def build(self, vocab_size, dtype):
        return SumModule(vocab_size, self.width)
