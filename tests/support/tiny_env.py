"""A Markov decision process so small that every trajectory can be written down.

`TinyMdp` is an environment like any other; its tables are `START`, `NEXT` and `REWARD`. `trajectories`
lists all that can happen, and `expected_return` is the exact J of a policy, to be differentiated.
"""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ragjax.envs.base import Environment, timestep
from ragjax.types import Env

STATES, ACTIONS = 3, 2
START = np.array([0.5, 0.3, 0.2])  # [S]
# [S,A,S+1] chances of the next state; the last column is that of the end.
NEXT = np.array(
    [
        [[0.1, 0.5, 0.2, 0.2], [0.3, 0.1, 0.5, 0.1]],
        [[0.4, 0.2, 0.3, 0.1], [0.1, 0.2, 0.1, 0.6]],
        [[0.2, 0.3, 0.2, 0.3], [0.5, 0.2, 0.2, 0.1]],
    ]
)
# [S,A,S+1] rewards of these steps.
REWARD = np.array(
    [
        [[0.5, -1.0, 0.0, 1.0], [1.5, 0.5, -0.5, -1.0]],
        [[-0.5, 1.0, 2.0, 0.0], [0.0, -1.5, 1.0, 0.5]],
        [[1.0, 0.0, -0.5, 2.0], [-1.0, 0.5, 0.0, 1.5]],
    ]
)


@struct.dataclass
class State:
    """The state [] of the process, and [] the steps of the episode so far."""

    place: Any
    steps: Any


def observe(place):
    """[S] one-hot; zeros at the end."""
    return (jnp.arange(STATES) == place).astype(jnp.float32)


@dataclass(frozen=True)
class TinyMdp(Environment):
    """Three states, two actions, chance in every step; it terminates at step `horizon` at the latest.

    Attributes:
      horizon: by the task's own rules, apart from the time limit.
    """

    name: ClassVar[str] = "tiny_mdp"

    time_limit: int = 100
    horizon: int = 3

    def build(self) -> Env:
        log = {"start": np.log(START), "next": np.log(NEXT), "reward": REWARD}
        params = {name: jnp.asarray(table, jnp.float32) for name, table in log.items()}

        def reset(params, key):
            place = jax.random.categorical(key, params["start"]).astype(jnp.int32)
            return State(place, jnp.zeros((), jnp.int32)), timestep(observe(place))

        def step(params, key, state, action):
            row = params["next"][state.place, action]
            place = jax.random.categorical(key, row).astype(jnp.int32)
            steps = state.steps + 1
            over = (place == STATES) | (steps >= self.horizon)
            reward = params["reward"][state.place, action, place]
            return State(place, steps), timestep(observe(place), reward, terminated=over)

        low = np.zeros(STATES, np.float32)
        return Env(params, reset, step, num_actions=ACTIONS, low=low, high=low + 1)


class Trajectories(NamedTuple):
    """Every trajectory of the process, one a column; T is the horizon.

    Attributes:
      state: [T,E], and `STATES` after the end.
      action: [T,E].
      reward: [T,E], 0 after the end.
      terminated: [T,E] whether the step is the last one.
      alive: [T,E] whether the step takes place.
      chance: [E] the product of the environment's chances, without the policy's.
    """

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    alive: np.ndarray
    chance: np.ndarray


def trajectories(horizon: int = 3) -> Trajectories:
    """Lists all that can happen, 906 trajectories for a horizon of 3."""
    open_, closed = [((), place, START[place]) for place in range(STATES)], []
    for t in range(horizon):
        grown = [
            (
                (*steps, (place, action, REWARD[place, action, after])),
                after,
                chance * NEXT[place, action, after],
            )
            for steps, place, chance in open_
            for action, after in itertools.product(range(ACTIONS), range(STATES + 1))
        ]
        ended = [path for path in grown if path[1] == STATES or t == horizon - 1]
        closed += ended
        open_ = [path for path in grown if path[1] != STATES]
    count = len(closed)
    out = Trajectories(
        state=np.full((horizon, count), STATES, np.int32),
        action=np.zeros((horizon, count), np.int32),
        reward=np.zeros((horizon, count), np.float32),
        terminated=np.zeros((horizon, count), bool),
        alive=np.zeros((horizon, count), bool),
        chance=np.array([chance for _, _, chance in closed]),
    )
    for column, (steps, _, _) in enumerate(closed):
        for t, (place, action, reward) in enumerate(steps):
            out.state[t, column], out.action[t, column] = place, action
            out.reward[t, column], out.alive[t, column] = reward, True
        out.terminated[len(steps) - 1, column] = True
    return out


def expected_return(logits, horizon: int = 3):
    """J = E[Σ_t r_t] of the policy softmax(logits [S,A]), by states rather than by trajectories."""
    policy = jax.nn.softmax(logits, axis=-1)
    table, reward = jnp.asarray(NEXT, logits.dtype), jnp.asarray(REWARD, logits.dtype)
    values = jnp.zeros(STATES + 1, logits.dtype)
    for _ in range(horizon):
        after = jnp.sum(table * (reward + values), axis=-1)  # [S,A]
        values = jnp.append(jnp.sum(policy * after, axis=-1), 0.0)
    return jnp.dot(jnp.asarray(START, logits.dtype), values[:-1])


def best_return(horizon: int = 3) -> float:
    """The largest J of a policy that takes the same action whenever it is in a state."""
    choices = itertools.product(range(ACTIONS), repeat=STATES)
    logits = [100.0 * np.eye(ACTIONS, dtype=np.float32)[list(actions)] for actions in choices]
    return max(float(expected_return(jnp.asarray(table), horizon)) for table in logits)
