"""The stream of training questions: which of them a step learns from, fed by row or as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.data.batching import EncodedQuestions, stream_rows
from ragjax.data.prepared import PreparedText
from ragjax.errors import require
from ragjax.ranges import BATCH
from ragjax.retrieval.base import RetrieverSpec
from ragjax.types import Question

ON_DEVICE = 256 * 2**20  # bytes of training questions up to which they live on the device


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one batch shape, hence one compilation.

    Attributes:
      steps: updates.
      batch_size: B, questions an update.
      k: K, passages retrieved for each question.
      candidates: a fixed retriever that a learned one takes the K passages from, a warm start where the
        index of an untrained encoder finds too little; None for its own index. It scores them itself
        either way, and evaluation always searches the index.
    """

    steps: int
    batch_size: int = field(default=32, metadata=BATCH)
    k: int = 4
    candidates: RetrieverSpec | None = None

    def __post_init__(self):
        """Checks the fields."""
        for name in ("steps", "batch_size", "k"):
            value = getattr(self, name)
            require(value >= 1, f"phases.{name} is {value}; it must be at least 1.")
        require(
            self.candidates is None or not self.candidates.learned,
            f"phases.candidates is {self.candidates}, which is learned; name a fixed retriever.",
        )


class QuestionStream:
    """Shuffled epochs of the training questions, over all phases of a run.

    What step n of the run with a seed learns from is a function of both, so that a checkpoint holds no
    position.

    Attributes:
      encoded: of each source of candidates the questions with these candidates.
    """

    def __init__(
        self,
        text: PreparedText,
        questions: Sequence[Question],
        phases: Sequence[Phase],
        retriever: RetrieverSpec,
    ):
        """Tokenises the questions, and looks up what fixed retrievers find for them.

        Args:
          text: tokenizer and corpus.
          questions: the training split.
          phases: of a run, in order.
          retriever: that of the run; phases may take their candidates from others.
        """
        self._phases = tuple(phases)
        self._sources = tuple(dict.fromkeys(phase.candidates for phase in phases))
        deepest = max(phase.k for phase in phases)
        self.encoded: list[EncodedQuestions] = [
            text.encode(questions, retriever, deepest, source) for source in self._sources
        ]

    @cached_property
    def on_device(self) -> bool:
        """Whether the questions live on the device, so that rows alone are fed."""
        leaves = jax.tree.leaves([encoded.arrays for encoded in self.encoded])
        return sum(leaf.nbytes for leaf in leaves) <= ON_DEVICE

    @cached_property
    def arrays(self) -> list[Any]:
        """A `RagBatch` of all questions for each source of candidates, on the device; or nothing."""
        if not self.on_device:
            return []
        with (
            jax.ensure_compile_time_eval()
        ):  # they outlive a trace in which they are first asked for
            return [jax.tree.map(jnp.asarray, encoded.arrays) for encoded in self.encoded]

    def source(self, phase: Phase) -> int:
        """The number of a phase's source of candidates."""
        return self._sources.index(phase.candidates)

    def rows(self, seed: int, step: int) -> tuple[Phase, np.ndarray]:
        """The phase of a step (from 0), and the rows [B] of its questions."""
        position, phase = 0, self._phases[-1]
        for phase in self._phases:
            if step < phase.steps:
                break
            position, step = position + phase.steps * phase.batch_size, step - phase.steps
        position += step * phase.batch_size
        count = len(self.encoded[0].questions)
        return phase, stream_rows(seed, position, phase.batch_size, count)

    def feed(self, seed: int, step: int) -> Any:
        """What the host gives a step: rows, or the questions themselves where they live on the host."""
        phase, rows = self.rows(seed, step)
        return (
            rows.astype(np.int32) if self.on_device else self.encoded[self.source(phase)].rows(rows)
        )

    def in_words(self, seed: int, step: int) -> list[str]:
        """The questions and accepted answers of a step."""
        _, rows = self.rows(seed, step)
        questions = [self.encoded[0].questions[row] for row in rows]
        return [f"{q.question} -> {' | '.join(q.answers)}" for q in questions]
