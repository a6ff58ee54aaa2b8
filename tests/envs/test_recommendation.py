"""The environments after RecSim: chance given, against NumPy step by step; clicks; published returns."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from slate_returns import returns_of

from ragjax.envs.recommendation import (
    interest_evolution,
    interest_exploration,
    long_term_satisfaction,
)
from ragjax.envs.recommendation.base import State
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.envs.recommendation.interest_exploration import InterestExploration
from ragjax.envs.recommendation.long_term_satisfaction import LongTermSatisfaction
from ragjax.envs.recommendation.numbered import FIRST_TOKEN
from ragjax.errors import UserError

EPISODES, STEPS = 8, 60


# The rules, written down once more


def clicked(scores, no_click, uniform):
    """The place in which a number in [0, 1) falls, None beyond the scores."""
    total = sum(scores) + no_click
    end = 0.0
    for place, score in enumerate(scores):
        end += score
        if uniform * total < end:
            return place
    return None


def evolve(user, shown, chance):
    """One step of interest evolution, in place: (reward, terminated, [S,R] responses)."""
    scores = [user.interests[topic] + 1 for topic, _ in shown]
    place = clicked(scores, 2.0, chance.click)
    rows = [[0.0, 0.0, quality, *np.eye(20)[topic]] for topic, quality in shown]
    reward = 0.0
    if place is None:
        user.budget -= 0.5
    else:
        topic, quality = shown[place]
        reward = min(user.budget, 4.0)
        rows[place][:2] = 1.0, reward
        interest = user.interests[topic]
        move = 0.3 * (1 - abs(interest)) * (1 - interest)
        rises = chance.rise < (interest + 1) / 2
        user.interests[topic] = np.clip(interest + (move if rises else -move), -1, 1)
        user.budget = user.budget - reward + 0.9 / 3.4 * reward * quality
    return reward, user.budget <= 0, rows


def explore(user, shown, chance):
    """One step of interest exploration."""
    scores = [np.exp(user.affinity[topic] + quality) for topic, quality in shown]
    place = clicked(scores, np.exp(5.0), chance)
    rows = [[0.0, quality, *np.eye(2)[topic]] for topic, quality in shown]
    if place is not None:
        rows[place][0] = 1.0
    return float(place is not None), False, rows


def engage(user, shown, chance, sensitivity):
    """One step of long-term satisfaction, in place."""
    (bait,) = shown[0]
    satisfaction = 1 / (1 + np.exp(-sensitivity * user.exposure))
    mean = (5 * bait + 4 * (1 - bait)) * satisfaction
    reward = np.exp(mean + chance.engagement)
    user.exposure = 0.7 * user.exposure - 2 * (bait - 0.5) + 0.05 * chance.innovation
    user.left -= 1
    rows = [[0.0, 0.0, c] for (c,) in shown]
    rows[0][:2] = 1.0, min(reward, 100.0)
    return reward, user.left <= 0, rows


# What chance gives


def evolution_documents(rng, count):
    topic = rng.integers(20, size=count)
    means = np.concatenate([np.linspace(-3, 0, 14), np.linspace(0, 3, 6)])
    return interest_evolution.Documents(topic, rng.normal(means[topic], 0.1))


def exploration_documents(rng, count):
    return interest_exploration.Documents(rng.integers(2, size=count), rng.lognormal(size=count))


def satisfaction_documents(rng, count):
    return long_term_satisfaction.Documents(rng.random(count))


CASES = {
    "evolution": (
        InterestEvolution(candidates=6, slate=3),
        lambda rng: interest_evolution.User(rng.uniform(-1, 1, 20), np.float64(30.0)),
        evolution_documents,
        lambda rng: interest_evolution.Chance(*rng.random(2)),
        evolve,
    ),
    "exploration": (
        InterestExploration(candidates=4, slate=2),
        lambda rng: interest_exploration.User(rng.lognormal(size=2)),
        exploration_documents,
        lambda rng: rng.random(),
        explore,
    ),
    "satisfaction": (
        LongTermSatisfaction(candidates=4, slate=2, sensitivity=0.3, steps=20),
        lambda rng: long_term_satisfaction.User(rng.normal(), np.int32(20)),
        satisfaction_documents,
        lambda rng: long_term_satisfaction.Chance(*rng.normal(size=2)),
        lambda *step: engage(*step, 0.3),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_rules(case):
    """Users, rewards, ends and observations in float64, of whole episodes."""
    spec, draw_user, draw_documents, draw_chance, plain_step = CASES[case]
    rng = np.random.default_rng(0)
    ends = 0
    with jax.enable_x64(True):
        simulation = spec.simulation()
        params = spec.build().params
        advance = jax.jit(lambda *step: spec.advance(simulation, params, *step))
        for _ in range(EPISODES):
            user, offered = draw_user(rng), draw_documents(rng, spec.candidates)
            plain = SimpleNamespace(
                **{k: np.copy(v) for k, v in vars(user).items() if v is not None}
            )
            user, offered = jax.tree.map(jnp.asarray, (user, offered))
            state, first = spec.begin(simulation, params, user, offered)
            np.testing.assert_array_equal(first.reward, 0)
            for _ in range(STEPS):
                slate = rng.permutation(spec.candidates)[: spec.slate]
                following = draw_documents(rng, spec.candidates)
                chance, following = jax.tree.map(jnp.asarray, (draw_chance(rng), following))
                listed = list(zip(*vars(offered).values(), strict=True))
                expected = plain_step(plain, [listed[place] for place in slate], chance)
                state, made = advance(state, slate, chance, following)
                reward, terminated, rows = expected
                for name, value in vars(plain).items():
                    np.testing.assert_allclose(getattr(state.user, name), value, atol=1e-12)
                np.testing.assert_allclose(made.reward, reward, rtol=1e-6)
                assert bool(made.terminated) == terminated
                seen = len(simulation.observed(user))
                shown = np.asarray(made.observation)[seen : seen + np.size(rows)]
                np.testing.assert_allclose(shown, np.ravel(rows), rtol=1e-6)
                looks = np.ravel(simulation.looks(following))
                np.testing.assert_allclose(made.observation[-len(looks) :], looks, rtol=1e-6)
                offered = following
                if terminated:
                    ends += 1
                    break
    assert ends == (0 if case == "exploration" else EPISODES)


@pytest.mark.parametrize("spec", [InterestEvolution(), InterestExploration()], ids=lambda s: s.name)
def test_clicks_have_their_probabilities(spec):
    """By chi-square against s_i / (Σ s + s_0), through the environment's own random numbers."""
    many = 20_000
    env = spec.build()
    state, _ = env.reset(env.params, jax.random.key(3))
    slate = jnp.arange(spec.slate) + 1
    keys = jax.random.split(jax.random.key(4), many)
    _, steps = jax.vmap(env.step, (None, 0, None, None))(env.params, keys, state, slate)
    if isinstance(spec, InterestEvolution):
        begins, width = 20, 23
        scores = state.user.interests[state.offered.topic[slate]] + 1
        no_click = 2.0
    else:
        begins, width = 0, 4
        appeal = state.user.affinity[state.offered.topic[slate]] + state.offered.quality[slate]
        scores, no_click = np.exp(appeal), np.exp(5.0)
    clicks = steps.observation[:, begins : begins + spec.slate * width : width].sum(0)
    counts = np.append(clicks, many - clicks.sum())
    expected = np.append(scores, no_click)
    found = scipy.stats.chisquare(counts, many * expected / expected.sum())
    assert found.pvalue > 0.01
    assert counts.min() > 100


