"""RecoGym: given chance, against NumPy step by step; views, visits and click rates by their formulas."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from slate_returns import figures_of

from ragjax.envs.recommendation import recogym
from ragjax.envs.recommendation.numbered import FIRST_TOKEN
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.errors import UserError
from ragjax.models.slate_policy import split

STEPS = 60


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def chance_of(score):
    return sigmoid(5 * sigmoid(2 * sigmoid(0.3 * score) - 2) - 6)


# The rules, written down once more


def browse(user, shop, visit):
    """One visit, in place; returns whether the user is gone after it."""
    for number, (uniform, drift) in enumerate(zip(*visit.views, strict=True), start=1):
        scores = shop.products @ user.taste + shop.appeal
        ends = np.cumsum(np.exp(scores))
        user.views.append(int(np.searchsorted(ends, uniform * ends[-1], side="right")))
        user.taste = user.taste + 0.1 * drift
        # Another view with probability .74: by one number, of which each view uses up a share.
        if visit.length < 1 - 0.74**number:
            return visit.end < 0.01 / 0.26
    raise AssertionError("more views than were drawn")


def show(user, shop, product, chance):
    """One step, in place: (click, whether the user is gone)."""
    score = shop.products[product] @ user.taste + shop.appeal[product]
    click = chance.click < chance_of(score)
    user.before = len(user.views)
    if click or chance.move < 0.05:
        return click, browse(user, shop, chance.visit)
    return click, chance.move < 0.06


@jax.jit
def drawn_views(key):
    """[64] and [64,5] numbers of the first views of a visit."""
    pages = jax.vmap(lambda page: recogym.draw_views(key, page, 5))(jnp.arange(4))
    return [numbers.reshape(64, *numbers.shape[2:]) for numbers in pages]


def draw_visit(rng):
    """A `Visit` as the environment takes it, and with all that chance decides in its views."""
    length, end = rng.random(2)
    key = jax.random.key(int(rng.integers(2**31)))
    views = [np.asarray(numbers) for numbers in drawn_views(key)]
    given = recogym.Visit(jnp.asarray(length), jnp.asarray(end), key)
    return given, SimpleNamespace(length=length, end=end, views=views)


@pytest.mark.parametrize("views", [0, 3])
def test_steps_are_those_of_the_rules(views):
    rng = np.random.default_rng(0)
    ends = clicks = 0
    with jax.enable_x64(True):
        spec = RecoGym(products=12, views=views, sigma_mu_organic=1.0)
        shop = spec.shop()
        plain_shop = SimpleNamespace(
            products=np.asarray(shop.products), appeal=np.asarray(shop.appeal)
        )
        begin = jax.jit(spec.begin)
        respond, observe = jax.jit(recogym.respond), jax.jit(spec.show)
        for _ in range(12):
            taste, (visit, plain_visit) = rng.normal(size=5), draw_visit(rng)
            user = SimpleNamespace(taste=taste, views=[], before=0)
            browse(user, plain_shop, plain_visit)
            state = begin(shop, jnp.asarray(taste), visit)
            for _ in range(STEPS):
                np.testing.assert_allclose(state.taste, user.taste, atol=1e-12)
                seen = observe(state).observation
                np.testing.assert_allclose(seen[-1], np.log1p(len(user.views)), rtol=1e-6)
                if views:
                    last = [*(view + FIRST_TOKEN for view in user.views[::-1]), 0, 0, 0][:3]
                    np.testing.assert_array_equal(seen[:3], last)
                    fresh = len(user.views) - user.before > np.arange(3)
                    np.testing.assert_array_equal(seen[3:6], fresh)
                else:
                    counts = np.bincount(user.views, minlength=12)
                    np.testing.assert_allclose(seen[:12], counts / counts.sum(), rtol=1e-6)
                product = int(rng.integers(12))
                # Clicks are rare: half of the time the number drawn is made small.
                click, move = rng.random() * rng.choice([1, 0.02]), rng.random()
                visit, plain_visit = draw_visit(rng)
                plain_chance = SimpleNamespace(click=click, move=move, visit=plain_visit)
                chance = recogym.Chance(jnp.asarray(click), jnp.asarray(move), visit)
                clicked, gone = show(user, plain_shop, product, plain_chance)
                state, over = respond(shop, state, jnp.asarray(product), chance)
                assert (bool(state.clicked), bool(over)) == (clicked, gone)
                shown = observe(state).observation
                assert shown[-2] == float(clicked)
                if not views:
                    np.testing.assert_array_equal(shown[12:24], np.eye(12)[product])
                clicks += clicked
                if gone:
                    ends += 1
                    break
    assert ends >= 3
    assert clicks >= 30


def test_first_views_have_their_probabilities():
    """By chi-square against softmax(Γω + μ), and visits last n views with (1 - .26)^(n-1) .26."""
    spec = RecoGym(products=6, views=64, sigma_mu_organic=1.0)
    shop = spec.shop()
    taste = jax.random.normal(jax.random.key(0), (5,))
    many = 20_000

    def first(key):
        state = spec.begin(shop, taste, recogym.draw_visit(shop, key))
        return state.views, state.seen[state.views - 1]

    keys = jax.random.split(jax.random.key(1), many)
    lengths, views = jax.jit(jax.vmap(first))(keys)
    expected = np.float64(jax.nn.softmax(shop.products @ taste + shop.appeal))
    assert expected.min() > 0.002
    counts = np.bincount(views, minlength=6)
    assert scipy.stats.chisquare(counts, many * expected / expected.sum()).pvalue > 0.01
    lengths = np.minimum(lengths, 12)
    shares = 0.26 * 0.74 ** np.arange(12)
    shares[-1] = 0.74**11
    found = scipy.stats.chisquare(np.bincount(lengths, minlength=13)[1:], many * shares)
    assert found.pvalue > 0.01


# Mean click probability of the formulas, over 20 shops with 500 users each
PUBLISHED = {
    10: (0.0107, 0.0172, 0.0193),
    100: (0.0109, 0.0227, 0.0252),
    1000: (0.0108, 0.0256, 0.0274),
}


@pytest.mark.parametrize("products", PUBLISHED)
def test_click_probabilities_are_those_measured_before(products):
    """Of a random product, of the most popular one, and of the best one."""

    @jax.jit
    def figures(shop, key):
        tastes = jax.random.normal(key, (500, 5))
        chances = recogym.click_chance(tastes @ shop.products.T + shop.appeal)
        seen = jax.nn.softmax(tastes @ shop.products.T + shop.appeal, axis=-1).mean(0)
        return chances.mean(), chances[:, jnp.argmax(seen)].mean(), chances.max(-1).mean()

    shops = [RecoGym(products=products, passage_seed=seed).shop() for seed in range(20)]
    found = np.array([figures(shop, jax.random.key(n)) for n, shop in enumerate(shops)])
    # Both are means over 20 shops of their own.
    spread = np.sqrt(2 / 20) * found.std(0, ddof=1)
    # The published figures are rounded.
    np.testing.assert_array_less(np.abs(found.mean(0) - PUBLISHED[products]) - 5e-5, 3 * spread)
    assert np.all(np.diff(found.mean(0)) > 0)


@pytest.mark.parametrize("episodes", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_clicks_are_as_many_as_expected(episodes):
    """Over whole episodes, whose users' tastes drift; better policies are clicked more."""
    spec = RecoGym(products=20, views=1, reveal=True)
    figures = figures_of(spec, ("random", "popularity", "affinity"), episodes)
    rates = []
    for of in figures.values():
        steps, expected = of["length"], of["click_chance"] @ of["length"]
        clicks = of["return"].sum()
        assert abs(clicks - expected) < 3 * np.sqrt(expected)
        np.testing.assert_allclose(of["click_rate"] * steps, of["return"], atol=1e-3)
        rates.append(expected / steps.sum())
    assert rates[0] < 0.9 * rates[1] < 0.9 * rates[2]
    best = figures["affinity"]
    np.testing.assert_allclose(best["click_chance"], best["best_chance"], rtol=1e-4)
    assert np.all(figures["random"]["click_chance"] <= figures["random"]["best_chance"])
    # Gone with .01 a step, or .01/.26 a visit, which .05 of the steps and each click begin.
    ends = 0.01 + (0.05 + 0.95 * rates[0]) * 0.01 / 0.26
    lengths = figures["random"]["length"]
    spread = lengths.std() / np.sqrt(len(lengths))
    assert abs(lengths.mean() - 1 / ends) < 3 * spread


