"""The decisions about one question, as pure functions of a table of questions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.agents.adaptive_retrieval.questions import QuestionTable
from ragjax.agents.adaptive_retrieval.reader import FIRST, MEMORY, SECOND, STAGES
from ragjax.envs.base import timestep
from ragjax.types import Env, Figure, Leaf, PRNGKey, Timestep

ANSWER, RETRIEVE, REFORMULATE, READ, ABSTAIN = range(5)
ACTIONS = ("answer from memory", "retrieve", "retrieve again", "read and answer", "abstain")


@struct.dataclass
class State:
    """The question's row, the stage reached, retrievals and reward so far, all []."""

    row: Leaf
    stage: Leaf
    retrievals: Leaf
    total: Leaf


def draw_question(table: QuestionTable, key: PRNGKey) -> Int[Array, ""]:
    """The row of a question: a kind is drawn, all equally likely, then one of its questions."""
    kind_key, row_key = jax.random.split(key)
    kind = jax.random.randint(kind_key, (), 0, len(table.kinds))
    return table.starts[kind] + jax.random.randint(row_key, (), 0, table.counts[kind])


def decision_process(
    table: QuestionTable, *, cost: float, abstain: float, drawn: bool = True
) -> Env:
    """The functions of one episode; `environment.AdaptiveRetrieval` says what happens in it.

    Args:
      table: the questions.
      cost: of a retrieval.
      abstain: reward of abstaining.
      drawn: whether `reset` draws a question by a key; it takes the question's row in its place if not.

    Returns:
      The functions, without a time limit and without resets.
    """
    kinds = table.kinds

    def report(
        table: QuestionTable, state: State, made: Timestep, score: Any
    ) -> tuple[State, Timestep]:
        own = table.kind[state.row] == jnp.arange(len(kinds))
        so_far = {
            "retrievals": state.retrievals.astype(jnp.float32),
            "score": score,
            "reward": state.total,
        }
        metrics = {
            f"episode_{name}_{kind}": Figure(jnp.where(own[number], value, 0.0), own[number])
            for name, value in so_far.items()
            for number, kind in enumerate(kinds)
        }
        return state, dataclasses.replace(made, metrics=metrics)

    def observe(table: QuestionTable, state: State) -> Array:
        now = jnp.where(state.stage > MEMORY, table.features[state.row, state.stage], 0.0)
        place = (jnp.arange(STAGES) == state.stage).astype(jnp.float32)
        memory = table.features[state.row, MEMORY]
        return jnp.concatenate([place, memory, now, table.question[state.row]])

    def begin(table: QuestionTable, row: Int[Array, ""]) -> tuple[State, Timestep]:
        zero = jnp.zeros((), jnp.int32)
        state = State(row.astype(jnp.int32), zero, zero, jnp.zeros(()))
        return report(table, state, timestep(observe(table, state)), 0.0)

    def reset(table: QuestionTable, key: PRNGKey) -> tuple[State, Timestep]:
        return begin(table, draw_question(table, key))

    def step(
        table: QuestionTable, key: PRNGKey, state: State, action: Int[Array, ""]
    ) -> tuple[State, Timestep]:
        del key
        again = jnp.minimum(state.stage + 1, SECOND)
        none, paid = jnp.zeros(()), jnp.full((), -cost)
        from_memory, read = table.score[state.row, MEMORY], table.score[state.row, state.stage]
        score = jnp.stack([from_memory, none, none, read, none])[action]
        reward = score + jnp.stack([none, paid, paid, none, jnp.full((), abstain)])[action]
        stay = state.stage
        reached = jnp.stack([stay, jnp.full_like(stay, FIRST), again, stay, stay])[action]
        searched = (action == RETRIEVE) | (action == REFORMULATE)
        retrievals = state.retrievals + searched.astype(jnp.int32)
        state = State(state.row, reached, retrievals, state.total + reward)
        made = timestep(observe(table, state), reward, terminated=~searched)
        return report(table, state, made, score)

    width = STAGES + 2 * table.features.shape[-1] + table.question.shape[-1]
    high = np.full((width,), np.inf, np.float32)
    return Env(table, reset if drawn else begin, step, len(ACTIONS), low=-high, high=high)
