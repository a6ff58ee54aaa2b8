"""The reader (reader): a sequence-to-sequence transformer with a pointer distribution.

    p(y_t) = g_t · softmax(E h_t)[y_t] + (1 - g_t) · Σ_{i: src_i = y_t} copy_t(i)

The source is a question and one passage; tokens are copied from the passage alone. Pointer and gate
follow See et al. (arXiv 1704.04368, equations 9 and 11). Four features make copying learnable in
minutes, by a small model, from names it has never seen:

- source tokens that also occur in the other segment are marked (the exact-match feature of DrQA,
  arXiv 1704.00051);
- every source token sees its two neighbours before the first layer, so that it knows whether a span
  of names starts or ends at it;
- the decoder is fed the encoding of the source position that it has just copied from (the selective
  read of CopyNet, arXiv 1603.06393, section 3.3), so that it knows where it stands. That position is
  the one where the last three tokens written match best (`align`);
- the copy logits carry a learned bonus for the position after it.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import require
from ragjax.models.alignment import align
from ragjax.models.layers import (
    ONES,
    DecoderLayer,
    EncoderLayer,
    KeyValue,
    LayerNorm,
    Linear,
    normal,
    position_vectors,
    sinusoidal_positions,
)
from ragjax.models.pretrained.loading import Pretrained
from ragjax.models.pretrained.searching import SearchPieces
from ragjax.models.pretrained.vocabulary import ReaderTokens
from ragjax.ops.masking import masked_log_softmax, masked_logsumexp
from ragjax.types import BOS_ID, PAD_ID, Params


class Memory(NamedTuple):
    """What the decoder needs of B*K sources, computed once per question and passage.

    Attributes:
      cross: keys and values of every decoder layer.
      states: [B,K,P,H] encodings of the passages' tokens.
      copy_key: [B,K,P,H] keys of the copy attention.
      passage: [B,K,P] passage tokens, which can be copied.
      source_mask: [B,K,S] True on tokens of the source.
    """

    cross: tuple[KeyValue, ...]
    states: Array
    copy_key: Array
    passage: Array
    source_mask: Array


class Cache(NamedTuple):
    """What decoding remembers.

    Attributes:
      layers: keys and values of the tokens so far, one pair a decoder layer.
      history: [B,K,HISTORY] the tokens before the one that is fed next, newest last.
    """

    layers: tuple[KeyValue, ...]
    history: Array


HISTORY = 2


class ReaderModule(nn.Module):
    """See the file's docstring. Shapes: question [B,Q], passages [B,K,P], target [B,T]."""

    vocab_size: int
    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    dtype: DTypeLike

    def setup(self):
        """Creates the parameters."""
        self.embedding = self.param(
            "embedding", normal(self.width**-0.5), (self.vocab_size, self.width)
        )
        marks = normal(self.width**-0.5)
        self.segment = self.param("segment", marks, (2, self.width))
        self.match = self.param("match", marks, (2, self.width))
        layer = (self.width, self.heads, self.dtype)
        self.encoder = [EncoderLayer(*layer) for _ in range(self.encoder_layers)]
        self.decoder = [DecoderLayer(*layer) for _ in range(self.decoder_layers)]
        self.neighbours = Linear(self.width, use_bias=False, dtype=self.dtype)
        self.read = Linear(self.width, use_bias=False, dtype=self.dtype)
        self.encoder_norm = LayerNorm(dtype=self.dtype)
        self.decoder_norm = LayerNorm(dtype=self.dtype)
        self.copy_query = Linear(self.width, use_bias=False, dtype=self.dtype)
        self.copy_key = Linear(self.width, use_bias=False, dtype=self.dtype)
        self.gate = Linear(1, dtype=jnp.float32)
        self.continuation = self.param("continuation", ONES, ())

    def _embed(self, tokens: Array, positions: Array) -> Array:
        scaled = self.embedding[tokens] * jnp.sqrt(jnp.float32(self.width))
        return scaled + positions

    def _with_neighbours(self, x: Array, tokens: Array) -> Array:
        """Adds a projection of the tokens to the left and right; padding counts as zeros."""
        x = x.astype(self.dtype)
        real = jnp.where((tokens != PAD_ID)[..., None], x, 0.0)
        before = jnp.pad(real[..., :-1, :], ((0, 0),) * (x.ndim - 2) + ((1, 0), (0, 0)))
        after = jnp.pad(real[..., 1:, :], ((0, 0),) * (x.ndim - 2) + ((0, 1), (0, 0)))
        return x + self.neighbours(jnp.concatenate([before, after], axis=-1))

    def _selective_read(self, memory: Memory, alignment: Array) -> Array:
        """Encoding of the passage position just copied from, [B,K,m,H]; zero if there is none."""
        return self.read(
            jnp.einsum("...mp,...ph->...mh", alignment.astype(self.dtype), memory.states)
        )

    def encode(self, question: Array, passages: Array, matches: tuple[Array, Array]) -> Memory:
        """Encodes B*K sources; `matches` marks tokens that also occur in the other segment.

        Args:
          question: [B,Q].
          passages: [B,K,P].
          matches: ([B,K,Q], [B,K,P]) booleans.

        Returns:
          The memory of B*K sources.
        """
        batch, count, length = passages.shape
        wide = question.shape[-1]
        embedded_question = self._embed(question, sinusoidal_positions(wide, self.width))
        embedded_question = jnp.broadcast_to(
            embedded_question[:, None], (batch, count, wide, self.width)
        )
        embedded_passage = self._embed(passages, sinusoidal_positions(length, self.width))
        question_marks = self.segment[0] + self.match[matches[0].astype(jnp.int32)]
        passage_marks = self.segment[1] + self.match[matches[1].astype(jnp.int32)]
        x = jnp.concatenate(
            [
                self._with_neighbours(embedded_question + question_marks, question[:, None]),
                self._with_neighbours(embedded_passage + passage_marks, passages),
            ],
            axis=-2,
        )
        source = jnp.concatenate(
            [jnp.broadcast_to(question[:, None], (batch, count, wide)), passages], axis=-1
        )
        mask = source != PAD_ID
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_norm(x)
        return Memory(
            cross=tuple(layer.project_memory(x) for layer in self.decoder),
            states=x[..., wide:, :],
            copy_key=self.copy_key(x[..., wide:, :]),
            passage=passages,
            source_mask=mask,
        )

    def fuse(self, memory: Memory, read: Bool[Array, "B K"]) -> Memory:
        """The memory [B,1] of all sources of a question that are read, see `RagModel.fuse`."""
        batch = read.shape[0]

        def apart(x: Array) -> Array:
            """Passages in a row, with padding between them, over which no match of words reaches."""
            around = [(0, 0)] * x.ndim
            around[2] = (0, 1)
            return jnp.pad(x, around).reshape(batch, 1, -1, *x.shape[3:])

        shown = read[..., None]
        return Memory(
            cross=tuple(kv.fused() for kv in memory.cross),
            states=apart(memory.states),
            copy_key=apart(memory.copy_key),
            passage=apart(jnp.where(shown, memory.passage, PAD_ID)),
            source_mask=(memory.source_mask & shown).reshape(batch, 1, -1),
        )

    def _begun(self, memory: Memory, target: Array) -> tuple[Array, Array]:
        """What the decoder is fed [B,K,T,H] before each token of [B,T] targets, and `align` there."""
        start = jnp.full_like(target[:, :1], BOS_ID)
        previous = jnp.concatenate([start, target[:, :-1]], axis=-1)
        length = target.shape[-1]
        x = self._embed(previous, sinusoidal_positions(length, self.width)).astype(self.dtype)
        earlier = jnp.pad(previous, ((0, 0), (HISTORY, 0)))
        written = jnp.stack([earlier[:, i : i + length] for i in range(HISTORY + 1)], axis=-1)
        alignment = align(memory.passage, written[:, None])
        return x[:, None] + self._selective_read(memory, alignment), alignment

    def _written(self, memory: Memory, target: Array) -> tuple[Array, Array]:
        """Decoder states [B,K,T,H] before each token of [B,T] targets, and `align` there."""
        x, alignment = self._begun(memory, target)
        for layer, cross in zip(self.decoder, memory.cross, strict=True):
            x = layer(x, cross, memory.source_mask)
        return x, alignment

    def attention(self, memory: Memory, target: Array) -> tuple[Array, Array, Array]:
        """Teacher forcing: the cross-attention of all J heads of all layers.

        Returns:
          Scores before the softmax [B,K,J,T,S], norms of the values [B,K,J,S], and the mask of the
          source [B,K,S].
        """
        x, _ = self._begun(memory, target)
        logits = []
        for layer, cross in zip(self.decoder, memory.cross, strict=True):
            logits.append(layer.cross_logits(x, cross))
            x = layer(x, cross, memory.source_mask)
        norms = [
            jnp.linalg.norm(cross.value.astype(jnp.float32), axis=-1) for cross in memory.cross
        ]
        return jnp.concatenate(logits, 2), jnp.concatenate(norms, 2), memory.source_mask

    def states(self, memory: Memory, target: Array) -> Float[Array, "B K T H"]:
        """The decoder's normalised states before each token of [B,T] targets."""
        return self.decoder_norm(self._written(memory, target)[0]).astype(jnp.float32)

    def logprobs(self, memory: Memory, target: Array) -> Float[Array, "B K T V"]:
        """Teacher forcing: log p(· | x, d_k, y_<t) before each token of [B,T] targets."""
        vocab, copy, gate, _ = self._distributions(memory, *self._written(memory, target))
        return self._mixed(memory, vocab, copy, gate)

    def token_logprobs(self, memory: Memory, target: Array) -> Float[Array, "B K T"]:
        """Teacher forcing: log p(y_t | x, d_k, y_<t) of [B,T] targets as [B,K,T]."""
        x, alignment = self._written(memory, target)
        vocab, copy, gate, copyable = self._distributions(memory, x, alignment)
        own = jnp.broadcast_to(target[:, None, :, None], (*vocab.shape[:-1], 1))
        generated = jnp.take_along_axis(vocab, own, axis=-1)[..., 0]
        holds = (memory.passage[..., None, :] == target[:, None, :, None]) & copyable
        copied = masked_logsumexp(copy, holds)
        return jnp.logaddexp(
            jax.nn.log_sigmoid(gate) + generated,
            # A finite floor: logaddexp of -inf has no gradient to give and none is wanted.
            jax.nn.log_sigmoid(-gate) + jnp.maximum(copied, -1e9),
        )

    def init_cache(self, memory: Memory, length: int) -> Cache:
        """An empty cache for `length` decoding steps."""
        batch, count = memory.passage.shape[:2]
        shape = (batch, count, self.heads, length, self.width // self.heads)
        empty = KeyValue(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))
        history = jnp.full((batch, count, HISTORY), PAD_ID, jnp.int32)
        return Cache(tuple(empty for _ in range(self.decoder_layers)), history)

    def decode_step(
        self, memory: Memory, cache: Cache, previous: Int[Array, "B K"], position: Array
    ) -> tuple[Float[Array, "B K V"], Cache]:
        """One step: log p(· | x, d_k, y_<t) given the token before it, at `position` = t."""
        place = position_vectors(position, self.width)
        x = self._embed(previous, place).astype(self.dtype)[..., None, :]
        written = jnp.concatenate([cache.history, previous[..., None]], axis=-1)
        alignment = align(memory.passage, written[..., None, :])
        x = x + self._selective_read(memory, alignment)
        layers = []
        for layer, kv, cross in zip(self.decoder, cache.layers, memory.cross, strict=True):
            x, kv = layer.step(x, kv, cross, memory.source_mask, position)
            layers.append(kv)
        vocab, copy, gate, _ = self._distributions(memory, x, alignment)
        mixed = self._mixed(memory, vocab, copy, gate)[..., 0, :]
        return mixed, Cache(tuple(layers), written[..., 1:])

    def _mixed(self, memory: Memory, vocab: Array, copy: Array, gate: Array) -> Array:
        """[B,K,m,V] log-probabilities, from what `_distributions` gives."""
        mixed = jnp.exp(jax.nn.log_sigmoid(gate)[..., None] + vocab)
        copied = jnp.exp(jax.nn.log_sigmoid(-gate)[..., None] + copy)
        rows, columns, places = jnp.ogrid[tuple(map(slice, mixed.shape[:3]))]
        tokens = memory.passage[:, :, None, :]
        mixed = mixed.at[rows[..., None], columns[..., None], places[..., None], tokens].add(copied)
        return jnp.log(jnp.maximum(mixed, 1e-30))

    def _distributions(
        self, memory: Memory, x: Array, alignment: Array
    ) -> tuple[Array, Array, Array, Bool[Array, "..."]]:
        """The two distributions and their gate at m positions.

        Returns:
          Log p over the vocabulary [B,K,m,V], log p over passage positions [B,K,m,P] (-inf where
          there is nothing to copy), the gate's logit [B,K,m], and which positions can be copied.
        """
        x = self.decoder_norm(x)
        table = self.embedding.astype(self.dtype)
        vocab = jnp.einsum("...h,vh->...v", x, table).astype(jnp.float32)
        # Padding is never written; else all answers together would have less than probability one.
        vocab = jnp.where(jnp.arange(self.vocab_size) == PAD_ID, -1e9, vocab)
        copy = jnp.einsum("...mh,...ph->...mp", self.copy_query(x), memory.copy_key)
        copy = copy.astype(jnp.float32) / jnp.sqrt(jnp.float32(self.width))
        follows = jnp.pad(alignment[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)))
        copyable = (memory.passage != PAD_ID)[..., None, :]
        copy = masked_log_softmax(copy + self.continuation * follows, copyable)
        gate = self.gate(x.astype(jnp.float32))[..., 0]
        # An empty passage leaves only the vocabulary.
        gate = jnp.where(jnp.any(copyable, axis=-1), gate, 1e4)
        return jax.nn.log_softmax(vocab, axis=-1), copy, gate, copyable


