"""Playing whole episodes with a policy that is learned or being learned."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.envs.wrappers import normalised, observation_moments
from ragjax.models.policy import Policy
from ragjax.ops.augmentation import random_order
from ragjax.training.learner import State
from ragjax.training.rollout import play_episodes
from ragjax.types import Env, PolicyModel, Retrieved

EVALUATIONS = 2**32 - 2  # evaluations take fold_in(fold_in(run key, this), step)


def policy_inputs(state: State, policy: PolicyModel) -> Callable[[Array | None, Array], Any]:
    """What a policy acts on, with the normaliser's statistics of a run as they are.

    Args:
      state: the run.
      policy: its functions.

    Returns:
      (key, observation [E,O...]) -> the observation, normalised and with passages where they are
      retrieved; without a key nothing is drawn.
    """
    moments = observation_moments(state.carry.env_state)
    index = None if policy.embed is None else policy.embed(state.params)

    def inputs(key, observation):
        if moments is not None:
            observation = normalised(moments, observation)
        return policy.retrieve(state.params, index, key, observation)

    return inputs


def play_policy(
    state: State, spec: Policy, env: Env, *, count: int, limit: int, blind: bool = False
) -> dict[str, dict[str, Any]]:
    """Plays whole episodes in fresh environments.

    Args:
      state: the run.
      spec: the policy.
      env: 2n environments: n for likeliest and n for drawn actions.
      count: n.
      limit: steps within which every episode ends.
      blind: of a policy that retrieves, let it read the passages in a random order: what it searches
        and scores belongs to other passages than what it reads, the same ones all along.

    Returns:
      "greedy" (likeliest actions, with the likeliest passages where an estimator draws them) and
      "sampled" (as in rollouts) -> `return`, `length` and what else the environment reports of an
      episode, [n] each.
    """
    key = jax.random.fold_in(jax.random.fold_in(state.key, EVALUATIONS), state.step)
    greedy = jnp.arange(2 * count) < count
    policy = spec.build(env)
    inputs = policy_inputs(state, policy)
    if blind:
        passages = jnp.asarray(env.passages)
        policy = spec.build(env, passages[random_order(key, len(passages))])

    def retrieve(key, observation):
        found = inputs(key, observation)
        if isinstance(found, Retrieved) and found.noise is not None:
            found = dataclasses.replace(found, noise=jnp.where(greedy[:, None], 0.0, found.noise))
        return found

    def act(found):
        return policy.apply(state.params, found)[0]

    played = play_episodes(env, act, key, limit, greedy, inputs=retrieve)
    return {
        "greedy": {name: values[:count] for name, values in played.items()},
        "sampled": {name: values[count:] for name, values in played.items()},
    }
