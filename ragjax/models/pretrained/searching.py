"""How a language model is told to search within its own text, see `decoding.searching`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from ragjax.errors import require
from ragjax.types import PAD_ID


@dataclass(frozen=True)
class SearchWords:
    """The words around a question and around what is found.

    Attributes:
      prompt: what a text begins with, with {question} in its place and words after it.
      found: what tells of each passage, with {passage} in its place and words after it.
      marker: the token that ends a query, one of the model's vocabulary as its tokenizer writes it; by
        default the end of a line, as most byte-level ones have it.
    """

    prompt: str = "Question:{question}\nSearch:"
    found: str = "Found:{passage}\nAnswer:"
    marker: str = "Ċ"

    def __post_init__(self):
        """Checks the fields."""
        for name, slot in (("prompt", "question"), ("found", "passage")):
            value = getattr(self, name)
            require(
                re.findall(r"\{(.*?)\}", value) == [slot] and not value.endswith("}"),
                f"reader.search.{name} is {value!r}; it must hold {{{slot}}} once, no other braces, and "
                "words after it.",
            )
        require(
            bool(self.marker),
            "reader.search.marker is empty; name a token that the model does not need for answers.",
        )


class SearchPieces(NamedTuple):
    """`SearchWords` in tokens.

    Attributes:
      prompt: before and after the question.
      found: before and after a passage.
      marker: the token that ends a query.
    """

    prompt: tuple[tuple[int, ...], tuple[int, ...]]
    found: tuple[tuple[int, ...], tuple[int, ...]]
    marker: int

    @classmethod
    def of(
        cls, words: SearchWords, encode: Callable[[str], tuple[int, ...]], marker: int
    ) -> "SearchPieces":
        """Tokenises words."""
        prompt, found = (
            tuple(encode(part) for part in re.split(r"\{\w+\}", text))
            for text in (words.prompt, words.found)
        )
        return cls((prompt[0], prompt[1]), (found[0], found[1]), marker)

    def begun(self, question: Int[Array, "B Q"]) -> Int[Array, "B S"]:
        """The question in its words, with padding where the question has it."""
        before, after = (jnp.asarray(piece, jnp.int32) for piece in self.prompt)
        wide = [
            jnp.broadcast_to(part, (len(question), part.shape[-1]))
            for part in (before, question, after)
        ]
        return jnp.concatenate(wide, axis=-1)

    def told(self, passages: Int[Array, "B G K P"]) -> Int[Array, "B G F"]:
        """The passages in their words; of empty ones nothing, but the last token that follows them."""
        some = jnp.any(passages != PAD_ID, axis=-1, keepdims=True)
        before, after = (
            jnp.where(some, jnp.asarray(piece, jnp.int32), PAD_ID) for piece in self.found
        )
        each = jnp.concatenate([before, passages, after], axis=-1)
        told = each.reshape(*passages.shape[:2], -1)
        return told.at[..., -1].set(self.found[1][-1])
