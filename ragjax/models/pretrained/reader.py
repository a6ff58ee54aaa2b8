"""Pretrained language models as readers: BART, T5 and the Llama family under the reader's seam.

Each passage is read together with the question, as a template puts them, and by itself:

    p(y_t | x, d_k, y_<t)    from   template(d_k, x)

An encoder-decoder (BART, T5) encodes that text and writes the answer; a decoder-only model (Llama,
SmolLM2, Qwen) goes on from it, as in REPLUG (Shi et al., arXiv 2301.12652). Either way it is read once
for a question and passage, whatever is decoded or scored afterwards.
"""

import functools
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ragjax.errors import UserError, require
from ragjax.models.layers import KeyValue
from ragjax.models.pretrained.gguf_tokenizer import gguf_tokenizer
from ragjax.models.pretrained.layers import EncoderDecoder
from ragjax.models.pretrained.llama import LlamaModule, Prefix
from ragjax.models.pretrained.loading import Description, Pretrained, describe, load
from ragjax.models.pretrained.sources import local
from ragjax.models.pretrained.vocabulary import (
    NOTHING,
    ReaderTokens,
    numbers_here,
    reordered,
    restored,
    special_tokens,
    token_order,
)
from ragjax.models.reader import Reader
from ragjax.types import BOS_ID, PAD_ID, Params

TOKENIZER = "tokenizer.json"
SLOTS = ("passage", "question")
TEMPLATES = {
    "bart": "<s>{passage} // {question}</s>",
    "t5": "question: {question} context: {passage}</s>",
}
OTHERS = "{passage}\n\nQuestion: {question}\nAnswer:"


class Template(NamedTuple):
    """What is read of a question and a passage, in tokens.

    Attributes:
      pieces: the three texts before, between and after the two slots.
      slots: `SLOTS`, in the order in which they are read.
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
    """

    inner: Any
    template: Template
    begin: int
    never: tuple[int, ...]

    def setup(self):
        """Takes the parameters of the language model as its own."""
        nn.share_scope(self, self.inner)

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
        tokens = self.template.filled(question, passages)
        # Tokens first: the models count positions from the left, padding or not.
        place = jnp.argsort(tokens == PAD_ID, axis=-1, stable=True)
        tokens = jnp.take_along_axis(tokens, place, axis=-1)
        mask = tokens != PAD_ID
        return EncoderDecoderMemory(self.inner.project(self.inner.encode(tokens, mask)), mask)

    def init_cache(self, memory: EncoderDecoderMemory, length: int) -> tuple[KeyValue, ...]:
        """An empty cache for `length` decoding steps."""
        return self.inner.init_cache(memory.mask.shape[:2], length)

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

    def encode(self, question: Array, passages: Array, matches: Any) -> Prefix:
        """Reads B*K prompts; `matches`, of other readers, are not used."""
        del matches
        tokens = self.template.filled(question, passages)
        mask = tokens != PAD_ID
        return Prefix(self.inner.read(tokens, mask)[1], mask)

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


