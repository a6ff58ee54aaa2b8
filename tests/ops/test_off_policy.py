"""Estimators of a policy's value against problems whose logs can all be listed, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.errors import UserError
from ragjax.ops.off_policy import (
    cascade_weights,
    doubly_robust,
    ips,
    snips,
    whole_weights,
)

CONTEXTS, ACTIONS = 3, 4


def policy(rng, *shape):
    chances = rng.uniform(0.05, 1, shape)
    return chances / chances.sum(-1, keepdims=True)


def problem(seed=0):
    """p(x) [X], μ and π [X,A], mean reward [X,A]; π leaves an action out."""
    rng = np.random.default_rng(seed)
    context = policy(rng, CONTEXTS)
    logged, target = policy(rng, CONTEXTS, ACTIONS), policy(rng, CONTEXTS, ACTIONS)
    target[0, 1] = 0
    target /= target.sum(-1, keepdims=True)
    return context, logged, target, rng.normal(size=(CONTEXTS, ACTIONS))


def expectation(chance, estimate, rounds=2):
    """E over all logs of `rounds` independent rounds of [len(chance)] kinds, and the variance.

    `estimate` takes [rounds] numbers of kinds, and returns scalars.
    """
    logs = np.array(list(itertools.product(range(len(chance)), repeat=rounds)))
    weight = np.prod(np.asarray(chance)[logs], axis=1)
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-12)
    with jax.enable_x64(True):
        found = [np.asarray(of) for of in jax.jit(jax.vmap(estimate))(jnp.asarray(logs))]
    means = [(weight * of).sum() for of in found]
    return means, (weight * (found[0] - means[0]) ** 2).sum()


def kinds(seed=0):
    """The chance of each (context, action, coin) and what is logged of it; the coin moves the reward."""
    context, logged, target, mean = problem(seed)
    x, a, coin = (of.ravel() for of in np.indices((CONTEXTS, ACTIONS, 2)))
    chance = (context[:, None] * logged)[x, a] / 2
    reward = mean[x, a] + np.where(coin, 0.7, -0.7)
    value = (context[:, None] * target * mean).sum()
    return chance, x, a, reward, logged, target, mean, value


def on_kinds(estimator, *columns):
    """[rounds] kinds -> (value, squared standard error)."""
    with jax.enable_x64(True):
        columns = [jnp.asarray(column) for column in columns]

    def of(log):
        found = estimator(*(column[log] for column in columns))
        return found.value, found.standard_error**2

    return of


def test_ips_is_unbiased_and_so_is_its_variance():
    chance, x, a, reward, logged, target, _, value = kinds()
    weight = (target / logged)[x, a]
    for rounds in (2, 3):
        (mean, squared_error), variance = expectation(chance, on_kinds(ips, reward, weight), rounds)
        np.testing.assert_allclose(mean, value, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(squared_error, variance, rtol=1e-12)


def test_weights_have_mean_one_and_wrong_propensities_bias():
    chance, x, a, reward, logged, target, _, value = kinds()
    weight = (target / logged)[x, a]
    np.testing.assert_allclose((chance * weight).sum(), 1, rtol=1e-12)
    wrong = (target / np.roll(logged, 1, axis=1))[x, a]
    (mean, _), _ = expectation(chance, on_kinds(ips, reward, wrong))
    assert abs(mean - value) > 0.05


def test_clipping_biases_by_what_is_cut_off_and_never_adds_variance():
    chance, x, a, reward, logged, target, _, value = kinds()
    reward = reward + 3  # of one sign
    weight = (target / logged)[x, a]
    unclipped = expectation(chance, on_kinds(ips, reward, weight))
    (mean, squared_error), variance = expectation(
        chance, on_kinds(lambda r, w: ips(r, w, clip=1.5), reward, weight)
    )
    np.testing.assert_allclose(mean, (chance * np.minimum(weight, 1.5) * reward).sum(), rtol=1e-12)
    assert mean < value + 3 - 0.01
    np.testing.assert_allclose(squared_error, variance, rtol=1e-12)
    assert variance < unclipped[1]


@pytest.mark.parametrize("right", ["propensities", "model", "neither"])
def test_doubly_robust_is_unbiased_if_either_is_right(right):
    chance, x, a, reward, logged, target, mean, value = kinds()
    rng = np.random.default_rng(5)
    model = mean if right == "model" else mean + rng.normal(size=mean.shape)
    assumed = logged if right == "propensities" else policy(rng, CONTEXTS, ACTIONS)
    columns = (reward, (target / assumed)[x, a], model[x, a], (target * model).sum(-1)[x])
    (found, squared_error), variance = expectation(chance, on_kinds(doubly_robust, *columns))
    np.testing.assert_allclose(squared_error, variance, rtol=1e-12)
    if right == "neither":
        assert abs(found - value) > 0.05
    else:
        np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-12)


def test_a_right_model_lowers_the_variance():
    chance, x, a, reward, logged, target, mean, _ = kinds()
    weight = (target / logged)[x, a]
    _, plain = expectation(chance, on_kinds(ips, reward, weight))
    columns = (reward, weight, mean[x, a], (target * mean).sum(-1)[x])
    _, robust = expectation(chance, on_kinds(doubly_robust, *columns))
    assert robust < 0.7 * plain


def test_snips_by_its_words_and_its_invariance():
    rng = np.random.default_rng(1)
    reward, weight = rng.normal(size=50), rng.exponential(size=50)
    with jax.enable_x64(True):
        found = snips(jnp.asarray(reward), jnp.asarray(weight))
        moved = snips(jnp.asarray(reward + 4.0), jnp.asarray(3.0 * weight))
        unclipped = snips(jnp.asarray(reward), jnp.asarray(weight), clip=1e9)
    np.testing.assert_allclose(found.value, np.average(reward, weights=weight), rtol=1e-12)
    np.testing.assert_allclose(moved.value, float(found.value) + 4, rtol=1e-12)
    np.testing.assert_allclose(moved.standard_error, found.standard_error, rtol=1e-12)
    assert unclipped == found
    nothing = snips(jnp.ones(3), jnp.zeros(3))
    assert np.isnan(nothing.value)
    assert nothing.effective_size == 0


def test_self_normalised_doubly_robust_by_its_words_and_its_invariance():
    rng = np.random.default_rng(6)
    with jax.enable_x64(True):
        reward, predicted, expected = (jnp.asarray(rng.normal(size=(50, 2))) for _ in range(3))
        weight = jnp.asarray(rng.exponential(size=(50, 2)))

        def robust(reward, weight, predicted):
            return doubly_robust(reward, weight, predicted, expected, self_normalised=True)

        found = robust(reward, weight, predicted)
        scaled = robust(reward, weight * jnp.array([3.0, 0.2]), predicted)
        plain = snips(reward, weight)
        zero = jnp.zeros_like(reward)
        no_model = doubly_robust(reward, weight, zero, zero, self_normalised=True)
        nothing = robust(reward, zero, predicted)
        # A model that is right of every round leaves the weights nothing to do.
        known = robust(predicted, weight, predicted)
    corrections = [
        np.average(np.asarray(reward - predicted)[:, place], weights=np.asarray(weight)[:, place])
        for place in range(2)
    ]
    expected_value = np.asarray(expected).mean(0).sum() + sum(corrections)
    np.testing.assert_allclose(found.value, expected_value, rtol=1e-12)
    np.testing.assert_allclose(scaled[:2], found[:2], rtol=1e-12)
    np.testing.assert_allclose(no_model, plain, rtol=1e-12)
    np.testing.assert_allclose(known.value, np.asarray(expected).mean(0).sum(), rtol=1e-12)
    assert np.isnan(nothing.value)


@pytest.mark.parametrize("name", ["ips", "clipped", "snips", "dr", "sndr"])
def test_standard_errors_equal_the_spread_of_simulated_logs(name):
    chance, x, a, reward, logged, target, mean, value = kinds(seed=2)
    model = mean + 0.3
    columns = [reward, (target / logged)[x, a], model[x, a], (target * model).sum(-1)[x]]
    estimator = {
        "ips": lambda r, w, p, e: ips(r, w),
        "clipped": lambda r, w, p, e: ips(r, w, clip=2.0),
        "snips": lambda r, w, p, e: snips(r, w),
        "dr": doubly_robust,
        "sndr": lambda *of: doubly_robust(*of, self_normalised=True),
    }[name]
    logs = np.random.default_rng(3).choice(len(chance), (2000, 400), p=chance / chance.sum())
    columns = [jnp.asarray(column, jnp.float32) for column in columns]
    found = jax.jit(jax.vmap(lambda log: estimator(*(of[log] for of in columns))))(logs)
    spread = np.std(found.value, ddof=1)
    # The spread of 2,000 estimates is known to 1.6 %.
    np.testing.assert_allclose(np.mean(found.standard_error), spread, rtol=0.06)
    covered = np.abs(found.value - value) < 1.96 * found.standard_error
    if name != "clipped":
        assert 0.93 < covered.mean() < 0.97


# Slates


def slate_problem(count, places, seed=0):
    """All ordered slates, the chance of each item at each place of each, and a mean reward by prefix."""
    rng = np.random.default_rng((seed, count, places))
    slates = np.array(list(itertools.permutations(range(count), places)))

    def conditionals(scores):
        weight, rows = np.exp(scores), []
        for slate in slates:
            left, row = weight.copy(), []
            for item in slate:
                row.append(left[item] / left.sum())
                left[item] = 0
            rows.append(row)
        return np.array(rows)

    logged, target = (conditionals(rng.normal(size=count)) for _ in range(2))
    return slates, logged, target, rng


def rewards_of(depends, slates, rng):
    """[n,P] the reward of each place, by what it depends on."""
    places = slates.shape[1]
    table = {}

    def of(slate, place):
        seen = {
            "whole": tuple(slate),
            "cascade": tuple(slate[: place + 1]),
            "independent": (slate[place],),
        }[depends]
        return table.setdefault((place, seen), rng.normal())

    return np.array([[of(slate, place) for place in range(places)] for slate in slates])


def marginals(slates, chance):
    """[n,P] the chance that the item of each place stands there, whatever the others are."""
    out = np.zeros(slates.shape)
    for place in range(slates.shape[1]):
        sums = np.bincount(slates[:, place], weights=chance)
        out[:, place] = sums[slates[:, place]]
    return out


@pytest.mark.parametrize("depends", ["independent", "cascade", "whole"])
@pytest.mark.parametrize(("count", "places"), [(2, 2), (3, 2), (4, 2), (4, 3), (5, 2), (5, 4)])
def test_slates_are_unbiased_where_the_reward_depends_on_no_more(count, places, depends):
    """Whole weights are always right, a cascade's where a reward depends on what came before, ..."""
    slates, logged, target, rng = slate_problem(count, places)
    reward = rewards_of(depends, slates, rng)
    chance, goal = logged.prod(1), target.prod(1)
    value = (goal[:, None] * reward).sum()
    with jax.enable_x64(True):
        ratio = jnp.asarray(target / logged)
        alone = marginals(slates, goal) / marginals(slates, chance)
        cascade = np.asarray(cascade_weights(ratio)[0])
        whole = np.asarray(whole_weights(ratio))
    columns = {
        "independent": (reward, alone),
        "cascade": (reward, cascade),
        "whole": (reward.sum(1), whole),
    }
    rounds = 2 if len(slates) <= 24 else 1
    for name, (earned, weight) in columns.items():
        if rounds == 1:  # too many logs of two rounds: the mean of one round's term
            mean = (chance[:, None] * (earned * weight).reshape(len(slates), -1)).sum()
        else:
            (mean, squared_error), variance = expectation(chance, on_kinds(ips, earned, weight))
            np.testing.assert_allclose(squared_error, variance, rtol=1e-9, atol=1e-12)
        order = ["independent", "cascade", "whole"]
        if order.index(name) >= order.index(depends):
            np.testing.assert_allclose(mean, value, rtol=1e-12, atol=1e-12)
        elif count > 2:  # of two items the first place says all
            assert abs(mean - value) > 1e-4, name


