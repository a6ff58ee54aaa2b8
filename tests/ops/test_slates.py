"""SlateQ's rules against the enumeration of all slates, and against each rule spelled out in Python."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.errors import UserError
from ragjax.ops.slates import (
    greedy_slate,
    optimal_slate,
    slate_value,
    slateq_target,
    top_slate,
)

SHAPES = [(1, 1), (2, 1), (3, 2), (4, 4), (5, 2), (6, 3), (6, 5)]  # K, P
RULES = {"top": top_slate, "greedy": greedy_slate, "optimal": optimal_slate}
ROWS = 64


def drawn(kind, count, seed=0):
    """[ROWS,K] scores, [ROWS] s_0, [ROWS,K] values and which are valid, in float64."""
    rng = np.random.default_rng((seed, count))
    scores, no_click = rng.uniform(0, 2, (ROWS, count)), rng.uniform(0.1, 3, ROWS)
    values, valid = rng.normal(size=(ROWS, count)), np.ones((ROWS, count), bool)
    if kind == "negative":
        values = -np.abs(values)
    if kind == "ties":  # small whole numbers: equal keys, equal slates, scores of zero
        scores = rng.integers(0, 3, scores.shape).astype(float)
        values = rng.integers(-2, 3, values.shape).astype(float)
        no_click = rng.integers(1, 3, ROWS).astype(float)
    if kind == "skewed":
        scores, values = np.exp(4 * rng.normal(size=scores.shape)), 10 * values
    if kind == "masked":
        valid = rng.uniform(size=valid.shape) < 0.6
        valid[0], valid[1] = False, True
        scores[~valid], values[~valid] = np.nan, np.inf
    return scores, no_click, values, valid


KINDS = ["plain", "negative", "ties", "skewed", "masked"]


def worth(scores, no_click, values, chosen):
    chosen = list(chosen)
    return (scores[chosen] * values[chosen]).sum() / (scores[chosen].sum() + no_click)


def in_python(rule, scores, no_click, values, places, valid):
    """The slate of one row, by the rule's words."""
    left = [i for i in range(len(scores)) if valid[i]]
    if rule == "top":
        left.sort(key=lambda i: -scores[i] * values[i])  # stable
        return left[:places]
    slate = []
    while left and len(slate) < places:
        best = max(left, key=lambda i: (worth(scores, no_click, values, [*slate, i]), -i))
        slate.append(best)
        left.remove(best)
    return slate


def best_worth(scores, no_click, values, places, valid):
    there = np.flatnonzero(valid)
    slates = itertools.combinations(there, min(places, len(there)))
    return max(worth(scores, no_click, values, slate) for slate in slates)


def run(rule, rows, places):
    with jax.enable_x64(True):
        rows = [jnp.asarray(row) for row in rows]
        slate = jax.jit(RULES[rule], static_argnums=3)(*rows[:3], places, rows[3])
        return np.asarray(slate), np.asarray(slate_value(*rows[:3], slate))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "places"), SHAPES)
def test_top_and_greedy_equal_their_words(kind, count, places):
    rows = drawn(kind, count)
    for rule in ("top", "greedy"):
        slates, values = run(rule, rows, places)
        for row, slate in enumerate(slates):
            data = [of[row] for of in rows]
            expected = in_python(rule, *data[:3], places, data[3])
            padded = [*expected, *[-1] * (places - len(expected))]
            if rule == "greedy" and kind == "ties":  # equal fractions may round apart
                np.testing.assert_allclose(values[row], worth(*data[:3], expected), atol=1e-14)
            else:
                assert slate.tolist() == padded, (rule, row)
                np.testing.assert_allclose(values[row], worth(*data[:3], expected), rtol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "places"), SHAPES)
def test_optimal_equals_enumeration(kind, count, places):
    rows = drawn(kind, count)
    slates, values = run("optimal", rows, places)
    for row, slate in enumerate(slates):
        data = [of[row] for of in rows]
        there = slate[slate >= 0]
        assert len(set(there)) == len(there) == min(places, data[3].sum())
        assert (slate[: len(there)] >= 0).all()
        assert data[3][there].all()
        expected = best_worth(*data[:3], places, data[3]) if len(there) else 0.0
        np.testing.assert_allclose(values[row], expected, rtol=1e-12, atol=1e-14)


