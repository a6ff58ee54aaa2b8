"""SlateQ's rules against the enumeration of all slates."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.errors import UserError
from ragjax.ops.slates import RULES, chosen_slate, decomposed_target, slate_value

SHAPES = [(3, 1), (4, 2), (5, 3), (6, 3), (6, 6)]  # K, P


def draw(count, seed, rows=40):
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=(rows, count)).astype(np.float32)
    values = (3 * rng.normal(size=(rows, count))).astype(np.float32)
    values[: rows // 4] = -np.abs(values[: rows // 4])  # nothing is worth showing
    values[-1] = 1.0  # all alike
    return scores, rng.exponential(size=rows).astype(np.float32), values


def chosen(rule, scores, no_click, values, places):
    """`chosen_slate` of NumPy's arrays."""
    given = (jnp.asarray(of) for of in (scores, no_click, values))
    return np.asarray(chosen_slate(rule, *given, places))


def worth(scores, no_click, values, slate):
    s, q = (np.asarray(of, np.float64)[list(slate)] for of in (scores, values))
    return (s @ q) / (s.sum() + no_click)


@pytest.mark.parametrize(("count", "places"), SHAPES)
def test_the_optimal_slate_is_the_best_of_all(count, places):
    scores, no_click, values = draw(count, count * places)
    slate = chosen("optimal", scores, no_click, values, places)
    for row in range(len(scores)):
        given = scores[row], no_click[row], values[row]
        assert len(set(slate[row])) == places
        best = max(worth(*given, some) for some in itertools.combinations(range(count), places))
        np.testing.assert_allclose(worth(*given, slate[row]), best, rtol=1e-5, atol=1e-6)


def largest_ratio(scores, no_click, values, places):
    """max_A Q(A) by bisection, in float64: the λ at which max_A Σ s_i (q_i - λ) - λ s_0 is zero."""
    scores, values = scores.astype(np.float64), values.astype(np.float64)
    low, high = min(values.min(), 0) - 1, max(values.max(), 0) + 1
    for _ in range(200):
        middle = (low + high) / 2
        gains = np.partition(scores * (values - middle), -places)[-places:]
        low, high = (middle, high) if gains.sum() > middle * no_click else (low, middle)
    return low


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("count", "places"), [(1000, 3), (1000, 20), (5000, 100)])
def test_the_optimal_slate_of_many_candidates_of_all_magnitudes(count, places, sign):
    """The steps are enough: scores over twelve decades, values over six, of both signs or of one."""
    rng = np.random.default_rng((count, places))
    shape = (10, count)
    scores = (10.0 ** rng.uniform(-6, 6, shape)).astype(np.float32)
    values = 10.0 ** rng.uniform(-3, 3, shape)
    values = (-values if sign < 0 else values * rng.choice([-1, 1], shape)).astype(np.float32)
    no_click = rng.exponential(size=10).astype(np.float32)
    slate = chosen("optimal", scores, no_click, values, places)
    for row in range(len(scores)):
        given = scores[row], no_click[row], values[row]
        np.testing.assert_allclose(
            worth(*given, slate[row]), largest_ratio(*given, places), rtol=1e-5
        )


@pytest.mark.parametrize(("count", "places"), SHAPES)
def test_the_greedy_slate_adds_what_is_worth_most(count, places):
    scores, no_click, values = draw(count, 7 + count)
    slate = chosen("greedy", scores, no_click, values, places)
    for row in range(len(scores)):
        taken = []
        for _ in range(places):
            left = [item for item in range(count) if item not in taken]
            given = scores[row], no_click[row], values[row]
            taken.append(max(left, key=lambda item: worth(*given, [*taken, item])))
        np.testing.assert_allclose(
            worth(*given, slate[row]), worth(*given, taken), rtol=1e-5, atol=1e-6
        )


def test_the_top_slate_goes_by_score_times_value():
    scores, no_click, values = draw(6, 1)
    slate = chosen("top", scores, no_click, values, 3)
    np.testing.assert_array_equal(slate[:-1], np.argsort(-scores * values)[:-1, :3])


@pytest.mark.parametrize("rule", RULES)
def test_what_cannot_be_shown_is_taken_last(rule):
    scores, no_click, values = draw(6, 2)
    scores[:, [1, 4]] = 0.0
    slate = chosen(rule, scores, no_click, values, 3)
    assert not np.isin(slate, [1, 4]).any()
    kept = [0, 2, 3, 5]
    few = chosen(rule, scores[:, kept], no_click, values[:, kept], 3)
    np.testing.assert_array_equal(np.array(kept)[few], slate)
    full = chosen(rule, scores, no_click, values, 6)
    assert all(sorted(row) == list(range(6)) for row in full)
    assert np.isin(full[:, 4:], [1, 4]).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("junk", [np.nan, -np.inf, np.inf, 1e30])
@pytest.mark.parametrize("places", [2, 6])
def test_the_value_of_what_cannot_be_shown_is_not_looked_at(rule, junk, places):
    scores, no_click, values = draw(6, 4)
    scores[:, [0, 3]] = 0.0
    expected = chosen(rule, scores, no_click, values * (scores > 0), places)
    spoilt = np.where(scores > 0, values, np.float32(junk))
    np.testing.assert_array_equal(chosen(rule, scores, no_click, spoilt, places), expected)
    one = jnp.ones(len(scores))
    targets = [
        decomposed_target(one, one, *map(jnp.asarray, (scores, no_click, of)), rule, places)
        for of in (spoilt, values)
    ]
    assert np.isfinite(targets[0]).all()
    np.testing.assert_array_equal(*targets)


@pytest.mark.parametrize("rule", RULES)
def test_the_target_is_the_reward_and_the_value_of_the_next_slate(rule):
    scores, no_click, values = draw(5, 3)
    reward, discount = np.float32(values[:, 0]), np.float32(no_click > 0.5) * np.float32(0.9)
    target = jax.jit(decomposed_target, static_argnames=("rule", "places"))
    given = [jnp.asarray(of) for of in (reward, discount, scores, no_click, values)]
    found = target(*given, rule=rule, places=2)
    slate = chosen(rule, scores, no_click, values, 2)
    expected = [
        reward[row] + discount[row] * worth(scores[row], no_click[row], values[row], slate[row])
        for row in range(len(scores))
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with compiled() as programs:
        target(*given, rule=rule, places=2)
    assert not programs


def test_the_value_of_a_slate_is_that_of_what_is_chosen():
    value = slate_value(jnp.asarray([1.0, 2.0]), jnp.asarray(1.0), jnp.asarray([4.0, -1.0]))
    np.testing.assert_allclose(value, (1 * 4 - 2) / 4)


@pytest.mark.parametrize("places", [0, 3])
def test_places_that_candidates_cannot_fill_are_refused(places):
    with pytest.raises(
        UserError, match=rf"^places is {places} for 2 candidates; show at least one"
    ):
        chosen_slate("top", jnp.ones((1, 2)), jnp.ones(1), jnp.ones((1, 2)), places)
