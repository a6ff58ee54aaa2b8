"""What every retriever spec has in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ragjax.types import Passage, Question, TopK


@dataclass(frozen=True)
class Retriever:
    """Base of the retriever specs.

    A learned retriever is searched inside the training step. A fixed one is looked up once for every
    question, before training; its scores still pass through the learned temperature of p(d|x).
    """

    learned: ClassVar[bool] = False

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