@pytest.mark.parametrize("right", ["propensities", "model"])
def test_cascade_doubly_robust_is_unbiased(right):
    """q of a prefix is what its place and those after it earn under π, or anything at all."""
    slates, logged, target, rng = slate_problem(4, 3)
    reward = rewards_of("cascade", slates, rng)
    chance, goal = logged.prod(1), target.prod(1)
    value = (goal[:, None] * reward).sum()
    assumed = np.roll(logged, 5, axis=0) if right == "model" else logged

    def prefixes(row, place):
        return (slates[:, : place + 1] == slates[row, : place + 1]).all(1)

    predicted, expected = np.zeros(reward.shape), np.zeros(reward.shape)
    noise = {}
    for place in range(3):
        for row in range(len(slates)):
            same = prefixes(row, place)
            later = (goal[same, None] * reward[same, place:]).sum() / goal[same].sum()
            key = (place, *slates[row, : place + 1])
            wrong = 0.0 if right == "model" else noise.setdefault(key, rng.normal())
            predicted[row, place] = later + wrong
    for place in range(3):
        for row in range(len(slates)):
            before = prefixes(row, place - 1) if place else np.ones(len(slates), bool)
            share = goal[before] / goal[before].sum()
            expected[row, place] = (share * predicted[before, place]).sum()
    with jax.enable_x64(True):
        weight, before = (np.asarray(of) for of in cascade_weights(jnp.asarray(target / assumed)))

    def estimator(r, w, p, e, b):
        return doubly_robust(r, w, p, e, before=b)

    columns = (reward, weight, predicted, expected, before)
    (mean, squared_error), variance = expectation(chance, on_kinds(estimator, *columns))
    np.testing.assert_allclose(mean, value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(squared_error, variance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["whole", "cascade", "robust"])
def test_slates_of_unequal_lengths_are_unbiased_once_padded(estimator):
    """All ordered slates of one to three of four items, the length drawn first by another chance."""
    places, value, columns = 3, 0.0, []
    for length, share in ((1, 0.5), (2, 0.3), (3, 0.2)):
        slates, logged, target, rng = slate_problem(4, length)
        reward = rewards_of("cascade", slates, rng)
        value += share * (target.prod(1)[:, None] * reward).sum()
        padding = ((0, 0), (0, places - length))
        ratio = np.pad(target / logged, padding, constant_values=1.0)
        columns.append((share * logged.prod(1), ratio, np.pad(reward, padding)))
    chance, ratio, reward = (np.concatenate(column) for column in zip(*columns, strict=True))
    with jax.enable_x64(True):
        weight, before = (np.asarray(of) for of in cascade_weights(jnp.asarray(ratio)))
        whole = np.asarray(whole_weights(jnp.asarray(ratio)))
    # A model that says 0.5 at every place that is there, which is also what it expects of any policy.
    model = 0.5 * (reward != 0)

    def robust(r, w, q, b):
        return doubly_robust(r, w, q, q, before=b)

    made = {
        "whole": (ips, reward.sum(1), whole),
        "cascade": (ips, reward, weight),
        "robust": (robust, reward, weight, model, before),
    }[estimator]
    (mean, squared_error), variance = expectation(chance, on_kinds(*made))
    np.testing.assert_allclose(mean, value, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(squared_error, variance, rtol=1e-9, atol=1e-12)


# Rounds that are padding, and shapes


ESTIMATORS = {
    "ips": lambda r, w, **kw: ips(r, w, clip=1.5, **kw),
    "snips": lambda r, w, **kw: snips(r, w, **kw),
    "dr": lambda r, w, **kw: doubly_robust(r, w, r - 0.1, 0.5 * r, before=w, **kw),
    "sndr": lambda r, w, **kw: doubly_robust(r, w, 0.3 * r, r, self_normalised=True, **kw),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("shape", [(7,), (7, 3)])
@pytest.mark.parametrize("junk", [100.0, np.nan])
def test_rounds_that_are_padding_do_not_count(name, shape, junk):
    rng = np.random.default_rng(4)
    reward, weight = rng.normal(size=shape), rng.exponential(size=shape)
    valid = np.array([True, True, False, True, False, True, False])
    padded = [
        np.where(valid.reshape(-1, *[1] * (len(shape) - 1)), of, junk) for of in (reward, weight)
    ]
    with jax.enable_x64(True):
        kept = ESTIMATORS[name](jnp.asarray(reward[valid]), jnp.asarray(weight[valid]))
        found = ESTIMATORS[name](*map(jnp.asarray, padded), valid=jnp.asarray(valid))
    np.testing.assert_allclose(found, kept, rtol=1e-12)


def test_padded_logs_of_other_lengths_are_the_same_program():
    estimate = jax.jit(snips)
    reward, weight = jnp.arange(6.0), jnp.ones(6)
    first, second = jnp.arange(6) < 6, jnp.arange(6) < 3
    np.testing.assert_allclose(estimate(reward, weight, valid=first).value, 2.5)
    with compiled() as names:
        found = estimate(reward, weight, valid=second)
    assert names == []
    np.testing.assert_allclose(found.value, 1.0)
    one = estimate(reward, weight, valid=jnp.arange(6) == 1)
    assert one.value == 1
    assert np.isnan(one.standard_error)


@pytest.mark.parametrize("estimator", [ips, snips])
@pytest.mark.parametrize(("reward", "weight"), [((4,), (4, 1)), ((4, 1), (4, 3)), ((4, 3), (4,))])
def test_shapes_that_would_be_broadcast_are_refused(estimator, reward, weight):
    """The annotations are checked in tests alone: what a user calls is below them."""
    plain = getattr(estimator, "__wrapped__", estimator)
    with pytest.raises(UserError, match=r"^weight has the shape .* but reward .*; give both as"):
        plain(jnp.ones(reward), jnp.ones(weight))


def test_a_model_of_another_shape_is_refused():
    plain = getattr(doubly_robust, "__wrapped__", doubly_robust)
    with pytest.raises(UserError, match=r"^expected has the shape \(4, 1\), but reward \(4,\)"):
        plain(jnp.ones(4), jnp.ones(4), jnp.ones(4), jnp.ones((4, 1)))


@pytest.mark.parametrize("shape", [(4, 1), (3,)])
def test_valid_rounds_of_another_shape_are_refused(shape):
    plain = getattr(ips, "__wrapped__", ips)
    with pytest.raises(UserError, match=r"^valid has the shape .*, but reward \(4,\); give it as"):
        plain(jnp.ones(4), jnp.ones(4), valid=jnp.ones(shape, bool))


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_a_clip_that_is_not_positive_is_refused(clip):
    with pytest.raises(UserError, match=rf"^clip is {clip}; the largest weight must be positive"):
        ips(jnp.ones(4), jnp.ones(4), clip=clip)


# Figures of the weights


def test_figures_of_the_weights():
    weight = jnp.array([1.0, 3.0, 0.0, 4.0])
    found = ips(jnp.ones(4), weight)
    assert found.value == 2
    assert found.mean_weight == 2
    assert found.largest_weight == 4
    assert found.clipped == 0
    np.testing.assert_allclose(found.effective_size, 64 / 26, rtol=1e-6)
    cut = ips(jnp.ones(4), weight, clip=2.0)
    assert cut.value == 1.25
    assert cut.mean_weight == 1.25
    assert cut.largest_weight == 4
    assert cut.clipped == 0.5
    places = ips(jnp.ones((4, 2)), jnp.stack([weight, jnp.ones(4)], axis=1))
    assert places.value == 3
    np.testing.assert_allclose(places.effective_size, 64 / 26, rtol=1e-6)
    same = snips(jnp.ones((4, 2)), jnp.stack([weight, jnp.ones(4)], axis=1))
    assert same.value == 2


def test_one_round_is_refused():
    with pytest.raises(UserError, match="The log has 1 rounds"):
        ips(jnp.ones(1), jnp.ones(1))


@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_every_estimator_is_one_program(shape):
    @jax.jit
    def both(reward, weight):
        robust = doubly_robust(reward, weight, reward, reward, before=weight, clip=2.0)
        return ips(reward, weight), snips(reward, weight), robust

    one, two = jnp.ones(shape), jnp.full(shape, 2.0, jnp.float32)
    first = both(one, two)
    assert all(leaf.dtype == jnp.float32 and leaf.shape == () for leaf in jax.tree.leaves(first))
    with compiled() as names:
        both(two, one)
    assert names == []
