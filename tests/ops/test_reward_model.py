"""Reward models by what their optimum must hold, and cross-fitting against all logs of a problem."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.errors import UserError
from ragjax.ops.off_policy import doubly_robust
from ragjax.ops.reward_model import (
    LOGISTIC,
    RIDGE,
    cross_fitted,
    fit_logistic,
    fit_ridge,
    model_terms,
)


def drawn(rounds=200, width=4, rate=None, seed=0):
    rng = np.random.default_rng(seed)
    features = np.concatenate([np.ones((rounds, 1)), rng.normal(size=(rounds, width - 1))], axis=1)
    chance = 1 / (1 + np.exp(-features @ rng.normal(size=width))) if rate is None else rate
    reward = (rng.uniform(size=rounds) < chance).astype(float)
    return features, reward, rng.uniform(0.2, 2, rounds)


def test_ridge_is_the_closed_form():
    features, reward, weight = drawn()
    with jax.enable_x64(True):
        found = fit_ridge(*map(jnp.asarray, (features, reward, weight)), 0.7)
    expected = np.linalg.solve(
        features.T @ (weight[:, None] * features) + 0.7 * np.eye(4), features.T @ (weight * reward)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("rate", [None, 0.005, 0.0, 1.0])
def test_logistic_ends_where_the_gradient_is_zero(rate):
    """Also for rewards that are rare, or all alike, whose best intercept is infinite without λ."""
    features, reward, weight = drawn(rounds=2000, rate=rate)
    with jax.enable_x64(True):
        beta = np.asarray(fit_logistic(*map(jnp.asarray, (features, reward, weight)), 0.3))
    mean = 1 / (1 + np.exp(-features @ beta))
    gradient = features.T @ (weight * (mean - reward)) + 0.3 * beta
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_float32_finds_the_same():
    columns = drawn(rounds=2000, rate=0.01)
    with jax.enable_x64(True):
        exact = fit_logistic(*map(jnp.asarray, columns), 1.0)
    found = fit_logistic(*(jnp.asarray(column, jnp.float32) for column in columns), 1.0)
    np.testing.assert_allclose(found, exact, rtol=1e-2, atol=1e-2)


def log_of(rounds, seed):
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.normal(size=(rounds, 3, 2)), jnp.float32)
    action = jnp.asarray(rng.integers(0, 3, rounds), jnp.int32)
    return features, action, jnp.asarray(rng.integers(0, 2, rounds), jnp.float32)


def test_a_round_is_predicted_by_others():
    """The reward of round 4 moves no prediction of its own fold, and those of the other two."""
    features, action, reward = log_of(12, 0)
    before = cross_fitted(RIDGE, features, action, reward, folds=3)
    after = cross_fitted(RIDGE, features, action, reward.at[4].add(5.0), folds=3)
    own = np.arange(12) % 3 == 4 % 3
    np.testing.assert_array_equal(before[own], after[own])
    assert (np.abs(before - after)[~own] > 1e-4).all()


@pytest.mark.parametrize("model", [RIDGE, LOGISTIC], ids=["ridge", "logistic"])
def test_predictions_are_those_of_a_fit_without_the_fold(model):
    features, action, reward = log_of(10, 1)
    found = cross_fitted(model, features, action, reward, folds=2, penalty=0.5)
    assert found.shape == (10, 3)
    logged = features[jnp.arange(10), action]
    for fold in range(2):
        own = np.arange(10) % 2 == fold
        beta = model.fit(logged[~own], reward[~own], jnp.ones(5), 0.5)
        expected = model.predict(features[own], beta)
        np.testing.assert_allclose(found[own], expected, rtol=1e-4, atol=1e-5)
    if model is LOGISTIC:
        assert ((found > 0) & (found < 1)).all()


def test_terms_of_a_model():
    means = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    target = jnp.array([[0.25, 0.75], [1.0, 0.0]])
    predicted, expected = model_terms(means, jnp.array([1, 1]), target)
    np.testing.assert_array_equal(predicted, [2.0, 4.0])
    np.testing.assert_array_equal(expected, [1.75, 3.0])


def test_doubly_robust_with_a_fitted_model_is_unbiased():
    """Over all logs of four rounds; a model fitted to all of them, its own round included, is not."""
    rng = np.random.default_rng(2)
    context, logged = np.array([0.3, 0.7]), np.array([[0.2, 0.8], [0.6, 0.4]])
    target, mean = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([[0.9, 0.2], [0.4, 0.6]])
    x, a, r = (of.ravel() for of in np.indices((2, 2, 2)))
    chance = (context[:, None] * logged)[x, a] * np.where(r, mean[x, a], 1 - mean[x, a])
    value = (context[:, None] * target * mean).sum()
    table = rng.normal(size=(2, 2, 3))
    logs = np.array(list(itertools.product(range(8), repeat=4)))
    probability = chance[logs].prod(1)
    with jax.enable_x64(True):
        columns = (table[x], r.astype(float), target[x], (target / logged)[x, a], table[x, a])
        features, reward, goal, weight, shown = map(jnp.asarray, columns)

        def crossed(log):
            action = jnp.asarray(a)[log]
            means = cross_fitted(RIDGE, features[log], action, reward[log], folds=2)
            terms = model_terms(means, action, goal[log])
            return doubly_robust(reward[log], weight[log], *terms).value

        def seen(log):
            beta = fit_ridge(shown[log], reward[log], jnp.ones(4), 1.0)
            expected = jnp.sum(goal[log] * RIDGE.predict(features[log], beta), axis=1)
            predicted = RIDGE.predict(shown[log], beta)
            return doubly_robust(reward[log], weight[log], predicted, expected).value

        logs = jnp.asarray(logs)
        found, biased = (np.asarray(jax.jit(jax.vmap(of))(logs)) for of in (crossed, seen))
    np.testing.assert_allclose((probability * found).sum(), value, rtol=1e-12)
    assert abs((probability * biased).sum() - value) > 1e-3


def test_one_program():
    @jax.jit
    def fit(features, action, reward):
        return cross_fitted(LOGISTIC, features, action, reward, folds=3)

    features, reward = jnp.ones((6, 2, 2)), jnp.ones(6)
    action, zero = jnp.zeros(6, jnp.int32), jnp.zeros(6)
    fit(features, action, reward)
    with compiled() as names:
        fit(features, action, zero)
    assert names == []


@pytest.mark.parametrize(
    ("folds", "penalty", "sentence"),
    [(1, 1.0, "folds is 1 for 3"), (4, 1.0, "folds is 4 for 3"), (2, 0.0, "penalty is 0.0")],
)
def test_bad_arguments_are_refused(folds, penalty, sentence):
    features, action = jnp.ones((3, 2, 1)), jnp.zeros(3, jnp.int32)
    with pytest.raises(UserError, match=sentence):
        cross_fitted(RIDGE, features, action, jnp.ones(3), folds=folds, penalty=penalty)