@dataclass(frozen=True)
class PretrainedReader(Reader):
    """A reader that begins with pretrained weights, and reads and writes with their tokenizer.

    `tokenizer.vocab_size` is not used with it, and no word is unknown to it.

    Attributes:
      source: a directory that transformers wrote, with tokenizer.json, or a GGUF file; or where else
        `sources.local` finds one, such as the Hugging Face hub. A run needs it for as long as it is
        used.
      part: of a model of type rag, "generator"; else "".
      template: the text to read, with {passage} and {question} in their places, and special tokens as
        the tokenizer writes them; "" for the one that is usual for BART and T5, or, of others,
        passage, "Question:", question, "Answer:".
    """

    comes_trained: ClassVar[bool] = True

    source: str = field(repr=False)  # where it lies changes nothing of what it computes
    part: str = ""
    template: str = ""

    def __post_init__(self):
        """Checks the fields."""
        require(
            bool(self.source),
            f"reader.source is empty; name a directory with config.json, model.safetensors and "
            f"{TOKENIZER}, a GGUF file, or a model of the Hugging Face hub (owner/name).",
        )
        slots = re.findall(r"\{(.*?)\}", self.template) if self.template else list(SLOTS)
        require(
            sorted(slots) == sorted(SLOTS),
            f"reader.template is {self.template!r}; it must hold {{passage}} and {{question}} once "
            "each, and no other braces.",
        )

    @functools.cached_property
    def _path(self) -> Path:
        return local(self.source)

    @functools.cached_property
    def _model(self) -> Description:
        model = describe(self._path, self.part)
        require(
            isinstance(model.module, EncoderDecoder | LlamaModule),
            f"reader.source is {self.source!r}, which writes no text; name a model of type bart, t5, "
            "llama, qwen2 or qwen3.",
        )
        return model

    @functools.cached_property
    def _json(self) -> str:
        """The tokenizer, as the `tokenizers` package writes it."""
        if self._path.suffix == ".gguf":
            return gguf_tokenizer(self._path).json
        file = self._path / TOKENIZER
        require(
            file.is_file(),
            f"reader.source is {self.source!r}, which has no {TOKENIZER}; write it with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` of transformers.",
        )
        return file.read_text("utf-8")

    @functools.cached_property
    def _words(self) -> tokenizers.Tokenizer:
        try:
            return tokenizers.Tokenizer.from_str(self._json)
        except Exception as error:  # the package raises bare Exception
            raise UserError(
                f"{self.source} has no readable tokenizer ({error}); download the model again."
            ) from error

    @functools.cached_property
    def order(self) -> np.ndarray:
        """[V] the model's own number of each token, see `token_order`."""
        size = self._model.config["vocab_size"]
        known = self._words.get_vocab_size()
        require(
            known <= size,
            f"{self.source} has a tokenizer of {known} tokens, but a model of {size}; name a directory "
            "in which both belong together.",
        )
        end, pad, _ = special_tokens(self._model.config, self._path)
        unknown = getattr(self._words.model, "unk_token", None)
        number = self._words.token_to_id(unknown) if unknown else None
        return token_order(size, end=end, pad=pad, unknown=number)

    @property
    def reads(self) -> ReaderTokens:
        """The tokenizer beside the weights."""
        return ReaderTokens(self._json, self.order, self.source)

    @property
    def states_width(self) -> int:
        """H."""
        model: Any = self._model.module
        return model.sizes.width

    def _template(self) -> Template:
        text = self.template or TEMPLATES.get(self._model.config["model_type"], OTHERS)
        before, first, between, second, after = re.split(r"\{(\w+)\}", text)
        numbers = numbers_here(self.order)

        def encoded(piece: str) -> tuple[int, ...]:
            # Words carry their leading space, those in the slots too.
            ids = self._words.encode(piece.removesuffix(" "), add_special_tokens=False).ids
            return tuple(int(numbers[token]) for token in ids)

        return Template((encoded(before), encoded(between), encoded(after)), (first, second))

    def check(self, question: int, passage: int, answer: int) -> None:
        """Checks that the model has positions for the template and what fills it.

        Raises:
          UserError: it has too few.
        """
        model: Any = self._model.module
        around = sum(map(len, self._template().pieces))
        longest = question + passage + around
        longest = longest + answer if isinstance(model, LlamaModule) else max(longest, answer)
        most = model.sizes.positions
        require(
            longest <= most,
            f"tokenizer.question_length {question}, passage_length {passage} and answer_length "
            f"{answer}, with {around} tokens of reader.template, make {longest}, but the model has "
            f"{most} positions; choose smaller lengths.",
        )

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns the module; the vocabulary is its own.

        Raises:
          UserError: the template of a decoder-only model ends with a slot.
        """
        require(
            vocab_size == len(self.order),
            f"The text has {vocab_size} tokens, but reader.source {self.source!r} has "
            f"{len(self.order)}; the run was made with another model.",
        )
        model: Any = self._model.module
        inner = model.clone(
            sizes=replace(model.sizes, vocab_size=vocab_size), dtype=jnp.dtype(dtype)
        )
        template, never = self._template(), tuple(np.flatnonzero(self.order == NOTHING).tolist())
        # Padding of the model's own is never an answer's token either.
        never = tuple(sorted({PAD_ID, *never}))
        if isinstance(model, LlamaModule):
            before, between, after = template.pieces
            require(
                bool(after),
                f"reader.template {self.template!r} ends with a slot; end it with what comes before the "
                'answer, such as "Answer:".',
            )
            template = template._replace(pieces=(before, between, after[:-1]))
            return DecoderReader(inner, template, after[-1], never)
        begin = special_tokens(self._model.config, self._path)[2]
        require(
            isinstance(begin, int),
            f"{self.source}: config.json has decoder_start_token_id {begin!r}; name the token that "
            "decoding starts from there.",
        )
        return EncoderDecoderReader(inner, template, int(numbers_here(self.order)[begin]), never)

    def pretrained(self) -> Params:
        """The weights of the source."""
        return reordered(load(self._path, self.part).params, self.order)

    def exported(self, params: Params) -> Pretrained:
        """See `Reader.exported`: the vocabulary is in the model's own order again."""
        return replace(
            load(self._path, self.part),
            params=jax.tree.map(jnp.asarray, restored(params, self.order)),
        )
