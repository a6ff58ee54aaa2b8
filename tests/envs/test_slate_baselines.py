"""Fixed policies of recommendation: what they show, as policies of a run, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jitted import jitted

from ragjax.envs.cartpole import CartPole
from ragjax.envs.recommendation.baselines import SlateBaseline, drawn_evenly
from ragjax.envs.recommendation.interest_evolution import TOPIC_QUALITY, InterestEvolution
from ragjax.envs.recommendation.interest_exploration import InterestExploration
from ragjax.envs.recommendation.long_term_satisfaction import LongTermSatisfaction
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_policy import split
from ragjax.objectives.a2c import A2C

E = 5


def shown_by(spec, by, key=0, **fields):
    """The environments, their parts, and the slates [E,S] of likeliest and of drawn choices."""
    env = jitted(spec.vectorise(E))
    state, first = env.reset(env.params, jax.random.key(key))
    policy = jitted(SlateBaseline(by, **fields).build(env))
    seen = policy.retrieve({}, None, jax.random.key(1), first.observation)
    distribution, value = policy.apply(policy.init(jax.random.key(2)), seen)
    np.testing.assert_array_equal(value, np.zeros(E))
    modes = distribution.executed(distribution.mode())
    drawn = distribution.executed(distribution.sample(jax.random.key(3)))
    assert modes.shape == drawn.shape == (E, spec.slate if hasattr(spec, "slate") else 1)
    return env, state, split(env, first.observation), np.asarray(modes), np.asarray(drawn)


def assert_highest(scores, slates):
    """A slate's documents have the highest scores, best first."""
    scores = np.asarray(scores)
    found = np.take_along_axis(scores, slates, axis=-1)
    np.testing.assert_array_equal(found, -np.sort(-scores, axis=-1)[:, : slates.shape[1]])
    assert all(len(set(slate)) == len(slate) for slate in slates)


@pytest.mark.parametrize("by", ["affinity", "quality", "affinity_quality"])
@pytest.mark.parametrize("corpus", [0, 30])
def test_interest_evolution_is_ranked(by, corpus):
    env, _, parts, modes, drawn = shown_by(InterestEvolution(corpus=corpus), by)
    looks = np.asarray(env.passages if corpus else parts["candidates"], np.float64)
    affinity = np.squeeze(looks @ np.asarray(parts["user"], np.float64)[..., None], -1)
    quality = np.broadcast_to(looks @ TOPIC_QUALITY, affinity.shape)
    both = (affinity + 1) * (4 + 4 * 0.9 / 3.4 * quality)
    scores = {"affinity": affinity, "quality": quality, "affinity_quality": both}[by]
    assert_highest(scores.round(5), modes)
    np.testing.assert_array_equal(drawn, modes)


def test_qualities_that_are_dealt_out_anew_are_known_if_revealed():
    spec = InterestEvolution(dealt=True, reveal=True)
    _, state, parts, modes, _ = shown_by(spec, "episode_quality")
    dealt = TOPIC_QUALITY[np.asarray(state.inner.inner.user.dealt)]
    np.testing.assert_allclose(parts["hidden"][:, 1:], dealt, atol=1e-6)
    looks = np.asarray(parts["candidates"], np.float64)
    assert_highest(np.squeeze(looks @ dealt[..., None], -1).round(5), modes)


def test_interest_exploration_is_ranked():
    spec = InterestExploration(reveal=True)
    _, _, parts, modes, _ = shown_by(spec, "affinity")
    candidates = np.asarray(parts["candidates"])
    quality, topics = candidates[..., 0], candidates[..., 1:]
    assert_highest(quality + np.squeeze(topics @ np.asarray(parts["hidden"])[..., None], -1), modes)
    _, _, parts, modes, _ = shown_by(spec, "topic_1")
    assert_highest(quality + 10 * topics[..., 1], modes)


def test_clickbait_is_ranked():
    spec = LongTermSatisfaction(slate=2)
    for by, sign in (("clickbait", 1), ("wholesome", -1)):
        _, _, parts, modes, _ = shown_by(spec, by)
        assert_highest(sign * np.asarray(parts["candidates"])[..., 0], modes)


