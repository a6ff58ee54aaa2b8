"""Symptoms are named, and an alarm comes before the reward falls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.lookup import Lookup
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.a2c import A2C
from ragjax.policy_config import EpisodeEvaluation, PolicyConfig
from ragjax.policy_experiment import PolicyExperiment
from ragjax.training.alarm import symptoms
from ragjax.training.optimizer import TracedAdam


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, []),
        ({"hub_share": 0.1, "effective_passages": 1.05, "recall": 0.9}, []),
        ({"hub_share": 0.9}, ["hub: one passage takes 90% of the retrieval mass"]),
        (
            {"effective_passages": 1.05, "recall": 0.2},
            ["collapse: p(d|x) is decided, but recall is 20%"],
        ),
        (
            {"effective_passages": 4.0, "passage_credit": 1e-6},
            [
                "ignored: what is read does not change what is done, so retrieval learns nothing",
            ],
        ),
        (
            {"eval/retrieval_gain": -0.125, "dev/retrieval_gain": 0.1},
            ["useless: retrieved passages do worse than random ones by 0.125"],
        ),
        (
            {"dev/retrieval_gain": -0.5},
            ["useless: retrieved passages do worse than random ones by 0.5"],
        ),
        ({"dev/retrieval_gain": -0.02}, []),
    ],
)
def test_symptoms_are_named(figures, expected):
    assert symptoms(figures) == expected


def test_the_alarm_comes_before_the_reward_falls():
    """A trained retriever is turned into a hub bit by bit: all queries drift towards one passage."""
    config = PolicyConfig(
        env=Lookup(passages=16),
        algorithm=A2C(num_envs=256, rollout_length=1),
        policy=RetrievalPolicy(k=16, width=16, reads="passage"),
        optimizer=TracedAdam(learning_rate=1e-2),
        env_steps=256 * 800,
        evaluation=EpisodeEvaluation(every=0),
    )
    experiment = PolicyExperiment(config)
    state, _ = jax.jit(experiment.train)(jax.random.PRNGKey(0), experiment.hyperparameters)
    key = experiment.raw_env.params.keys[3]

    def spoilt(amount):
        """Adds a common direction to every query, and to the embedding of passage 3."""
        params = state.train.params
        tower = params["retriever"]
        common = amount * jnp.ones((16,)) / 4.0
        asked = tower["observed"]["Dense_0"]["kernel"].at[-1].add(common)
        stored = tower["stored"]["Dense_0"]["kernel"].at[:16].add(jnp.outer(key, common))
        tower = tower | {"observed": {"Dense_0": {"kernel": asked}}}
        tower |= {"stored": {"Dense_0": {"kernel": stored}}}
        train = dataclasses.replace(state.train, params=params | {"retriever": tower})
        return dataclasses.replace(state, train=train)

    @jax.jit
    def measure(amount):
        sick = spoilt(amount)
        _, metrics = experiment.update(sick, experiment.hyperparameters)
        return metrics, experiment.evaluate(sick, 200)["greedy"]["return"].mean()

    alarms, rewards = [], []
    for amount in np.linspace(0.0, 4.0, 33, dtype=np.float32):
        metrics, reward = measure(jnp.float32(amount))
        alarms.append(symptoms(jax.tree.map(float, metrics)))
        rewards.append(float(reward))
    assert rewards[0] > 0.9
    assert alarms[0] == []
    fallen = next(place for place, reward in enumerate(rewards) if reward < 0.9 * rewards[0])
    first = next(place for place, symptoms in enumerate(alarms) if symptoms)
    assert first < fallen
    assert measure._cache_size() == 1
