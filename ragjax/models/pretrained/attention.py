"""Attention as pretrained transformers have it: by name, with an additive bias and a cache."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ragjax.models.layers import KeyValue, Linear

# Added to the scores of a position that is not attended to. Finite, so that a row without any position
# stays finite and can be ignored later.
HIDDEN = -1e9


def bias_of(mask: Bool[Array, "..."]) -> Float[Array, "..."]:
    """0 where the mask is True, and `HIDDEN` where it is not."""
    return jnp.where(mask, 0.0, HIDDEN).astype(jnp.float32)


def causal_bias(length: int) -> Float[Array, "m m"]:
    """Hides from each position those after it."""
    return bias_of(jnp.tril(jnp.ones((length, length), bool)))


def split_heads(x: Float[Array, "*batch n H"], heads: int) -> Float[Array, "*batch h n c"]:
    """[...,n,H] -> [...,heads,n,H/heads]."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def attend(query: Array, kv: KeyValue, bias: Array, scale: float) -> Array:
    """Scaled dot-product attention.

    Args:
      query: [...,G,h,m,c] or [...,h,m,c].
      kv: keys and values [...,h,n,c], broadcast against the query's leading axes.
      bias: float32, broadcastable to [...,h,m,n]; is added to the scores.
      scale: factor of the scores.

    Returns:
      [...,m,h*c], heads joined.
    """
    scores = jnp.einsum("...mc,...nc->...mn", query, kv.key).astype(jnp.float32) * scale
    weights = jax.nn.softmax(scores + bias, axis=-1).astype(query.dtype)
    mixed = jnp.swapaxes(jnp.einsum("...mn,...nc->...mc", weights, kv.value), -2, -3)
    return mixed.reshape(*mixed.shape[:-2], -1)


class NamedAttention(nn.Module):
    """Multi-head attention whose four projections have given names.

    Attributes:
      heads: h.
      head_width: c.
      width: of the output.
      names: of the projections to queries, keys and values, and of the output's.
      bias: whether they have biases.
      scale: factor of the scores; None for 1 / √c.
      dtype: of the computation; the softmax is in float32.
    """

    heads: int
    head_width: int
    width: int
    names: tuple[str, str, str, str]
    bias: bool = True
    scale: float | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the projections."""
        inner = self.heads * self.head_width
        self.query, self.key, self.value, self.out = (
            Linear(width, use_bias=self.bias, dtype=self.dtype, name=name)
            for width, name in zip((inner, inner, inner, self.width), self.names, strict=True)
        )

    def project(self, x: Float[Array, "*batch n H"]) -> KeyValue:
        """Keys and values [...,h,n,c] of what is attended to."""
        return KeyValue(*(split_heads(part(x), self.heads) for part in (self.key, self.value)))

    def __call__(self, x: Float[Array, "*batch m H"], kv: KeyValue, bias: Array) -> Array:
        """Attends from `x` to `kv`, see `attend`."""
        scale = self.head_width**-0.5 if self.scale is None else self.scale
        return self.out(attend(split_heads(self.query(x), self.heads), kv, bias, scale))


def written(cache: KeyValue, new: KeyValue, position: Array) -> KeyValue:
    """The cache [...,h,n,c] with one position's keys and values [...,h,1,c] put in its place."""
    return KeyValue(
        *(
            jax.lax.dynamic_update_slice_in_dim(old, one.astype(old.dtype), position, axis=-2)
            for old, one in zip(cache, new, strict=True)
        )
    )


def cache_bias(cache: KeyValue, position: Array) -> Float[Array, "n"]:
    """Hides what a cache holds of positions after this one."""
    return bias_of(jnp.arange(cache.key.shape[-2]) <= position)
