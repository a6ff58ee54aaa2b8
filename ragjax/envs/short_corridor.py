"""The short corridor of Sutton & Barto (2nd ed., example 13.1): the best policy is a random one."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.types import Env, Leaf, PRNGKey, Timestep

_GOAL = 3  # right of the three states 0, 1 and 2


@struct.dataclass
class State:
    """The place [] in the corridor, counted from the left; 3 is the goal."""

    place: Leaf


def _reset(params: tuple[()], key: PRNGKey) -> tuple[State, Timestep]:
    del params, key
    return State(jnp.zeros((), jnp.int32)), timestep(jnp.ones(1))


def _step(
    params: tuple[()], key: PRNGKey, state: State, action: Int[Array, ""]
) -> tuple[State, Timestep]:
    del params, key
    swapped = state.place == 1
    right = (action == 1) ^ swapped
    place = jnp.maximum(state.place + jnp.where(right, 1, -1), 0)
    return State(place), timestep(jnp.ones(1), reward=-1.0, terminated=place >= _GOAL)


@dataclass(frozen=True)
class ShortCorridor(Environment):
    """Reward -1 a step from the left end of three states until the right one is left to the right.

    Actions: 0 moves left, which at the left end stays, and 1 moves right; in the middle state they are
    swapped. Observation [1]: always 1, since all states look alike. A policy that takes action 1 with
    probability p returns (2p - 4) / (p (1 - p)) on average; it is best at p = 2 - √2 ≈ 0.59.
    """

    name: ClassVar[str] = "short_corridor"

    time_limit: int = 1000

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        low, high = np.zeros(1, np.float32), np.ones(1, np.float32)
        return Env((), _reset, _step, num_actions=2, low=low, high=high)
