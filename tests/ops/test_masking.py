"""Masked reductions against NumPy on the kept entries alone, and what masked entries may hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.ops.masking import masked_log_softmax, masked_logsumexp

LOGITS = np.array([[0.3, -1.2, 2.0, 0.7], [5.0, 1.0, -3.0, 0.1]], np.float32)
MASK = np.array([[True, False, True, True], [False, True, True, False]])
GARBAGE = [np.nan, np.inf, -np.inf, 1e38]


def kept(row):
    return LOGITS[row][MASK[row]].astype(np.float64)


def spoilt(value):
    return jnp.asarray(np.where(MASK, LOGITS, np.float32(value)))


def test_logsumexp_is_that_of_the_kept_entries():
    actual = masked_logsumexp(jnp.asarray(LOGITS), jnp.asarray(MASK))
    expected = [np.log(np.sum(np.exp(kept(row)))) for row in range(2)]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_log_softmax_normalises_the_kept_entries():
    actual = masked_log_softmax(jnp.asarray(LOGITS), jnp.asarray(MASK))
    for row in range(2):
        expected = np.exp(kept(row)) / np.sum(np.exp(kept(row)))
        np.testing.assert_allclose(np.exp(actual[row][MASK[row]]), expected, rtol=1e-6)
    assert np.all(np.isneginf(np.asarray(actual)[~MASK]))


def test_another_axis_and_a_mask_that_broadcasts():
    mask = jnp.array([[True], [False]])
    actual = masked_logsumexp(jnp.asarray(LOGITS), mask, axis=0)
    np.testing.assert_allclose(actual, LOGITS[0], rtol=1e-6)
    np.testing.assert_allclose(masked_log_softmax(jnp.asarray(LOGITS), mask, axis=0)[0], 0.0)


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("function", [masked_logsumexp, masked_log_softmax])
def test_masked_entries_may_hold_anything(function, value):
    def total(logits):
        out = function(logits, jnp.asarray(MASK))
        out = out if out.ndim == 1 else jnp.where(jnp.asarray(MASK), out, 0.0)
        return jnp.sum(out * jnp.arange(1.0, out.size + 1).reshape(out.shape))

    value_clean, gradient_clean = jax.value_and_grad(total)(jnp.asarray(LOGITS))
    value_spoilt, gradient_spoilt = jax.value_and_grad(total)(spoilt(value))
    assert value_clean == value_spoilt
    np.testing.assert_array_equal(gradient_clean, gradient_spoilt)
    assert np.all(np.asarray(gradient_spoilt)[~MASK] == 0)
    assert np.all(np.asarray(gradient_spoilt)[MASK] != 0)


@pytest.mark.parametrize("function", [masked_logsumexp, masked_log_softmax])
def test_everything_masked_is_minus_infinity_without_gradient(function):
    mask = jnp.array([[False] * 4, [True] * 4])
    out, pullback = jax.vjp(lambda logits: function(logits, mask), spoilt(np.nan).at[1].set(1.0))
    assert np.all(np.isneginf(out[0]))
    assert np.all(np.isfinite(out[1]))
    (gradient,) = pullback(jnp.ones_like(out))
    assert np.all(np.asarray(gradient[0]) == 0)
    assert np.all(np.isfinite(gradient[1]))


def test_large_logits_do_not_overflow():
    logits = jnp.asarray(LOGITS) + 1e4
    actual = masked_logsumexp(logits, jnp.asarray(MASK)) - 1e4
    np.testing.assert_allclose(actual, masked_logsumexp(jnp.asarray(LOGITS), MASK_), atol=2e-3)


MASK_ = jnp.asarray(MASK)


@pytest.mark.parametrize("function", [masked_logsumexp, masked_log_softmax])
def test_gradients(function):
    def finite(logits):
        out = function(logits, MASK_)
        return jnp.where(jnp.isneginf(out), 0.0, jnp.sin(out))

    with jax.enable_x64(True):
        check_grads(finite, (jnp.asarray(LOGITS, jnp.float64),), order=2)
