"""BERT (Devlin et al., arXiv 1810.04805), as DPR, MiniLM and sentence-transformers use it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import require
from ragjax.models.layers import LayerNorm, Linear
from ragjax.models.pretrained.layers import ACTIVATIONS, NamedAttention, bias_of, through
from ragjax.models.pretrained.sizes import activation_of, field_of, require_positions

NAMES = ("self.query", "self.key", "self.value", "output.dense")


@dataclass(frozen=True)
class Bert:
    """The sizes of a BERT encoder.

    Attributes:
      vocab_size: V.
      width: H.
      layers: number of layers.
      heads: attention heads of each.
      hidden: width of the feed-forward layers.
      positions: the longest text, in tokens.
      types: kinds of segments.
      activation: of the feed-forward layers.
      epsilon: of the layer norms.
      projection: D of DPR's projection of the first state; 0 without one.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    hidden: int
    positions: int
    types: int
    activation: str
    epsilon: float
    projection: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str, names: Collection[str]) -> "Bert":
        """Reads config.json; `where` names it in messages, and `names` are those of its tensors."""
        del names
        number = partial(field_of, config, kind=int, where=where)
        kind = config.get("position_embedding_type", "absolute")
        require(
            kind == "absolute",
            f"{where}: config.json has position_embedding_type {kind!r}; only absolute is supported.",
        )
        return cls(
            vocab_size=number("vocab_size"),
            width=number("hidden_size"),
            layers=number("num_hidden_layers"),
            heads=number("num_attention_heads"),
            hidden=number("intermediate_size"),
            positions=number("max_position_embeddings"),
            types=number("type_vocab_size"),
            activation=activation_of(config, "hidden_act", where),
            epsilon=field_of(config, "layer_norm_eps", (int, float), where),
            projection=config.get("projection_dim") or 0,
        )

    @property
    def unused(self) -> str:
        """What a checkpoint may hold beside: positions as a buffer, and heads of other tasks."""
        return r"(.*\.)?(embeddings\.position_ids|pooler\..*)|cls\..*"


class BertLayer(nn.Module):
    """A post-norm transformer layer that attends in both directions."""

    sizes: Bert
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "*batch n H"], bias: Array) -> Float[Array, "*batch n H"]:
        """Maps [...,n,H] -> [...,n,H]; `bias` is added to the attention's scores."""
        sizes = self.sizes
        linear = partial(Linear, dtype=self.dtype)
        norm = partial(LayerNorm, epsilon=sizes.epsilon, dtype=self.dtype)
        attention = NamedAttention(
            sizes.heads,
            sizes.width // sizes.heads,
            sizes.width,
            NAMES,
            dtype=self.dtype,
            name="attention",
        )
        attended = attention(x, attention.project(x), bias)
        x = norm(name="attention.output.LayerNorm")(x + attended)
        hidden = ACTIVATIONS[sizes.activation](linear(sizes.hidden, name="intermediate.dense")(x))
        return norm(name="output.LayerNorm")(x + linear(sizes.width, name="output.dense")(hidden))


class BertModule(nn.Module):
    """The encoder without a pooler.

    Attributes:
      sizes: of its layers.
      dtype: of the computation.
      remat: see `through`.
    """

    sizes: Bert
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "*batch n"],
        mask: Bool[Array, "*batch n"],
        segments: Int[Array, "*batch n"] | int = 0,
    ) -> Float[Array, "*batch n H"]:
        """The last states of [...,n] tokens; positions where `mask` is False are not attended to."""
        sizes = self.sizes
        require_positions(tokens.shape[-1], sizes.positions)
        embed = partial(nn.Embed, features=sizes.width, dtype=self.dtype)
        kinds = jnp.asarray(segments)
        if kinds.ndim == 0:  # the embedding of a single kind takes no scalar
            kinds = kinds.reshape((1,) * tokens.ndim)
        x = (
            embed(sizes.vocab_size, name="embeddings.word_embeddings")(tokens)
            + embed(sizes.types, name="embeddings.token_type_embeddings")(kinds)
            + embed(sizes.positions, name="embeddings.position_embeddings")(
                jnp.arange(tokens.shape[-1])
            )
        )
        norm = LayerNorm(epsilon=sizes.epsilon, dtype=self.dtype, name="embeddings.LayerNorm")
        x, bias = norm(x), bias_of(mask)[..., None, None, :]
        for number in range(sizes.layers):
            layer = BertLayer(sizes, self.dtype, name=f"encoder.layer.{number}")
            x = through(layer, self.remat, x, bias)
        return x
