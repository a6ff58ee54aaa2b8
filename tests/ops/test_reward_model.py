"""Reward models by what their optimum must hold, and cross-fitting against all logs of a problem."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.errors import UserError
from ragjax.ops.off_policy import doubly_robust
from ragjax.ops.reward_model import LOGISTIC, RIDGE, cross_fitted, fit_logistic, fit_ridge


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


def test_a_round_is_predicted_by_others():
    """The reward of round 4 moves no prediction of its own fold, and those of the other two."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(12, 3, 2)), jnp.float32)
    action = jnp.asarray(rng.integers(0, 3, 12), jnp.int32)
    target = jnp.full((12, 3), 1 / 3, jnp.float32)
    reward = jnp.asarray(rng.normal(size=12), jnp.float32)
    before = cross_fitted(RIDGE, features, action, reward, target, folds=3)
    after = cross_fitted(RIDGE, features, action, reward.at[4].add(5.0), target, folds=3)
    own = np.arange(12) % 3 == 4 % 3
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[own], other[own])
        assert (np.abs(one - other)[~own] > 1e-4).all()


@pytest.mark.parametrize("model", [RIDGE, LOGISTIC], ids=["ridge", "logistic"])
def test_expected_is_the_mean_over_actions(model):
    rng = np.random.default_rng(1)
    features = jnp.asarray(rng.normal(size=(10, 3, 2)), jnp.float32)
    action = jnp.asarray(rng.integers(0, 3, 10), jnp.int32)
    reward = jnp.asarray(rng.integers(0, 2, 10), jnp.float32)
    each = [
        cross_fitted(model, features, action, reward, jax.nn.one_hot(jnp.full(10, a), 3), folds=2)
        for a in range(3)
    ]
    target = jnp.asarray(rng.dirichlet(np.ones(3), 10), jnp.float32)
    _, expected = cross_fitted(model, features, action, reward, target, folds=2)
    actions = np.stack([one[1] for one in each], axis=1)
    np.testing.assert_allclose(expected, (target * actions).sum(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(each[0][0], actions[np.arange(10), action], rtol=1e-5, atol=1e-6)
    if model is LOGISTIC:
        assert ((actions > 0) & (actions < 1)).all()


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
            fitted = cross_fitted(
                RIDGE, features[log], jnp.asarray(a)[log], reward[log], goal[log], folds=2
            )
            return doubly_robust(reward[log], weight[log], *fitted).value

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
    def fit(features, action, reward, target):
        return cross_fitted(LOGISTIC, features, action, reward, target, folds=3)

    features, reward = jnp.ones((6, 2, 2)), jnp.ones(6)
    action, target = jnp.zeros(6, jnp.int32), jnp.full((6, 2), 0.5, jnp.float32)
    zero = jnp.zeros(6)
    fit(features, action, reward, target)
    with compiled() as names:
        fit(features, action, zero, target)
    assert names == []


@pytest.mark.parametrize(
    ("folds", "penalty", "sentence"),
    [(1, 1.0, "folds is 1 for 3"), (4, 1.0, "folds is 4 for 3"), (2, 0.0, "penalty is 0.0")],
)
def test_bad_arguments_are_refused(folds, penalty, sentence):
    features, action = jnp.ones((3, 2, 1)), jnp.zeros(3, jnp.int32)
    with pytest.raises(UserError, match=sentence):
        cross_fitted(
            RIDGE, features, action, jnp.ones(3), jnp.ones((3, 2)), folds=folds, penalty=penalty
        )
