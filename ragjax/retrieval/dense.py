"""The learned retriever: inner product of question and passage embeddings."""

from dataclasses import dataclass
from typing import ClassVar

from ragjax.errors import require
from ragjax.retrieval.base import Retriever


@dataclass(frozen=True)
class Dense(Retriever):
    """Retrieval by learned embeddings, trained through the marginal.

    Attributes:
      siamese: whether questions and passages share one encoder.
      initial_scale: inverse temperature of p(d|x) at the start; it is learned.
      refresh_every: steps after which the index is embedded anew. The index only chooses passages;
        scores inside the step always come from the current parameters. Not used with
        `objective.documents=index`, which embeds the whole corpus in every step.
    """

    learned: ClassVar[bool] = True
    siamese: bool = True
    initial_scale: float = 20.0  # pyright: ignore[reportIncompatibleVariableOverride]
    refresh_every: int = 25

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.initial_scale > 0,
            f"retriever.initial_scale is {self.initial_scale}; it must be positive.",
        )
        require(
            self.refresh_every >= 1,
            f"retriever.refresh_every is {self.refresh_every}; it must be at least 1 step.",
        )