@pytest.mark.parametrize("views", [0, 4])
@pytest.mark.slow
def test_products_are_ranked(views):
    spec = RecoGym(products=30, views=views, reveal=True, sigma_mu_organic=1.0)
    env, state, parts, modes, _ = shown_by(spec, "affinity")
    shop = env.params
    np.testing.assert_array_equal(parts["hidden"], state.inner.inner.taste)
    assert_highest(parts["hidden"] @ shop.products.T + shop.appeal, modes)
    _, _, _, modes, _ = shown_by(spec, "popularity")
    assert len(set(modes.ravel())) == 1
    # The most popular product is among the most viewed ones.
    keys = jax.random.split(jax.random.key(9), 2000)
    states, _ = jax.vmap(spec.build().reset, (None, 0))(shop, keys)
    first = np.asarray(states.seen[:, 0] if views else states.seen.argmax(-1))
    assert modes[0, 0] in np.argsort(-np.bincount(first, minlength=30))[:3]
    env, _, _, among, _ = shown_by(spec, "affinity", drawn=6)
    scores = np.asarray(parts["hidden"] @ shop.products.T + shop.appeal)
    worse = np.take_along_axis(scores, among, axis=-1) <= scores.max(-1, keepdims=True)
    assert worse.all()
    assert (among != modes).any()


def test_random_slates_are_random():
    _, _, _, _, drawn = shown_by(InterestEvolution(corpus=40), "random")
    assert all(len(set(slate)) == 3 for slate in drawn)
    assert len({tuple(slate) for slate in drawn}) == E
    _, _, _, _, few = shown_by(InterestEvolution(corpus=40), "random", drawn=3)
    assert len({tuple(sorted(slate)) for slate in few}) == E


def test_subsets_are_drawn_evenly():
    rows = np.asarray(drawn_evenly(jax.random.key(0), (6000,), 2, 4))
    pairs = [tuple(sorted(pair)) for pair in rows]
    counts = np.unique(pairs, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > 0.01
    assert scipy.stats.chisquare(np.bincount(rows.ravel())).pvalue > 0.01
    whole = np.asarray(drawn_evenly(jax.random.key(1), (3,), 4, 4))
    np.testing.assert_array_equal(np.sort(whole, axis=-1), [[0, 1, 2, 3]] * 3)


def config(env, policy):
    evaluation = EpisodeEvaluation(episodes=40, every=0)
    return EpisodesConfig(
        env=env, algorithm=A2C(num_envs=1), policy=policy, env_steps=0, evaluation=evaluation
    )


def test_a_fixed_policy_is_measured_as_any():
    learner = config(InterestEvolution(), SlateBaseline("quality")).create()
    state = jax.jit(learner.init)(jax.random.key(0), learner.hyper, learner.data)
    episodes, facts = learner.evaluate(state)
    summary = episodes.summary()
    assert facts["environment"] == "interest_evolution"
    assert summary["greedy_return"] == pytest.approx(264, abs=20)
    assert summary["sampled_return"] == pytest.approx(264, abs=20)
    assert 0.4 < summary["sampled_click_rate"] < 0.7
    assert summary["sampled_shown_quality"] > 1


@pytest.mark.parametrize(
    ("env", "policy", "sentence"),
    [
        (
            InterestEvolution(),
            SlateBaseline("popularity"),
            "policy.by is 'popularity'; choose one of random, affinity, affinity_quality, quality in "
            "this environment.",
        ),
        (
            InterestExploration(),
            SlateBaseline("affinity"),
            "policy.by is 'affinity'; choose one of random, quality, topic_0, topic_1 in this "
            "environment.",
        ),
        (
            InterestEvolution(),
            SlateBaseline(drawn=5),
            "policy.drawn is 5, but the environment draws its candidates by itself; leave it at 0.",
        ),
        (
            InterestEvolution(corpus=20),
            SlateBaseline(drawn=2),
            "policy.drawn is 2; it must be at least 3, the places of a slate, and at most 20, the "
            "documents of the corpus.",
        ),
        (
            InterestEvolution(corpus=20),
            SlateBaseline(drawn=21),
            "policy.drawn is 21; it must be at least 3, the places of a slate, and at most 20, the "
            "documents of the corpus.",
        ),
        (
            CartPole(),
            SlateBaseline(),
            "policy chooses slates, but the environment takes single actions; choose ActorCritic or "
            "RetrievalPolicy.",
        ),
    ],
)
def test_what_it_can_t_do_is_said(env, policy, sentence):
    with pytest.raises(UserError) as caught:
        policy.build(env.build())
    assert str(caught.value) == sentence


def test_bad_fields_are_named():
    with pytest.raises(UserError, match=r"policy\.drawn is -1; it must not be negative\."):
        SlateBaseline(drawn=-1)
    env = InterestEvolution().build()._replace(params=jnp.zeros(()))
    with pytest.raises(
        UserError, match=r"policy\.by is 'quality', but the environment has no rank"
    ):
        SlateBaseline("quality").build(env)
