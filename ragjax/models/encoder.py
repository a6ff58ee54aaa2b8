"""The retriever's encoders: tokens or numbers in, one vector of unit length out.

A new encoder is one class that subclasses `Encoder`, with the module that it builds.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ragjax.errors import require
from ragjax.models.layers import (
    ACTIVATIONS,
    ONES,
    ZEROS,
    EncoderLayer,
    Perceptron,
    normal,
    sinusoidal_positions,
    unit_length,
)
from ragjax.models.pretrained.loading import Pretrained
from ragjax.ops.scoring import FULL_PRECISION
from ragjax.retrieval.base import OwnTokens
from ragjax.types import PAD_ID, Params


class BagModule(nn.Module):
    """A weighted bag of embeddings: u(Σ_t exp(w_t) (idf_t + ε)^a u(e_t)), with u(x) = x / |x|.

    The sum is over the distinct tokens of the text: a passage that repeats a name is no better match
    for it. The weights w are those of a question or those of a passage (`side`), for a word can be
    telling in one and idle in the other; embeddings and the power a are common to both. Each of the
    first `leading` positions of a passage adds a weight of its own to w, by which a title can count
    for more than the text below it.

    Untrained, it is a random projection of TF-IDF, so that exact matches already score high: what lets
    marginal likelihood start from a cold retriever.

    Attributes:
      vocab_size: V.
      width: D.
      leading: positions of a passage with a weight of their own.
    """

    vocab_size: int
    width: int
    leading: int = 0

    @nn.compact
    def __call__(self, tokens: Int[Array, "... n"], idf: Float[Array, "... n"], side: int) -> Array:
        """Embeds [...,n] tokens, whose idf is [...,n], as [...,D]; side 0 asks, side 1 answers."""
        table = self.param("embedding", normal(1.0), (self.vocab_size, self.width))
        weight = self.param("log_weight", ZEROS, (2, self.vocab_size))[side]
        power = self.param("idf_power", ONES, ())
        log_weight = weight[tokens]
        if self.leading:
            place = self.param("log_position", ZEROS, (self.leading,))
            count = tokens.shape[-1]
            place = jnp.pad(place, (0, max(count - self.leading, 0)))[:count]
            log_weight = log_weight + float(side) * place
        weights = jnp.exp(log_weight) * (idf + 0.05) ** power
        same = tokens[..., :, None] == tokens[..., None, :]
        repeats = jnp.sum(same, axis=-1, dtype=jnp.float32)
        weights = jnp.where(tokens != PAD_ID, weights / repeats, 0.0)
        return weighted_mean(weights, unit_length(table)[tokens])


class TransformerModule(nn.Module):
    """A transformer whose outputs are averaged with idf weights, so that it starts as a bag.

    Attributes:
      vocab_size: V.
      width: D.
      layers: number of layers.
      heads: attention heads of each.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "... n"], idf: Float[Array, "... n"], side: int) -> Array:
        """Embeds [...,n] tokens, whose idf is [...,n], as [...,D]; both sides alike."""
        del side
        mask = tokens != PAD_ID
        table = self.param("embedding", normal(1.0), (self.vocab_size, self.width))
        x = table[tokens] + 0.1 * sinusoidal_positions(tokens.shape[-1], self.width)
        x = x.astype(self.dtype)
        for _ in range(self.layers):
            x = EncoderLayer(self.width, self.heads, self.dtype)(x, mask)
        weights = jnp.where(mask, idf + 0.05, 0.0)
        return weighted_mean(weights, x.astype(jnp.float32))


def weighted_mean(weights: Float[Array, "... n"], x: Float[Array, "... n d"]) -> Array:
    """Σ_n w_n x_n at unit length."""
    return unit_length(jnp.einsum("...n,...nd->...d", weights, x, precision=FULL_PRECISION))


class PerceptronModule(nn.Module):
    """A perceptron without biases, of numbers.

    Attributes:
      width: D.
      hidden: widths of the hidden layers.
      activation: name of the nonlinearity.
      first: numbers that are read, the first ones; 0 for all.
    """

    width: int
    hidden: tuple[int, ...]
    activation: str
    first: int = 0

    def setup(self):
        """Creates the layers, as those of this module itself."""
        self.layers = Perceptron(self.hidden, self.width, self.activation, 1.0, bias=False)
        nn.share_scope(self, self.layers)

    def __call__(self, features: Float[Array, "... F"], idf: None, side: int) -> Array:
        """Embeds [...,F] numbers as [...,D]; both sides alike."""
        del idf, side
        read = features[..., : self.first] if self.first else features
        return unit_length(self.layers(read), smooth=True)


