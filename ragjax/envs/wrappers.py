"""Wrappers of environments: each takes an `Env` and returns one, and owns one concern alone.

`time_limit`, `episode_statistics`, `auto_reset` and `without_reset` wrap one episode; `batch` puts
environments side by side; `normalise_observations` and `normalise_rewards` wrap a batch, since their
statistics are those of all its environments. Where an inner state has to be found again, it is the
field `inner`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ragjax.errors import require
from ragjax.types import Env, Leaf, Timestep

EPSILON = 1e-8  # added to variances, as in Gymnasium
CLIP = 10.0  # normalised observations and rewards are cut here, as in Stable-Baselines3


@struct.dataclass
class Limited:
    """State of `time_limit`: the inner state, and [] the steps of the episode so far."""

    inner: Leaf
    steps: Leaf


def time_limit(env: Env, limit: int) -> Env:
    """Truncates an episode at its step number `limit`.

    Raises:
      UserError: the limit is not positive.
    """
    require(limit >= 1, f"time_limit is {limit}; an episode needs at least 1 step.")

    def reset(params, key):
        inner, timestep = env.reset(params, key)
        return Limited(inner, jnp.zeros((), jnp.int32)), timestep

    def step(params, key, state, action):
        inner, timestep = env.step(params, key, state.inner, action)
        steps = state.steps + 1
        truncated = timestep.truncated | (steps >= limit)
        return Limited(inner, steps), dataclasses.replace(timestep, truncated=truncated)

    return env._replace(reset=reset, step=step)


@struct.dataclass
class Remembered:
    """State of `episode_history`: the inner state, and [L,O+A+1] the episode so far."""

    inner: Leaf
    history: Leaf


def episode_history(env: Env, limit: int) -> Env:
    """Shows the whole episode so far, [L,O+A+1]: a policy of it can depend on all that has happened.

    Row i holds the observation of step i, the action taken there as one-hot, and 1. The action of the
    current row is zeros, and so are all rows of steps to come. L is `limit` + 1, for T steps show T + 1
    observations: the last one is not acted on, but where a time limit ended the episode its value stands
    for all that would have followed.

    Args:
      env: one episode with flat observations [O].
      limit: steps within which it ends.

    Raises:
      UserError: observations are not flat, or actions are slates.
    """
    shape = jnp.shape(env.low)
    require(len(shape) == 1, f"env.history needs flat observations, not those of shape {shape}.")
    require(
        not env.slate,
        "env.history is of single actions, but the environment is shown slates; unset it.",
    )
    length, width = limit + 1, shape[0] + env.num_actions + 1

    def add(history, place, observation):
        row = jnp.concatenate([observation, jnp.zeros((env.num_actions,)), jnp.ones((1,))])
        return history.at[place].set(row)

    def show(inner, history, timestep):
        timestep = dataclasses.replace(timestep, observation=history, final_observation=history)
        return Remembered(inner, history), timestep

    def reset(params, key):
        inner, timestep = env.reset(params, key)
        return show(inner, add(jnp.zeros((length, width)), 0, timestep.observation), timestep)

    def step(params, key, state, action):
        inner, timestep = env.step(params, key, state.inner, action)
        steps = jnp.sum(state.history[:, -1]).astype(jnp.int32)
        taken = jax.nn.one_hot(action, env.num_actions)
        history = state.history.at[steps - 1, shape[0] : -1].set(taken)
        return show(inner, add(history, steps, timestep.observation), timestep)

    # Rows still to come are zeros, so each bound reaches at least there.
    low = jnp.concatenate([jnp.minimum(env.low, 0.0), jnp.zeros((env.num_actions + 1,))])
    high = jnp.concatenate([jnp.maximum(env.high, 0.0), jnp.ones((env.num_actions + 1,))])
    low, high = (jnp.broadcast_to(bound, (length, width)) for bound in (low, high))
    return env._replace(reset=reset, step=step, low=low, high=high)


@struct.dataclass
class Counted:
    """State of `episode_statistics`: the inner state, [] return and [] length so far."""

    inner: Leaf
    total: Leaf
    length: Leaf


def episode_statistics(env: Env) -> Env:
    """Reports `episode_return` and `episode_length` so far; at an episode's end they are its own."""

    def report(state: Counted, timestep: Timestep):
        metrics = timestep.metrics | {"episode_return": state.total, "episode_length": state.length}
        return state, dataclasses.replace(timestep, metrics=metrics)

    def reset(params, key):
        inner, timestep = env.reset(params, key)
        return report(Counted(inner, jnp.zeros(()), jnp.zeros((), jnp.int32)), timestep)

    def step(params, key, state, action):
        inner, timestep = env.step(params, key, state.inner, action)
        return report(Counted(inner, state.total + timestep.reward, state.length + 1), timestep)

    return env._replace(reset=reset, step=step)


def auto_reset(env: Env) -> Env:
    """Starts a new episode in the step that ends one.

    Reward, flags, metrics and `final_observation` stay those of the step that was made; `observation`
    and state are those of the new episode.
    """

    def step(params, key, state, action):
        step_key, reset_key = jax.random.split(key)
        state, timestep = env.step(params, step_key, state, action)
        first_state, first = env.reset(params, reset_key)
        done = timestep.done

        def choose(new, old):
            return jnp.where(done, new, old)

        state = jax.tree.map(choose, first_state, state)
        observation = jax.tree.map(choose, first.observation, timestep.observation)
        return state, dataclasses.replace(timestep, observation=observation)

    return env._replace(step=step)