def test_documents_and_users_are_drawn_as_said():
    rng_key = jax.random.key(0)
    rules = interest_evolution.rules()
    documents = InterestEvolution().simulation().documents(rules, rng_key, 40_000)
    for topic in (0, 13, 14, 19):
        quality = np.asarray(documents.quality)[documents.topic == topic]
        assert len(quality) == pytest.approx(2000, abs=150)
        assert quality.mean() == pytest.approx(float(rules.topic_quality[topic]), abs=0.01)
        assert quality.std() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(interest_evolution.TOPIC_QUALITY[[0, 13, 14, 19]], [-3, 0, 0, 3])

    simulation = InterestExploration().simulation()
    documents = simulation.documents(simulation.rules, rng_key, 40_000)
    assert np.mean(documents.topic) == pytest.approx(0.8, abs=0.01)
    first = np.asarray(documents.quality)[documents.topic == 0]
    assert np.log(first).mean() == pytest.approx(0.8, abs=0.01)
    assert np.log(first).std() == pytest.approx(0.1, abs=0.01)
    keys = jax.random.split(rng_key, 20_000)
    affinity = np.log(jax.vmap(lambda key: simulation.user(simulation.rules, key).affinity)(keys))
    second_kind = affinity[:, 0] > affinity[:, 1]
    assert second_kind.mean() == pytest.approx(0.7, abs=0.01)
    np.testing.assert_allclose(affinity[second_kind].mean(0), [0.7, 0.1], atol=0.01)

    simulation = LongTermSatisfaction().simulation()
    exposure = jax.vmap(lambda key: simulation.user(simulation.rules, key).exposure)(keys)
    bounds = np.array([exposure.min(), exposure.max()])
    np.testing.assert_allclose(bounds, [-0.5 / 0.3, 0.5 / 0.3], atol=0.01)


# Returns of the original, 1,000 episodes each: mean and standard error

