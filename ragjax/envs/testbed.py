"""The k-armed testbed of Sutton & Barto (2nd ed., section 2.3): a bandit drawn anew each episode."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.scene import Role, Scene, bars
from ragjax.errors import require
from ragjax.types import Env, Leaf, PRNGKey, Timestep


@struct.dataclass
class Distributions:
    """What values and rewards are drawn from; all are [].

    Attributes:
      mean: of the true values.
      value_deviation: standard deviation of the true values.
      reward_deviation: standard deviation of a reward about its arm's true value.
    """

    mean: Leaf = 0.0
    value_deviation: Leaf = 1.0
    reward_deviation: Leaf = 1.0


@struct.dataclass
class State:
    """The true values q*(a) of this episode's arms, [A]."""

    values: Leaf


def _show(reward: Float[Array, ""], optimal: Float[Array, ""]) -> Timestep:
    return dataclasses.replace(timestep(jnp.ones(1), reward), metrics={"optimal": optimal})


def _step(
    params: Distributions, key: PRNGKey, state: State, action: Int[Array, ""]
) -> tuple[State, Timestep]:
    """Pulls an arm: the reward is drawn from N(q*(a), 1)."""
    value = state.values[action]
    reward = value + params.reward_deviation * jax.random.normal(key)
    optimal = value == jnp.max(state.values)
    return state, _show(reward, optimal.astype(jnp.float32))


@dataclass(frozen=True)
class Testbed(Environment):
    """Rewards drawn from N(q*(a), 1), of true values q*(a) that each episode draws from N(mean, 1).

    Actions: the arms. Observation [1]: always 1. An episode never terminates: it has as many pulls
    as the time limit. The metric `optimal` is 1 where the arm pulled was the best one, else 0.

    Attributes:
      arms: k.
      mean: of the true values; 4 for the gradient bandits of figure 2.5.
    """

    __test__: ClassVar[bool] = False  # pytest: no class of tests, in spite of its name

    name: ClassVar[str] = "testbed"

    time_limit: int = 1000
    arms: int = 10
    mean: float = 0.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(self.arms >= 1, f"env.arms is {self.arms}; there must be at least 1.")
        require(self.mean >= 0, f"env.mean is {self.mean}; it must be at least 0.")

    def scene(self, params: Distributions, state: State) -> Scene:
        """The true value of each arm."""
        values = state.values.tolist()
        reach = 3 * float(params.value_deviation)
        rows: list[tuple[str, float, Role]] = [
            (f"arm {arm}", value, "goal" if value == max(values) else "agent")
            for arm, value in enumerate(values)
        ]
        low, high = min(0.0, self.mean - reach), max(0.0, self.mean + reach)
        return bars(rows, low, high, "true values, which the policy does not see")

    def action_name(self, action: int) -> str:
        """The arm."""
        return f"arm {action}"

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        arms = self.arms

        def reset(params: Distributions, key: PRNGKey) -> tuple[State, Timestep]:
            values = params.mean + params.value_deviation * jax.random.normal(key, (arms,))
            return State(values), _show(jnp.zeros(()), jnp.zeros(()))

        low, high = np.zeros(1, np.float32), np.ones(1, np.float32)
        return Env(Distributions(self.mean), reset, _step, num_actions=arms, low=low, high=high)
