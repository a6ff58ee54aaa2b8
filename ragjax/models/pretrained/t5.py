"""T5 (Raffel et al., arXiv 1910.10683), versions 1.0 (relu) and 1.1 (gated GELU)."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import require
from ragjax.models.layers import ONES, KeyValue, Linear
from ragjax.models.pretrained.attention import (
    NamedAttention,
    bias_of,
    cache_bias,
    causal_bias,
    written,
)
from ragjax.models.pretrained.parameters import field_of

NAMES = ("q", "k", "v", "o")
FEED_FORWARDS = ("relu", "gated-gelu")


@dataclass(frozen=True)
class T5:
    """The sizes of a T5 model.

    Attributes:
      vocab_size: V.
      width: H.
      head_width: of each attention head.
      heads: attention heads of each layer.
      hidden: width of the feed-forward layers.
      encoder_layers: of the encoder.
      decoder_layers: of the decoder.
      buckets: of relative positions.
      distance: from which on all positions share a bucket.
      feed_forward: relu or gated-gelu.
      epsilon: of the layer norms.
      scaled: whether states are divided by √H before the output's scores (version 1.0).
      tied: whether the embedding is also the output's.
      start: the token that decoding starts from.
      pad: the token of padding.
      end: the token that ends a text.
    """

    vocab_size: int
    width: int
    head_width: int
    heads: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    buckets: int
    distance: int
    feed_forward: str
    epsilon: float
    scaled: bool
    tied: bool
    start: int
    pad: int
    end: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str, names: Collection[str]) -> "T5":
        """Reads config.json; `where` names it in messages, and `names` are those of its tensors."""
        number = partial(field_of, config, kind=int, where=where)
        feed_forward = config.get("feed_forward_proj", "relu")
        require(
            feed_forward in FEED_FORWARDS,
            f"{where}: config.json has feed_forward_proj {feed_forward!r}; only "
            f"{' and '.join(FEED_FORWARDS)} are supported.",
        )
        # transformers 5 writes that a model is tied even if it is not, and this field beside it.
        own_head = config.get("tie_word_embeddings", True) is False
        scaled = bool(config.get("scale_decoder_outputs", not own_head))
        return cls(
            vocab_size=number("vocab_size"),
            width=number("d_model"),
            head_width=number("d_kv"),
            heads=number("num_heads"),
            hidden=number("d_ff"),
            encoder_layers=number("num_layers"),
            decoder_layers=config.get("num_decoder_layers") or number("num_layers"),
            buckets=number("relative_attention_num_buckets"),
            distance=config.get("relative_attention_max_distance", 128),
            feed_forward=feed_forward,
            epsilon=field_of(config, "layer_norm_epsilon", (int, float), where),
            scaled=scaled,
            tied=scaled or "lm_head.weight" not in names,
            start=number("decoder_start_token_id"),
            pad=number("pad_token_id"),
            end=number("eos_token_id"),
        )

    @property
    def unused(self) -> str:
        """What a checkpoint may hold beside: the embedding again, and a table that nothing reads."""
        cross = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
        again = r"(encoder|decoder)\.embed_tokens\.weight"
        return "|".join((cross, again, *([r"lm_head\.weight"] if self.tied else [])))


def bucket_of(
    offset: Int[Array, "..."], *, both_ways: bool, buckets: int, distance: int
) -> Int[Array, "..."]:
    """The bucket of a relative position: exact for near ones, logarithmic for far ones.

    Args:
      offset: position attended to, less the one that attends.
      both_ways: whether positions ahead have buckets of their own; else they share that of 0.
      buckets: number of buckets.
      distance: from which on all share the last one.
    """
    ahead = jnp.zeros_like(offset)
    if both_ways:
        buckets //= 2
        ahead = jnp.where(offset > 0, buckets, 0)
        behind = jnp.abs(offset)
    else:
        behind = jnp.maximum(-offset, 0)
    exact = buckets // 2
    far = jnp.log(jnp.maximum(behind, 1) / exact) / math.log(distance / exact) * (buckets - exact)
    far = jnp.minimum(exact + far.astype(jnp.int32), buckets - 1)
    return ahead + jnp.where(behind < exact, behind, far)


class Norm(nn.Module):
    """Division by the root mean square, then a learned factor; without mean or shift."""

    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... H"]:
        """Maps [...,H] -> [...,H]; the mean square is taken in float32."""
        scale = self.param("scale", ONES, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (scale * (wide * jax.lax.rsqrt(square + self.epsilon))).astype(self.dtype)


class FeedForward(nn.Module):
    """Two layers, or three where one gates another."""

    sizes: T5
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... H"]:
        """Maps [...,H] -> [...,H]."""
        linear = partial(Linear, use_bias=False, dtype=self.dtype)
        if self.sizes.feed_forward == "relu":
            hidden = jax.nn.relu(linear(self.sizes.hidden, name="wi")(x))
        else:
            gate = jax.nn.gelu(linear(self.sizes.hidden, name="wi_0")(x), approximate=True)
            hidden = gate * linear(self.sizes.hidden, name="wi_1")(x)
        return linear(self.sizes.width, name="wo")(hidden)


class T5Layer(nn.Module):
    """A pre-norm layer; of the decoder, it also attends to what the encoder has read.

    Attributes:
      sizes: of the model.
      crosses: whether it is of the decoder.
      dtype: of the computation.
    """

    sizes: T5
    crosses: bool
    dtype: DTypeLike

    def setup(self):
        """Creates the sublayers."""
        sizes = self.sizes
        attention = partial(
            NamedAttention,
            sizes.heads,
            sizes.head_width,
            sizes.width,
            NAMES,
            bias=False,
            scale=1.0,
            dtype=self.dtype,
        )
        norm = partial(Norm, sizes.epsilon, self.dtype)
        self.own = attention(name="layer.0.SelfAttention")
        self.own_norm = norm(name="layer.0.layer_norm")
        if self.crosses:
            self.cross = attention(name="layer.1.EncDecAttention")
            self.cross_norm = norm(name="layer.1.layer_norm")
        last = f"layer.{1 + self.crosses}"
        self.feed_forward = FeedForward(sizes, self.dtype, name=f"{last}.DenseReluDense")
        self.feed_norm = norm(name=f"{last}.layer_norm")

    def project_memory(self, memory: Float[Array, "*batch S H"]) -> KeyValue:
        """Keys and values of the source."""
        return self.cross.project(memory)

    def __call__(
        self, x: Array, bias: Array, cross: KeyValue | None = None, cross_bias: Array | None = None
    ) -> Array:
        """Maps [...,n,H] -> [...,n,H], all positions at once."""
        normed = self.own_norm(x)
        return self._finish(x, normed, self.own.project(normed), bias, cross, cross_bias)

    def step(
        self,
        x: Array,
        cache: KeyValue,
        bias: Array,
        cross: KeyValue,
        cross_bias: Array,
        position: Array,
    ) -> tuple[Array, KeyValue]:
        """One decoding step: [...,1,H] at `position`; the cache holds the positions before it."""
        normed = self.own_norm(x)
        cache = written(cache, self.own.project(normed), position)
        return self._finish(x, normed, cache, bias, cross, cross_bias), cache

    def _finish(
        self, x: Array, normed: Array, kv: KeyValue, bias: Array, cross: Any, cross_bias: Any
    ) -> Array:
        x = x + self.own(normed, kv, bias)
        if self.crosses:
            x = x + self.cross(self.cross_norm(x), cross, cross_bias)
        return x + self.feed_forward(self.feed_norm(x))


class T5Module(nn.Module):
    """Encoder, decoder and the distribution over the next token, as `BartModule`.

    Attributes:
      sizes: of the layers.
      dtype: of the computation.
    """

    sizes: T5
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates embeddings and stacks."""
        sizes = self.sizes
        self.shared = nn.Embed(sizes.vocab_size, sizes.width, dtype=self.dtype, name="shared")
        if not sizes.tied:
            self.head = Linear(sizes.vocab_size, use_bias=False, dtype=self.dtype, name="lm_head")
        for side, layers in (("encoder", sizes.encoder_layers), ("decoder", sizes.decoder_layers)):
            places = nn.Embed(
                sizes.buckets,
                sizes.heads,
                name=f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
            )
            blocks = [
                T5Layer(sizes, side == "decoder", self.dtype, name=f"{side}.block.{number}")
                for number in range(layers)
            ]
            setattr(self, f"{side}_places", places)
            setattr(self, f"{side}_layers", blocks)
            norm = Norm(sizes.epsilon, self.dtype, name=f"{side}.final_layer_norm")
            setattr(self, f"{side}_norm", norm)

    def _places(self, table: nn.Embed, asking: Array, length: int, both_ways: bool) -> Array:
        """[h,m,n] what is added to the scores for where m asking positions stand to n others."""
        offset = jnp.arange(length) - asking[:, None]
        bucket = bucket_of(
            offset,
            both_ways=both_ways,
            buckets=self.sizes.buckets,
            distance=self.sizes.distance,
        )
        return jnp.moveaxis(table(bucket), -1, 0)

    def encode(
        self, tokens: Int[Array, "*batch S"], mask: Bool[Array, "*batch S"]
    ) -> Float[Array, "*batch S H"]:
        """The encoder's states of [...,S] tokens."""
        length = tokens.shape[-1]
        places = self._places(self.encoder_places, jnp.arange(length), length, True)
        x, bias = self.shared(tokens), places + bias_of(mask)[..., None, None, :]
        for layer in self.encoder_layers:
            x = layer(x, bias)
        return self.encoder_norm(x)

    def project(self, memory: Float[Array, "*batch S H"]) -> tuple[KeyValue, ...]:
        """Keys and values of the source for each layer of the decoder, computed once."""
        return tuple(layer.project_memory(memory) for layer in self.decoder_layers)

    def decode(
        self,
        tokens: Int[Array, "*batch T"],
        cross: tuple[KeyValue, ...],
        mask: Bool[Array, "*batch S"],
    ) -> Float[Array, "*batch T H"]:
        """Teacher forcing: the states after each of [...,T] tokens that are fed."""
        length = tokens.shape[-1]
        places = self._places(self.decoder_places, jnp.arange(length), length, False)
        x, bias = self.shared(tokens), places + causal_bias(length)
        for layer, kv in zip(self.decoder_layers, cross, strict=True):
            x = layer(x, bias, kv, bias_of(mask)[..., None, None, :])
        return self.decoder_norm(x)

    def logits(self, states: Float[Array, "*batch T H"]) -> Float[Array, "*batch T V"]:
        """Scores of the token that comes next, float32."""
        if self.sizes.scaled:
            states = states * self.sizes.width**-0.5
        head = self.shared.attend if self.sizes.tied else self.head
        return head(states).astype(jnp.float32)

    def __call__(self, tokens: Array, mask: Array, fed: Array) -> Float[Array, "*batch T V"]:
        """Scores of the token after each of [...,T] that are fed, given a source of [...,S] tokens."""
        cross = self.project(self.encode(tokens, mask))
        return self.logits(self.decode(fed, cross, mask))

    def init_cache(self, batch: tuple[int, ...], length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` decoding steps."""
        sizes = self.sizes
        empty = jnp.zeros((*batch, sizes.heads, length, sizes.head_width), self.dtype)
        return (KeyValue(empty, empty),) * sizes.decoder_layers

    def step(
        self,
        token: Int[Array, "*batch"],
        cache: tuple[KeyValue, ...],
        cross: tuple[KeyValue, ...],
        mask: Bool[Array, "*batch S"],
        position: Array,
    ) -> tuple[Float[Array, "*batch H"], tuple[KeyValue, ...]]:
        """The state after the token that is fed at `position`, and the cache with it."""
        x, length = self.shared(token[..., None]), cache[0].key.shape[-2]
        places = self._places(self.decoder_places, position[None], length, False)
        bias, caches = places + cache_bias(cache[0], position), []
        source = bias_of(mask)[..., None, None, :]
        for layer, kv, attended in zip(self.decoder_layers, cache, cross, strict=True):
            x, kv = layer.step(x, kv, bias, attended, source, position)
            caches.append(kv)
        return self.decoder_norm(x)[..., 0, :], tuple(caches)
