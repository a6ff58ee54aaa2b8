"""An encoder of what was seen last, and documents known by an embedding of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.envs.recommendation.numbered import FIRST_TOKEN
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.encoder import BagEncoder, PerceptronEncoder
from ragjax.models.history_encoder import HistoryEncoder
from ragjax.models.retriever import Dense
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.a2c import A2C
from ragjax.training.program import train

V, W = 3, 4


def test_it_is_a_bag_of_what_was_seen_and_of_the_other_numbers():
    module = HistoryEncoder(seen=V, width=W).build(10, jnp.float32)
    observation = jnp.asarray([[7.0, 5.0, 0.0, 0.5, -1.0], [7.0, 7.0, 5.0, 0.0, 0.0], [0.0] * 5])
    params = module.init(jax.random.key(0), observation, None, 0)
    untrained = module.apply(params, observation, None, 0)
    rest = jax.random.normal(jax.random.key(1), (2, W))  # zeros at first
    params = {"params": params["params"] | {"rest": {"kernel": rest}}}
    found = module.apply(params, observation, None, 0)
    table = np.asarray(params["params"]["embedding"])
    rest = np.asarray(params["params"]["rest"]["kernel"])
    assert table.shape == (10, W)
    expected = np.stack(
        [(table[7] + table[5]) / 2 + 0.5 * rest[0] - rest[1], (2 * table[7] + table[5]) / 3]
    )
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[2], np.zeros(W))
    # What is seen, and no more, is what a passage of it is.
    passages = jnp.asarray([[7, 5], [7, 0]])
    stored = module.apply(params, passages, None, 1)
    np.testing.assert_allclose(stored[0], untrained[0], rtol=1e-4)
    np.testing.assert_allclose(stored[1], table[7] / np.linalg.norm(table[7]), rtol=1e-5)


def retrieval(k, *encoders):
    retriever = Dense(*encoders, initial_scale=5.0, refresh_every=1)
    return SlateRetrieval(k=k, reranks=False, retriever=retriever)


@pytest.mark.parametrize(
    ("env", "policy"),
    [
        (
            InterestEvolution(corpus=30, tokens=True),
            retrieval(10, BagEncoder(width=8), PerceptronEncoder(width=8)),
        ),
        (
            RecoGym(products=20, views=V),
            retrieval(6, BagEncoder(width=8), HistoryEncoder(seen=V, width=8)),
        ),
        (RecoGym(products=20, views=V), retrieval(6, HistoryEncoder(seen=V, width=8))),
    ],
    ids=["documents", "products", "products as they are viewed"],
)
def test_embeddings_of_each_item_are_trained(env, policy):
    config = EpisodesConfig(
        env=env,
        algorithm=A2C(num_envs=8, rollout_length=8),
        policy=policy,
        env_steps=8 * 8 * 20,
        evaluation=EpisodeEvaluation(every=0),
    )
    learner = config.create()
    key = jax.random.PRNGKey(0)
    first = jax.jit(learner.init)(key, learner.hyper, learner.data)
    last, _ = jax.jit(functools.partial(train, learner))(key, [None], learner.hyper, learner.data)
    before, after = (
        state.params["retriever"].get("stored", state.params["retriever"].get("query"))["embedding"]
        for state in (first, last)
    )
    assert before.shape == (len(learner.raw_env.vocabulary.idf), 8)
    moved = np.any(np.asarray(before) != np.asarray(after), axis=-1)
    items = learner.raw_env.num_actions
    assert moved[-items:].mean() > 0.5


def test_untrained_it_finds_what_was_seen_most():
    env = jitted(RecoGym(products=50, views=4).build())
    policy = jitted(retrieval(3, HistoryEncoder(seen=4, width=64)).build(env))
    params = policy.init(jax.random.key(0))
    seen = jnp.asarray([[20.0, 31.0, 20.0, 9.0, *[1.0] * 6], [40.0, 0.0, 0.0, 0.0, *[0.5] * 6]])
    found = policy.retrieve(params, policy.embed(params), None, seen)
    shown = policy.apply(params, found)[0]
    np.testing.assert_array_equal(shown.executed(shown.mode())[:, 0] + FIRST_TOKEN, [20, 40])


def test_it_wants_tokens():
    with pytest.raises(UserError) as caught:
        HistoryEncoder().build(0, jnp.float32)
    assert str(caught.value) == (
        "encoder is a HistoryEncoder, which reads tokens of passages, but these are numbers here; "
        "choose PerceptronEncoder."
    )


@pytest.mark.parametrize("name", ["seen", "width"])
def test_fields_are_checked(name):
    with pytest.raises(UserError, match=rf"encoder\.{name} is 0; it must be at least 1\."):
        HistoryEncoder(**{name: 0})