def test_the_rules_differ_and_optimal_is_never_worse():
    rows = drawn("negative", 6, seed=1)
    top, greedy, optimal = (run(rule, rows, 3)[1] for rule in RULES)
    assert (optimal >= top - 1e-12).all()
    assert (optimal >= greedy - 1e-12).all()
    assert (optimal > top + 1e-3).any()
    assert (greedy > top + 1e-3).any()
    assert (optimal > greedy + 1e-3).any()


def test_optimal_among_many_is_a_fixed_point():
    """Too many to list: no exchange of one item for another is better, and no greedy slate."""
    rng = np.random.default_rng(3)
    scores, values = rng.uniform(0, 2, (8, 200)), rng.normal(size=(8, 200))
    rows = (scores, np.full(8, 2.0), values, np.ones((8, 200), bool))
    slates, found = run("optimal", rows, 10)
    assert (found >= run("greedy", rows, 10)[1] - 1e-12).all()
    for row, slate in enumerate(slates):
        for place, other in itertools.product(range(10), set(range(200)) - set(slate.tolist())):
            exchanged = slate.copy()
            exchanged[place] = other
            assert worth(scores[row], 2.0, values[row], exchanged) <= found[row] + 1e-12


def test_target_of_the_clicked_item():
    rows = drawn("plain", 5)
    reward, discount = np.arange(ROWS) / 7.0, np.full(ROWS, 0.9)
    discount[:2] = 0.0
    scores, no_click, values, valid = rows
    values = values.copy()
    values[0] = np.nan  # what follows a termination is not looked at
    with jax.enable_x64(True):
        target = jax.jit(slateq_target, static_argnames=("rule", "places"))(
            *map(jnp.asarray, (reward, discount, scores, no_click, values)),
            rule=optimal_slate,
            places=2,
            valid=jnp.asarray(valid),
        )
    np.testing.assert_allclose(target[:2], reward[:2])
    for row in range(2, ROWS):
        best = best_worth(scores[row], no_click[row], values[row], 2, valid[row])
        np.testing.assert_allclose(target[row], reward[row] + 0.9 * best, rtol=1e-12)


def test_target_carries_no_gradient():
    ones = jnp.ones((3,))

    def of(values):
        return slateq_target(
            jnp.float32(1), jnp.float32(0.9), ones, jnp.float32(1), values, rule=top_slate, places=2
        )

    np.testing.assert_array_equal(jax.grad(of)(jnp.arange(3.0)), 0.0)


@pytest.mark.parametrize("rule", RULES)
def test_float32_vmap_and_batches_agree_and_compile_once(rule):
    rows = [jnp.asarray(of, bool if of.dtype == bool else jnp.float32) for of in drawn("plain", 6)]

    @jax.jit
    def batched(scores, no_click, values, valid):
        return RULES[rule](scores, no_click, values, 3, valid)

    found = batched(*rows)
    assert found.shape == (ROWS, 3)
    assert found.dtype == jnp.int32
    mapped = jax.vmap(lambda s, n, q, v: RULES[rule](s, n, q, 3, v))(*rows)
    np.testing.assert_array_equal(found, mapped)
    shaped = RULES[rule](*(of.reshape(8, 8, *of.shape[1:]) for of in rows[:3]), 3)
    np.testing.assert_array_equal(found.reshape(8, 8, 3), shaped)
    others = [2.0 * rows[0], *rows[1:]]
    with compiled() as names:
        batched(*others)
    assert names == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("places", [0, 4])
def test_more_places_than_candidates_are_refused(rule, places):
    ones = jnp.ones((2, 3))
    with pytest.raises(UserError, match=rf"{places} places for 3 candidates; give it 1 to 3"):
        RULES[rule](ones, ones[:, 0], ones, places)
