"""Layers that encoders, readers and policies share: of transformers, and perceptrons."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu}


def traced_once(initializer: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """The same initialiser, traced once for each shape and dtype.

    Flax traces a parameter's initialiser anew whenever a module is applied, to compare shapes; for
    programs that read that took a seventh of all tracing.
    """
    traced = jax.jit(initializer, static_argnums=(1, 2))

    def initialize(key, shape, dtype=jnp.float32):
        return traced(key, tuple(shape), dtype)  # Flax's LayerNorm gives a list

    return initialize


ZEROS, ONES = traced_once(nn.initializers.zeros), traced_once(nn.initializers.ones)


@functools.cache
def normal(deviation: float) -> nn.initializers.Initializer:
    """Normal initialisation with a standard deviation."""
    return traced_once(nn.initializers.normal(deviation))


# Flax's layers as they come, but for the cost of their tracing.
Linear = functools.partial(
    nn.Dense, kernel_init=traced_once(nn.linear.default_kernel_init), bias_init=ZEROS
)
LayerNorm = functools.partial(nn.LayerNorm, scale_init=ONES, bias_init=ZEROS)


class KeyValue(NamedTuple):
    """Projected keys and values of one attention layer, both [..., heads, n, H / heads]."""

    key: Array
    value: Array

    def fused(self) -> "KeyValue":
        """Those of [B,K] sources as of B: [B,K,heads,n,c] -> [B,1,heads,K*n,c]."""

        def joined(x: Array) -> Array:
            batch, _, heads, _, width = x.shape
            return jnp.swapaxes(x, 1, 2).reshape(batch, 1, heads, -1, width)

        return KeyValue(joined(self.key), joined(self.value))


def sinusoidal_positions(length: int, width: int) -> Float[Array, "n H"]:
    """Position vectors of Vaswani et al. (arXiv 1706.03762, section 3.5); any length, no parameters."""
    return position_vectors(jnp.arange(length), width)


def position_vectors(positions: Array, width: int) -> Array:
    """The position vectors of the given integer positions [...] -> [...,width]."""
    frequency = jnp.exp(-jnp.log(10_000.0) * jnp.arange(0, width, 2, jnp.float32) / width)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)[..., :width]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention whose keys and values are projected apart.

    Attributes:
      width: H.
      heads: number of heads; divides H.
      dtype: of the computation; the softmax is in float32.
    """

    width: int
    heads: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the four projections."""
        dense = lambda: Linear(self.width, use_bias=False, dtype=self.dtype)  # noqa: E731
        self.query, self.key, self.value, self.out = dense(), dense(), dense(), dense()

    def _split(self, x: Array) -> Array:
        return jnp.swapaxes(x.reshape(*x.shape[:-1], self.heads, -1), -2, -3)

    def project(self, x: Float[Array, "*batch n H"]) -> KeyValue:
        """Projects the attended sequence to keys and values [..., heads, n, H / heads]."""
        return KeyValue(self._split(self.key(x)), self._split(self.value(x)))

    def logits(self, x: Float[Array, "*batch m H"], kv: KeyValue) -> Array:
        """The scores [...,heads,m,n] before mask and softmax, float32."""
        query = self._split(self.query(x))
        logits = jnp.einsum("...hmc,...hnc->...hmn", query, kv.key).astype(jnp.float32)
        return logits / jnp.sqrt(jnp.float32(query.shape[-1]))

    def __call__(
        self, x: Float[Array, "*batch m H"], kv: KeyValue, mask: Bool[Array, "..."]
    ) -> Float[Array, "*batch m H"]:
        """Attends from `x` to `kv`.

        Args:
          x: [...,m,H].
          kv: keys and values of n positions.
          mask: broadcastable to [...,heads,m,n]; False hides a position.

        Returns:
          [...,m,H].
        """
        logits = self.logits(x, kv)
        # A large finite number: a row that is masked throughout stays finite and is ignored later.
        weights = jax.nn.softmax(jnp.where(mask, logits, -1e9), axis=-1).astype(self.dtype)
        mixed = jnp.einsum("...hmn,...hnc->...hmc", weights, kv.value)
        mixed = jnp.swapaxes(mixed, -2, -3)
        return self.out(mixed.reshape(*mixed.shape[:-2], self.width))


class FeedForward(nn.Module):
    """Two dense layers with a tanh-GELU between them, 4 H wide."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... H"]:
        """Maps [...,H] -> [...,H]."""
        hidden = jax.nn.gelu(Linear(4 * self.width, dtype=self.dtype)(x), approximate=True)
        return Linear(self.width, dtype=self.dtype)(hidden)


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer that attends in both directions."""

    width: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch n H"], mask: Bool[Array, "*batch n"]
    ) -> Float[Array, "*batch n H"]:
        """Maps [...,n,H] -> [...,n,H]; positions where `mask` is False are not attended to."""
        attention = Attention(self.width, self.heads, self.dtype)
        normed = LayerNorm(dtype=self.dtype)(x)
        x = x + attention(normed, attention.project(normed), mask[..., None, None, :])
        return x + FeedForward(self.width, self.dtype)(LayerNorm(dtype=self.dtype)(x))


class DecoderLayer(nn.Module):
    """A pre-norm transformer layer: causal self-attention, cross-attention, feed-forward."""

    width: int
    heads: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the sublayers."""
        self.self_attention = Attention(self.width, self.heads, self.dtype)
        self.cross_attention = Attention(self.width, self.heads, self.dtype)
        self.feed_forward = FeedForward(self.width, self.dtype)
        self.self_norm = LayerNorm(dtype=self.dtype)
        self.cross_norm = LayerNorm(dtype=self.dtype)
        self.feed_norm = LayerNorm(dtype=self.dtype)

    def project_memory(self, memory: Float[Array, "*batch S H"]) -> KeyValue:
        """Keys and values of the source, computed once for all decoding steps."""
        return self.cross_attention.project(memory)

    def __call__(self, x: Array, cross: KeyValue, source_mask: Array) -> Array:
        """Teacher forcing: maps all m target positions [...,m,H] -> [...,m,H] at once."""
        return self._attend_source(self._attend_target(x), cross, source_mask)

    def cross_logits(self, x: Array, cross: KeyValue) -> Array:
        """Teacher forcing: the cross-attention's scores [...,heads,m,S] before mask and softmax."""
        return self.cross_attention.logits(self.cross_norm(self._attend_target(x)), cross)

    def step(
        self, x: Array, cache: KeyValue, cross: KeyValue, source_mask: Array, position: Array
    ) -> tuple[Array, KeyValue]:
        """One decoding step: [...,1,H] at `position`; the cache holds the positions before it."""
        normed = self.self_norm(x)
        new = self.self_attention.project(normed)
        cache = KeyValue(
            jax.lax.dynamic_update_slice_in_dim(cache.key, new.key, position, axis=-2),
            jax.lax.dynamic_update_slice_in_dim(cache.value, new.value, position, axis=-2),
        )
        seen = jnp.arange(cache.key.shape[-2]) <= position
        x = x + self.self_attention(normed, cache, seen)
        return self._attend_source(x, cross, source_mask), cache

    def _attend_target(self, x: Array) -> Array:
        normed = self.self_norm(x)
        causal = jnp.tril(jnp.ones((x.shape[-2], x.shape[-2]), bool))
        return x + self.self_attention(normed, self.self_attention.project(normed), causal)

    def _attend_source(self, x: Array, cross: KeyValue, source_mask: Array) -> Array:
        x = x + self.cross_attention(self.cross_norm(x), cross, source_mask[..., None, None, :])
        return x + self.feed_forward(self.feed_norm(x))


