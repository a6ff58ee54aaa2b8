"""The questions of adaptive retrieval, with what a reader retrieves for them and answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from ragjax.agents.adaptive_retrieval.reader import STAGES, RetrievalTrace, TrainedReader
from ragjax.data.checks import require_splits
from ragjax.evaluation.matching import exact_match, strict_match, token_f1
from ragjax.tasks.base import SPLITS, Task
from ragjax.types import Leaf, QaData, Question

COMPONENTS = 8  # of a question's embedding that a policy observes
# What a policy observes of a stage: log p and p of the answer, p(d|x) and similarity of the best
# passage, and the share of new names in the query that follows.
FEATURES = ("log_prob", "probability", "prior", "similarity", "new_name_share")
MEASURES = {"em": exact_match, "strict_em": strict_match, "f1": token_f1}


@struct.dataclass
class QuestionTable:
    """M questions in the order of their kinds, with what each stage of retrieval leads to.

    Attributes:
      score: [M,STAGES] of the answer that the reader gives at each stage, 0 to 1.
      features: [M,STAGES,F] what is observed of a stage once it is reached, by the names of `FEATURES`.
      question: [M,C] what is observed of the question from the start.
      kind: [M] number of its kind.
      starts: [n] row of the first question of each of n kinds.
      counts: [n] questions of each.
      kinds: names of the kinds.
    """

    score: Leaf
    features: Leaf
    question: Leaf
    kind: Leaf
    starts: Leaf
    counts: Leaf
    kinds: tuple[str, ...] = struct.field(pytree_node=False)


def make_table(
    trace: RetrievalTrace,
    basis: Float[np.ndarray, "C D"],
    scores: Float[np.ndarray, "M STAGES"],
    kinds: Sequence[str],
) -> QuestionTable:
    """The table of questions whose kinds stand in order.

    Of a question its length and the components of its embedding are observed.

    Args:
      trace: of M questions.
      basis: from `principal_components`.
      scores: of the answers.
      kinds: [M] names.

    Returns:
      The table, with 1 + C numbers of each question.
    """
    columns = {
        "log_prob": np.maximum(trace.log_prob, -20.0) / 5.0,
        "probability": np.exp(trace.log_prob),
        "prior": np.exp(np.max(trace.log_prior, axis=-1)),
        "similarity": trace.similarity,
        "new_name_share": trace.new_name_share,
    }
    features = np.stack([columns[name] for name in FEATURES], axis=-1)
    question = np.concatenate([trace.length[:, None], trace.embedding @ basis.T], axis=-1)
    names, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    return QuestionTable(
        score=jnp.asarray(scores, jnp.float32),
        features=jnp.asarray(features, jnp.float32),
        question=jnp.asarray(question, jnp.float32),
        kind=jnp.asarray(kind, jnp.int32),
        starts=jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
        counts=jnp.asarray(counts, jnp.int32),
        kinds=tuple(names.tolist()),
    )


@dataclass(frozen=True, eq=False)
class ReadQuestions:
    """The questions of a task, each split read by a trained reader when it is first asked for.

    Attributes:
      reader: the reader.
      task: the questions; their kind is their relation.
      k: passages of a retrieval.
      measure: what an answer scores, a key of `MEASURES`.
    """

    reader: TrainedReader
    task: Task
    k: int
    measure: str

    @cached_property
    def data(self) -> QaData:
        """All questions, unread.

        Raises:
          UserError: a split has none.
        """
        data = self.task.load()
        require_splits(data, self.task.name, SPLITS)
        return data

    @cached_property
    def basis(self) -> Float[np.ndarray, "C D"]:
        """Principal components of the embeddings of the training questions."""
        texts = [question.question for question in self.data.splits["train"]]
        return principal_components(self.reader.embed(texts))

    def questions(self, split: str) -> list[Question]:
        """The questions of a split, in the order of its table."""
        return sorted(self.data.splits[split], key=lambda question: question.relation)

    @cached_property
    def _tables(self) -> dict[str, QuestionTable]:
        return {}

    def table(self, split: str) -> QuestionTable:
        """The table of a split, whose questions are read at the first call.

        Raises:
          UserError: a split has none, or the corpus has fewer than k passages.
        """
        if split not in self._tables:
            questions, measure = self.questions(split), MEASURES[self.measure]
            trace = self.reader.read([question.question for question in questions], self.k)
            scores = [
                [float(measure(self.reader.text(answer), question.answers)) for answer in answers]
                for question, answers in zip(questions, trace.answer, strict=True)
            ]
            kinds = [question.relation for question in questions]
            self._tables[split] = make_table(trace, self.basis, np.array(scores), kinds)
        return self._tables[split]

    def empty_table(self) -> QuestionTable:
        """A table of the training questions' kinds, one question each, that nobody asked the reader."""
        kinds = sorted({question.relation for question in self.questions("train")})
        trace = self.reader.empty_trace(len(kinds), self.k)
        return make_table(trace, self.basis, np.zeros((len(kinds), STAGES)), kinds)


def principal_components(embeddings: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "C D"]:
    """The directions in which embeddings vary most, scaled to unit deviation; 0 where nothing varies.

    The sign, which the decomposition leaves open, makes the largest number of each positive.
    """
    centred = embeddings - embeddings.mean(axis=0)
    _, deviations, directions = np.linalg.svd(centred, full_matrices=False)
    directions, deviations = directions[:COMPONENTS], deviations[:COMPONENTS]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    # Where nothing varies, a direction is made of rounding errors.
    spread = np.where(deviations > 1e-4 * deviations[0], deviations, np.inf)
    return directions * np.sign(largest) * np.sqrt(len(embeddings)) / spread[:, None]
