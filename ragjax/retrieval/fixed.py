"""Retrievers that are not learned, and three that need no search: the gold passage, any, and none."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.retrieval.base import RetrieverSpec, prior_of_scores, require_depth, require_gold
from ragjax.types import Passage, Question, Retriever, TopK, Vocabulary


@dataclass(frozen=True)
class Fixed(RetrieverSpec):
    """Base of the retrievers that are looked up once for every question, before training.

    Their scores still pass through a learned inverse temperature τ:

        log p(d|x) = τ · score(x, d) - log Σ_d' exp(τ · score(x, d'))

    Attributes:
      initial_scale: τ at the start.
    """

    initial_scale: float = field(default=20.0, kw_only=True)

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.initial_scale > 0,
            f"retriever.initial_scale is {self.initial_scale}; it must be positive.",
        )

    @property
    def weights(self) -> dict[str, Any]:
        """The temperature alone."""
        return {"initial_scale": self.initial_scale}

    def build(
        self,
        vocabulary: Vocabulary | None = None,
        *,
        query_width: int = 0,
        passage_width: int = 0,
        dtype: DTypeLike = jnp.float32,
    ) -> Retriever:
        """Returns the temperature's functions; there is nothing to embed or to search."""
        del vocabulary, query_width, passage_width, dtype

        def looked_up(*_):
            raise NotImplementedError(f"{type(self).__name__} is looked up before training")

        def scale(params):
            return jnp.exp(params["retriever"]["log_scale"])

        def log_prior(params, query, corpus, topk, rename=None):
            del query, corpus, rename
            return prior_of_scores(scale(params), topk)

        return Retriever(
            init=lambda key: {"log_scale": jnp.log(jnp.float32(self.initial_scale))},
            query=looked_up,
            embed=looked_up,
            index=lambda params, corpus: None,
            search=looked_up,
            search_exactly=looked_up,
            scores=looked_up,
            scale=scale,
            log_prior=log_prior,
        )


@dataclass(frozen=True)
class Oracle(Fixed):
    """The first gold passage of each question: the ceiling of any retriever with the same reader."""

    needs_gold: ClassVar[bool] = True

    def passages_per_question(self, k: int) -> int:
        """Always one."""
        return 1

    def lookup(self, passages: Sequence[Passage], questions: Sequence[Question], k: int) -> TopK:
        """Returns the first gold passage, [M,1].

        Raises:
          UserError: a question has none.
        """
        require_gold(questions, "Oracle")
        rows = {passage.id: row for row, passage in enumerate(passages)}
        ids = np.array([[rows[question.positives[0]]] for question in questions], np.int32)
        return TopK(ids.reshape(-1, 1), np.zeros(ids.shape, np.float32), np.ones(ids.shape, bool))


@dataclass(frozen=True)
class Random(Fixed):
    """Passages of chance, each as likely: what a reader makes of passages that no search has chosen.

    Those of a question follow from the seed and from its text, so that it has the same ones whenever and
    however it is asked.

    Attributes:
      passage_seed: of the choice.
    """

    passage_seed: int = field(default=0, metadata=SEED)

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            self.passage_seed >= 0,
            f"retriever.passage_seed is {self.passage_seed}; it must not be negative.",
        )

    def lookup(self, passages: Sequence[Passage], questions: Sequence[Question], k: int) -> TopK:
        """Returns k distinct passages of each question, [M,k], all of score 0.

        Raises:
          UserError: k exceeds the number of passages.
        """
        require_depth(k, len(passages))
        ids = np.empty((len(questions), k), np.int32)
        for row, question in zip(ids, questions, strict=True):
            digest = hashlib.blake2b(question.question.strip().encode(), digest_size=16).digest()
            rng = np.random.default_rng((self.passage_seed, int.from_bytes(digest)))
            row[:] = rng.choice(len(passages), k, replace=False)
        return TopK(ids, np.zeros(ids.shape, np.float32), np.ones(ids.shape, bool))


@dataclass(frozen=True)
class ClosedBook(Fixed):
    """One empty passage for every question: what the reader knows by heart.

    The row is -1, which `retrieval.corpus.gather_passages` reads as an empty passage, but the hit is
    valid: it stands for "no passage" with p(d|x) = 1.
    """

    def passages_per_question(self, k: int) -> int:
        """Always one."""
        return 1

    def lookup(self, passages: Sequence[Passage], questions: Sequence[Question], k: int) -> TopK:
        """Returns the empty passage, [M,1]."""
        shape = (len(questions), 1)
        return TopK(np.full(shape, -1, np.int32), np.zeros(shape, np.float32), np.ones(shape, bool))