@functools.cache
def orthogonal(scale: float) -> nn.initializers.Initializer:
    """Orthogonal initialisation, one matrix at a time also under `vmap`.

    Batched factorisations that run side by side can wait for each other for ever in jaxlib 0.10 on a
    CPU: each holds a thread of the pool that the others' parts are queued in.
    """
    init = nn.initializers.orthogonal(scale)

    def sequential(key, shape, dtype):
        return jax.custom_batching.sequential_vmap(lambda key: init(key, shape, dtype))(key)

    return traced_once(sequential)


class Perceptron(nn.Module):
    """Hidden layers and a linear output, all orthogonally initialised.

    Attributes:
      hidden: widths of the hidden layers.
      outputs: width of the output.
      activation: name of the nonlinearity.
      output_scale: gain of the output layer's initialiser; 0 starts it at zero.
      bias: whether layers have one.
    """

    hidden: Sequence[int]
    outputs: int
    activation: str
    output_scale: float
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[...,n] -> [...,outputs]."""
        for width in self.hidden:
            init = orthogonal(math.sqrt(2))
            x = ACTIVATIONS[self.activation](Linear(width, self.bias, kernel_init=init)(x))
        init = orthogonal(self.output_scale)
        return Linear(self.outputs, self.bias, kernel_init=init)(x)


def unit_length(x: Float[Array, "... D"], *, smooth: bool = False) -> Float[Array, "... D"]:
    """Divides by the Euclidean norm; a zero vector stays zero, with a finite gradient.

    Args:
      x: [...,D].
      smooth: whether short vectors are kept from the division by a term added to the squared norm,
        instead of a least value of it.
    """
    if smooth:
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-12)
    return x * jnp.reciprocal(jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12)))