EVOLUTION = {
    (10, 3): ((159.69, 0.38), (167.48, 0.67), (214.26, 0.93), (264.43, 1.15)),
    (10, 2): ((153.51, 0.35), (165.71, 0.83), (233.74, 1.25), (280.84, 1.78)),
    (5, 2): ((154.05, 0.36), (161.29, 0.55), (188.73, 0.65), (214.60, 0.76)),
}
BY = ("random", "affinity", "affinity_quality", "quality")
EXPLORATION = {
    "random": (23.00, 0.17),
    "quality": (38.79, 0.28),
    "topic_1": (18.43, 0.25),
    "affinity": (39.28, 0.26),
}
SATISFACTION = {"random": (950.6, 5.2), "wholesome": (788.0, 4.3), "clickbait": (1119.7, 6.1)}


def assert_equal_means(spec, known, **policy):
    for by, returns in returns_of(spec, tuple(known), 1000, **policy).items():
        mean, error = known[by]
        spread = np.hypot(error, returns.std() / np.sqrt(len(returns)))
        assert abs(returns.mean() - mean) < 3 * spread, (by, returns.mean(), mean)


@pytest.mark.parametrize(
    "size", [(5, 2), *(pytest.param(size, marks=pytest.mark.slow) for size in [(10, 2), (10, 3)])]
)
def test_interest_evolution_returns_what_the_original_does(size):
    candidates, slate = size
    spec = InterestEvolution(candidates=candidates, slate=slate)
    assert_equal_means(spec, dict(zip(BY, EVOLUTION[size], strict=True)))


@pytest.mark.parametrize("by", [BY[:2], pytest.param(BY[2:], marks=pytest.mark.slow)])
@pytest.mark.slow
def test_candidates_drawn_from_a_corpus_return_the_same(by):
    known = {name: of for name, of in zip(BY, EVOLUTION[10, 3], strict=True) if name in by}
    assert_equal_means(InterestEvolution(corpus=20_000), known, drawn=10)


def test_interest_exploration_returns_what_the_original_does():
    assert_equal_means(InterestExploration(reveal=True), EXPLORATION)


def test_long_term_satisfaction_returns_what_the_original_does():
    assert_equal_means(LongTermSatisfaction(), SATISFACTION)


def test_more_sensitive_users_make_clickbait_the_worst_choice():
    """As the docstring says; immediate engagement prefers it all the same."""
    returns = returns_of(LongTermSatisfaction(sensitivity=0.3), tuple(SATISFACTION), 1000)
    means = {by: of.mean() for by, of in returns.items()}
    assert means == pytest.approx({"wholesome": 1630, "random": 980, "clickbait": 480}, rel=0.04)
    at_limit = returns_of(LongTermSatisfaction(sensitivity=0.1), tuple(SATISFACTION), 1000)
    assert at_limit["wholesome"].mean() > 1.1 * at_limit["clickbait"].mean()


# The corpus


def test_documents_of_a_corpus_stay_as_they_are():
    """From step to step, from episode to episode, and in every place."""
    spec = InterestEvolution(corpus=50, slate=2)
    env = spec.build()
    slate = jnp.asarray([7, 31])
    seen = []
    for seed in (0, 1):
        state, _ = env.reset(env.params, jax.random.key(seed))
        for number in (2, 3):
            key = jax.random.key(number)
            state, made = env.step(env.params, key, state, slate[:: (-1) ** number])
            rows = made.observation[20:].reshape(2, 23)[:: (-1) ** number]
            seen.append(np.asarray(rows[:, 2:]))
    assert len(np.unique(seen, axis=0)) == 1
    corpus = env.params.corpus
    np.testing.assert_allclose(seen[0][:, 0], corpus.quality[slate], rtol=1e-6)
    np.testing.assert_array_equal(seen[0][:, 1:], env.passages[slate])
    other = dataclasses.replace(spec, passage_seed=1).build()
    assert np.any(np.asarray(other.passages) != np.asarray(env.passages))


def test_passages_show_no_quality():
    env = InterestEvolution(corpus=50).build()
    np.testing.assert_array_equal(env.passages, np.eye(20)[env.params.corpus.topic])
    assert "candidates" not in env.parts
    assert (env.num_actions, env.slate) == (50, 3)


def test_passages_may_be_tokens_of_topic_and_document():
    env = InterestEvolution(corpus=50, tokens=True).build()
    topics, documents = np.asarray(env.passages).T
    np.testing.assert_array_equal(topics - FIRST_TOKEN, env.params.corpus.topic)
    np.testing.assert_array_equal(documents - FIRST_TOKEN, 20 + np.arange(50))
    idf = np.asarray(env.vocabulary.idf)
    assert idf.shape == (FIRST_TOKEN + 20 + 50,)
    np.testing.assert_array_equal(idf[:FIRST_TOKEN], 0)
    np.testing.assert_allclose(idf[FIRST_TOKEN:][:20], np.log(51 / (50 / 20 + 1)), rtol=1e-6)
    np.testing.assert_allclose(idf[FIRST_TOKEN + 20 :], np.log(51 / 2), rtol=1e-6)


