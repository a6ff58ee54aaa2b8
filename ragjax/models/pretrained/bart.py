"""BART (Lewis et al., arXiv 1910.13461): an encoder and a decoder, the generator of RAG."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ragjax.errors import require
from ragjax.models.layers import ZEROS, KeyValue, LayerNorm, Linear
from ragjax.models.pretrained.layers import (
    ACTIVATIONS,
    EncoderDecoder,
    NamedAttention,
    cache_bias,
    through,
    written,
)
from ragjax.models.pretrained.sizes import activation_of, field_of, require_positions

NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")
OFFSET = 2  # rows before the first position, an inheritance of fairseq


@dataclass(frozen=True)
class Stack:
    """The sizes of an encoder or a decoder.

    Attributes:
      layers: number of layers.
      heads: attention heads of each.
      hidden: width of the feed-forward layers.
    """

    layers: int
    heads: int
    hidden: int


@dataclass(frozen=True)
class Bart:
    """The sizes of a BART model.

    Attributes:
      vocab_size: V.
      width: H.
      encoder: its stack.
      decoder: its stack.
      positions: the longest text, in tokens.
      activation: of the feed-forward layers.
      scaled: whether embeddings are multiplied by √H.
      start: the token that decoding starts from.
      pad: the token of padding.
      end: the token that ends a text.
    """

    vocab_size: int
    width: int
    encoder: Stack
    decoder: Stack
    positions: int
    activation: str
    scaled: bool
    start: int
    pad: int
    end: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str, names: Collection[str]) -> "Bart":
        """Reads config.json; `where` names it in messages, and `names` are those of its tensors."""
        del names
        number = partial(field_of, config, kind=int, where=where)

        def stack(name):
            return Stack(
                number(f"{name}_layers"),
                number(f"{name}_attention_heads"),
                number(f"{name}_ffn_dim"),
            )

        tied = config.get("tie_word_embeddings", True)
        require(
            tied, f"{where}: config.json has tie_word_embeddings {tied!r}; only true is supported."
        )
        return cls(
            vocab_size=number("vocab_size"),
            width=number("d_model"),
            encoder=stack("encoder"),
            decoder=stack("decoder"),
            positions=number("max_position_embeddings"),
            activation=activation_of(config, "activation_function", where),
            scaled=bool(config.get("scale_embedding", False)),
            start=number("decoder_start_token_id"),
            pad=number("pad_token_id"),
            end=number("eos_token_id"),
        )

    @property
    def unused(self) -> str:
        """What a checkpoint may hold beside: the embedding again, under its other names."""
        return r"(model\.(encoder|decoder)\.embed_tokens|lm_head)\.weight"


class BartLayer(nn.Module):
    """A post-norm layer; of the decoder, it also attends to what the encoder has read.

    Attributes:
      sizes: of the model.
      stack: of the encoder or decoder.
      crosses: whether it is of the decoder.
      dtype: of the computation.
    """

    sizes: Bart
    stack: Stack
    crosses: bool
    dtype: DTypeLike

    def setup(self):
        """Creates the sublayers."""
        sizes, heads = self.sizes, self.stack.heads
        attention = partial(
            NamedAttention, heads, sizes.width // heads, sizes.width, NAMES, dtype=self.dtype
        )
        norm = partial(LayerNorm, epsilon=1e-5, dtype=self.dtype)
        self.self_attn, self.self_attn_layer_norm = attention(), norm()
        if self.crosses:
            self.encoder_attn, self.encoder_attn_layer_norm = attention(), norm()
        self.fc1 = Linear(self.stack.hidden, dtype=self.dtype)
        self.fc2 = Linear(sizes.width, dtype=self.dtype)
        self.final_layer_norm = norm()

    def project_memory(self, memory: Float[Array, "*batch S H"]) -> KeyValue:
        """Keys and values of the source."""
        return self.encoder_attn.project(memory)

    def __call__(
        self, x: Array, bias: Array, cross: KeyValue | None = None, cross_bias: Array | None = None
    ) -> Array:
        """Maps [...,n,H] -> [...,n,H], all positions at once."""
        return self._finish(x, self.self_attn.project(x), bias, cross, cross_bias)

    def step(
        self, x: Array, cache: KeyValue, cross: KeyValue, cross_bias: Array, position: Array
    ) -> tuple[Array, KeyValue]:
        """One decoding step: [...,1,H] at `position`; the cache holds the positions before it."""
        cache = written(cache, self.self_attn.project(x), position)
        return self._finish(x, cache, cache_bias(cache, position), cross, cross_bias), cache

    def _finish(self, x: Array, kv: KeyValue, bias: Array, cross: Any, cross_bias: Any) -> Array:
        x = self.self_attn_layer_norm(x + self.self_attn(x, kv, bias))
        if self.crosses:
            x = self.encoder_attn_layer_norm(x + self.encoder_attn(x, cross, cross_bias))
        hidden = self.fc2(ACTIVATIONS[self.sizes.activation](self.fc1(x)))
        return self.final_layer_norm(x + hidden)


class BartStack(nn.Module):
    """The encoder or the decoder.

    Attributes:
      sizes: of the model.
      stack: of its layers.
      crosses: whether it is the decoder.
      dtype: of the computation.
      remat: see `through`.
    """

    sizes: Bart
    stack: Stack
    crosses: bool
    dtype: DTypeLike
    remat: bool

    def setup(self):
        """Creates positions and layers."""
        sizes = self.sizes
        self.embed_positions = nn.Embed(sizes.positions + OFFSET, sizes.width, dtype=self.dtype)
        self.layernorm_embedding = LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.layers = [
            BartLayer(sizes, self.stack, self.crosses, self.dtype, name=f"layers.{number}")
            for number in range(self.stack.layers)
        ]

    def _placed(self, x: Array, positions: Array) -> Array:
        return self.layernorm_embedding(x + self.embed_positions(positions + OFFSET))

    def project(self, memory: Float[Array, "*batch S H"]) -> tuple[KeyValue, ...]:
        """Keys and values of the source for each layer."""
        return tuple(layer.project_memory(memory) for layer in self.layers)

    def __call__(self, x: Array, bias: Array, cross: Any = None, cross_bias: Any = None) -> Array:
        """The states of embedded tokens [...,n,H], all at once."""
        require_positions(x.shape[-2], self.sizes.positions)
        x = self._placed(x, jnp.arange(x.shape[-2]))
        for layer, kv in zip(self.layers, cross or (None,) * len(self.layers), strict=True):
            x = through(layer, self.remat, x, bias, kv, cross_bias)
        return x

    def step(
        self,
        x: Array,
        cache: tuple[KeyValue, ...],
        cross: tuple[KeyValue, ...],
        cross_bias: Array,
        position: Array,
    ) -> tuple[Array, tuple[KeyValue, ...]]:
        """The state of one embedded token [...,1,H] at `position`, and the cache with it."""
        x, caches = self._placed(x, position), []
        for layer, kv, source in zip(self.layers, cache, cross, strict=True):
            x, kv = layer.step(x, kv, source, cross_bias, position)
            caches.append(kv)
        return x, tuple(caches)


class BartModule(EncoderDecoder):
    """Encoder, decoder and the distribution over the next token.

    Attributes:
      sizes: of the layers.
      dtype: of the computation.
      remat: see `through`.
    """

    sizes: Bart
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self):
        """Creates embedding and stacks."""
        sizes = self.sizes
        self.shared = nn.Embed(sizes.vocab_size, sizes.width, dtype=self.dtype, name="model.shared")
        self.bias = self.param("final_logits_bias", ZEROS, (1, sizes.vocab_size))
        self.encoder, self.decoder = (
            BartStack(sizes, stack, crosses, self.dtype, self.remat, name=name)
            for stack, crosses, name in (
                (sizes.encoder, False, "model.encoder"),
                (sizes.decoder, True, "model.decoder"),
            )
        )

    def embed(self, tokens: Int[Array, "*batch n"]) -> Float[Array, "*batch n H"]:
        """The embeddings of tokens, without their positions."""
        return self.shared(tokens) * (self.sizes.width**0.5 if self.sizes.scaled else 1.0)

    def logits(self, states: Float[Array, "*batch T H"]) -> Float[Array, "*batch T V"]:
        """Scores of the token that comes next, float32."""
        bias = jax.lax.stop_gradient(self.bias[0])  # a buffer of the original, which nothing trains
        return self.shared.attend(states).astype(jnp.float32) + bias

    def init_cache(self, batch: tuple[int, ...], length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` decoding steps."""
        heads = self.sizes.decoder.heads
        empty = jnp.zeros((*batch, heads, length, self.sizes.width // heads), self.dtype)
        return (KeyValue(empty, empty),) * self.sizes.decoder.layers
