"""The marginal against enumeration of every answer, and what its gradient means."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.ops.marginal import (
    log_posterior,
    marginal,
    rag_sequence,
    rag_token,
    sequence_logprobs,
)

V = 4
SHAPES = [(1, 1), (1, 3), (2, 4), (3, 2), (4, 1), (4, 4)]  # (K, T)


class Tables:
    """p(y_t | x, d_k, y_<t) as a table for every prefix, and p(d_k | x), in float64."""

    def __init__(self, count, length, seed=0):
        rng = np.random.default_rng(seed)
        self.count, self.length = count, length
        self.prior = rng.dirichlet(np.ones(count))
        self.next = {
            prefix: rng.dirichlet(np.ones(V), count)
            for depth in range(length)
            for prefix in itertools.product(range(V), repeat=depth)
        }

    def token(self, k, answer, t):
        return self.next[answer[:t]][k, answer[t]]

    def arrays(self, answers):
        """(log_prior [B,K], token_logprobs [B,K,T], mask [B,T]) of answers ended by token 0."""
        shape = (len(answers), self.count, self.length)
        logprobs = np.full(shape, np.nan)  # beyond the end nothing may be read
        mask = np.zeros((len(answers), self.length), bool)
        for row, answer in enumerate(answers):
            mask[row, : len(answer)] = True
            for k, t in itertools.product(range(self.count), range(len(answer))):
                logprobs[row, k, t] = np.log(self.token(k, answer, t))
        prior = np.tile(np.log(self.prior), (len(answers), 1))
        return (
            jnp.asarray(prior, jnp.float32),
            jnp.asarray(logprobs, jnp.float32),
            jnp.asarray(mask),
        )

    def sequence(self, answer):
        return sum(
            self.prior[k] * np.prod([self.token(k, answer, t) for t in range(len(answer))])
            for k in range(self.count)
        )

    def per_token(self, answer):
        return np.prod(
            [
                sum(self.prior[k] * self.token(k, answer, t) for k in range(self.count))
                for t in range(len(answer))
            ]
        )


def every_answer(length):
    """Answers that end with token 0 within `length` tokens, and the unfinished ones."""
    for depth in range(1, length + 1):
        for words in itertools.product(range(1, V), repeat=depth - 1):
            yield (*words, 0)
    yield from itertools.product(range(1, V), repeat=length)


@pytest.mark.parametrize(("count", "length"), SHAPES)
@pytest.mark.parametrize(
    ("function", "brute"), [(rag_sequence, Tables.sequence), (rag_token, Tables.per_token)]
)
def test_enumeration(function, brute, count, length):
    tables = Tables(count, length)
    answers = list(every_answer(length))
    actual = np.exp(np.asarray(function(*tables.arrays(answers)), np.float64))
    np.testing.assert_allclose(actual, [brute(tables, answer) for answer in answers], rtol=1e-5)
    np.testing.assert_allclose(np.sum(actual), 1.0, atol=1e-5)


def test_the_two_marginals_are_the_same_for_one_passage_and_for_one_token_only():
    for count, length, same in [(1, 4, True), (4, 1, True), (3, 3, False)]:
        arrays = Tables(count, length).arrays(list(every_answer(length)))
        assert np.allclose(rag_sequence(*arrays), rag_token(*arrays), atol=1e-5) == same


@pytest.mark.parametrize("function", [rag_sequence, rag_token])
def test_order_of_passages_does_not_matter(function):
    log_prior, logprobs, mask = Tables(4, 3).arrays(list(every_answer(3)))
    order = np.array([2, 0, 3, 1])
    actual = function(log_prior[:, order], logprobs[:, order], mask)
    np.testing.assert_allclose(actual, function(log_prior, logprobs, mask), rtol=1e-5)


@pytest.mark.parametrize("function", [rag_sequence, rag_token])
def test_gradient_by_log_prior_is_the_posterior(function):
    log_prior, logprobs, mask = Tables(3, 2).arrays([(1, 2), (3, 1)])
    gradient = jax.grad(lambda prior: jnp.sum(function(prior, logprobs, mask)))(log_prior)
    if function is rag_sequence:
        expected = jnp.exp(log_posterior(log_prior, sequence_logprobs(logprobs, mask)))
    else:
        per_token = [jnp.exp(log_posterior(log_prior, logprobs[..., t])) for t in range(2)]
        expected = per_token[0] + per_token[1]
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    np.testing.assert_allclose(np.sum(expected, -1), 1 if function is rag_sequence else 2, rtol=1e-5)


def test_posterior_is_bayes_rule():
    prior, likelihood = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.6, 0.05]])
    expected = prior * likelihood / np.sum(prior * likelihood)
    arrays = jnp.log(jnp.asarray(prior, jnp.float32)), jnp.log(jnp.asarray(likelihood, jnp.float32))
    np.testing.assert_allclose(jnp.exp(log_posterior(*arrays)), expected, rtol=1e-5)
    # An unnormalised prior, as of documents="index", gives the same posterior.
    np.testing.assert_allclose(
        jnp.exp(log_posterior(arrays[0] - 2.0, arrays[1])), expected, rtol=1e-5
    )


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [rag_sequence, rag_token])
def test_a_miss_has_no_weight_and_no_gradient(function, garbage):
    answers = [(1, 2, 0), (3, 0)]
    log_prior, logprobs, mask = Tables(3, 3).arrays(answers)
    wide_prior = jnp.concatenate([log_prior, jnp.full((2, 1), -jnp.inf)], axis=1)
    wide = jnp.concatenate([logprobs, jnp.full((2, 1, 3), garbage)], axis=1)

    def total(prior, values):
        return jnp.sum(function(prior, values, mask))

    np.testing.assert_array_equal(
        function(wide_prior, wide, mask), function(log_prior, logprobs, mask)
    )
    by_prior, by_values = jax.grad(total, (0, 1))(wide_prior, wide)
    assert np.all(np.asarray(by_prior[:, 3]) == 0)
    assert np.all(np.asarray(by_values[:, 3]) == 0)
    expected = jax.grad(total, (0, 1))(log_prior, logprobs)
    np.testing.assert_array_equal(by_prior[:, :3], expected[0])
    np.testing.assert_array_equal(by_values[:, :3], expected[1])
    posterior = log_posterior(wide_prior, sequence_logprobs(wide, mask))
    assert np.all(np.isneginf(posterior[:, 3]))
    np.testing.assert_allclose(np.sum(np.exp(posterior), -1), 1.0, rtol=1e-6)


def test_misses_alone_have_probability_zero_and_a_finite_gradient():
    log_prior = jnp.array([[-jnp.inf, -jnp.inf], [-0.1, -3.0]])
    likelihood = jnp.array([[-1.0, jnp.nan], [-1.0, -2.0]])
    out, pullback = jax.vjp(marginal, log_prior, likelihood)
    assert np.isneginf(out[0])
    assert np.isfinite(out[1])
    for gradient in pullback(jnp.ones(2)):
        assert np.all(np.asarray(gradient[0]) == 0)
        assert np.all(np.asarray(gradient[1]) > 0)
    assert np.all(np.isneginf(log_posterior(log_prior, likelihood)[0]))


def test_very_small_probabilities_do_not_underflow():
    log_prior = jnp.log(jnp.array([[0.25, 0.75]]))
    actual = marginal(log_prior, jnp.array([[-500.0, -500.0]]))
    np.testing.assert_allclose(actual, -500.0, rtol=1e-6)


@pytest.mark.parametrize("function", [rag_sequence, rag_token])
def test_gradients(function):
    with jax.enable_x64(True):
        log_prior, logprobs, mask = (
            jnp.asarray(np.asarray(leaf, bool if leaf.dtype == bool else np.float64))
            for leaf in Tables(3, 3).arrays([(1, 2, 3), (3, 2, 1)])
        )
        check_grads(lambda *arrays: function(*arrays, mask), (log_prior, logprobs), order=2)
