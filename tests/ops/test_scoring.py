"""p(d|x) against brute force over the passages that each kind normalises over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.ops.marginal import marginal
from ragjax.ops.scoring import log_prior_in_batch, log_prior_index, log_prior_retrieved

B, K, N = 3, 3, 8
SCORES = np.random.default_rng(0).normal(size=(B, N)).astype(np.float32) * 2
IDS = np.array([[0, 3, 5], [3, 5, 1], [7, -1, -1]], np.int32)  # 3 and 5 twice; 2, 4 and 6 never
VALID = IDS >= 0


def gathered(scores, ids=IDS):
    """(s [B,K] of the own passages, s [B,B,K] of those of the batch)."""
    batch = scores[:, np.maximum(ids, 0)]
    return batch[np.arange(B), np.arange(B)], batch


def priors(scores, ids=IDS):
    """The three distributions of the same scores."""
    own, batch = gathered(jnp.asarray(scores), ids)
    ids, valid = jnp.asarray(ids), jnp.asarray(ids >= 0)
    return {
        "retrieved": log_prior_retrieved(own, valid),
        "in_batch": log_prior_in_batch(batch, ids, valid),
        "index": log_prior_index(jnp.asarray(scores), ids, valid),
    }


def brute(kind, b):
    """[K] p(d_k|x_b) by summing over a Python set."""
    over = {
        "retrieved": set(IDS[b][VALID[b]].tolist()),
        "in_batch": set(IDS[VALID].tolist()),
        "index": set(range(N)),
    }[kind]
    scores = SCORES.astype(np.float64)
    total = sum(np.exp(scores[b, d]) for d in over)
    return np.where(VALID[b], np.exp(scores[b, IDS[b]]) / total, 0.0)


@pytest.mark.parametrize("kind", ["retrieved", "in_batch", "index"])
def test_brute_force(kind):
    actual = np.exp(priors(SCORES)[kind])
    np.testing.assert_allclose(actual, [brute(kind, b) for b in range(B)], rtol=1e-5)


def test_retrieved_sums_to_one_and_index_does_so_over_the_whole_corpus():
    np.testing.assert_allclose(np.sum(np.exp(priors(SCORES)["retrieved"]), -1), 1, rtol=1e-6)
    everything = np.tile(np.arange(N, dtype=np.int32), (B, 1))
    np.testing.assert_allclose(np.sum(np.exp(priors(SCORES, everything)["index"]), -1), 1, rtol=1e-6)
    assert np.all(np.sum(np.exp(priors(SCORES)["index"]), -1) < 1)


def test_bounds():
    likelihood = jnp.asarray(np.random.default_rng(1).normal(size=(B, K)), jnp.float32)
    by_kind = {kind: marginal(prior, likelihood) for kind, prior in priors(SCORES).items()}
    # Strict, as every set of passages here is a proper subset of the next.
    assert np.all(by_kind["retrieved"] > by_kind["in_batch"])
    assert np.all(by_kind["in_batch"] > by_kind["index"])
    whole = jnp.asarray(np.random.default_rng(1).normal(size=(B, N)), jnp.float32)
    everything = np.tile(np.arange(N, dtype=np.int32), (B, 1))
    full = marginal(priors(SCORES, everything)["index"], whole)
    some = jnp.take_along_axis(whole, jnp.maximum(IDS, 0), axis=1)
    assert np.all(marginal(priors(SCORES)["index"], some) < full)


def test_in_batch_tightens_as_the_batch_grows():
    _, batch = gathered(jnp.asarray(SCORES))
    ids, valid = jnp.asarray(IDS), jnp.asarray(VALID)
    small = log_prior_in_batch(batch[:2, :2], ids[:2], valid[:2])
    large = log_prior_in_batch(batch, ids, valid)[:2]
    assert np.all(large < small)
    assert np.all(priors(SCORES)["index"][:2] < large)


def test_a_passage_retrieved_by_several_questions_counts_once():
    ids = np.array([[0, 3, 5]] * 3, np.int32)
    actual = priors(SCORES, ids)
    np.testing.assert_allclose(actual["in_batch"], actual["retrieved"], rtol=1e-5)


def test_misses_of_the_batch_may_hold_anything():
    own, batch = gathered(SCORES)
    spoilt = np.where(VALID[None], batch, np.nan)
    ids, valid = jnp.asarray(IDS), jnp.asarray(VALID)

    def total(function, scores, *arrays):
        out = function(scores, *arrays)
        return jnp.sum(jnp.where(valid, out, 0.0) * jnp.arange(1.0, 10.0).reshape(3, 3))

    for function, clean, dirty, arrays, missing in [
        (log_prior_retrieved, own, np.where(VALID, own, np.inf), (valid,), ~VALID),
        (log_prior_in_batch, batch, spoilt, (ids, valid), ~np.tile(VALID[None], (3, 1, 1))),
    ]:
        np.testing.assert_array_equal(
            function(jnp.asarray(clean), *arrays), function(jnp.asarray(dirty), *arrays)
        )
        gradient = jax.grad(total, 1)(function, jnp.asarray(dirty), *arrays)
        np.testing.assert_array_equal(
            gradient, jax.grad(total, 1)(function, jnp.asarray(clean), *arrays)
        )
        assert np.all(np.asarray(gradient)[missing] == 0)
        assert np.all(np.isneginf(np.asarray(function(jnp.asarray(dirty), *arrays))[~VALID]))


@pytest.mark.parametrize("kind", ["retrieved", "in_batch", "index"])
def test_a_question_with_misses_alone_has_a_finite_gradient(kind):
    ids = np.array([[0, 3, 5], [-1, -1, -1], [7, -1, -1]], np.int32)

    def total(scores):
        log_marginal = marginal(priors(scores, ids)[kind], jnp.zeros((B, K)))
        return jnp.sum(jnp.where(jnp.isneginf(log_marginal), 0.0, log_marginal))

    assert np.all(np.isneginf(priors(SCORES, ids)[kind][1]))
    gradient = jax.grad(total)(jnp.asarray(SCORES))
    assert np.all(np.isfinite(gradient))
    assert np.all(np.asarray(gradient[1]) == 0)


def test_a_single_passage_is_certain_and_without_gradient():
    one = jnp.asarray(IDS[:, :1])
    own = jnp.asarray(SCORES)[jnp.arange(B)[:, None], one]
    out, pullback = jax.vjp(lambda scores: log_prior_retrieved(scores, one >= 0), own)
    np.testing.assert_array_equal(out, np.zeros((B, 1)))
    np.testing.assert_array_equal(pullback(jnp.ones((B, 1)))[0], np.zeros((B, 1)))


@pytest.mark.parametrize("kind", ["retrieved", "in_batch", "index"])
def test_order_of_passages_and_a_constant_do_not_matter(kind):
    order = np.array([2, 0, 1])
    permuted = priors(SCORES, IDS[:, order])[kind]
    np.testing.assert_allclose(permuted, priors(SCORES)[kind][:, order], rtol=1e-5)
    np.testing.assert_allclose(priors(SCORES + 7)[kind], priors(SCORES)[kind], rtol=1e-4)


@pytest.mark.parametrize("kind", ["retrieved", "in_batch", "index"])
def test_gradients(kind):
    def finite(scores):
        return jnp.where(jnp.asarray(VALID), jnp.sin(priors(scores)[kind]), 0.0)

    with jax.enable_x64(True):
        check_grads(finite, (jnp.asarray(SCORES, jnp.float64),), order=2)