@pytest.mark.parametrize("kind", [InterestEvolution, InterestExploration, LongTermSatisfaction])
def test_a_corpus_is_no_constant_of_the_program(kind):
    from ragjax.envs.wrappers import bind_env, env_data

    env = kind(corpus=1000, slate=2).vectorise(3)
    data = env_data(env)

    def program(data, key):
        bound = bind_env(env, data)
        state, _ = bound.reset(bound.params, key)
        slates = jnp.zeros((3, 2), jnp.int32) + jnp.arange(2)
        return bound.step(bound.params, key, state, slates)

    traced = jax.make_jaxpr(program)(data, jax.random.key(0))
    assert all(np.size(constant) < 1000 for constant in traced.consts)
    assert sum(np.size(leaf) >= 1000 for leaf in jax.tree.leaves(data)) >= 2


# What is seen


@pytest.mark.parametrize(
    ("spec", "user", "width", "look"),
    [
        (InterestEvolution(), 20, 23, 20),
        (InterestExploration(), 0, 4, 3),
        (LongTermSatisfaction(slate=2), 0, 3, 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_observations_are_laid_out_as_said(spec, user, width, look):
    env = spec.build()
    state, first = env.reset(env.params, jax.random.key(0))
    assert isinstance(state, State)
    size = user + spec.slate * width + spec.candidates * look
    assert first.observation.shape == env.low.shape == env.high.shape == (size,)
    np.testing.assert_array_equal(first.observation[user : user + spec.slate * width], 0)
    assert env.parts["candidates"] == (spec.candidates, look)
    candidates = first.observation[-spec.candidates * look :].reshape(spec.candidates, look)
    np.testing.assert_array_equal(candidates, spec.simulation().looks(state.offered))
    revealed = dataclasses.replace(spec, reveal=True).build()
    _, shown = revealed.reset(revealed.params, jax.random.key(0))
    hidden = spec.simulation().hidden(env.params.rules, state.user)
    begins = user + spec.slate * width
    np.testing.assert_array_equal(shown.observation[begins : begins + len(hidden)], hidden)
    np.testing.assert_array_equal(shown.observation[begins + len(hidden) :], np.ravel(candidates))


def test_metrics_are_means_of_the_episode_so_far():
    spec = InterestEvolution(slate=2)
    env = spec.build()
    state, _ = env.reset(env.params, jax.random.key(0))
    clicks, qualities = [], []
    for number in range(10):
        qualities.append(np.mean(state.offered.quality[:2]))
        key = jax.random.key(number)
        state, made = env.step(env.params, key, state, jnp.arange(2))
        clicks.append(float(made.reward > 0))
        np.testing.assert_allclose(made.metrics["episode_click_rate"], np.mean(clicks), rtol=1e-6)
        shown = made.metrics["episode_shown_quality"]
        np.testing.assert_allclose(shown, np.mean(qualities), rtol=1e-4)
    assert 0 < sum(clicks) < 10


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"candidates": 2}, "env.slate is 3, more than env.candidates 2; show at most as many"),
        ({"corpus": 2}, "env.slate is 3, more than env.corpus 2; show at most as many documents"),
        ({"candidates": 0}, "env.candidates is 0; it must be at least 1."),
        ({"slate": 0}, "env.slate is 0; it must be at least 1."),
        ({"corpus": -1}, "env.corpus is -1; it must not be negative."),
        ({"passage_seed": -1}, "env.passage_seed is -1; it must not be negative."),
        (
            {"tokens": True},
            "env.tokens is true, but there are no passages; set env.corpus or env.items, or leave",
        ),
    ],
)
def test_bad_fields_are_named(fields, sentence):
    with pytest.raises(UserError) as caught:
        InterestEvolution(**fields)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"sensitivity": -0.1}, "env.sensitivity is -0.1; it must not be negative, nor infinite."),
        ({"sensitivity": np.inf}, "env.sensitivity is inf; it must not be negative, nor infinite."),
        ({"sensitivity": np.nan}, "env.sensitivity is nan; it must not be negative, nor infinite."),
        ({"steps": 0}, "env.steps is 0; it must be at least 1."),
    ],
)
def test_bad_fields_of_satisfaction_are_named(fields, sentence):
    with pytest.raises(UserError) as caught:
        LongTermSatisfaction(**fields)
    assert str(caught.value) == sentence
