"""An encoder of observations that begin with the tokens of what was seen last."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Num

from ragjax.errors import require
from ragjax.models.encoder import Encoder
from ragjax.models.layers import ZEROS, Linear, normal, unit_length
from ragjax.types import PAD_ID


class HistoryModule(nn.Module):
    """u(mean_v e_v + W rest): a bag of what was seen, each as often as it was, and the other numbers.

    A passage of such tokens is u(mean_v e_v), with the same embeddings. Untrained, where W is 0, the
    passage that a query finds is what was seen most.

    Attributes:
      vocab_size: V.
      width: D.
      seen: numbers of an observation that are tokens, the first ones; 0 for none.
    """

    vocab_size: int
    width: int
    seen: int

    @nn.compact
    def __call__(self, x: Num[Array, "... n"], idf: Array | None, side: int) -> Array:
        """Embeds [...,n] numbers of an observation (side 0), or tokens of a passage (side 1)."""
        del idf
        table = self.param("embedding", normal(1.0), (self.vocab_size, self.width))
        tokens = x if side else x[..., : self.seen].astype(jnp.int32)
        there = (tokens != PAD_ID).astype(table.dtype)
        share = there / jnp.maximum(jnp.sum(there, axis=-1, keepdims=True), 1.0)
        mean = jnp.einsum("...n,...nd->...d", share, table[tokens])
        if side:
            return unit_length(mean)
        rest = Linear(self.width, use_bias=False, kernel_init=ZEROS, name="rest")
        rest = rest(x[..., self.seen :])
        return unit_length(mean + rest, smooth=True)


@dataclass(frozen=True)
class HistoryEncoder(Encoder):
    """Reads an observation whose first numbers are tokens, such as those of `RecoGym` with `views`.

    As the one encoder of a retriever it reads passages, too: `Dense(HistoryEncoder())` has one embedding
    of each product, whether it was viewed or is to be shown.

    Attributes:
      seen: how many of them are, such as `env.views`.
      width: D, the width of the embedding.
    """

    reads_tokens: ClassVar[bool] = False

    seen: int = 16
    width: int = 32

    def __post_init__(self):
        """Checks the fields."""
        for name in ("seen", "width"):
            value = getattr(self, name)
            require(value >= 1, f"encoder.{name} is {value}; it must be at least 1.")

    def takes_tokens(self, side: int) -> bool:
        """Only of passages."""
        return side == 1

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns the module, which computes in float32.

        Raises:
          UserError: there are no tokens.
        """
        del dtype
        require(
            vocab_size > 0,
            "encoder is a HistoryEncoder, which reads tokens of passages, but these are numbers here; "
            "choose PerceptronEncoder.",
        )
        return HistoryModule(vocab_size, self.width, self.seen)
