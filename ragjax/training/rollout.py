"""Rollouts: environments and policy stepped together inside `lax.scan`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ragjax.envs.wrappers import NormalisedObservations, NormalisedRewards, normalised
from ragjax.ops.masking import known_mean
from ragjax.types import Env, Figure, Leaf, Rollout, Timestep

PREFIX = "episode_"  # of metrics that tell of an episode so far: at its end they are its own


@struct.dataclass
class RolloutCarry:
    """What goes from one rollout to the next.

    Attributes:
      env_state: state of E environments, their normalisers' statistics included.
      timestep: the last `Timestep` of each, whose observation is acted on next.
    """

    env_state: Leaf
    timestep: Leaf


def start(env: Env, key: Array) -> RolloutCarry:
    """Resets every environment of a batch."""
    return RolloutCarry(*env.reset(env.params, key))


def start_episodes(env: Env, carry: RolloutCarry, key: Array) -> RolloutCarry:
    """Starts a new episode in every environment; normalisers keep what they have learned.

    Args:
      env: the batch without its normalisers.
      carry: where the environments stand, normalisers included.
      key: PRNG key.
    """

    def below(state: Any, fresh: Any, timestep: Timestep) -> tuple[Any, Timestep]:
        if isinstance(state, NormalisedRewards):
            inner, timestep = below(state.inner, fresh, timestep)
            returns = jnp.zeros_like(state.returns)
            return NormalisedRewards(inner, returns, state.moments), timestep
        if isinstance(state, NormalisedObservations):
            inner, timestep = below(state.inner, fresh, timestep)
            moments = state.moments.update(timestep.observation)
            shown = normalised(moments, timestep.observation)
            return NormalisedObservations(inner, moments), dataclasses.replace(
                timestep, observation=shown, final_observation=shown
            )
        return fresh, timestep

    return RolloutCarry(*below(carry.env_state, *env.reset(env.params, key)))


def rollout(
    env: Env,
    act: Callable[[Any], Any],
    carry: RolloutCarry,
    key: Array,
    length: int,
    *,
    episodic: bool = False,
    inputs: Callable[[Array, Array], Any] = lambda key, observation: observation,
) -> tuple[RolloutCarry, Rollout]:
    """Makes `length` steps in each of E environments with actions drawn from a policy.

    Args:
      env: a batch of environments that start anew by themselves.
      act: what `inputs` gives -> distribution over choices.
      carry: where the environments stand.
      key: PRNG key of this rollout.
      length: T.
      episodic: give weight 0 to all that follows each environment's first episode.
      inputs: (key, observation [...,O...]) -> what is acted on and stored, such as the observation with
        the passages retrieved for it.

    Returns:
      Where the environments stand now, and the [T,E] steps.
    """
    action_key, env_key, input_key = jax.random.split(key, 3)
    input_keys = jax.random.split(input_key, length + 2)
    action_keys = jax.random.split(action_key, length)
    env_keys = jax.random.split(env_key, length)
    # Drawn at once: random numbers cost less in bulk than one step after another.
    shape = jax.eval_shape(
        lambda: act(inputs(input_key, carry.timestep.observation)).log_probs
    ).shape
    noise = jax.vmap(lambda key: jax.random.gumbel(key, shape))(action_keys)

    def step(carry: tuple[RolloutCarry, Array], drawn):
        before, weight = carry
        noise, env_key, input_key = drawn
        observation = inputs(input_key, before.timestep.observation)
        distribution = act(observation)
        choice = distribution.perturbed_mode(noise)
        action = distribution.executed(choice)
        state, timestep = env.step(env.params, env_key, before.env_state, action)
        made = (
            observation,
            choice,
            distribution.log_probs,
            timestep.reward,
            timestep.terminated,
            timestep.truncated,
            timestep.final_observation,
            weight,
            timestep.metrics,
        )
        if episodic:
            weight = jnp.where(timestep.done, 0.0, weight)
        return (RolloutCarry(state, timestep), weight), made

    weight = jnp.ones_like(carry.timestep.reward)
    drawn = noise, env_keys, input_keys[:length]
    (carry, _), made = jax.lax.scan(step, (carry, weight), drawn)
    observation, action, log_probs, reward, terminated, truncated, final, weight, metrics = made
    return carry, Rollout(
        observation=observation,
        action=action,
        log_probs=log_probs,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        final_observation=inputs(input_keys[-2], final),
        last_observation=inputs(input_keys[-1], carry.timestep.observation),
        weight=weight,
        metrics=metrics,
    )


def play_episodes(
    env: Env,
    act: Callable[[Any], Any],
    key: Array,
    limit: int,
    greedy: Array,
    *,
    inputs: Callable[[Array, Array], Any] = lambda key, observation: observation,
) -> dict[str, Any]:
    """Plays one whole episode in each of E environments.

    Args:
      env: a batch of environments with `episode_statistics`.
      act: what `inputs` gives -> action distribution.
      key: PRNG key.
      limit: steps within which every episode has ended.
      greedy: [E] bool, where to take the likeliest action instead of drawing one.
      inputs: (key, observation [E,O...]) -> what is acted on.

    Returns:
      `return` [E], `length` [E], and all else that the environment reports of an episode, [E] each.
    """
    reset_key, key = jax.random.split(key)
    carry = start(env, reset_key)
    names = episode_metrics(carry.timestep.metrics)

    def unfinished(loop):
        figures, _, step = loop
        return jnp.any(figures["length"] == 0) & (step < limit)

    def advance(loop):
        figures, carry, step = loop
        action_key, env_key, input_key = jax.random.split(jax.random.fold_in(key, step), 3)
        distribution = act(inputs(input_key, carry.timestep.observation))
        likeliest, drawn = distribution.mode(), distribution.sample(action_key)
        by_env = greedy.reshape(greedy.shape + (1,) * (drawn.ndim - 1))
        choice = jnp.where(by_env, likeliest, drawn)
        action = distribution.executed(choice)
        state, timestep = env.step(env.params, env_key, carry.env_state, action)
        first = timestep.done & (figures["length"] == 0)
        now = {name: timestep.metrics[PREFIX + name] for name in names}
        figures = jax.tree.map(lambda new, old: jnp.where(first, new, old), now, figures)
        return figures, RolloutCarry(state, timestep), step + 1

    figures = {name: carry.timestep.metrics[PREFIX + name] for name in names}
    figures = jax.tree.map(jnp.zeros_like, figures)
    return jax.lax.while_loop(unfinished, advance, (figures, carry, 0))[0]


def episode_metrics(metrics: Mapping[str, Array]) -> list[str]:
    """Names, without their prefix, of the metrics that tell of an episode so far."""
    return [name.removeprefix(PREFIX) for name in metrics if name.startswith(PREFIX)]


def episode_means(rollout: Rollout) -> dict[str, Figure]:
    """Means over the episodes that ended within a rollout and count; nothing if there are none.

    Returns:
      Each metric of an episode, over those that it is about.
    """
    ended = (rollout.terminated | rollout.truncated) & (rollout.weight > 0)
    names = [PREFIX + name for name in episode_metrics(rollout.metrics)]
    return {name: known_mean(rollout.metrics[name], ended) for name in names}
