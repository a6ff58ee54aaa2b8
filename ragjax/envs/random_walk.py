"""The random walk of Sutton & Barto (2nd ed., example 6.2), to predict values on: nothing to decide."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.errors import require
from ragjax.types import Env, Leaf, PRNGKey, Timestep


@struct.dataclass
class Chances:
    """The chance [] of a move to the right."""

    right: Leaf = 0.5


@struct.dataclass
class State:
    """The place [] in the row of states: 0 is its left end, states + 1 its right end."""

    place: Leaf


@dataclass(frozen=True)
class RandomWalk(Environment):
    """Left or right with equal chances from the centre; reward 1 for leaving on the right, else 0.

    The true value of the i-th of n states, without discounting, is i / (n + 1). Actions: a single one,
    without effect. Observation [states]: 1 at the state, so all zeros beyond either end.

    Attributes:
      states: an odd number of them, since an episode starts in the centre.
    """

    name: ClassVar[str] = "random_walk"

    time_limit: int = 1000
    states: int = 5

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            self.states >= 1 and self.states % 2 == 1,
            f"env.states is {self.states}; it must be odd and at least 1, for one is the centre.",
        )

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        states = self.states

        def observe(state: State) -> Array:
            return (jnp.arange(1, states + 1) == state.place).astype(jnp.float32)

        def reset(params: Chances, key: PRNGKey) -> tuple[State, Timestep]:
            del params, key
            state = State(jnp.full((), (states + 1) // 2, jnp.int32))
            return state, timestep(observe(state))

        def step(
            params: Chances, key: PRNGKey, state: State, action: Int[Array, ""]
        ) -> tuple[State, Timestep]:
            del action
            right = jax.random.bernoulli(key, params.right)
            state = State(state.place + jnp.where(right, 1, -1))
            won = state.place == states + 1
            reward = won.astype(jnp.float32)
            return state, timestep(observe(state), reward, terminated=won | (state.place == 0))

        low, high = np.zeros(states, np.float32), np.ones(states, np.float32)
        return Env(Chances(), reset, step, num_actions=1, low=low, high=high)
