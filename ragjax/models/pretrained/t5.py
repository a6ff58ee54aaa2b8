"""T5 (Raffel et al., arXiv 1910.10683), versions 1.0 (relu) and 1.1 (gated GELU)."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ragjax.errors import require
from ragjax.models.layers import KeyValue, Linear
from ragjax.models.pretrained.layers import (
    EncoderDecoder,
    NamedAttention,
    RmsNorm,
    cache_bias,
    through,
    written,
)
from ragjax.models.pretrained.sizes import field_of

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
      positions: the longest text, in tokens: any, for places are told by their distances.
    """

    positions: ClassVar[float] = math.inf

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
        norm = partial(RmsNorm, epsilon=sizes.epsilon, dtype=self.dtype)
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


class T5Stack(nn.Module):
    """The encoder or the decoder.

    Attributes:
      sizes: of the model.
      layers: how many.
      crosses: whether it is the decoder.
      dtype: of the computation.
      remat: see `through`.
    """

    sizes: T5
    layers: int
    crosses: bool
    dtype: DTypeLike
    remat: bool

    def setup(self):
        """Creates positions, layers and the last norm."""
        sizes = self.sizes
        place = "block.0.layer.0.SelfAttention.relative_attention_bias"
        self.places = nn.Embed(sizes.buckets, sizes.heads, name=place)
        self.blocks = [
            T5Layer(sizes, self.crosses, self.dtype, name=f"block.{number}")
            for number in range(self.layers)
        ]
        self.final_layer_norm = RmsNorm(epsilon=sizes.epsilon, dtype=self.dtype)

    def _placed(self, asking: Array, length: int) -> Float[Array, "h m n"]:
        """What is added to the scores for where m asking positions stand to n others."""
        bucket = bucket_of(
            jnp.arange(length) - asking[:, None],
            both_ways=not self.crosses,
            buckets=self.sizes.buckets,
            distance=self.sizes.distance,
        )
        return jnp.moveaxis(self.places(bucket), -1, 0)

    def project(self, memory: Float[Array, "*batch S H"]) -> tuple[KeyValue, ...]:
        """Keys and values of the source for each layer."""
        return tuple(block.project_memory(memory) for block in self.blocks)

    def __call__(self, x: Array, bias: Array, cross: Any = None, cross_bias: Any = None) -> Array:
        """The states of embedded tokens [...,n,H], all at once."""
        length = x.shape[-2]
        bias = bias + self._placed(jnp.arange(length), length)
        for block, kv in zip(self.blocks, cross or (None,) * len(self.blocks), strict=True):
            x = through(block, self.remat, x, bias, kv, cross_bias)
        return self.final_layer_norm(x)

    def step(
        self,
        x: Array,
        cache: tuple[KeyValue, ...],
        cross: tuple[KeyValue, ...],
        cross_bias: Array,
        position: Array,
    ) -> tuple[Array, tuple[KeyValue, ...]]:
        """The state of one embedded token [...,1,H] at `position`, and the cache with it."""
        placed = self._placed(position[None], cache[0].key.shape[-2])
        bias, caches = placed + cache_bias(cache[0], position), []
        for block, kv, source in zip(self.blocks, cache, cross, strict=True):
            x, kv = block.step(x, kv, bias, source, cross_bias, position)
            caches.append(kv)
        return self.final_layer_norm(x), tuple(caches)


class T5Module(EncoderDecoder):
    """Encoder, decoder and the distribution over the next token, as `BartModule`.

    Attributes:
      sizes: of the layers.
      dtype: of the computation.
      remat: see `through`.
    """

    sizes: T5
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self):
        """Creates embedding and stacks."""
        sizes = self.sizes
        self.shared = nn.Embed(sizes.vocab_size, sizes.width, dtype=self.dtype)
        if not sizes.tied:
            self.head = Linear(sizes.vocab_size, use_bias=False, dtype=self.dtype, name="lm_head")
        self.encoder = T5Stack(sizes, sizes.encoder_layers, False, self.dtype, self.remat)
        self.decoder = T5Stack(sizes, sizes.decoder_layers, True, self.dtype, self.remat)

    def embed(self, tokens: Int[Array, "*batch n"]) -> Float[Array, "*batch n H"]:
        """The embeddings of tokens."""
        return self.shared(tokens)

    def logits(self, states: Float[Array, "*batch T H"]) -> Float[Array, "*batch T V"]:
        """Scores of the token that comes next, float32."""
        if self.sizes.scaled:
            states = states * self.sizes.width**-0.5
        head = self.shared.attend if self.sizes.tied else self.head
        return head(states).astype(jnp.float32)

    def init_cache(self, batch: tuple[int, ...], length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` decoding steps."""
        sizes = self.sizes
        empty = jnp.zeros((*batch, sizes.heads, length, sizes.head_width), self.dtype)
        return (KeyValue(empty, empty),) * sizes.decoder_layers
