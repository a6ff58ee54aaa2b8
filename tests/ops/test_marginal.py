"""The marginal against enumeration of every answer, and what its gradient means."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.ops import marginal as ops

V = 4
SHAPES = [(1, 4), (4, 1), (3, 2), (4, 4)]  # (K, T)
FUNCTIONS = {"rag_sequence": ops.rag_sequence, "rag_token": ops.rag_token}


@jax.jit
def both(log_prior, token_logprobs, mask):
    """Name -> [B] log p(y|x)."""
    return {name: f(log_prior, token_logprobs, mask) for name, f in FUNCTIONS.items()}


@jax.jit
def gradients(log_prior, token_logprobs, mask):
    """Name -> gradients of Σ_b log p(y_b|x_b) by log_prior and by token_logprobs."""
    return {
        name: jax.grad(lambda *arrays, f=f: jnp.sum(f(*arrays, mask)), (0, 1))(
            log_prior, token_logprobs
        )
        for name, f in FUNCTIONS.items()
    }


@jax.jit
def posterior(log_prior, token_logprobs, mask):
    """[B,K] p(d_k|x,y)."""
    likelihood = ops.sequence_logprobs(token_logprobs, mask)
    return jnp.exp(ops.log_posterior(log_prior, likelihood))


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
        logprobs = np.full(shape, np.nan, np.float32)  # beyond the end nothing may be read
        mask = np.zeros((len(answers), self.length), bool)
        for row, answer in enumerate(answers):
            mask[row, : len(answer)] = True
            for k, t in itertools.product(range(self.count), range(len(answer))):
                logprobs[row, k, t] = np.log(self.token(k, answer, t))
        prior = np.tile(np.log(self.prior).astype(np.float32), (len(answers), 1))
        return prior, logprobs, mask

    def rag_sequence(self, answer):
        return sum(
            self.prior[k] * np.prod([self.token(k, answer, t) for t in range(len(answer))])
            for k in range(self.count)
        )

    def rag_token(self, answer):
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
def test_enumeration(count, length):
    tables = Tables(count, length)
    answers = list(every_answer(length))
    actual = {name: np.exp(out) for name, out in both(*tables.arrays(answers)).items()}
    for name, probability in actual.items():
        expected = [getattr(tables, name)(answer) for answer in answers]
        np.testing.assert_allclose(probability, expected, rtol=1e-5)
        np.testing.assert_allclose(np.sum(probability, dtype=np.float64), 1.0, atol=1e-5)
    # The two are one for one passage or one token, and differ otherwise.
    same = np.allclose(actual["rag_sequence"], actual["rag_token"], rtol=1e-4)
    assert same == (1 in (count, length))


def test_order_of_passages_does_not_matter():
    log_prior, logprobs, mask = Tables(4, 4).arrays(list(every_answer(4)))
    order = np.array([2, 0, 3, 1])
    permuted = both(log_prior[:, order], logprobs[:, order], mask)
    for name, expected in both(log_prior, logprobs, mask).items():
        np.testing.assert_allclose(permuted[name], expected, rtol=1e-5)


def test_gradient_by_log_prior_is_the_posterior():
    log_prior, logprobs, mask = Tables(3, 2).arrays([(1, 2), (3, 1)])
    actual = gradients(log_prior, logprobs, mask)

    def bayes(likelihood):
        joint = np.exp(log_prior) * likelihood
        return joint / np.sum(joint, axis=1, keepdims=True)

    tokens = np.exp(logprobs)
    expected = bayes(np.prod(tokens, axis=-1))
    np.testing.assert_allclose(actual["rag_sequence"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(posterior(log_prior, logprobs, mask), expected, rtol=1e-5)
    # An unnormalised prior, as of documents="index", has the same posterior.
    np.testing.assert_allclose(posterior(log_prior - 2, logprobs, mask), expected, rtol=1e-5)
    per_token = bayes(tokens[..., 0]) + bayes(tokens[..., 1])
    np.testing.assert_allclose(actual["rag_token"][0], per_token, rtol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_a_miss_has_no_weight_and_no_gradient(garbage):
    log_prior, logprobs, mask = Tables(3, 3).arrays([(1, 2, 0), (3, 0)])
    prior_and_miss = np.pad(log_prior, ((0, 0), (0, 1)), constant_values=-np.inf)
    with_miss = np.pad(logprobs, ((0, 0), (0, 1), (0, 0)), constant_values=garbage)
    arrays, wide = (log_prior, logprobs, mask), (prior_and_miss, with_miss, mask)
    values, expected = both(*wide), both(*arrays)
    slopes, expected_slopes = gradients(*wide), gradients(*arrays)
    for name in FUNCTIONS:
        np.testing.assert_array_equal(values[name], expected[name])
        for slope, expected_slope in zip(slopes[name], expected_slopes[name], strict=True):
            assert np.all(np.asarray(slope)[:, 3] == 0)
            np.testing.assert_array_equal(slope[:, :3], expected_slope)
    np.testing.assert_array_equal(posterior(*wide)[:, 3], 0.0)
    np.testing.assert_array_equal(posterior(*wide)[:, :3], posterior(*arrays))


def test_misses_alone_have_probability_zero_and_a_finite_gradient():
    log_prior, logprobs, mask = Tables(3, 2).arrays([(1, 2), (3, 1)])
    log_prior[0] = -np.inf
    logprobs[0, 1] = np.nan
    for name, out in both(log_prior, logprobs, mask).items():
        assert np.isneginf(out[0]), name
        assert np.isfinite(out[1]), name
        for slope in gradients(log_prior, logprobs, mask)[name]:
            assert np.all(np.asarray(slope)[0] == 0), name
            assert np.all(np.asarray(slope)[1] > 0), name
    assert np.all(np.asarray(posterior(log_prior, logprobs, mask))[0] == 0)


def test_very_small_probabilities_do_not_underflow():
    log_prior, _, mask = Tables(3, 2).arrays([(1, 2), (3, 1)])
    out = both(log_prior, np.full((2, 3, 2), -500.0, np.float32), mask)
    for value in out.values():
        np.testing.assert_allclose(value, -1000.0, rtol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_gradients(function):
    log_prior, logprobs, mask = Tables(3, 2).arrays([(1, 2), (3, 1)])
    arrays = (log_prior.astype(np.float64), logprobs.astype(np.float64))
    with jax.enable_x64(True):
        log_marginal = jax.jit(lambda *a: function(*a, jnp.asarray(mask)))
        check_grads(log_marginal, arrays, order=1, modes=["rev"])
