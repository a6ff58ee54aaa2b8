"""What all retrievers have in common, and all kinds of index.

A retriever's spec builds a `types.Retriever`. A learned one (`models.retriever`) is searched inside the
training step, in an `Index` of whatever kind its config names. A fixed one (`retrieval.fixed`) is looked
up once for every question, before training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ragjax.errors import require
from ragjax.ops.scoring import log_prior_retrieved
from ragjax.text import counted
from ragjax.types import Params, Passage, Question, Retriever, TopK, Vocabulary


class OwnTokens(NamedTuple):
    """How a retriever reads that has a tokenizer of its own, apart from the reader's.

    A row of text then holds what the reader reads, and behind it what the retriever reads.

    Attributes:
      json: the tokenizer, in the format of the `tokenizers` package; token 0 is its padding.
      source: what errors call where it is from.
      vocab_size: entries that the encoder has.
      lengths: tokens of a question and of a passage.
      prefixes: text before each question and before each passage.
      title_separator: what stands between a passage's title and its text, where both are read.
    """

    json: str
    source: str
    vocab_size: int
    lengths: tuple[int, int]
    prefixes: tuple[str, str]
    title_separator: str = " "


@dataclass(frozen=True)
class RetrieverSpec:
    """Base of the retriever specs.

    Attributes:
      learned: whether it is searched inside the training step, by parameters that the step moves.
      needs_gold: whether it needs to know the gold passages of a question.
      fuses: whether it is learned and fuses its ranking with `lexical_hits`.
    """

    learned: ClassVar[bool] = False
    needs_gold: ClassVar[bool] = False
    fuses: ClassVar[bool] = False

    @property
    def reads(self) -> OwnTokens | None:
        """Its own tokenizer; None if it reads what the reader reads."""
        return None

    def pretrained(self) -> dict[str, Params]:
        """Those of its parameters that training begins with, by name; read on the host."""
        return {}

    @property
    def untrained(self) -> tuple[str, ...]:
        """Names of its parameters that the loss sends no gradient, an encoder of passages alone."""
        return ()

    def exported(self, params: Params) -> dict[str, Any]:
        """Those of its encoders that transformers knows, with these of its parameters, by name."""
        del params
        return {}

    @property
    def scores_all(self) -> bool:
        """Whether it can score every passage of the corpus for a query."""
        return False

    @property
    def on_mesh(self) -> bool:
        """Whether it works on a mesh of several devices; a fixed one, which is looked up on the host."""
        return not self.learned

    @property
    def refresh_every_in_step(self) -> int:
        """Number of steps after which a step embeds the index anew; 0 where only the first one does.

        A learned retriever has to say it: one that is silent would go on with its first index.
        """
        if self.learned:
            raise NotImplementedError(
                f"{type(self).__name__} is learned, but does not say when its index is embedded anew; "
                "define refresh_every_in_step"
            )
        return 0

    @property
    def refresh_every_beside(self) -> int:
        """Number of steps after which the index is embedded anew beside the training; 0 for never."""
        return 0

    def prepare(self, index: Any) -> None:
        """See `Index.prepare`; `index` is what the retriever searches."""
        del index

    @property
    def weights(self) -> dict[str, Any]:
        """The fields that decide the shapes and the meaning of its parameters."""
        raise NotImplementedError

    def build(
        self,
        vocabulary: Vocabulary | None = None,
        *,
        query_width: int = 0,
        passage_width: int = 0,
        dtype: DTypeLike = jnp.float32,
    ) -> Retriever:
        """Returns the pure functions.

        Args:
          vocabulary: statistics of the tokens, where queries or passages are tokens.
          query_width: numbers of a query that is no text.
          passage_width: numbers of a passage that is no text.
          dtype: of the computation (float32 or bfloat16); parameters and scores are float32.

        Raises:
          UserError: there are tokens to read, but no vocabulary.
        """
        raise NotImplementedError

    def passages_per_question(self, k: int) -> int:
        """How many passages it returns when `k` are asked for."""
        return k

    def lookup(self, passages: Sequence[Passage], questions: Sequence[Question], k: int) -> TopK:
        """Finds passages for M questions, on the host; fixed retrievers only.

        Args:
          passages: the corpus.
          questions: M questions.
          k: passages wanted for each.

        Returns:
          NumPy `TopK` of [M,K].
        """
        raise NotImplementedError(f"{type(self).__name__} is searched inside the training step")

    def lexical_hits(self, passages: Sequence[Passage], questions: Sequence[Question]) -> TopK:
        """Finds what words in common say of M questions, on the host; only where it `fuses`.

        Args:
          passages: the corpus.
          questions: M questions.

        Returns:
          NumPy `TopK` of [M,C].
        """
        raise NotImplementedError(f"{type(self).__name__} goes by one ranking")


@dataclass(frozen=True)
class Index:
    """Base of the index specs: how the passages of highest inner product with a query are found.

    A new kind is one class. What `build` makes is a tree of arrays, which is part of a run's state.

    Attributes:
      scores_all: whether `scores` exists, as the objective needs that normalises over the whole index.
      on_mesh: whether it can be searched on a mesh of several devices.
    """

    scores_all: ClassVar[bool] = False
    on_mesh: ClassVar[bool] = False

    def build(self, embeddings: Any) -> Any:
        """Arranges embeddings for the search; traceable. By default they stay as they are.

        Args:
          embeddings: [N,D]; of a kind that works `on_mesh` they may be `blocks.ShardedRows`.
        """
        return embeddings

    def rows(self, index: Any) -> Float[Array, "N D"]:
        """The embeddings that `build` was given, out of what it made; by default these are the same."""
        if not hasattr(index, "shape"):
            raise NotImplementedError(
                f"{type(self).__name__} does not give back the embeddings that it was built of; define "
                "rows"
            )
        return index

    def prepare(self, index: Any) -> None:
        """Does on the host, outside of programs, what the first search would do there otherwise."""
        del index

    def search(self, index: Any, query: Float[Array, "*batch D"], k: int) -> TopK:
        """Finds the k passages of highest inner product, best first; traceable, without gradient.

        Args:
          index: from `build`.
          query: [...,D].
          k: static.

        Returns:
          `TopK` of [...,k]; a kind that finds fewer marks the rest as misses: row -1, score -inf.

        Raises:
          UserError: k exceeds the number of passages.
        """
        raise NotImplementedError

    def search_exactly(self, index: Any, query: Float[Array, "*batch D"], k: int) -> TopK:
        """As `search` without approximation, to measure it by; an exact kind has this already."""
        return self.search(index, query, k)

    def scores(self, index: Any, query: Float[Array, "*batch D"]) -> Float[Array, "*batch N"]:
        """The inner products of each query with every passage; only where `scores_all`."""
        raise NotImplementedError(f"{type(self).__name__} does not score every passage")


def require_depth(k: int, passages: int, name: str = "k") -> None:
    """Checks that k passages can be retrieved.

    Args:
      k: how many.
      passages: that there are.
      name: of the field or option that says how many.

    Raises:
      UserError: k is not between 1 and the number of passages.
    """
    require(
        1 <= k <= passages,
        f"{name} is {k}, but there {'is' if passages == 1 else 'are'} {counted(passages, 'passage')} to "
        "retrieve from; choose at least 1 and at most that many.",
    )


def require_gold(questions: Sequence[Question], retriever: str, what: str = "Question") -> None:
    """Checks that questions have a gold passage, for a retriever that reads it.

    Args:
      questions: any.
      retriever: its name.
      what: the questions are, for a message.

    Raises:
      UserError: names the first that has none.
    """
    for question in questions:
        require(
            len(question.positives) > 0,
            f"{what} {question.id!r} names no gold passage, which retriever {retriever} reads; give it "
            "one or choose another retriever.",
        )


def best(scores: Float[Array, "*batch N"], k: int) -> TopK:
    """The k highest of the scores of all N passages, ties by the lower row.

    Args:
      scores: [...,N]; a passage that scores -inf is never found.
      k: static.

    Returns:
      `TopK` of [...,k], without gradient.

    Raises:
      UserError: k exceeds N.
    """
    require_depth(k, scores.shape[-1])
    found, ids = jax.lax.top_k(jax.lax.stop_gradient(scores), k)
    valid = ~jnp.isneginf(found)
    return TopK(jnp.where(valid, ids.astype(jnp.int32), -1), found, valid)


def or_empty(topk: TopK) -> TopK:
    """Lets the empty passage stand for a query's hits where there are none.

    With misses alone p(y|x) would be 0 and the loss infinite. The empty passage has row -1 and score 0.
    Other misses hold row -1 and score -inf, whatever the index left there.
    """
    hit = topk.valid & (topk.ids >= 0)
    first = jnp.arange(hit.shape[-1]) == 0
    empty = first & ~jnp.any(hit, axis=-1, keepdims=True)
    scores = jnp.where(hit, topk.scores, jnp.where(empty, 0.0, -jnp.inf))
    return TopK(jnp.where(hit, topk.ids, -1), scores, hit | empty)


def prior_of_scores(scale: Float[Array, ""], topk: TopK) -> Float[Array, "B K"]:
    """[B,K] log p(d|x) from the scores that the search itself gave, times the inverse temperature."""
    # A miss scores -inf, and the gradient of the scale would be 0 * -inf.
    scores = scale * jnp.where(topk.valid, topk.scores, 0.0)
    return log_prior_retrieved(scores, topk.valid)
