"""Returns of fixed policies of recommendation, all of them side by side in one program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ragjax.envs.recommendation.baselines import SlateBaseline
from ragjax.training.rollout import play_episodes


class Drawn(NamedTuple):
    """Slates [E,S] that have been chosen."""

    slates: jax.Array

    def mode(self):
        return self.slates

    def sample(self, key):
        return self.slates

    def executed(self, choice):
        return choice


def figures_of(spec, names, episodes, seed=0, **fields):
    """Name -> all that episodes report of the fixed policy `by` it, [episodes] each."""
    env = spec.vectorise(episodes * len(names))
    policies = [SlateBaseline(by, **fields).build(env) for by in names]
    kind = jnp.repeat(jnp.arange(len(names)), episodes)

    def choose(key, observation):
        slates = []
        for policy in policies:
            distribution, _ = policy.apply({}, policy.retrieve({}, None, key, observation))
            slates.append(distribution.executed(distribution.sample(jax.random.fold_in(key, 1))))
        return Drawn(jnp.stack(slates)[kind, jnp.arange(len(kind))])

    @jax.jit
    def play(key):
        greedy = jnp.zeros(len(kind), bool)
        return play_episodes(env, lambda drawn: drawn, key, spec.limit, greedy, inputs=choose)

    played = jax.device_get(play(jax.random.key(seed)))
    shaped = {name: values.reshape(len(names), episodes) for name, values in played.items()}
    return {by: {n: v[i] for n, v in shaped.items()} for i, by in enumerate(names)}


def returns_of(spec, names, episodes, seed=0, **fields):
    """Name -> returns [episodes]."""
    played = figures_of(spec, names, episodes, seed, **fields)
    return {by: figures["return"] for by, figures in played.items()}
