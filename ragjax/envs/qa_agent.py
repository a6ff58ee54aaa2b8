"""QaAgent: an episode is a question; the agent decides whether to retrieve, again, or to answer.

The reader is a trained one and does not learn here, so what it would find and answer in each round is a
function of the question alone: a `Book`, decoded once and in batches when the environment is bound to a
reader (`ragjax.question_rounds`), and not once a step.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.errors import UserError, require
from ragjax.tasks.agent_questions import AgentQuestions
from ragjax.tasks.base import Task
from ragjax.types import Env, Leaf, PRNGKey, Timestep

ANSWER, RETRIEVE, REFORMULATE, READ, ABSTAIN = range(5)
ACTIONS = ("answer from memory", "retrieve", "retrieve again", "read and answer", "abstain")
# Rounds: nothing retrieved; retrieved by the question; by the query that the reader makes of both.
MEMORY, FIRST, SECOND = range(3)
ROUNDS = 3
# What is shown of a round: log p and p of its answer, p(d|x) and similarity of its best passage, and
# whether the query that follows leads on to another name.
SHOWN = ("log_prob", "probability", "prior", "similarity", "leads_on")


@struct.dataclass
class Book:
    """Questions in the order of their kinds, with what each round of retrieval leads to.

    Attributes:
      score: [M,ROUNDS] of the answer that the reader gives in each round, 0 to 1.
      shown: [M,ROUNDS,F] what a round shows once it is reached, by the names of `SHOWN`.
      question: [M,C] what is known of the question from the start.
      kind: [M] number of its kind.
      starts: [n] row of the first question of each of n kinds.
      counts: [n] questions of each.
      kinds: names of the kinds.
    """

    score: Leaf
    shown: Leaf
    question: Leaf
    kind: Leaf
    starts: Leaf
    counts: Leaf
    kinds: tuple[str, ...] = struct.field(pytree_node=False)


@struct.dataclass
class State:
    """The question's row, the round reached, retrievals and reward so far, all []."""

    row: Leaf
    round: Leaf
    retrievals: Leaf
    total: Leaf


@dataclass(frozen=True)
class QaAgent(Environment):
    """Reward: the score of the answer, or `abstain`, minus `cost` for each retrieval.

    Actions: answer from memory; retrieve by the question; retrieve again, by a query that the reader
    writes of the question and what was retrieved (before anything was: by the question); read what was
    retrieved last and answer (from memory, if nothing was); abstain. Answers and abstentions end the
    episode. Its question is drawn from a kind, each as often as the others.

    Observation [ROUNDS + 2F + C]: the round, one-hot; what the reader answers from memory and in this
    round (0 in the first), in figures; and figures of the question. Rounds not reached show nothing.

    The metrics `episode_retrievals_<kind>`, `episode_score_<kind>` and `episode_reward_<kind>` are those
    of the episode so far, NaN if its question is of another kind.

    Attributes:
      reader: directory of the reader's finished run, with "{seed}" in the place of the seed.
      task: the questions; their kind is their relation.
      k: passages retrieved at once.
      cost: of a retrieval.
      abstain: reward of abstaining.
      measure: what an answer scores, exact match (`em`) or token F1 (`f1`).
    """

    name: ClassVar[str] = "qa_agent"
    stands_alone: ClassVar[bool] = False

    time_limit: int = 6
    reader: str = "runs/reader_lessons/reader/seed_{seed}"
    task: Task = field(default_factory=AgentQuestions)
    k: int = 2
    cost: float = 0.1
    abstain: float = 0.2
    measure: Literal["em", "f1"] = "em"

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
        options = get_args(type(self).__annotations__["measure"])
        require(
            self.measure in options,
            f"env.measure is {self.measure!r}; choose one of {', '.join(options)}.",
        )
        require(
            not self.history,
            "env.history is True, but what an agent sees of its question already says what it did.",
        )

    def reader_dir(self, seed: int) -> Path:
        """The directory of the reader's run, of a run of this seed."""
        return Path(self.reader.replace("{seed}", str(seed)))

    def bind(self, split: str, open_book: Callable[[Any, str], Any]) -> Environment:
        """The environment over the questions of a split."""
        return BoundQaAgent(self.time_limit, book=open_book(self, split), spec=self)

    def build(self) -> Env:
        """Raises an error: a reader is needed.

        Raises:
          UserError: always.
        """
        raise UserError("Environment qa_agent works with a trained reader; bind it to one first.")


@dataclass(frozen=True, eq=False)
class BoundQaAgent(Environment):
    """`QaAgent` with its questions.

    Attributes:
      book: the questions.
      spec: costs and rewards.
    """

    name: ClassVar[str] = QaAgent.name
    stands_alone: ClassVar[bool] = False

    book: Any = None
    spec: QaAgent = field(default_factory=QaAgent)

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        spec, kinds = self.spec, self.book.kinds

        def show(book: Book, state: State, made: Timestep, score: Any) -> tuple[State, Timestep]:
            ours = book.kind[state.row] == jnp.arange(len(kinds))
            so_far = {
                "retrievals": state.retrievals.astype(jnp.float32),
                "score": score,
                "reward": state.total,
            }
            metrics = {
                f"episode_{name}_{kind}": jnp.where(ours[number], value, jnp.nan)
                for name, value in so_far.items()
                for number, kind in enumerate(kinds)
            }
            return state, dataclasses.replace(made, metrics=metrics)

        def observe(book: Book, state: State) -> Array:
            now = jnp.where(state.round > MEMORY, book.shown[state.row, state.round], 0.0)
            place = (jnp.arange(ROUNDS) == state.round).astype(jnp.float32)
            memory = book.shown[state.row, MEMORY]
            return jnp.concatenate([place, memory, now, book.question[state.row]])

        def reset(book: Book, key: PRNGKey) -> tuple[State, Timestep]:
            kind_key, row_key = jax.random.split(key)
            kind = jax.random.randint(kind_key, (), 0, len(kinds))
            row = book.starts[kind] + jax.random.randint(row_key, (), 0, book.counts[kind])
            zero = jnp.zeros((), jnp.int32)
            state = State(row.astype(jnp.int32), zero, zero, jnp.zeros(()))
            return show(book, state, timestep(observe(book, state)), 0.0)

        def step(
            book: Book, key: PRNGKey, state: State, action: Int[Array, ""]
        ) -> tuple[State, Timestep]:
            del key
            again = jnp.minimum(state.round + 1, SECOND)
            none, cost = jnp.zeros(()), jnp.full((), -spec.cost)
            from_memory, read = book.score[state.row, MEMORY], book.score[state.row, state.round]
            score = jnp.stack([from_memory, none, none, read, none])[action]
            reward = score + jnp.stack([none, cost, cost, none, jnp.full((), spec.abstain)])[action]
            stay = state.round
            reached = jnp.stack([stay, jnp.full_like(stay, FIRST), again, stay, stay])[action]
            searched = (action == RETRIEVE) | (action == REFORMULATE)
            retrievals = state.retrievals + searched.astype(jnp.int32)
            state = State(state.row, reached, retrievals, state.total + reward)
            made = timestep(observe(book, state), reward, terminated=~searched)
            return show(book, state, made, score)

        width = ROUNDS + 2 * self.book.shown.shape[-1] + self.book.question.shape[-1]
        high = np.full((width,), np.inf, np.float32)
        return Env(self.book, reset, step, len(ACTIONS), low=-high, high=high)
