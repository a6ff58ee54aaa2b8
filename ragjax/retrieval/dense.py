"""The learned retriever: inner product of question and passage embeddings."""

from dataclasses import dataclass
from typing import ClassVar

from ragjax.errors import require
from ragjax.retrieval.base import Retriever


@dataclass(frozen=True)
class Dense(Retriever):
    """Retrieval by learned embeddings, trained through the marginal.

    Attributes:
      refresh_every: steps after which the index is embedded anew. The index only chooses passages;
        scores inside the step always come from the current parameters. Not used with
        `objective.documents=index`, which embeds the whole corpus in every step.
    """

    learned: ClassVar[bool] = True
    refresh_every: int = 25

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.refresh_every >= 1,
            f"retriever.refresh_every is {self.refresh_every}; it must be at least 1 step.",
        )
