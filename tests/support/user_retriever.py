"""An index that a user might bring: it finds no passage that scores at most `least`."""

from dataclasses import dataclass
from typing import ClassVar

from ragjax.retrieval.base import Index, best


@dataclass(frozen=True)
class Sparse(Index):
    """A tree of two arrays, the embeddings in halves; a passage that scores too little is not found.

    It leaves at a miss whatever stood there, as some libraries do.

    Attributes:
      least: score that a passage has to exceed; 2 finds nothing at all.
    """

    scores_all: ClassVar[bool] = True

    least: float = 0.0

    def build(self, embeddings):
        half = embeddings.shape[-1] // 2
        return {"left": embeddings[:, :half], "right": embeddings[:, half:]}

    def scores(self, index, query):
        half = index["left"].shape[-1]
        return query[..., :half] @ index["left"].T + query[..., half:] @ index["right"].T

    def search(self, index, query, k):
        found = best(self.scores(index, query), k)
        return found.replace(valid=found.scores > self.least)
