"""How pretrained language models read a question with a passage, and write an answer.

Each passage is read together with the question, as a template puts them, and by itself; `reader.py` says
what that computes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import UserError
from ragjax.models.buckets import read_by_length
from ragjax.models.layers import KeyValue
from ragjax.models.pretrained.layers import EncoderDecoder
from ragjax.models.pretrained.llama import LlamaModule, Prefix
from ragjax.types import BOS_ID, PAD_ID


class Template(NamedTuple):
    """What is read of a question and a passage, in tokens.

    Attributes:
      pieces: the three texts before, between and after the two slots.
      slots: "passage" and "question", in the order in which they are read.
    """

    pieces: tuple[tuple[int, ...], ...]
    slots: tuple[str, ...]

    def filled(
        self, question: Int[Array, "B Q"], passages: Int[Array, "B K P"]
    ) -> Int[Array, "B K S"]:
        """The texts, with padding wherever question or passage have it."""
        batch, count, _ = passages.shape
        given = {"passage": passages, "question": question[:, None]}
        parts = [given[slot] for slot in self.slots]
        before, between, after = (jnp.asarray(piece, jnp.int32) for piece in self.pieces)
        parts = [before, parts[0], between, parts[1], after]
        wide = [jnp.broadcast_to(part, (batch, count, part.shape[-1])) for part in parts]
        return jnp.concatenate(wide, axis=-1)


class EncoderDecoderMemory(NamedTuple):
    """B*K sources as a decoder sees them.

    Attributes:
      cross: keys and values of every decoder layer.
      mask: [B,K,S] True on tokens of the source.
    """

    cross: tuple[KeyValue, ...]
    mask: Array


class PretrainedReaderModule(nn.Module):
    """What pretrained readers have in common, see `ReaderModule`.

    Attributes:
      inner: the language model, whose parameters are those of this module.
      template: what is read.
      begin: the token that decoding starts from.
      never: tokens that are never written.
      buckets: widths at which texts are read, see `read_by_length`.
    """

    inner: Any
    template: Template
    begin: int
    never: tuple[int, ...]
    buckets: int = 1

    def setup(self):
        """Takes the parameters of the language model as its own."""
        nn.share_scope(self, self.inner)

    def _source(self, question: Array, passages: Array) -> Int[Array, "B K S"]:
        """The B*K texts, their padding behind: positions count from the left, and buckets are narrow."""
        tokens = self.template.filled(question, passages)
        place = jnp.argsort(tokens == PAD_ID, axis=-1, stable=True)
        return jnp.take_along_axis(tokens, place, axis=-1)

    def _read(self, read: Callable[..., Any], tokens: Int[Array, "B K S"]) -> Any:
        """What `read` (language model, [n,S] tokens, mask) gives of each text, as [B,K,...]."""
        batch, count, length = tokens.shape
        flat = tokens.reshape(-1, length)
        if self.buckets == 1 or self.is_initializing():
            out = read(self.inner, flat, flat != PAD_ID)
        else:
            # A pure function of the parameters, as control flow wants it.
            inner, params = self.inner.clone(parent=None), self.variables["params"]
            apply = nn.apply(read, inner)
            out = read_by_length(
                lambda *rows: apply({"params": params}, *rows), flat, flat != PAD_ID, self.buckets
            )
        return jax.tree.map(lambda leaf: leaf.reshape(batch, count, *leaf.shape[1:]), out)

    def _fed(self, tokens: Array) -> Array:
        """The tokens as the model knows them."""
        return jnp.where(tokens == BOS_ID, self.begin, tokens)

    def _shifted(self, target: Int[Array, "B T"]) -> Int[Array, "B 1 T"]:
        """What is fed before each token of a target; all passages share it."""
        start = jnp.full_like(target[:, :1], BOS_ID)
        return self._fed(jnp.concatenate([start, target[:, :-1]], axis=-1))[:, None]

    def _scores(self, states: Float[Array, "... H"]) -> Float[Array, "... V"]:
        """Scores of the token that comes next, float32."""
        logits = self.inner.logits(states)
        hidden = functools.reduce(
            jnp.logical_or,
            [jnp.arange(logits.shape[-1]) == token for token in self.never],
            jnp.zeros((), bool),
        )
        return jnp.where(hidden, -1e9, logits)

    def states(self, memory: Any, target: Int[Array, "B T"]) -> Float[Array, "B K T H"]:
        """The last layer's states before each token of [B,T] targets."""
        return self._states(memory, target).astype(jnp.float32)

    def logprobs(self, memory: Any, target: Int[Array, "B T"]) -> Float[Array, "B K T V"]:
        """Teacher forcing: log p(· | x, d_k, y_<t) before each token of [B,T] targets."""
        return jax.nn.log_softmax(self._scores(self._states(memory, target)), axis=-1)

    def token_logprobs(self, memory: Any, target: Int[Array, "B T"]) -> Float[Array, "B K T"]:
        """Teacher forcing: log p(y_t | x, d_k, y_<t) of [B,T] targets as [B,K,T]."""
        scores = self._scores(self._states(memory, target))
        own = jnp.broadcast_to(target[:, None, :, None], (*scores.shape[:-1], 1))
        chosen = jnp.take_along_axis(scores, own, axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(scores, axis=-1)

    def decode_step(
        self, memory: Any, cache: Any, previous: Int[Array, "B K"], position: Array
    ) -> tuple[Float[Array, "B K V"], Any]:
        """One step: log p(· | x, d_k, y_<t) given the token before it, at `position` = t."""
        state, cache = self._step(memory, cache, self._fed(previous), position)
        return jax.nn.log_softmax(self._scores(state), axis=-1), cache

    def attention(self, memory: Any, target: Array) -> tuple[Array, Array, Array]:
        """Refused: a pretrained reader does not tell where it looks."""
        raise UserError(
            "The objective learns from the reader's attention, which a PretrainedReader does not give; "
            "choose another objective, such as PerplexityDistillation."
        )

    def fuse(self, memory: Any, read: Bool[Array, "B K"]) -> Any:
        """Refused, but where an encoder reads."""
        raise UserError(
            "The objective reads all passages at once, for which the reader needs an encoder; choose a "
            "BART, a T5 or a TransformerReader, or another objective, such as RagToken."
        )

    def _states(self, memory: Any, target: Array) -> Array:
        raise NotImplementedError

    def _step(
        self, memory: Any, cache: Any, token: Array, position: Array
    ) -> tuple[Array, tuple[KeyValue, ...]]:
        raise NotImplementedError


class EncoderDecoderReader(PretrainedReaderModule):
    """A reader that encodes a source and decodes an answer: BART or T5."""

    inner: EncoderDecoder

    def encode(self, question: Array, passages: Array, matches: Any) -> EncoderDecoderMemory:
        """Encodes B*K sources; `matches`, of other readers, are not used."""
        del matches
        tokens = self._source(question, passages)

        def read(inner: EncoderDecoder, rows: Array, mask: Array) -> tuple[KeyValue, ...]:
            return inner.project(inner.encode(rows, mask))

        return EncoderDecoderMemory(self._read(read, tokens), tokens != PAD_ID)

    def init_cache(self, memory: EncoderDecoderMemory, length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` decoding steps."""
        return self.inner.init_cache(memory.mask.shape[:2], length)

    def fuse(self, memory: EncoderDecoderMemory, read: Bool[Array, "B K"]) -> EncoderDecoderMemory:
        """The memory [B,1] of all sources of a question that are read, see `RagModel.fuse`."""
        mask = (memory.mask & read[..., None]).reshape(read.shape[0], 1, -1)
        return EncoderDecoderMemory(tuple(kv.fused() for kv in memory.cross), mask)

    def _states(self, memory: EncoderDecoderMemory, target: Array) -> Array:
        return self.inner.decode(self._shifted(target), memory.cross, memory.mask)

    def _step(
        self, memory: EncoderDecoderMemory, cache: Any, token: Array, position: Array
    ) -> tuple[Array, tuple[KeyValue, ...]]:
        return self.inner.step(token, cache, memory.cross, memory.mask, position)


class DecoderReader(PretrainedReaderModule):
    """A reader that goes on from what it has read: Llama, SmolLM2 or Qwen.

    The template's last token is not read with the rest but fed as the first of decoding.
    """

    inner: LlamaModule

    def read_on(self, tokens: Int[Array, "B G n"], text: Prefix | None) -> Prefix:
        """The text with more tokens, see `decoding.searching.TextModel.read`."""
        mask = tokens != PAD_ID
        layers = self.inner.read(tokens, mask, text)[1]
        if text is None:
            return Prefix(layers, mask)
        joined = [
            KeyValue(*(jnp.concatenate(pair, axis=-2) for pair in zip(old, new, strict=True)))
            for old, new in zip(text.layers, layers, strict=True)
        ]
        return Prefix(tuple(joined), jnp.concatenate([text.mask, mask], axis=-1))

    def text_states(self, tokens: Int[Array, "B G L"]) -> Float[Array, "B G L H"]:
        """The state after each token of whole texts."""
        return self.inner.read(tokens, tokens != PAD_ID)[0]

    def next_logprobs(self, states: Float[Array, "... H"]) -> Float[Array, "... V"]:
        """Log p of the next token, of the states before it."""
        return jax.nn.log_softmax(self._scores(states), axis=-1)

    def encode(self, question: Array, passages: Array, matches: Any) -> Prefix:
        """Reads B*K prompts; `matches`, of other readers, are not used."""
        del matches
        tokens = self._source(question, passages)

        def read(inner: LlamaModule, rows: Array, mask: Array) -> tuple[KeyValue, ...]:
            return inner.read(rows, mask)[1]

        return Prefix(self._read(read, tokens), tokens != PAD_ID)

    def init_cache(self, memory: Prefix, length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` decoding steps."""
        return self.inner.init_cache(memory.mask.shape[:2], length)

    def _states(self, memory: Prefix, target: Array) -> Array:
        fed = self._shifted(target)
        return self.inner.read(fed, jnp.ones_like(fed, bool), memory)[0]

    def _step(
        self, memory: Prefix, cache: Any, token: Array, position: Array
    ) -> tuple[Array, tuple[KeyValue, ...]]:
        return self.inner.step(token, cache, position, memory)
