"""The stream of training questions: which of them a step learns from, fed by row or as a whole."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.data.batching import EncodedQuestions, stream_rows
from ragjax.data.labels import Labels
from ragjax.data.prepared import PreparedText
from ragjax.errors import require
from ragjax.ranges import BATCH
from ragjax.retrieval.base import RetrieverSpec
from ragjax.types import Question

ON_DEVICE = 256 * 2**20  # bytes of training questions up to which they live on the device
ALL_LABELLED = Labels()

Part = Literal["all", "labelled", "unlabelled"]  # of the questions, each a stream of its own


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
      labelled: how many questions of a batch are labelled ones (`Labels`), the rest being unlabelled;
        None for as many as there happen to be among B of all.
    """

    steps: int
    batch_size: int = field(default=32, metadata=BATCH)
    k: int = 4
    candidates: RetrieverSpec | None = None
    labelled: int | None = None

    def __post_init__(self):
        """Checks the fields."""
        for name in ("steps", "batch_size", "k"):
            value = getattr(self, name)
            require(value >= 1, f"phases.{name} is {value}; it must be at least 1.")
        require(
            self.candidates is None or not self.candidates.learned,
            f"phases.candidates is {self.candidates}, which is learned; name a fixed retriever.",
        )
        require(
            self.labelled is None or 1 <= self.labelled <= self.batch_size,
            f"phases.labelled is {self.labelled}; it must be at least 1 and at most batch_size, "
            f"{self.batch_size}.",
        )


class Dealt(NamedTuple):
    """What the host gives a step of few labels whose questions live on the device.

    Attributes:
      rows: [B] of the questions.
      label_weight: [B] see `RagBatch`.
    """

    rows: np.ndarray
    label_weight: np.ndarray


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
        labels: Labels = ALL_LABELLED,
    ):
        """Tokenises the questions, and looks up what fixed retrievers find for them.

        Args:
          text: tokenizer and corpus.
          questions: the training split.
          phases: of a run, in order.
          retriever: that of the run; phases may take their candidates from others.
          labels: which questions are labelled.
        """
        self._labels = labels
        self._parts_of_seed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._phases = tuple(phases)
        self._sources = tuple(dict.fromkeys(phase.candidates for phase in phases))
        deepest = max(phase.k for phase in phases)
        mixed = any("unlabelled" in _sizes(phase) for phase in phases)
        require(
            not mixed or labels.count(len(questions)) < len(questions),
            f"labels.share is {labels.share}, which labels all {len(questions)} training questions, but "
            "phases.labelled leaves room for others in a batch; lower the share.",
        )
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
        phase, before = self._phases[-1], Counter()
        for phase in self._phases:
            if step < phase.steps:
                break
            before.update({part: phase.steps * size for part, size in _sizes(phase).items()})
            step -= phase.steps
        rows = [
            self._deal(part, seed, before[part] + step * size, size)
            for part, size in _sizes(phase).items()
        ]
        return phase, np.concatenate(rows)

    def _deal(self, part: Part, seed: int, position: int, size: int) -> np.ndarray:
        """The next rows of a part of the questions, after `position` of them."""
        if part == "all":
            return stream_rows(seed, position, size, len(self.encoded[0].questions))
        rows = self._parts(seed)[part == "unlabelled"]
        return rows[stream_rows(seed, position, size, len(rows))]

    def _parts(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The labelled and the unlabelled rows of the run with a seed."""
        if seed not in self._parts_of_seed:
            count = len(self.encoded[0].questions)
            self._parts_of_seed[seed] = self._labels.split(seed, count)
        return self._parts_of_seed[seed]

    def feed(self, seed: int, step: int) -> Any:
        """What the host gives a step: rows, or the questions themselves where they live on the host.

        With few labels, rows are `Dealt` with the weights of their labels.
        """
        phase, rows = self.rows(seed, step)
        weight = None if self._labels.complete else self._label_weight(seed, rows)
        if not self.on_device:
            batch = self.encoded[self.source(phase)].rows(rows)
            return replace(batch, label_weight=weight)  # pyright: ignore[reportArgumentType]
        short = rows.astype(np.int32)
        return short if weight is None else Dealt(short, weight)

    def _label_weight(self, seed: int, rows: np.ndarray) -> np.ndarray:
        """[B] see `RagBatch.label_weight`; all 0 if none of the questions is labelled."""
        labelled = np.isin(rows, self._parts(seed)[0])
        return labelled * np.float32(len(rows) / max(np.sum(labelled), 1))

    def in_words(self, seed: int, step: int) -> list[str]:
        """The questions and accepted answers of a step."""
        _, rows = self.rows(seed, step)
        questions = [self.encoded[0].questions[row] for row in rows]
        return [f"{q.question} -> {' | '.join(q.answers)}" for q in questions]


def _sizes(phase: Phase) -> dict[Part, int]:
    """How many questions of a batch come from each part."""
    if phase.labelled is None:
        return {"all": phase.batch_size}
    rest = phase.batch_size - phase.labelled
    sizes: dict[Part, int] = {"labelled": phase.labelled, "unlabelled": rest}
    return {part: size for part, size in sizes.items() if size}