def test_products_are_told_apart_and_no_more():
    """Passages and observations are the same whatever the products' vectors are."""
    for views in (0, 4):
        first, second = (
            RecoGym(products=9, views=views, passage_seed=seed).build() for seed in (0, 1)
        )
        assert np.any(np.asarray(first.params.products) != np.asarray(second.params.products))
        np.testing.assert_array_equal(first.passages, second.passages)
        assert len(np.unique(first.passages, axis=0)) == len(first.passages) == first.num_actions
    np.testing.assert_array_equal(first.passages[:, 0], np.arange(9) + FIRST_TOKEN)
    assert first.vocabulary.idf.shape == (9 + FIRST_TOKEN,)


@pytest.mark.parametrize("views", [0, 4])
def test_what_was_viewed_most_is_ranked_first(views):
    spec = RecoGym(products=9, views=views)
    env = spec.build()
    state, _ = env.reset(env.params, jax.random.key(0))
    if views:
        seen = jnp.asarray([5, 2, 2, -1], jnp.int32)
    else:
        seen = jnp.zeros(9, jnp.int32).at[jnp.asarray([2, 5])].set(jnp.asarray([2, 1]))
    state = dataclasses.replace(state, seen=seen, views=jnp.asarray(3))
    parts = split(env, spec.show(state).observation)
    shares = env.params.rankings()["viewed"](parts, env.passages)
    expected = np.zeros(9)
    expected[[2, 5]] = np.array([2, 1]) / (views or 3)
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    drawn = jnp.asarray([[5, 0], [2, 5]])
    twice = {name: jnp.stack([part, part]) for name, part in parts.items()}
    found = env.params.rankings()["viewed"](twice, jnp.asarray(env.passages)[drawn])
    np.testing.assert_allclose(found, expected[drawn], rtol=1e-6)


