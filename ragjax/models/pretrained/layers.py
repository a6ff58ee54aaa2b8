"""Layers that the pretrained architectures share: attention by name, with a bias and a cache."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ragjax.models.layers import ONES, KeyValue, Linear

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
RmsNorm = partial(nn.RMSNorm, scale_init=ONES)

# Added to the scores of a position that is not attended to. Finite, so that a row without any position
# stays finite and can be ignored later.
HIDDEN = -1e9


def bias_of(mask: Bool[Array, "..."]) -> Float[Array, "..."]:
    """0 where the mask is True, and `HIDDEN` where it is not."""
    return jnp.where(mask, 0.0, HIDDEN).astype(jnp.float32)


def causal_bias(length: int) -> Float[Array, "m m"]:
    """Hides from each position those after it."""
    return bias_of(jnp.tril(jnp.ones((length, length), bool)))


def through(layer: nn.Module, remat: bool, *arguments: Any) -> Any:
    """What a layer computes; with `remat`, its gradient computes it again instead of keeping it."""
    call = nn.remat(lambda module, *given: module(*given)) if remat else type(layer).__call__
    return call(layer, *arguments)


def split_heads(x: Float[Array, "*batch n H"], heads: int) -> Float[Array, "*batch h n c"]:
    """[...,n,H] -> [...,heads,n,H/heads]."""
    return jnp.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def attend(
    query: Float[Array, "... h m c"],
    parts: Sequence[tuple[KeyValue, Float[Array, "..."]]],
    scale: float,
) -> Float[Array, "... m W"]:
    """Scaled dot-product attention.

    Where keys have g < h heads, h/g heads of queries in a row share each (arXiv 2305.13245).

    Args:
      query: [...,h,m,c].
      parts: what is attended to, as one: keys and values [...,g,n,c], broadcast against the query's
        leading axes, and float32 biases, broadcastable to [...,h,m,n], which are added to the scores.
      scale: factor of the scores.

    Returns:
      [...,m,h*c], heads joined.
    """
    heads, asking, width = query.shape[-3:]
    groups = parts[0][0].key.shape[-3]
    # Queries that share keys are rows of one product; keys are never repeated.
    folded = query.reshape(*query.shape[:-3], groups, -1, width)
    scores = []
    for kv, bias in parts:
        part = jnp.einsum("...mc,...nc->...mn", folded, kv.key).astype(jnp.float32) * scale
        scores.append(part.reshape(*part.shape[:-3], heads, asking, -1) + bias)
    joined = scores[0] if len(scores) == 1 else jnp.concatenate(scores, axis=-1)
    weights = jax.nn.softmax(joined, axis=-1).astype(query.dtype)
    weights = weights.reshape(*weights.shape[:-3], groups, -1, weights.shape[-1])
    mixed, begin = jnp.zeros((), query.dtype), 0
    for kv, _ in parts:
        end = begin + kv.value.shape[-2]
        mixed = mixed + jnp.einsum("...mn,...nc->...mc", weights[..., begin:end], kv.value)
        begin = end
    mixed = jnp.swapaxes(mixed.reshape(*mixed.shape[:-3], heads, asking, width), -2, -3)
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
        return self.out(attend(split_heads(self.query(x), self.heads), ((kv, bias),), scale))


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


class EncoderDecoder(nn.Module):
    """What models have in common that write while they look at a source.

    A subclass gives the stacks `encoder` and `decoder`, and `embed`, `logits` and `init_cache`.
    """

    def encode(
        self, tokens: Int[Array, "*batch S"], mask: Bool[Array, "*batch S"]
    ) -> Float[Array, "*batch S H"]:
        """The encoder's states of [...,S] tokens; where `mask` is False, nothing is attended to."""
        return self.encoder(self.embed(tokens), bias_of(mask)[..., None, None, :])

    def project(self, memory: Float[Array, "*batch S H"]) -> tuple[KeyValue, ...]:
        """Keys and values of the source for each layer of the decoder, computed once."""
        return self.decoder.project(memory)

    def decode(
        self,
        tokens: Int[Array, "*fed T"],
        cross: tuple[KeyValue, ...],
        mask: Bool[Array, "*batch S"],
    ) -> Float[Array, "*batch T H"]:
        """Teacher forcing: the states after each of [...,T] tokens that are fed.

        Their leading axes broadcast against the sources', which may share what is fed.
        """
        source = bias_of(mask)[..., None, None, :]
        return self.decoder(self.embed(tokens), causal_bias(tokens.shape[-1]), cross, source)

    def step(
        self,
        token: Int[Array, "*batch"],
        cache: tuple[KeyValue, ...],
        cross: tuple[KeyValue, ...],
        mask: Bool[Array, "*batch S"],
        position: Array,
    ) -> tuple[Float[Array, "*batch H"], tuple[KeyValue, ...]]:
        """The state after the token that is fed at `position`, and the cache with it."""
        source = bias_of(mask)[..., None, None, :]
        x, cache = self.decoder.step(self.embed(token[..., None]), cache, cross, source, position)
        return x[..., 0, :], cache

    def __call__(
        self,
        tokens: Int[Array, "*batch S"],
        mask: Bool[Array, "*batch S"],
        fed: Int[Array, "*batch T"],
    ) -> Float[Array, "*batch T V"]:
        """Scores of the token after each of [...,T] that are fed, given a source of [...,S] tokens."""
        cross = self.project(self.encode(tokens, mask))
        return self.logits(self.decode(fed, cross, mask))