@dataclass(frozen=True)
class Encoder:
    """Base of the encoder specs.

    Attributes:
      reads_tokens: whether it reads tokens; otherwise numbers, such as an observation.
    """

    reads_tokens: ClassVar[bool] = True

    @property
    def reads(self) -> OwnTokens | None:
        """The tokenizer that belongs to it; None if it reads the tokens of the run's own."""
        return None

    def pretrained(self) -> Params | None:
        """The module's parameters that training begins with, read on the host; None for new ones."""
        return None

    def exported(self, params: Params) -> Pretrained | None:
        """A model that transformers knows, with these parameters of the encoder; None if it is none."""
        del params
        return None

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns a module that is called as (x, idf, side) -> [...,D], float32 of unit length.

        `x` are [...,n] tokens, padded with 0, and `idf` their [...,n] inverse document frequencies; or
        `x` are [...,F] numbers and `idf` is None. `side` is 0 for what asks and 1 for passages, a
        constant by which one module may treat the two differently.

        Args:
          vocab_size: V, or 0 where there are no tokens; an encoder with a tokenizer of its own knows
            better, and is given no `idf`.
          dtype: of the computation, float32 or bfloat16; parameters are float32.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class BagEncoder(Encoder):
    """Weighted bag of embeddings.

    Attributes:
      width: D, the width of the embedding.
      leading: how many of a passage's first tokens have a learned weight by position; set it to about
        the length of a title where `tokenizer.with_title` is on.
    """

    width: int = 512
    leading: int = 0

    def __post_init__(self):
        """Checks the fields."""
        require(self.width >= 1, f"encoder.width is {self.width}; it must be at least 1.")
        require(self.leading >= 0, f"encoder.leading is {self.leading}; it must not be negative.")

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns the module; a bag always computes in float32, as sums of many terms need."""
        del dtype
        return BagModule(vocab_size, self.width, self.leading)


@dataclass(frozen=True)
class TransformerEncoder(Encoder):
    """Transformer encoder, averaged over its positions.

    Attributes:
      width: D, the width of the embedding and of the hidden states.
      layers: number of layers.
      heads: attention heads of each; divides `width`.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4

    def __post_init__(self):
        """Checks the fields."""
        require(self.layers >= 1, f"encoder.layers is {self.layers}; it must be at least 1.")
        require(
            self.heads >= 1 and self.width >= 1 and self.width % self.heads == 0,
            f"encoder.width is {self.width} and encoder.heads {self.heads}; "
            "choose a positive width that the number of heads divides.",
        )

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns the module."""
        return TransformerModule(vocab_size, self.width, self.layers, self.heads, dtype)


@dataclass(frozen=True)
class PerceptronEncoder(Encoder):
    """Perceptron over numbers: observations, or the features of passages.

    Attributes:
      hidden: widths of the hidden layers; linear without any.
      width: D, the width of the embedding.
      activation: tanh or relu.
      first: numbers that are read, the first ones; 0 for all. Observations and passages that begin with
        the same kind of numbers can share one encoder that reads these.
    """

    reads_tokens: ClassVar[bool] = False

    hidden: tuple[int, ...] = ()
    width: int = 32
    activation: Literal["tanh", "relu"] = "tanh"
    first: int = 0

    def __post_init__(self):
        """Checks the fields."""
        require(
            all(width >= 1 for width in self.hidden),
            f"encoder.hidden is {self.hidden}; every width must be at least 1.",
        )
        require(self.width >= 1, f"encoder.width is {self.width}; it must be at least 1.")
        require(
            self.activation in ACTIVATIONS,
            f"encoder.activation is {self.activation!r}; choose tanh or relu.",
        )
        require(self.first >= 0, f"encoder.first is {self.first}; it must not be negative.")

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns the module, which computes in float32."""
        del vocab_size, dtype
        return PerceptronModule(self.width, self.hidden, self.activation, self.first)