def test_ten_thousand_products_make_a_small_program():
    from ragjax.envs.wrappers import bind_env, env_data

    env = RecoGym(products=10_000, views=16).vectorise(2)
    data = env_data(env)
    assert env.low.shape == (2 * 16 + 2,)

    def program(data, key):
        bound = bind_env(env, data)
        return bound.reset(bound.params, key)

    traced = jax.make_jaxpr(program)(data, jax.random.key(0))
    assert all(np.size(constant) < 1000 for constant in traced.consts)
    assert data["passages"].shape == (10_000, 1)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"products": 1}, "env.products is 1; there must be at least 2."),
        ({"factors": 0}, "env.factors is 0; it must be at least 1."),
        ({"views": -1}, "env.views is -1; it must not be negative."),
        ({"passage_seed": -1}, "env.passage_seed is -1; it must not be negative."),
        (
            {"sigma_mu_organic": -1.0},
            "env.sigma_mu_organic is -1.0; it must not be negative, nor infinite.",
        ),
        (
            {"products": 10_000},
            "env.products is 10000 with env.views 0, where products are one-hots; set env.views, to 16 "
            "for example, for more than 4096 products.",
        ),
    ],
)
def test_bad_fields_are_named(fields, sentence):
    with pytest.raises(UserError) as caught:
        RecoGym(**fields)
    assert str(caught.value) == sentence
