"""Slates drawn without replacement, against the enumeration of all ordered slates in float64."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.ops.plackett_luce import PlackettLuce, log_inclusion, slate_cross_entropy

SLOW_SHAPE = pytest.param(5, 4, marks=pytest.mark.slow)
SHAPES = [(2, 1), (3, 2), (4, 3), SLOW_SHAPE, (6, 3), (6, 2), (3, 3), (6, 5)]  # K, P


def slates(count, places):
    return np.array(list(itertools.permutations(range(count), places)), np.int32)


def enumerated(scores, places):
    """[n] the probability of each ordered slate of one row of scores, in float64."""
    weight = np.exp(np.asarray(scores, np.float64) - np.max(scores))
    out = []
    for slate in slates(len(weight), places):
        left, chance = weight.copy(), 1.0
        for item in slate:
            chance *= left[item] / left.sum()
            left[item] = 0
        out.append(chance)
    return np.array(out)


def rows(count, seed, scale=1.5):
    return (scale * np.random.default_rng(seed).normal(size=(3, count))).astype(np.float32)


@pytest.mark.parametrize(("count", "places"), SHAPES)
def test_log_probability_entropy_and_divergence_equal_enumeration(count, places):
    mine, other = rows(count, 0), rows(count, 1)
    all_slates = slates(count, places)

    @jax.jit
    def figures(mine, other):
        distribution = PlackettLuce(mine, places)
        return distribution.entropy(), distribution.kl(PlackettLuce(other, places))

    @jax.jit
    def log_probs(scores):
        tiled = jnp.tile(scores, (len(all_slates), 1))
        return PlackettLuce(tiled, places).log_prob(jnp.asarray(all_slates))

    entropy, divergence = map(np.asarray, figures(jnp.asarray(mine), jnp.asarray(other)))
    for row in range(3):
        p, q = enumerated(mine[row], places), enumerated(other[row], places)
        np.testing.assert_allclose(p.sum(), 1)
        found = log_probs(jnp.asarray(mine[row]))
        np.testing.assert_allclose(found, np.log(p), rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(entropy[row], -np.sum(p * np.log(p)), rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(divergence[row], np.sum(p * np.log(p / q)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "places"), [(4, 2), (5, 3), SLOW_SHAPE])
def test_gradients_equal_those_of_enumeration(count, places):
    scores, other = rows(count, 2)[0], jnp.asarray(rows(count, 3)[0])
    all_slates = jnp.asarray(slates(count, places))

    def by_enumeration(scores):
        table = jax.vmap(PlackettLuce(scores, places).log_prob)(all_slates)
        second = jax.vmap(PlackettLuce(other, places).log_prob)(all_slates)
        return -jnp.sum(jnp.exp(table) * table), jnp.sum(jnp.exp(table) * (table - second))

    def exact(scores):
        distribution = PlackettLuce(scores, places)
        return distribution.entropy(), distribution.kl(PlackettLuce(other, places))

    gradients = (jax.jit(jax.jacobian(of))(scores) for of in (exact, by_enumeration))
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


def test_a_dominating_candidate_costs_no_precision():
    scores = np.array([[40.0, 0.0, -1.0, 0.5]], np.float32)
    for places in (2, 3):
        p = enumerated(scores[0], places)
        found = PlackettLuce(jnp.asarray(scores), places).entropy()
        expected = -np.sum(p * np.log(np.where(p > 0, p, 1)))
        np.testing.assert_allclose(found[0], expected, rtol=3e-4)


@pytest.mark.parametrize("missing", [-np.inf, -1e9])
def test_a_candidate_that_cannot_be_shown_is_as_if_it_were_not_there(missing):
    few = rows(4, 4)
    more = np.insert(few, 2, missing, axis=1).astype(np.float32)

    @partial(jax.jit, static_argnums=2)
    def of(few, more, places):
        one, two = PlackettLuce(few, places), PlackettLuce(more, places)
        slate = one.mode()
        moved = jnp.where(slate >= 2, slate + 1, slate)
        drawn = two.sample(jax.random.key(0))
        mine = (one.entropy(), one.log_prob(slate), moved)
        return mine, (two.entropy(), two.log_prob(moved), two.mode()), drawn

    for places in (1, 2, 3):
        one, two, drawn = of(jnp.asarray(few), jnp.asarray(more), places)
        np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
        np.testing.assert_allclose(one[1], two[1], rtol=1e-6)
        np.testing.assert_array_equal(one[2], two[2])
        assert not np.any(np.asarray(drawn) == 2)

    def total(scores):
        distribution = PlackettLuce(scores, 3)
        drawn = jax.lax.stop_gradient(distribution.mode())
        return jnp.sum(distribution.entropy() + distribution.log_prob(drawn))

    slope = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(more)))
    assert np.all(np.isfinite(slope))
    np.testing.assert_array_equal(slope[:, 2], 0)


def test_samples_have_the_stated_probabilities():
    scores, places, draws = rows(4, 5)[0], 2, 20_000
    many = PlackettLuce(jnp.tile(jnp.asarray(scores), (draws, 1)), places)
    drawn = np.asarray(many.sample(jax.random.key(1)))
    p = enumerated(scores, places)
    counts = np.array([np.sum(np.all(drawn == slate, axis=1)) for slate in slates(4, places)])
    assert counts.sum() == draws
    chi_square = np.sum((counts - draws * p) ** 2 / (draws * p))
    assert chi_square < 31.26  # 99.9 % of chi-square with 11 degrees of freedom


def test_mode_is_the_likeliest_slate():
    scores = rows(5, 6)
    mode = np.asarray(PlackettLuce(jnp.asarray(scores), 3).mode())
    for row in range(3):
        best = slates(5, 3)[np.argmax(enumerated(scores[row], 3))]
        np.testing.assert_array_equal(mode[row], best)


def test_the_first_place_determines_the_distribution_and_ids_name_what_is_shown():
    ids = jnp.asarray([[7, 9, 4], [1, 0, 2]])
    distribution = PlackettLuce(jnp.asarray(rows(3, 7)[:2]), 2, ids)
    again = distribution.with_log_probs(distribution.log_probs)
    np.testing.assert_allclose(distribution.kl(again), 0, atol=1e-6)
    shown = np.asarray(distribution.executed(jnp.asarray([[2, 0], [1, 2]])))
    np.testing.assert_array_equal(shown, [[4, 7], [0, 2]])
    assert PlackettLuce(distribution.scores, 2).executed(distribution.mode()).shape == (2, 2)


def test_sums_weight_each_slate_once():
    scores, places = jnp.asarray(rows(4, 8)), 3
    action = jnp.asarray([[0, 1, 2], [3, 1, 0], [0, 0, 0]])
    advantage, weight = jnp.asarray([2.0, -1.0, np.nan]), jnp.asarray([1.0, 0.5, 0.0])
    distribution = PlackettLuce(scores, places)
    found = distribution.policy_gradient_sum(action, advantage, weight)
    log_prob = distribution.log_prob(action)
    np.testing.assert_allclose(found, -(2 * log_prob[0] - 0.5 * log_prob[1]), rtol=1e-6)
    entropy = distribution.entropy()
    np.testing.assert_allclose(
        distribution.entropy_sum(weight), entropy[0] + 0.5 * entropy[1], rtol=1e-6
    )

    def loss(scores):
        return PlackettLuce(scores, places).policy_gradient_sum(action, advantage, weight)

    def by_hand(scores):
        log_prob = PlackettLuce(scores, places).log_prob(action)
        return -jnp.sum(log_prob[:2] * jnp.asarray([2.0, -0.5]))

    found, expected = (jax.jit(jax.grad(of))(scores) for of in (loss, by_hand))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_policy_gradient_is_that_of_the_expected_reward():
    """Σ_slates π ∇log π r = ∇ Σ_slates π r, summed over all slates, against differences in float64."""
    count, places = 4, 2
    scores, all_slates = rows(count, 9)[0].astype(np.float64), slates(count, places)
    reward = np.random.default_rng(10).normal(size=len(all_slates))

    def value(scores):
        return float(np.sum(enumerated(scores, places) * reward))

    step = 1e-5
    expected = [
        (value(scores + step * unit) - value(scores - step * unit)) / (2 * step)
        for unit in np.eye(count)
    ]
    chance = jnp.asarray(enumerated(scores, places) * reward, jnp.float32)

    def loss(scores):
        tiled = jnp.tile(scores, (len(all_slates), 1))
        ones = jnp.ones(len(all_slates))
        return PlackettLuce(tiled, places).policy_gradient_sum(
            jnp.asarray(all_slates), chance, ones
        )

    found = -jax.jit(jax.grad(loss))(jnp.asarray(scores, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_entropy_of_many_candidates_is_that_of_even_scores():
    """Even scores of 100 candidates: log(100 · 99 · 98) at three places."""
    jitted = jax.jit(slate_cross_entropy, static_argnums=2)
    even = jnp.zeros((2, 100))
    np.testing.assert_allclose(jitted(even, even, 3), math.log(100 * 99 * 98), rtol=1e-5)
    other = jnp.ones((2, 100))
    with compiled() as programs:
        jitted(other, even, 3)
    assert not programs


@pytest.mark.parametrize(("count", "places"), [(3, 1), (5, 2), (6, 3), (4, 4)])
def test_inclusion_is_the_sum_over_all_orders_that_hold_the_item(count, places):
    scores = rows(count, 11)[0]

    @jax.jit
    @jax.value_and_grad
    def by_enumeration(scores, item):
        held = jnp.any(jnp.asarray(slates(count, places)) == item, axis=1)
        table = jax.vmap(PlackettLuce(scores, places).log_prob)(jnp.asarray(slates(count, places)))
        return jnp.log(jnp.sum(jnp.where(held, jnp.exp(table), 0.0)))

    found = jax.jit(jax.value_and_grad(log_inclusion), static_argnums=2)
    for item in range(count):
        value, slope = found(jnp.asarray(scores), jnp.asarray(item), places)
        expected, direction = by_enumeration(jnp.asarray(scores), jnp.asarray(item))
        np.testing.assert_allclose(value, expected, atol=3e-5)
        np.testing.assert_allclose(slope, direction, atol=1e-4)
