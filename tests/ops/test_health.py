"""A retriever's figures by hand, and an alarm that comes before the reward falls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.lookup import Lookup
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.a2c import A2C
from ragjax.ops.health import retrieval_health, symptoms
from ragjax.policy_config import EpisodeEvaluation, PolicyConfig
from ragjax.policy_experiment import PolicyExperiment
from ragjax.training.optimizer import TracedAdam


def test_figures_by_hand():
    prior = jnp.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    posterior = jnp.array([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.8, 0.1, 0.1]])
    ids = jnp.array([[3, 1, -1], [1, 0, 2], [4, 4, 4]])
    weight = jnp.array([1.0, 1.0, 0.0])  # the last row does not count
    gold = ids == jnp.array([[1], [4], [4]])
    found = retrieval_health(jnp.log(prior), jnp.log(posterior), ids, weight, 5, gold)
    entropies = [np.log(2), 1.5 * np.log(2)]
    assert found["prior_entropy"] == pytest.approx(np.mean(entropies), rel=1e-6)
    assert found["posterior_entropy"] == pytest.approx(0.75 * np.log(2), rel=1e-6)
    assert found["effective_passages"] == pytest.approx(np.mean(np.exp(entropies)), rel=1e-6)
    assert found["passage_credit"] == pytest.approx(np.log(2) / 2, rel=1e-6)
    assert found["hub_share"] == pytest.approx((0.5 + 0.25) / 2)  # passage 1
    assert found["recall"] == pytest.approx(0.5)


def test_rows_that_do_not_count_may_hold_anything():
    log = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
    ids, weight = jnp.array([[0, 1], [0, 1]]), jnp.array([1.0, 0.0])
    spoilt = log.at[1].set(jnp.nan)
    one = retrieval_health(log, log, ids, weight, 2)
    other = retrieval_health(spoilt, spoilt, ids, weight, 2)
    jax.tree.map(np.testing.assert_array_equal, one, other)


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
            {"eval/retrieval_gain": -0.125},
            ["useless: retrieved passages do worse than random ones by 0.125"],
        ),
    ],
)
def test_symptoms_are_named(figures, expected):
    assert symptoms(figures) == expected


def test_the_alarm_comes_before_the_reward_falls():
    """A trained retriever is turned into a hub bit by bit: all queries drift towards one passage."""
    config = PolicyConfig(
        env=Lookup(passages=16),
        algorithm=A2C(num_envs=64, rollout_length=1),
        policy=RetrievalPolicy(k=16, width=16, reads="passage"),
        optimizer=TracedAdam(learning_rate=1e-2),
        env_steps=64 * 800,
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
        return metrics, experiment.evaluate(sick, 200)["greedy"][0].mean()

    alarms, rewards = [], []
    for amount in np.linspace(0.0, 8.0, 33, dtype=np.float32):
        metrics, reward = measure(jnp.float32(amount))
        alarms.append(symptoms(jax.tree.map(float, metrics)))
        rewards.append(float(reward))
    assert rewards[0] > 0.9
    assert alarms[0] == []
    fallen = next(place for place, reward in enumerate(rewards) if reward < 0.9 * rewards[0])
    first = next(place for place, symptoms in enumerate(alarms) if symptoms)
    assert first < fallen
    assert measure._cache_size() == 1
