"""Adaptive retrieval: an episode is a question; the policy decides to retrieve, again, or to answer.

The reader is a trained one and does not learn here, so what it retrieves and answers at each stage is a
function of the question alone: a `QuestionTable`, read once and in batches when a split is first used,
and not once a step.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.agents.adaptive_retrieval.answering import answer_question
from ragjax.agents.adaptive_retrieval.decisions import decision_process
from ragjax.agents.adaptive_retrieval.questions import (
    MEASURES,
    QuestionTable,
    ReadQuestions,
    make_table,
)
from ragjax.agents.adaptive_retrieval.reader import STAGES, TrainedReader
from ragjax.data.prepared import NOTHING_KNOWN
from ragjax.envs.base import Environment, EpisodeList
from ragjax.errors import UserError, require
from ragjax.origin import found_from, made_from
from ragjax.tasks.agent_questions import AgentQuestions
from ragjax.tasks.base import SPLITS, Task
from ragjax.types import Env, QaData


@dataclass(frozen=True)
class AdaptiveRetrieval(Environment):
    """Reward: the score of the answer, or `abstain`, minus `cost` for each retrieval.

    Actions: answer from memory; retrieve by the question; retrieve again, by a query that the reader
    writes of the question and what was retrieved (before anything was: by the question); read what was
    retrieved last and answer (from memory, if nothing was); abstain. Answers and abstentions end the
    episode. Its question is drawn from a kind, each as often as the others.

    Observation [STAGES + 2F + C]: the stage, one-hot; the `FEATURES` of what the reader answers from
    memory and at this stage (0 at the first); and numbers of the question. Of stages not reached nothing
    is observed.

    The metrics `episode_retrievals_<kind>`, `episode_score_<kind>` and `episode_reward_<kind>` are those
    of the episode so far, a `Figure` of nothing if its question is of another kind.

    Attributes:
      reader: directory of the reader's finished run, with "{seed}" in the place of the seed.
      task: the questions; their kind is their relation.
      k: passages retrieved at once.
      cost: of a retrieval.
      abstain: reward of abstaining.
      measure: what an answer scores: exact match (`em`), strict exact match (`strict_em`) or token F1
        (`f1`), see `evaluation.matching`.
    """

    name: ClassVar[str] = "adaptive_retrieval"
    splits: ClassVar[tuple[str, ...]] = SPLITS

    time_limit: int = 6
    reader: str = "runs/reader_training/reader/seed_{seed}"
    task: Task = field(default_factory=AgentQuestions)
    k: int = 2
    cost: float = 0.1
    abstain: float = 0.2
    measure: Literal["em", "strict_em", "f1"] = "em"

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(self.k >= 1, f"env.k is {self.k}; it must be at least 1.")
        require(self.cost >= 0, f"env.cost is {self.cost}; it must not be negative.")
        require(
            0 <= self.abstain <= 1,
            f"env.abstain is {self.abstain}; choose a reward between those of a wrong answer, 0, and of "
            "a right one, 1.",
        )
        require(
            self.measure in MEASURES,
            f"env.measure is {self.measure!r}; choose one of {', '.join(MEASURES)}.",
        )
        require(
            not self.history,
            "env.history is True, but what is observed of a question already says what was done.",
        )

    def reader_dir(self, seed: int) -> Path:
        """The directory of the reader's run, of a run of this seed."""
        return Path(self.reader.replace("{seed}", str(seed)))

    def same_for_all_seeds(self) -> bool:
        """Whether there is one reader for all seeds."""
        return "{seed}" not in self.reader

    def of_run(self, run_dir: Path, seed: int) -> Environment:
        """The reader is also found from the directory in which the run began."""
        return dataclasses.replace(self, reader=found_from(run_dir, self.reader, seed))

    def prepare(self, seed: int) -> Environment:
        """The environment with the reader of this seed.

        Raises:
          UserError: the reader can't be loaded.
        """
        directory = self.reader_dir(seed)
        reader = TrainedReader.load(directory)
        questions = ReadQuestions(reader, self.task, self.k, self.measure)
        return PreparedAdaptiveRetrieval(
            self.time_limit, spec=self, questions=questions, reader_dir=directory
        )

    def build(self) -> Env:
        """Raises an error: a reader is needed.

        Raises:
          UserError: always.
        """
        raise UserError(
            f"Environment {self.name} works with a trained reader; call `prepare(seed)` first, which "
            "loads it."
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedAdaptiveRetrieval(Environment):
    """`AdaptiveRetrieval` with its reader, over the questions of one split.

    Attributes:
      spec: costs and rewards.
      questions: the questions, and their reader.
      reader_dir: where the reader comes from.
      split: name of the split, or None for questions that nobody asked the reader.
    """

    name: ClassVar[str] = AdaptiveRetrieval.name
    splits: ClassVar[tuple[str, ...]] = AdaptiveRetrieval.splits

    spec: AdaptiveRetrieval
    questions: ReadQuestions
    reader_dir: Path
    split: str | None = "train"

    def on_split(self, split: str) -> Environment:
        """The environment over the questions of a split."""
        return dataclasses.replace(self, split=split)

    def for_answering(self) -> Environment:
        """An environment of the same shapes, for which no question is read."""
        return dataclasses.replace(self, split=None)

    def origins(self) -> dict[str, Any]:
        """The reader's run."""
        return {"reader": made_from(self.reader_dir, self.questions.reader.params)}

    def asks(self) -> tuple[str, QaData]:
        """The task of its questions."""
        return self.spec.task.name, self.questions.data

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        return self._process(self._table())

    def every_episode(self, times: int = 1) -> EpisodeList | None:
        """Every question of the split, in the order of their kinds."""
        if self.split is None:
            return None
        asked = self.questions.questions(self.split)
        rows = jnp.tile(jnp.arange(len(asked), dtype=jnp.int32), times)
        # Wrappers hand the key of a reset on as it is, so that the row can stand in its place.
        begin = self.whole_episode(self._process(self._table(), drawn=False)).reset

        def reset(params, key):
            del key
            return jax.vmap(begin, (None, 0))(params, rows)

        env = self.vectorise(len(rows))._replace(reset=reset)
        ids = tuple(question.id for question in asked)
        return EpisodeList(env, ids, tuple(question.relation for question in asked))

    def answer(self, act: Callable[[Array], Any], text: str) -> dict[str, Any] | None:
        """Lets a policy answer one question by its likeliest decisions.

        Args:
          act: observation [E,O] -> action distribution.
          text: the question.

        Returns:
          What `answer_question` returns, and "notes" on what of the question is not read. Of a question
          without a known word nothing is decided, and no answer is given.

        Raises:
          UserError: the question is empty, or holds what is no character.
        """
        reader = self.questions.reader
        text, notes = reader.understood(text)
        if not reader.learner.text.has_known_word(text):
            told = {"question": text, "answer": None, "probability": None, "decisions": []}
            return told | {"notes": [*notes, NOTHING_KNOWN]}
        trace = reader.read([text], self.spec.k)
        unknown = np.zeros((1, STAGES))  # what the answers would score
        table = make_table(trace, self.questions.basis, unknown, ["asked"])
        limit = self.time_limit
        answer = answer_question(self._process(table), act, reader, trace, text, limit=limit)
        return answer | {"notes": notes}

    def _table(self) -> QuestionTable:
        if self.split is None:
            return self.questions.empty_table()
        return self.questions.table(self.split)

    def _process(self, table: QuestionTable, *, drawn: bool = True) -> Env:
        costs = {"cost": self.spec.cost, "abstain": self.spec.abstain}
        return decision_process(table, **costs, drawn=drawn)