def without_reset(env: Env) -> Env:
    """Ends as `auto_reset` does under the same keys, but there it stays: its last state can be seen."""

    def step(params, key, state, action):
        step_key, _ = jax.random.split(key)
        return env.step(params, step_key, state, action)

    return env._replace(step=step)


def innermost(state: Any) -> Any:
    """The state of the environment proper, within those of the wrappers of one episode."""
    while isinstance(state, Limited | Remembered | Counted):
        state = state.inner
    return state


def batch(env: Env, num_envs: int) -> Env:
    """Puts `num_envs` environments with the same parameters side by side: [E] leads every array."""

    def reset(params, key):
        keys = jax.random.split(key, num_envs)
        return jax.vmap(env.reset, (None, 0))(params, keys)

    def step(params, key, state, action):
        keys = jax.random.split(key, num_envs)
        return jax.vmap(env.step, (None, 0, 0, 0))(params, keys, state, action)

    return env._replace(reset=reset, step=step)


@struct.dataclass
class Moments:
    """Running mean and variance, and how many values they are made of."""

    mean: Leaf
    variance: Leaf
    count: Leaf

    @classmethod
    def start(cls, values: Array) -> "Moments":
        """The moments before any of [E,...] values, as in Gymnasium: a tiny count of a unit normal."""
        zeros = jnp.zeros_like(values.mean(0))
        return cls(zeros, zeros + 1, jnp.full((), 1e-4, zeros.dtype))

    def update(self, values: Array) -> "Moments":
        """Takes in [E,...] values by the parallel formula of Chan, Golub & LeVeque (1983)."""
        mean, variance, count = values.mean(0), values.var(0), values.shape[0]
        delta, total = mean - self.mean, self.count + count
        spread = self.variance * self.count + variance * count
        spread += delta**2 * self.count * count / total
        return Moments(self.mean + delta * count / total, spread / total, total)


def normalised(moments: Moments, observation: Array) -> Array:
    """(observation - mean) / standard deviation, cut to ±10."""
    scaled = (observation - moments.mean) / jnp.sqrt(moments.variance + EPSILON)
    return jnp.clip(scaled, -CLIP, CLIP)


@struct.dataclass
class NormalisedObservations:
    """State of `normalise_observations`: the inner state and the moments of what was seen."""

    inner: Leaf
    moments: Leaf


def normalise_observations(env: Env) -> Env:
    """Shifts and scales the observations of a batch by the running moments of all seen so far."""

    def show(inner, moments, timestep: Timestep):
        moments = moments.update(timestep.observation)
        timestep = dataclasses.replace(
            timestep,
            observation=normalised(moments, timestep.observation),
            final_observation=normalised(moments, timestep.final_observation),
        )
        return NormalisedObservations(inner, moments), timestep

    def reset(params, key):
        inner, timestep = env.reset(params, key)
        return show(inner, Moments.start(timestep.observation), timestep)

    def step(params, key, state, action):
        inner, timestep = env.step(params, key, state.inner, action)
        return show(inner, state.moments, timestep)

    return env._replace(reset=reset, step=step)


def observation_moments(state: Any) -> Moments | None:
    """The moments within a state, where `normalise_observations` is one of its wrappers."""
    while state is not None:
        if isinstance(state, NormalisedObservations):
            return state.moments
        state = getattr(state, "inner", None)
    return None


@struct.dataclass
class NormalisedRewards:
    """State of `normalise_rewards`: the inner state, [E] discounted returns, and their moments."""

    inner: Leaf
    returns: Leaf
    moments: Leaf


def normalise_rewards(env: Env, discount: float | Array) -> Env:
    """Divides the rewards of a batch by the standard deviation of the discounted return so far.

    G_t = γ G_{t-1} + r_t, 0 again after an episode's end, as in Stable-Baselines3 (Gymnasium leaves
    G_{t-1} out in a step that terminates, too); cut to ±10. Episode statistics keep the rewards as
    they were.

    Args:
      env: a batch.
      discount: γ, which may be traced.
    """

    def reset(params, key):
        inner, timestep = env.reset(params, key)
        returns = jnp.zeros_like(timestep.reward)
        return NormalisedRewards(inner, returns, Moments.start(returns)), timestep

    def step(params, key, state, action):
        inner, timestep = env.step(params, key, state.inner, action)
        returns = state.returns * discount + timestep.reward
        moments = state.moments.update(returns)
        reward = jnp.clip(timestep.reward / jnp.sqrt(moments.variance + EPSILON), -CLIP, CLIP)
        returns = jnp.where(timestep.done, 0.0, returns)
        return NormalisedRewards(inner, returns, moments), dataclasses.replace(
            timestep, reward=reward
        )

    return env._replace(reset=reset, step=step)


def env_data(env: Env) -> dict[str, Any]:
    """The arrays of an environment that programs take as an argument: passages, tables of questions.

    Scalars, such as the constants of its physics, are left out: compiled in, they are folded.
    """
    arrays = jax.tree.map(lambda leaf: leaf if jnp.ndim(leaf) else None, env.params)
    return {"env": arrays, "passages": env.passages}


def bind_env(env: Env, data: Any) -> Env:
    """An environment over the arrays of `env_data`, which may be traced."""
    params = jax.tree.map(
        lambda own, given: own if given is None else given,
        env.params,
        data["env"],
        is_leaf=lambda leaf: leaf is None,
    )
    return env._replace(params=params, passages=data["passages"])
