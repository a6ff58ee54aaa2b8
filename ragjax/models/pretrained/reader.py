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
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax.typing import DTypeLike

from ragjax.errors import UserError, require
from ragjax.models.pretrained.gguf_tokenizer import gguf_tokenizer
from ragjax.models.pretrained.layers import EncoderDecoder
from ragjax.models.pretrained.llama import LlamaModule
from ragjax.models.pretrained.loading import Description, Pretrained, describe, load
from ragjax.models.pretrained.reader_module import (
    DecoderReader,
    EncoderDecoderReader,
    Template,
)
from ragjax.models.pretrained.searching import SearchPieces, SearchWords
from ragjax.models.pretrained.sources import absolute, local
from ragjax.models.pretrained.tokenizer_files import TOKENIZER, tokenizer_json
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
from ragjax.types import BOS_ID, EOS_ID, PAD_ID, Params

SLOTS = ("passage", "question")
TEMPLATES = {
    "bart": "<s>{passage} // {question}</s>",
    "t5": "question: {question} context: {passage}</s>",
}
OTHERS = "{passage}\n\nQuestion: {question}\nAnswer:"
# Of models whose conversations are written in ChatML, such as SmolLM2's and Qwen's.
CHAT_TURN = "<|im_start|>"
CHAT = (
    "<|im_start|>user\nContext:{passage}\n\nQuestion:{question}\n\n"
    "Answer the question using the context.<|im_end|>\n<|im_start|>assistant\n"
)


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
      buckets: widths at which texts are read, short ones at narrow ones (`models.buckets`); 1 reads
        all at the width of the longest that fits. It is for texts that are read without a gradient, in
        which it may be slower; programs take longer to compile.
      remat: whether training computes layers a second time instead of keeping what they compute: less
        memory, more time.
      search: the words with which a decoder-only model searches in its own text (`SearchReward`).
    """

    comes_trained: ClassVar[bool] = True

    source: str = field(repr=False)  # where it lies changes nothing of what it computes
    part: str = ""
    template: str = ""
    buckets: int = 1
    remat: bool = False
    search: SearchWords | None = None

    def __post_init__(self):
        """Checks the fields, and makes a path absolute."""
        object.__setattr__(self, "source", absolute(self.source))
        require(
            bool(self.source),
            f"reader.source is empty; name a directory with config.json, model.safetensors and "
            f"{TOKENIZER}, a GGUF file, or a model of the Hugging Face hub (owner/name).",
        )
        require(self.buckets >= 1, f"reader.buckets is {self.buckets}; it must be at least 1.")
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
        return tokenizer_json(self._path, self.part, f"reader.source is {self.source!r}")

    @functools.cached_property
    def _words(self) -> tokenizers.Tokenizer:
        text = self._json
        try:
            return tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises bare Exception
            raise UserError(
                f"{self.source} has no readable tokenizer ({error}); download the model again."
            ) from error

    @property
    def chats(self) -> bool:
        """Whether its tokenizer knows the turns of a conversation, for which `CHAT` is a template."""
        writes_on = isinstance(self._model.module, LlamaModule)
        return writes_on and self._words.token_to_id(CHAT_TURN) is not None

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

    def _encoded(self, piece: str) -> tuple[int, ...]:
        # Words carry their leading space, those in the slots too.
        ids = self._words.encode(piece.removesuffix(" "), add_special_tokens=False).ids
        numbers = numbers_here(self.order)
        return tuple(int(numbers[token]) for token in ids)

    def _template(self) -> Template:
        text = self.template or TEMPLATES.get(self._model.config["model_type"], OTHERS)
        before, first, between, second, after = re.split(r"\{(\w+)\}", text)
        pieces = tuple(self._encoded(piece) for piece in (before, between, after))
        return Template(pieces, (first, second))

    @functools.cached_property
    def search_pieces(self) -> SearchPieces | None:
        """See `Reader.search_pieces`."""
        if self.search is None:
            return None
        marker = self._words.token_to_id(self.search.marker)
        number = None if marker is None else int(numbers_here(self.order)[marker])
        if number is None or number in (PAD_ID, BOS_ID, EOS_ID):
            raise UserError(
                f"reader.search.marker is {self.search.marker!r}, which is no token of {self.source!r}, "
                "or is its end or padding; name a token of its vocabulary that answers do without."
            )
        return SearchPieces.of(self.search, self._encoded, number)

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
            sizes=replace(model.sizes, vocab_size=vocab_size),
            dtype=jnp.dtype(dtype),
            remat=self.remat,
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
            return DecoderReader(inner, template, after[-1], never, self.buckets)
        require(
            self.search is None,
            "reader.search is given, but only a decoder-only model searches in its own text; leave it "
            "out, or name a model of the Llama family.",
        )
        begin = special_tokens(self._model.config, self._path)[2]
        require(
            isinstance(begin, int),
            f"{self.source}: config.json has decoder_start_token_id {begin!r}; name the token that "
            "decoding starts from there.",
        )
        start = int(numbers_here(self.order)[begin])
        return EncoderDecoderReader(inner, template, start, never, self.buckets)

    def pretrained(self) -> Params:
        """The weights of the source."""
        return reordered(load(self._path, self.part).params, self.order)

    def exported(self, params: Params) -> Pretrained:
        """See `Reader.exported`: the vocabulary is in the model's own order again."""
        return replace(
            load(self._path, self.part),
            params=jax.tree.map(jnp.asarray, restored(params, self.order)),
        )
