"""Retrievers that need no search: the gold passage, and none at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ragjax.retrieval.base import Retriever
from ragjax.types import Passage, Question, TopK


@dataclass(frozen=True)
class Oracle(Retriever):
    """The first gold passage of each question: the ceiling of any retriever with the same reader."""

    def passages_per_question(self, k: int) -> int:
        """Always one."""
        return 1

    def lookup(self, passages: Sequence[Passage], questions: Sequence[Question], k: int) -> TopK:
        """Returns the first gold passage, [M,1]."""
        rows = {passage.id: row for row, passage in enumerate(passages)}
        ids = np.array([[rows[question.positives[0]]] for question in questions], np.int32)
        return TopK(ids.reshape(-1, 1), np.zeros(ids.shape, np.float32), np.ones(ids.shape, bool))


@dataclass(frozen=True)
class ClosedBook(Retriever):
    """One empty passage for every question: what the generator knows by heart.

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
