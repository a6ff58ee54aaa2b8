"""Decoder-only transformers of the Llama family: Llama, SmolLM2, Qwen2 and Qwen3.

RoPE (Su et al., arXiv 2104.09864), grouped queries (Ainslie et al., arXiv 2305.13245), RMSNorm and
SwiGLU, as Touvron et al. (arXiv 2302.13971) put them together.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import require
from ragjax.models.layers import KeyValue, Linear
from ragjax.models.pretrained.layers import (
    ACTIVATIONS,
    RmsNorm,
    attend,
    bias_of,
    cache_bias,
    causal_bias,
    split_heads,
    through,
    written,
)
from ragjax.models.pretrained.sizes import activation_of, field_of, require_positions


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 and later stretch the slow frequencies, to read longer texts than were trained on.

    Attributes:
      factor: by which the slowest are divided.
      low: wavelengths above `trained / low` are slow.
      high: wavelengths below `trained / high` stay as they are.
      trained: the positions of the training.
    """

    factor: float
    low: float
    high: float
    trained: int


@dataclass(frozen=True)
class Llama:
    """The sizes of a model.

    Attributes:
      vocab_size: V.
      width: H.
      layers: number of layers.
      heads: of queries.
      groups: heads of keys and values, which divide `heads`.
      head_width: of each head.
      hidden: width of the feed-forward layers.
      positions: the longest text, in tokens.
      activation: of the feed-forward layers.
      epsilon: of the norms.
      theta: base of the rotations' wavelengths.
      scaling: of the rotations, or None.
      biases: whether the projections to queries, keys and values have biases, and the output's.
      feed_biases: whether the feed-forward layers have biases.
      normed: whether queries and keys of each head are normed (Qwen3).
      tied: whether the embedding is also the output's.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    groups: int
    head_width: int
    hidden: int
    positions: int
    activation: str
    epsilon: float
    theta: float
    scaling: RopeScaling | None
    biases: tuple[bool, bool]
    feed_biases: bool
    normed: bool
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: str, names: Collection[str]) -> "Llama":
        """Reads config.json; `where` names it in messages, and `names` are those of its tensors."""
        del names
        number = partial(field_of, config, kind=int, where=where)
        kind = config.get("model_type")
        bias = bool(config.get("attention_bias", False))
        windows = config.get("use_sliding_window", False)
        require(
            not windows,
            f"{where}: config.json has use_sliding_window {windows!r}; only false is supported.",
        )
        theta, scaling = _rope(config, where)
        heads = number("num_attention_heads")
        return cls(
            vocab_size=number("vocab_size"),
            width=number("hidden_size"),
            layers=number("num_hidden_layers"),
            heads=heads,
            groups=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or number("hidden_size") // heads,
            hidden=number("intermediate_size"),
            positions=number("max_position_embeddings"),
            activation=activation_of(config, "hidden_act", where),
            epsilon=field_of(config, "rms_norm_eps", (int, float), where),
            theta=theta,
            scaling=scaling,
            biases=(True, False) if kind == "qwen2" else (bias, bias),
            feed_biases=bool(config.get("mlp_bias", False)),
            normed=kind == "qwen3",
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def unused(self) -> str:
        """What a checkpoint may hold beside: the embedding again, and frequencies that are computed."""
        frequencies = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
        return "|".join((frequencies, *([r"lm_head\.weight"] if self.tied else [])))


def _rope(config: Mapping[str, Any], where: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotations, as transformers 5 writes them or as earlier ones did."""
    found = {"rope_theta": config.get("rope_theta", 10_000.0)}
    found |= config.get("rope_scaling") or {}
    found |= config.get("rope_parameters") or {}
    kind = found.get("rope_type", found.get("type", "default"))  # "type" before transformers 4.43
    require(
        kind in ("default", "llama3"),
        f"{where}: config.json has rope_type {kind!r}; only default and llama3 are supported.",
    )
    scaling = None
    if kind == "llama3":
        names = (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
        scaling = RopeScaling(*(field_of(found, name, (int, float), where) for name in names))
    return float(found["rope_theta"]), scaling


def rotations(sizes: Llama, positions: Int[Array, "*batch n"]) -> tuple[Array, Array]:
    """Cosines and sines [...,n,c] by which queries and keys at positions are turned."""
    frequency = sizes.theta ** (-jnp.arange(0, sizes.head_width, 2, jnp.float32) / sizes.head_width)
    if sizes.scaling is not None:
        scaling = sizes.scaling
        length = 2 * math.pi / frequency
        share = (scaling.trained / length - scaling.low) / (scaling.high - scaling.low)
        share = jnp.clip(share, 0.0, 1.0)
        frequency = frequency * (share + (1 - share) / scaling.factor)
    angle = positions[..., None].astype(jnp.float32) * frequency
    angle = jnp.concatenate([angle, angle], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def turned(x: Array, turn: tuple[Array, Array]) -> Array:
    """Rotates the pairs (i, i + c/2) of [...,h,n,c]."""
    cosine, sine = (part[..., None, :, :].astype(x.dtype) for part in turn)
    first, second = jnp.split(x, 2, axis=-1)
    return x * cosine + jnp.concatenate([-second, first], axis=-1) * sine


class GroupedAttention(nn.Module):
    """Self-attention in which several heads of queries share the keys and values of one."""

    sizes: Llama
    dtype: DTypeLike

    def setup(self):
        """Creates the projections."""
        sizes = self.sizes
        linear = partial(Linear, dtype=self.dtype)
        inner, shared = sizes.heads * sizes.head_width, sizes.groups * sizes.head_width
        self.q_proj = linear(inner, use_bias=sizes.biases[0])
        self.k_proj = linear(shared, use_bias=sizes.biases[0])
        self.v_proj = linear(shared, use_bias=sizes.biases[0])
        self.o_proj = linear(sizes.width, use_bias=sizes.biases[1])
        if sizes.normed:
            self.q_norm = RmsNorm(epsilon=sizes.epsilon, dtype=self.dtype)
            self.k_norm = RmsNorm(epsilon=sizes.epsilon, dtype=self.dtype)

    def project(self, x: Float[Array, "*batch n H"], turn: tuple[Array, Array]) -> KeyValue:
        """Turned keys, and values, [...,g,n,c]."""
        key = split_heads(self.k_proj(x), self.sizes.groups)
        key = self.k_norm(key) if self.sizes.normed else key
        return KeyValue(turned(key, turn), split_heads(self.v_proj(x), self.sizes.groups))

    def __call__(
        self, x: Float[Array, "*batch m H"], turn: tuple[Array, Array], parts: Any
    ) -> Array:
        """Attends from `x` to `parts`, see `attend`."""
        sizes = self.sizes
        query = split_heads(self.q_proj(x), sizes.heads)
        query = turned(self.q_norm(query) if sizes.normed else query, turn)
        return self.o_proj(attend(query, parts, sizes.head_width**-0.5))


class LlamaLayer(nn.Module):
    """A pre-norm layer: attention to the positions before, and a gated feed-forward layer."""

    sizes: Llama
    dtype: DTypeLike

    def setup(self):
        """Creates the sublayers."""
        sizes = self.sizes
        linear = partial(Linear, use_bias=sizes.feed_biases, dtype=self.dtype)
        self.self_attn = GroupedAttention(sizes, self.dtype)
        self.input_layernorm = RmsNorm(epsilon=sizes.epsilon, dtype=self.dtype)
        self.post_attention_layernorm = RmsNorm(epsilon=sizes.epsilon, dtype=self.dtype)
        self.gate = linear(sizes.hidden, name="mlp.gate_proj")
        self.up = linear(sizes.hidden, name="mlp.up_proj")
        self.down = linear(sizes.width, name="mlp.down_proj")

    def __call__(
        self, x: Array, turn: tuple[Array, Array], bias: Array, before: Any = ()
    ) -> tuple[Array, KeyValue]:
        """Maps [...,n,H] -> [...,n,H], all positions at once; also its keys and values.

        `before` are keys and values of what was read before, with their bias, or nothing.
        """
        normed = self.input_layernorm(x)
        kv = self.self_attn.project(normed, turn)
        return self._finish(x, normed, turn, (*before, (kv, bias))), kv

    def step(
        self,
        x: Array,
        cache: KeyValue,
        turn: tuple[Array, Array],
        bias: Array,
        position: Array,
        before: Any = (),
    ) -> tuple[Array, KeyValue]:
        """One step: [...,1,H], whose keys and values go to `position` of the cache."""
        normed = self.input_layernorm(x)
        cache = written(cache, self.self_attn.project(normed, turn), position)
        return self._finish(x, normed, turn, (*before, (cache, bias))), cache

    def _finish(self, x: Array, normed: Array, turn: Any, parts: Any) -> Array:
        x = x + self.self_attn(normed, turn, parts)
        normed = self.post_attention_layernorm(x)
        activation = ACTIVATIONS[self.sizes.activation]
        return x + self.down(activation(self.gate(normed)) * self.up(normed))


class Prefix(NamedTuple):
    """A text that was read before, which what follows attends to.

    Attributes:
      layers: keys and values [...,g,n,c] of each layer.
      mask: [...,n] which of its places hold tokens that are attended to.
    """

    layers: tuple[KeyValue, ...]
    mask: Array

    def of_layers(self) -> list[tuple[tuple[KeyValue, Array]]]:
        """What each layer attends to, see `attend`."""
        bias = bias_of(self.mask)[..., None, None, :]
        return [((kv, bias),) for kv in self.layers]


class LlamaModule(nn.Module):
    """A language model: the distribution over the token after each.

    Texts may be padded on either side: positions count tokens that are read.

    Attributes:
      sizes: of the layers.
      dtype: of the computation.
      remat: see `through`.
    """

    sizes: Llama
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def setup(self):
        """Creates embedding and layers."""
        sizes = self.sizes
        self.embed_tokens = nn.Embed(
            sizes.vocab_size, sizes.width, dtype=self.dtype, name="model.embed_tokens"
        )
        self.layers = [
            LlamaLayer(sizes, self.dtype, name=f"model.layers.{number}")
            for number in range(sizes.layers)
        ]
        self.norm = RmsNorm(epsilon=sizes.epsilon, dtype=self.dtype, name="model.norm")
        if not sizes.tied:
            self.head = Linear(sizes.vocab_size, use_bias=False, dtype=self.dtype, name="lm_head")

    def _before(self, prefix: Prefix | None) -> tuple[Array | int, Any]:
        """How many tokens were read before, and what each layer attends to of them."""
        if prefix is None:
            return 0, [()] * self.sizes.layers
        return jnp.sum(prefix.mask, axis=-1, dtype=jnp.int32)[..., None], prefix.of_layers()

    def read(
        self,
        tokens: Int[Array, "*fed n"],
        mask: Bool[Array, "*fed n"],
        prefix: Prefix | None = None,
    ) -> tuple[Float[Array, "*batch n H"], tuple[KeyValue, ...]]:
        """The states after each of [...,n] tokens, and each layer's keys and values.

        Positions where `mask` is False are not attended to. The tokens go on from a prefix, if there
        is one, against whose leading axes theirs broadcast.
        """
        length = tokens.shape[-1]
        require_positions(
            length + (0 if prefix is None else prefix.mask.shape[-1]), self.sizes.positions
        )
        already, before = self._before(prefix)
        turn = rotations(self.sizes, already + jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0))
        bias = causal_bias(length) + bias_of(mask)[..., None, None, :]
        x, kvs = self.embed_tokens(tokens), []
        for layer, earlier in zip(self.layers, before, strict=True):
            x, kv = through(layer, self.remat, x, turn, bias, earlier)
            kvs.append(kv)
        return self.norm(x), tuple(kvs)

    def logits(self, states: Float[Array, "*batch n H"]) -> Float[Array, "*batch n V"]:
        """Scores of the token that comes next, float32."""
        head = self.embed_tokens.attend if self.sizes.tied else self.head
        return head(states).astype(jnp.float32)

    def __call__(self, tokens: Array, mask: Array) -> Float[Array, "*batch n V"]:
        """Scores of the token after each of [...,n] tokens."""
        return self.logits(self.read(tokens, mask)[0])

    def step(
        self,
        token: Int[Array, "*batch"],
        cache: tuple[KeyValue, ...],
        position: Array,
        prefix: Prefix | None = None,
    ) -> tuple[Float[Array, "*batch H"], tuple[KeyValue, ...]]:
        """The state after one more token.

        Args:
          token: [...] the tokens that are fed.
          cache: [...,g,n,c] of each layer, which holds the tokens before.
          position: [] where in the cache the tokens go.
          prefix: what was read before the cache began, if anything.

        Returns:
          The states [...,H], and the cache with the new keys and values.
        """
        already, before = self._before(prefix)
        turn = rotations(self.sizes, already + position[None])
        bias = cache_bias(cache[0], position)
        x, caches = self.embed_tokens(token[..., None]), []
        for layer, kv, earlier in zip(self.layers, cache, before, strict=True):
            x, kv = layer.step(x, kv, turn, bias, position, earlier)
            caches.append(kv)
        return self.norm(x)[..., 0, :], tuple(caches)

    def init_cache(self, batch: tuple[int, ...], length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` steps."""
        sizes = self.sizes
        empty = jnp.zeros((*batch, sizes.groups, length, sizes.head_width), self.dtype)
        return (KeyValue(empty, empty),) * sizes.layers
