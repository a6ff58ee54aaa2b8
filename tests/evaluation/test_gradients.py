"""The meter of gradient estimators, on a problem whose gradient can be added up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ragjax.envs.lookup import Lookup
from ragjax.evaluation.gradients import drawn_gradients, exact_gradient, split_params, spread
from ragjax.models.retrieval_policy import RetrievalPolicy, two_matrices

SPEC = Lookup(passages=6, actions=3, key_width=4)
POLICY = RetrievalPolicy(k=4, hidden=(), retriever=two_matrices(4, 3.0))
DRAWS = 4096


@pytest.fixture(scope="module")
def problem():
    """(env, params, index, states [S,O], rewards [S,A], baseline [S], exact gradient [P])."""
    env = SPEC.vectorise(1)
    policy = POLICY.build(env)
    params = policy.init(jax.random.PRNGKey(0))
    params = jax.tree.map(lambda leaf: 2.0 * leaf + 0.3, params)
    index = policy.embed(params)
    states = jnp.concatenate([env.params.keys, jnp.ones((6, 1))], axis=-1)
    reward = jax.random.normal(jax.random.PRNGKey(1), (6, 3))
    seen = policy.retrieve(params, index, None, states)
    baseline = jnp.sum(jnp.exp(policy.apply(params, seen)[0].log_probs) * reward, axis=-1)
    return (
        env,
        params,
        index,
        states,
        reward,
        baseline,
        exact_gradient(policy, params, seen, reward),
    )


@pytest.fixture(scope="module")
def measured(problem):
    """Estimator -> its `Spread`."""
    env, params, index, states, reward, baseline, exact = problem
    found = {}
    for estimator in ("marginal", "sampled"):
        policy = dataclasses.replace(POLICY, estimator=estimator).build(env)
        drawn = jax.jit(
            lambda policy=policy: drawn_gradients(
                policy, params, index, jax.random.PRNGKey(2), states, reward, baseline, DRAWS
            )
        )()
        found[estimator] = spread(drawn, exact)
    return found


def test_the_exact_gradient_is_that_of_the_marginal_policy_gradient(problem):
    """Σ_a π(a|s) Σ_d w_d [∇log p(d|s) + ∇log π(a|s,d)] r(s,a), every term by itself."""
    env, params, index, states, reward, _, exact = problem
    policy = POLICY.build(env)
    seen = policy.retrieve(params, index, None, states)
    learned, rest = split_params(params)
    at, _ = policy.apply(params, seen)
    weights = [
        np.exp(at.log_posterior(jnp.full((6,), action))) for action in range(3)
    ]  # w_d of each action

    def surrogate(learned):
        distribution, _ = policy.apply({**rest, **learned}, seen)
        total = 0.0
        for action in range(3):
            score = distribution.log_prior + distribution.component_log_probs[..., action]
            gain = jnp.exp(at.log_probs[:, action]) * reward[:, action]
            total += jnp.mean(gain * jnp.sum(weights[action] * score, axis=-1))
        return total

    terms = ravel_pytree(jax.grad(surrogate)(learned))[0]
    np.testing.assert_allclose(terms, exact, atol=1e-5)
    assert float(jnp.linalg.norm(exact)) > 0.1


@pytest.mark.parametrize("estimator", ["marginal", "sampled"])
@pytest.mark.slow
def test_the_mean_is_the_exact_gradient_within_its_standard_error(measured, estimator):
    # |ĝ - g|² has mean 1 in squared standard errors of all parameters together.
    assert 0.3 < measured[estimator].error < 2.0
    assert measured[estimator].cosine > 0.97


@pytest.mark.slow
def test_the_sampled_passage_has_more_variance(measured):
    assert measured["sampled"].variance > 1.2 * measured["marginal"].variance


@pytest.mark.slow
def test_the_baseline_is_subtracted(problem):
    """Where every reward is its baseline, nothing is left of any draw."""
    env, params, index, states, *_ = problem
    rewards, baseline = jnp.full((6, 3), 2.0), jnp.full((6,), 2.0)
    drawn = drawn_gradients(
        POLICY.build(env), params, index, jax.random.PRNGKey(3), states, rewards, baseline, 2
    )
    assert drawn.shape[0] == 2
    np.testing.assert_array_equal(drawn, 0.0)


def test_spread_by_hand():
    drawn = jnp.array([[1.0, 0.0], [3.0, 0.0]])
    found = spread(drawn, jnp.array([2.0, 1.0]))
    assert found.variance == pytest.approx(2.0)
    assert found.cosine == pytest.approx(4 / (2 * np.sqrt(5)))
    assert found.error == pytest.approx(1.0)  # a distance of 1, and sqrt(2 / 2)
