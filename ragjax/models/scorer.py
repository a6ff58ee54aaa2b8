"""The retrieval scorer: how question and passage embeddings become p(d|x)."""

from dataclasses import dataclass

from ragjax.errors import require


@dataclass(frozen=True)
class Scorer:
    """Inner product of unit-length embeddings, times a learned inverse temperature.

        log p(d|x) = τ · <q(x), e(d)> - log Σ_d' exp(τ · <q(x), e(d')>)

    With a retriever that is not learned, its own scores stand in the place of the inner products.

    Attributes:
      siamese: whether questions and passages share one encoder.
      initial_scale: τ at the start.
    """

    siamese: bool = True
    initial_scale: float = 20.0

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.initial_scale > 0,
            f"scorer.initial_scale is {self.initial_scale}; it must be positive.",
        )
