"""BART (Lewis et al., arXiv 1910.13461): an encoder and a decoder, the generator of RAG."""

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
from ragjax.models.layers import ZEROS, KeyValue, LayerNorm, Linear
from ragjax.models.pretrained.attention import (
    NamedAttention,
    bias_of,
    cache_bias,
    causal_bias,
    written,
)
from ragjax.models.pretrained.bert import GELUS, activation_of, require_positions
from ragjax.models.pretrained.parameters import field_of

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
        hidden = self.fc2(GELUS[self.sizes.activation](self.fc1(x)))
        return self.final_layer_norm(x + hidden)


class BartModule(nn.Module):
    """Encoder, decoder and the distribution over the next token.

    Attributes:
      sizes: of the layers.
      dtype: of the computation.
    """

    sizes: Bart
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates embeddings and stacks."""
        sizes = self.sizes
        embed = partial(nn.Embed, features=sizes.width, dtype=self.dtype)
        norm = partial(LayerNorm, epsilon=1e-5, dtype=self.dtype)
        self.shared = embed(sizes.vocab_size, name="model.shared")
        self.bias = self.param("final_logits_bias", ZEROS, (1, sizes.vocab_size))
        for side, stack in (("encoder", sizes.encoder), ("decoder", sizes.decoder)):
            name = f"model.{side}"
            places = embed(sizes.positions + OFFSET, name=f"{name}.embed_positions")
            layers = [
                BartLayer(
                    sizes, stack, side == "decoder", self.dtype, name=f"{name}.layers.{number}"
                )
                for number in range(stack.layers)
            ]
            setattr(self, f"{side}_places", places)
            setattr(self, f"{side}_norm", norm(name=f"{name}.layernorm_embedding"))
            setattr(self, f"{side}_layers", layers)

    def _embed(
        self, tokens: Array, places: nn.Embed, positions: Array, norm: nn.LayerNorm
    ) -> Array:
        scale = self.sizes.width**0.5 if self.sizes.scaled else 1.0
        return norm(self.shared(tokens) * scale + places(positions + OFFSET))

    def encode(
        self, tokens: Int[Array, "*batch S"], mask: Bool[Array, "*batch S"]
    ) -> Float[Array, "*batch S H"]:
        """The encoder's states of [...,S] tokens."""
        length = tokens.shape[-1]
        require_positions(length, self.sizes.positions)
        x = self._embed(tokens, self.encoder_places, jnp.arange(length), self.encoder_norm)
        for layer in self.encoder_layers:
            x = layer(x, bias_of(mask)[..., None, None, :])
        return x

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
        require_positions(length, self.sizes.positions)
        x = self._embed(tokens, self.decoder_places, jnp.arange(length), self.decoder_norm)
        for layer, kv in zip(self.decoder_layers, cross, strict=True):
            x = layer(x, causal_bias(length), kv, bias_of(mask)[..., None, None, :])
        return x

    def logits(self, states: Float[Array, "*batch T H"]) -> Float[Array, "*batch T V"]:
        """Scores of the token that comes next, float32."""
        bias = jax.lax.stop_gradient(self.bias[0])  # a buffer of the original, which nothing trains
        return self.shared.attend(states).astype(jnp.float32) + bias

    def __call__(self, tokens: Array, mask: Array, fed: Array) -> Float[Array, "*batch T V"]:
        """Scores of the token after each of [...,T] that are fed, given a source of [...,S] tokens."""
        cross = self.project(self.encode(tokens, mask))
        return self.logits(self.decode(fed, cross, mask))

    def init_cache(self, batch: tuple[int, ...], length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` decoding steps."""
        heads = self.sizes.decoder.heads
        empty = jnp.zeros((*batch, heads, length, self.sizes.width // heads), self.dtype)
        return (KeyValue(empty, empty),) * self.sizes.decoder.layers

    def step(
        self,
        token: Int[Array, "*batch"],
        cache: tuple[KeyValue, ...],
        cross: tuple[KeyValue, ...],
        mask: Bool[Array, "*batch S"],
        position: Array,
    ) -> tuple[Float[Array, "*batch H"], tuple[KeyValue, ...]]:
        """The state after the token that is fed at `position`, and the cache with it."""
        x = self._embed(token[..., None], self.decoder_places, position, self.decoder_norm)
        bias, caches = bias_of(mask)[..., None, None, :], []
        for layer, kv, source in zip(self.decoder_layers, cache, cross, strict=True):
            x, kv = layer.step(x, kv, source, bias, position)
            caches.append(kv)
        return x[..., 0, :], tuple(caches)
