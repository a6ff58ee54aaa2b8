"""A pretrained encoder in the retriever: MiniLM, DPR, BERT or what else sentence-transformers has."""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ragjax.errors import UserError, require
from ragjax.models.buckets import read_by_length
from ragjax.models.encoder import Encoder
from ragjax.models.pretrained.loading import Pretrained, describe, load
from ragjax.models.pretrained.sources import absolute, local
from ragjax.models.pretrained.text_encoder import TextEncoderModule
from ragjax.models.pretrained.tokenizer_files import TOKENIZER, tokenizer_json
from ragjax.retrieval.base import OwnTokens
from ragjax.types import PAD_ID, Params


class PretrainedEncoderModule(nn.Module):
    """A text encoder as a retriever calls it; a text without tokens is embedded as zeros.

    Attributes:
      inner: the text encoder, whose parameters are those of this module.
      buckets: widths at which texts are read, see `read_by_length`.
    """

    inner: TextEncoderModule
    buckets: int = 1

    def setup(self):
        """Takes the parameters of the text encoder as its own."""
        nn.share_scope(self, self.inner)

    def __call__(self, tokens: Int[Array, "... n"], idf: None, side: int) -> Float[Array, "... D"]:
        """Embeds [...,n] tokens as [...,D]; both sides alike."""
        del idf, side
        mask = tokens != PAD_ID
        if self.buckets == 1 or self.is_initializing():
            embedded = self.inner(tokens, mask)
        else:
            # A pure function of the parameters, as control flow wants it.
            inner, params = self.inner.clone(parent=None), self.variables["params"]
            embedded = read_by_length(
                lambda *rows: inner.apply({"params": params}, *rows),
                *(each.reshape(-1, tokens.shape[-1]) for each in (tokens, mask)),
                buckets=self.buckets,
                axis=None,
            ).reshape(*tokens.shape[:-1], -1)
        return jnp.where(jnp.any(mask, axis=-1, keepdims=True), embedded, 0.0)


@dataclass(frozen=True)
class PretrainedEncoder(Encoder):
    """An encoder that begins with pretrained weights, and reads with the tokenizer that they came with.

    Whatever the reader's tokenizer leaves out, such as words that it does not know, this one reads. It
    can't be trained with renamed or corrupted words, which are of the reader's tokenizer.

    Attributes:
      source: a directory that transformers or sentence-transformers wrote, with tokenizer.json; or
        where else `sources.local` finds one, such as the Hugging Face hub. A run needs it for as long
        as it is used.
      part: of a model of type rag, "question_encoder"; else "".
      question_length: tokens of a question; longer ones are cut on the right.
      passage_length: tokens of a passage; longer ones are cut on the right.
      question_prefix: text before each question, as some models want it ("query: ").
      passage_prefix: text before each passage.
      title_separator: what stands between a passage's title and its text where `tokenizer.with_title`
        is on; DPR learned with " [SEP] ".
      buckets: widths at which texts are read, short ones at narrow ones (`models.buckets`); 1 reads
        all at the width of the longest that fits. It is for texts that are read without a gradient, in
        which it may be slower; programs take longer to compile.
      remat: whether training computes layers a second time instead of keeping what they compute: less
        memory, more time.
    """

    source: str = field(repr=False)  # where it lies changes nothing of what it computes
    part: str = ""
    question_length: int = 32
    passage_length: int = 128
    question_prefix: str = ""
    passage_prefix: str = ""
    title_separator: str = " "
    buckets: int = 1
    remat: bool = False

    def __post_init__(self):
        """Checks the fields, and makes a path absolute."""
        object.__setattr__(self, "source", absolute(self.source))
        require(
            bool(self.source),
            "encoder.source is empty; name a directory with config.json, model.safetensors and "
            f"{TOKENIZER}, or a model of the Hugging Face hub (owner/name).",
        )
        for name in ("question_length", "passage_length"):
            value = getattr(self, name)
            require(value >= 4, f"encoder.{name} is {value}; it must be at least 4.")
        require(self.buckets >= 1, f"encoder.buckets is {self.buckets}; it must be at least 1.")

    @functools.cached_property
    def _path(self) -> Path:
        return local(self.source)

    def _module(self, dtype: DTypeLike = jnp.float32) -> TextEncoderModule:
        """The text encoder that computes in a dtype."""
        module = describe(self._path, self.part, compute=dtype).module
        if not isinstance(module, TextEncoderModule):
            raise UserError(
                f"encoder.source is {self.source!r}, which is no encoder of texts but a "
                f"{type(module).__name__.removesuffix('Module')} model; name one of type bert or dpr."
            )
        return module

    def _checked(self, module: TextEncoderModule) -> TextEncoderModule:
        """The module, if it has positions for the texts."""
        longest = max(self.question_length, self.passage_length)
        require(
            longest <= module.sizes.positions,
            f"encoder.question_length and encoder.passage_length are {self.question_length} and "
            f"{self.passage_length}, but {self.source} has {module.sizes.positions} positions; choose "
            "smaller ones.",
        )
        return module

    @property
    def unit(self) -> bool:
        """Whether its embeddings have length 1."""
        return self._module().pooling.unit

    @property
    def positions(self) -> int:
        """The longest text that the source can read, in tokens."""
        return self._module().sizes.positions

    @property
    def reads(self) -> OwnTokens:
        """The tokenizer beside the weights."""
        return OwnTokens(
            tokenizer_json(self._path, self.part, f"encoder.source is {self.source!r}"),
            self.source,
            self._checked(self._module()).sizes.vocab_size,
            (self.question_length, self.passage_length),
            (self.question_prefix, self.passage_prefix),
            self.title_separator,
        )

    def build(self, vocab_size: int, dtype: DTypeLike) -> nn.Module:
        """Returns the module; the vocabulary is its own."""
        del vocab_size
        inner = self._checked(self._module(dtype)).clone(remat=self.remat)
        return PretrainedEncoderModule(inner, self.buckets)

    def pretrained(self) -> Params:
        """The weights of the source."""
        return load(self._path, self.part).params

    def exported(self, params: Params) -> Pretrained:
        """See `Encoder.exported`."""
        return replace(load(self._path, self.part), params=params)
