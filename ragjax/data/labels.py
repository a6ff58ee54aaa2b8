"""Which training questions have an answer to learn from."""

from dataclasses import dataclass, field

import numpy as np

from ragjax.errors import require
from ragjax.ranges import SEED


@dataclass(frozen=True)
class Labels:
    """The share of the training questions that are labelled, the others being rewarded only.

    Of an unlabelled question it is known whether a given answer is right, as a user's thumb tells, but
    neither its answer nor its gold passages.

    The labelled ones are drawn by `seed` and the seed of the run, and by nothing else: runs of one seed
    have the same ones, whatever they learn, and a smaller share is a part of a larger one.

    Attributes:
      share: of the training questions, above 0 and at most 1, which labels all.
      seed: of the choice.
    """

    share: float = 1.0
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self):
        """Checks the fields."""
        require(
            0 < self.share <= 1,
            f"labels.share is {self.share}; it must be above 0 and at most 1.",
        )
        require(self.seed >= 0, f"labels.seed is {self.seed}; it must not be negative.")

    @property
    def complete(self) -> bool:
        """Whether every question is labelled."""
        return self.share == 1

    def count(self, questions: int) -> int:
        """How many of so many questions are labelled; at least one."""
        return max(1, round(self.share * questions))

    def split(self, run_seed: int, questions: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the labelled of M questions for the run of a seed, and those of the others."""
        order = np.random.default_rng((self.seed, run_seed)).permutation(questions)
        count = self.count(questions)
        return np.sort(order[:count]), np.sort(order[count:])
