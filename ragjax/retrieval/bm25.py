"""BM25 through the `bm25s` package."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ragjax.errors import require
from ragjax.retrieval.base import require_depth
from ragjax.retrieval.fixed import Fixed
from ragjax.text import with_word_breaks
from ragjax.types import Passage, Question, TopK


def _words(questions: Sequence[Question]) -> list[list[str]]:
    """What is looked up of each question."""
    import bm25s  # imported here: only this arm needs it, and start-up time is felt

    texts = [with_word_breaks(question.question) for question in questions]
    words: Any = bm25s.tokenize(texts, show_progress=False, return_ids=False)
    return words


@dataclass(frozen=True)
class BM25(Fixed):
    """Okapi BM25 over titles and texts, in Lucene's variant.

    Of scripts without spaces letters and pairs of letters are words.

    Attributes:
      k1: saturation of the term frequency.
      b: strength of the length normalisation.
    """

    k1: float = 1.5
    b: float = 0.75

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(self.k1 >= 0, f"retriever.k1 is {self.k1}; it must not be negative.")
        require(0 <= self.b <= 1, f"retriever.b is {self.b}; it must lie between 0 and 1.")

    def lookup(self, passages: Sequence[Passage], questions: Sequence[Question], k: int) -> TopK:
        """Returns the k best passages of each question; passages without a common word are misses.

        A question without any hit is read with an empty passage, as in `fixed.ClosedBook`: with
        misses alone p(y|x) would be 0 and the loss infinite.

        Raises:
          UserError: k exceeds the number of passages.
        """
        require_depth(k, len(passages))
        index = self._index(tuple(passages))
        if index is None:
            ids, scores = np.zeros((2, len(questions), k))
        else:
            ids, scores = index.retrieve(_words(questions), k=k, show_progress=False)
        # Ties are broken by the corpus order, so that the ranking does not hang on a partial sort.
        order = np.lexsort((ids, -scores), axis=-1)
        ids = np.take_along_axis(ids, order, axis=-1).astype(np.int32)
        scores = np.take_along_axis(scores, order, axis=-1).astype(np.float32)
        valid = scores > 0
        ids, scores = np.where(valid, ids, -1), np.where(valid, scores, -np.inf)
        nothing = ~np.any(valid, axis=-1)
        scores[nothing, 0], valid[nothing, 0] = 0.0, True
        return TopK(ids, scores, valid)

    @cached_property
    def _newest(self) -> list[tuple[tuple[Passage, ...], Any]]:
        """The corpus that was asked last, with its index: single questions come one by one."""
        return []

    def _index(self, passages: tuple[Passage, ...]) -> Any:
        """The index of a corpus, told by its content; None where no passage has a word."""
        import bm25s

        for known, index in self._newest:
            if known == passages:
                return index
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets DEBUG for itself
        texts = [with_word_breaks(f"{passage.title} {passage.text}") for passage in passages]
        words: Any = bm25s.tokenize(texts, show_progress=False)
        index = None
        if any(words.ids):
            index = bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
            index.index(words, show_progress=False)
        self._newest[:] = [(passages, index)]
        return index