@dataclass(frozen=True)
class Reader:
    """Base of the reader specs.

    Attributes:
      comes_trained: whether it can answer before any training.
    """

    comes_trained: ClassVar[bool] = False

    @property
    def states_width(self) -> int:
        """H, the width of what `states` gives."""
        raise NotImplementedError

    @property
    def reads(self) -> ReaderTokens | None:
        """Its own tokenizer; None if it reads with one that is trained on the corpus."""
        return None

    @property
    def search_pieces(self) -> SearchPieces | None:
        """The words with which it searches in its own text, in tokens; None if it can't."""
        return None

    def pretrained(self) -> Params | None:
        """The parameters that training begins with, read on the host; None for new ones."""
        return None

    def exported(self, params: Params) -> Pretrained | None:
        """A model that transformers knows, with these parameters of the reader; None if it is none."""
        del params
        return None

    def check(self, question: int, passage: int, answer: int) -> None:
        """Checks that it can read questions and passages, and write answers, of so many tokens.

        Raises:
          UserError: it can't.
        """
        del question, passage, answer

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns a module with the methods of `ReaderModule`.

        Args:
          vocab_size: V.
          dtype: of the computation.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class TransformerReader(Reader):
    """A transformer that copies from what it reads.

    Attributes:
      width: H, the width of the hidden states.
      heads: attention heads; divides `width`.
      encoder_layers: layers that read question and passage.
      decoder_layers: layers that write the answer.
    """

    width: int = 64
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 1

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.heads >= 1 and self.width >= 1 and self.width % self.heads == 0,
            f"reader.width is {self.width} and reader.heads {self.heads}; "
            "choose a positive width that the number of heads divides.",
        )
        for name in ("encoder_layers", "decoder_layers"):
            value = getattr(self, name)
            require(value >= 1, f"reader.{name} is {value}; it must be at least 1.")

    @property
    def states_width(self) -> int:
        """H."""
        return self.width

    def build(self, vocab_size: int, dtype: DTypeLike) -> ReaderModule:
        """Returns the module."""
        return ReaderModule(
            vocab_size, self.width, self.heads, self.encoder_layers, self.decoder_layers, dtype
        )
