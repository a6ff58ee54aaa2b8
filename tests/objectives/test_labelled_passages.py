"""Labelled passages beside rewards: what RecoGym labels, and the loss written out."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.envs.recommendation.numbered import FIRST_TOKEN
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodesConfig
from ragjax.models.history_encoder import HistoryEncoder
from ragjax.models.retriever import Dense
from ragjax.models.slate_policy import split
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.labelled_passages import LabelledPassages, beside_labels
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam
from ragjax.training.step import make_step
from ragjax.types import Retrieved

PRODUCTS, VIEWS = 12, 4
SPEC = RecoGym(products=PRODUCTS, views=VIEWS, sigma_mu_organic=1.0, passage_seed=1)
POLICY = SlateRetrieval(
    k=3,
    explored=2,
    reranks=False,
    retriever=Dense(HistoryEncoder(seen=VIEWS, width=8), initial_scale=5.0, refresh_every=1),
)
ALGORITHM = LabelledPassages(num_envs=16, rollout_length=8, discount=0.0, minibatches=1, epochs=1)


@pytest.fixture(scope="module")
def learner():
    optimizer = Adam.for_policies(learning_rate=1e-2, schedule="constant")
    config = EpisodesConfig(
        env=SPEC, algorithm=ALGORITHM, policy=POLICY, optimizer=optimizer, env_steps=128
    )
    return config.create()


@pytest.fixture(scope="module")
def collected(learner):
    """The state after a rollout, and its batch."""
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)
    stage = learner.stages[0]

    @jax.jit
    def collect(state):
        return learner.collect(state, None, stage=stage, hyper=learner.hyper, data=learner.data)

    return collect(state)[:2]


def test_labels_are_what_the_user_viewed_since_the_action():
    env = jitted(SPEC.vectorise(64))
    state, made = env.reset(env.params, jax.random.key(0))
    labelled = 0
    for number in range(12):
        action = jnp.zeros((64, 1), jnp.int32)
        state, made = env.step(env.params, jax.random.key(number), state, action)
        labels = np.asarray(made.metrics["labels"])
        parts = split(env, made.observation)
        fresh, views = np.asarray(parts["fresh"]) > 0, np.asarray(parts["views"])
        going = ~np.asarray(made.terminated)  # else the next episode is what is seen
        np.testing.assert_array_equal(
            labels[going], np.where(fresh, views - FIRST_TOKEN, -1)[going]
        )
        labelled += np.sum(labels[:, 0] >= 0)
        assert labels.max() < PRODUCTS
    assert 0.03 < labelled / (12 * 64) < 0.2  # a user browses after 1 product in 20, or a click


def test_labels_are_added_once_unless_they_were_found():
    ids = jnp.asarray([[3, 1, 2], [3, -1, 2]], jnp.int32)
    labels = jnp.asarray([[1, 7, 7, 5], [-1, 3, 6, -1]], jnp.int32)
    seen, place = beside_labels(Retrieved(None, ids, jnp.zeros((2, 3))), labels)
    np.testing.assert_array_equal(seen.ids, [[3, 1, 2, -1, 7, -1, 5], [3, -1, 2, -1, -1, 6, -1]])
    np.testing.assert_array_equal(seen.noise, [[0.0] * 3 + [1.0] * 4] * 2)
    np.testing.assert_array_equal(place[0], [1, 4, 4, 6])
    np.testing.assert_array_equal(place[1, 1:3], [0, 5])


def losses(learner, collected, label_coef, reward_coef, kind=LabelledPassages):
    """(loss, gradient) of the batch, each step counting once."""
    state, batch = collected
    fields = {"num_envs": 16, "rollout_length": 8, "discount": 0.0, "minibatches": 1}
    algorithm = kind(**fields)
    env = learner.config.env.vectorise(16)
    policy = algorithm.model(POLICY, env)
    hyper = jax.tree.map(jnp.asarray, algorithm.hyper())
    if kind is LabelledPassages:
        hyper |= {"label_coef": jnp.float32(label_coef), "reward_coef": jnp.float32(reward_coef)}
    key = jax.random.PRNGKey(0)

    def loss(params):
        return algorithm.loss(policy, params, key, batch, hyper).sum

    return jax.jit(jax.value_and_grad(loss))(state.params)


def test_the_likelihood_of_labels_written_out(learner, collected):
    """Σ_b -log p(d_b|s_b) over what was found or drawn and the label, and its gradient."""
    state, batch = collected
    ids, labels = np.asarray(batch.observation.ids), np.asarray(batch.labels)
    assert np.sum(labels[:, 0] >= 0) > 5
    seen = np.asarray(batch.observation.observation)

    def by_hand(params):
        tower = params["retriever"]["query"]
        table, rest = tower["embedding"], tower["rest"]["kernel"]
        total = 0.0
        for row in np.flatnonzero((labels[:, 0] >= 0) & (np.asarray(batch.weight) > 0)):
            told = [int(one) for one in labels[row] if one >= 0]
            others = list({int(one) for one in ids[row] if one >= 0} | set(told))
            tokens = seen[row, :VIEWS].astype(int)
            mean = jnp.mean(jnp.stack([table[token] for token in tokens if token > 0]), axis=0)
            query = mean + seen[row, VIEWS:] @ rest
            keys = jnp.stack([table[one + FIRST_TOKEN] for one in others])
            keys = keys / jnp.linalg.norm(keys, axis=-1, keepdims=True)
            scores = keys @ query / jnp.linalg.norm(query)
            scores = jnp.exp(params["retriever"]["log_scale"]) * scores
            log_probs = jax.nn.log_softmax(scores)
            total -= sum(log_probs[others.index(one)] for one in told)
        return total

    expected, slope = jax.value_and_grad(by_hand)(state.params)
    value, gradient = losses(learner, collected, 0.7, 0.0)
    np.testing.assert_allclose(value, 0.7 * expected, rtol=1e-4)
    for ours, theirs in zip(
        jax.tree.leaves(gradient["retriever"]), jax.tree.leaves(slope["retriever"]), strict=True
    ):
        np.testing.assert_allclose(ours, 0.7 * theirs, atol=2e-5)
    assert np.any(slope["retriever"]["query"]["embedding"])


def test_without_labels_it_is_ppo_and_both_add_up(learner, collected):
    rewarded, slope = losses(learner, collected, 0.0, 1.0)
    plain, other = losses(learner, collected, 0.0, 1.0, PPO)
    np.testing.assert_allclose(rewarded, plain, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), slope, other)
    labelled, _ = losses(learner, collected, 1.0, 0.0)
    both, _ = losses(learner, collected, 0.5, 2.0)
    np.testing.assert_allclose(both, 0.5 * labelled + 2.0 * rewarded, rtol=1e-4)


def test_labels_are_learned(learner):
    """Their loss falls below what it is for products that are told apart by chance alone."""
    state = jax.jit(learner.init)(jax.random.PRNGKey(1), learner.hyper, learner.data)
    step = jax.jit(make_step(learner, learner.stages[0]))
    told = []
    for _ in range(60):
        state, metrics = step(state, None, learner.hyper, learner.data)
        told.append(float(metrics["label_loss"]))
    assert np.mean(told[-15:]) < np.mean(told[:15]) - 0.1


def test_an_environment_that_labels_nothing_is_refused():
    env = InterestEvolution(corpus=20).vectorise(2)
    with pytest.raises(UserError, match="the environment labels no passages"):
        ALGORITHM.model(SlateRetrieval(), env)
    with pytest.raises(UserError, match="the environment labels no passages"):
        ALGORITHM.model(POLICY, dataclasses.replace(SPEC, views=0).vectorise(2))


@pytest.mark.parametrize("name", ["label_coef", "reward_coef"])
def test_weights_are_not_negative(name):
    with pytest.raises(UserError, match=rf"algorithm\.{name} is -1\.0"):
        dataclasses.replace(ALGORITHM, **{name: -1.0})
