"""Masked reductions against NumPy on the kept entries alone, and what masked entries may hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.ops.masking import masked_log_softmax, masked_logsumexp

LOGITS = np.array([[0.3, -1.2, 2.0, 0.7], [5.0, 1.0, -3.0, 0.1]], np.float32)
MASK = np.array([[True, False, True, True], [False, True, True, False]])
FUNCTIONS = {name: jax.jit(f) for name, f in vars().copy().items() if name.startswith("masked_")}


@jax.jit
def gradients(logits, mask):
    """Name -> the gradient of a sum with unequal weights."""

    def total(logits, function):
        out = function(logits, mask)
        weights = jnp.arange(1.0, out.size + 1).reshape(out.shape)
        return jnp.sum(weights * jnp.where(jnp.isneginf(out), 0.0, out))

    return {name: jax.grad(total)(logits, function) for name, function in FUNCTIONS.items()}


def kept(row):
    return LOGITS[row][MASK[row]].astype(np.float64)


def test_logsumexp_is_that_of_the_kept_entries():
    expected = [np.log(np.sum(np.exp(kept(row)))) for row in range(2)]
    actual = FUNCTIONS["masked_logsumexp"](LOGITS, MASK)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_log_softmax_normalises_the_kept_entries():
    actual = np.asarray(FUNCTIONS["masked_log_softmax"](LOGITS, MASK))
    for row in range(2):
        expected = np.exp(kept(row)) / np.sum(np.exp(kept(row)))
        np.testing.assert_allclose(np.exp(actual[row][MASK[row]]), expected, rtol=1e-6)
    assert np.all(np.isneginf(actual[~MASK]))


def test_another_axis_and_a_mask_that_broadcasts():
    both = jax.jit(lambda *a: (masked_logsumexp(*a, axis=0), masked_log_softmax(*a, axis=0)))
    total, normalised = both(LOGITS, np.array([[True], [False]]))
    np.testing.assert_allclose(total, LOGITS[0], rtol=1e-6)
    np.testing.assert_array_equal(normalised, [[0.0] * 4, [-np.inf] * 4])


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38])
def test_masked_entries_may_hold_anything(garbage):
    spoilt = np.where(MASK, LOGITS, np.float32(garbage))
    clean_gradients = gradients(LOGITS, MASK)
    for name, gradient in gradients(spoilt, MASK).items():
        function = FUNCTIONS[name]
        np.testing.assert_array_equal(function(spoilt, MASK), function(LOGITS, MASK))
        np.testing.assert_array_equal(gradient, clean_gradients[name])
        assert np.all(np.asarray(gradient)[~MASK] == 0)
        assert np.all(np.asarray(gradient)[MASK] != 0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_masked_is_minus_infinity_without_gradient(name):
    mask = np.array([[False] * 4, [True] * 4])
    logits = np.where(mask, LOGITS, np.float32(np.nan))
    out = np.asarray(FUNCTIONS[name](logits, mask))
    assert np.all(np.isneginf(out[0]))
    assert np.all(np.isfinite(out[1]))
    gradient = np.asarray(gradients(logits, mask)[name])
    assert np.all(gradient[0] == 0)
    assert np.all(np.isfinite(gradient[1]))


def test_large_logits_do_not_overflow():
    function = FUNCTIONS["masked_logsumexp"]
    np.testing.assert_allclose(
        function(LOGITS + 1e4, MASK) - 1e4, function(LOGITS, MASK), atol=2e-3
    )


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_gradients(function):
    @jax.jit
    def finite(logits):
        out = function(logits, jnp.asarray(MASK))
        return jnp.where(jnp.isneginf(out), 0.0, jnp.sin(out))

    with jax.enable_x64(True):
        check_grads(finite, (LOGITS.astype(np.float64),), order=1, modes=["rev"])
