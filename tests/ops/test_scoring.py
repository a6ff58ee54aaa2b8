"""p(d|x) against brute force over the passages that each kind normalises over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.ops.marginal import marginal
from ragjax.ops.scoring import log_prior_in_batch, log_prior_index, log_prior_retrieved

B, K, N = 3, 3, 8
KINDS = ["retrieved", "in_batch", "index"]
SCORES = np.random.default_rng(0).normal(size=(B, N)).astype(np.float32) * 2
IDS = np.array([[0, 3, 5], [3, 5, 1], [7, -1, -1]], np.int32)  # 3 and 5 twice; 2, 4 and 6 never
ONE_EMPTY = np.array([[0, 3, 5], [-1, -1, -1], [7, -1, -1]], np.int32)
VALID = IDS >= 0
IDS_, VALID_ = jnp.asarray(IDS), jnp.asarray(VALID)
LIKELIHOOD = np.random.default_rng(1).normal(size=(B, N)).astype(np.float32)


@jax.jit
def priors(scores, ids, own_garbage=0.0):
    """The three distributions of the same [B,N] scores; misses score `own_garbage`."""
    valid = ids >= 0
    batch = jnp.where(valid, scores[:, jnp.maximum(ids, 0)], own_garbage)
    own = batch[jnp.arange(len(ids)), jnp.arange(len(ids))]
    return {
        "retrieved": log_prior_retrieved(own, valid),
        "in_batch": log_prior_in_batch(batch, ids, valid),
        "index": log_prior_index(scores, ids, valid),
    }


@jax.jit
def marginals(scores, ids):
    """[B] log p(y|x) under each of the three, with a likelihood that depends on the passage."""
    likelihood = jnp.take_along_axis(LIKELIHOOD[: len(ids)], jnp.maximum(ids, 0), axis=1)
    return {kind: marginal(prior, likelihood) for kind, prior in priors(scores, ids).items()}


@jax.jit
def gradients(scores, ids):
    """Kind -> gradient by the scores of the finite log p(y|x), unequally weighted."""

    def total(scores, kind):
        out = marginals(scores, ids)[kind]
        return jnp.sum(jnp.where(jnp.isneginf(out), 0.0, out) * jnp.arange(1.0, B + 1))

    return {kind: jax.grad(total)(scores, kind) for kind in KINDS}


EVERYTHING = np.tile(np.arange(N, dtype=np.int32), (B, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_brute_force(kind):
    actual = np.exp(priors(SCORES, IDS)[kind])
    for b in range(B):
        over = {
            "retrieved": set(IDS[b][VALID[b]].tolist()),
            "in_batch": set(IDS[VALID].tolist()),
            "index": set(range(N)),
        }[kind]
        total = sum(np.exp(np.float64(SCORES[b, d])) for d in over)
        expected = np.where(VALID[b], np.exp(SCORES[b, IDS[b]]) / total, 0.0)
        np.testing.assert_allclose(actual[b], expected, rtol=1e-5)


def test_retrieved_sums_to_one_and_index_does_so_over_the_whole_corpus():
    assert np.allclose(np.sum(np.exp(priors(SCORES, IDS)["retrieved"]), -1), 1, rtol=1e-6)
    assert np.allclose(np.sum(np.exp(priors(SCORES, EVERYTHING)["index"]), -1), 1, rtol=1e-6)
    assert np.all(np.sum(np.exp(priors(SCORES, IDS)["index"]), -1) < 0.99)


def test_bounds():
    by_kind = marginals(SCORES, IDS)
    # Strict, as every set of passages here is a proper subset of the next.
    assert np.all(by_kind["retrieved"] > by_kind["in_batch"])
    assert np.all(by_kind["in_batch"] > by_kind["index"])
    assert np.all(by_kind["index"] < marginals(SCORES, EVERYTHING)["index"])


def test_in_batch_tightens_as_the_batch_grows():
    small = np.asarray(marginals(SCORES[:2], IDS[:2])["in_batch"])
    large = np.asarray(marginals(SCORES, IDS)["in_batch"])[:2]
    assert np.all(large < small)
    assert np.all(np.asarray(marginals(SCORES, IDS)["index"])[:2] < large)


def test_a_passage_retrieved_by_several_questions_counts_once():
    actual = priors(SCORES, np.array([[0, 3, 5]] * 3, np.int32))
    np.testing.assert_allclose(actual["in_batch"], actual["retrieved"], rtol=1e-5)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_misses_may_hold_anything(garbage):
    clean, spoilt = priors(SCORES, IDS), priors(SCORES, IDS, np.float32(garbage))
    for kind in KINDS:
        np.testing.assert_array_equal(spoilt[kind], clean[kind])
        assert np.all(np.isneginf(np.asarray(spoilt[kind])[~VALID]))
        assert np.all(np.isfinite(np.asarray(spoilt[kind])[VALID]))


def test_misses_carry_no_gradient_whatever_they_hold():
    missing = ~VALID

    @jax.jit
    def slopes(garbage):
        own = jnp.where(missing, garbage, SCORES[np.arange(B)[:, None], IDS])
        batch = jnp.where(missing, garbage, SCORES[:, IDS])

        def total(own, batch):
            out = log_prior_retrieved(own, VALID_) + log_prior_in_batch(batch, IDS_, VALID_)
            return jnp.sum(jnp.where(VALID_, jnp.sin(out), 0.0))

        return jax.grad(total, (0, 1))(own, batch)

    for garbage in (np.nan, np.inf, -np.inf):
        own, batch = map(np.asarray, slopes(np.float32(garbage)))
        assert np.all(own[missing] == 0)
        assert np.all(batch[:, missing] == 0)
        assert np.all(np.isfinite(own))
        assert np.all(np.isfinite(batch))
        assert np.count_nonzero(own[VALID]) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_with_misses_alone_has_a_finite_gradient(kind):
    assert np.all(np.isneginf(priors(SCORES, ONE_EMPTY)[kind][1]))
    gradient = np.asarray(gradients(SCORES, ONE_EMPTY)[kind])
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[1] == 0)
    assert np.any(gradient[0] != 0)


def test_a_single_passage_is_certain_and_without_gradient():
    ids = np.array([[4], [0], [7]], np.int32)
    np.testing.assert_array_equal(priors(SCORES, ids)["retrieved"], np.zeros((B, 1)))
    np.testing.assert_array_equal(gradients(SCORES, ids)["retrieved"], np.zeros((B, N)))
    assert np.all(np.any(np.asarray(gradients(SCORES, ids)["in_batch"]) != 0, axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_passages_and_a_constant_do_not_matter(kind):
    order = np.array([2, 0, 1])
    expected = np.asarray(priors(SCORES, IDS)[kind])
    np.testing.assert_allclose(priors(SCORES, IDS[:, order])[kind], expected[:, order], rtol=1e-5)
    np.testing.assert_allclose(priors(SCORES + 7, IDS)[kind], expected, rtol=1e-4)


def test_gradients():
    @jax.jit
    def finite(scores):
        out = jnp.stack(list(priors(scores, IDS).values()))
        return jnp.where(VALID, jnp.sin(out), 0.0)

    with jax.enable_x64(True):
        check_grads(finite, (SCORES.astype(np.float64),), order=1, modes=["rev"])


def test_the_empty_passage_scores_zero_over_the_whole_index():
    """It is read where nothing is found, and has no row of its own."""
    found = log_prior_index(
        jnp.array([[1.0, 2.0]]), jnp.array([[-1, -1]]), jnp.array([[True, False]])
    )
    expected = [[-np.log(np.exp(1.0) + np.exp(2.0)), -np.inf]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_empty_passage_of_a_batch_is_none_of_its_misses():
    """Both have row -1: only the former counts, also where a miss stands before it."""
    scores = jnp.array([[[1.0, 9.0], [0.0, 9.0]], [[2.0, 9.0], [0.0, 9.0]]])
    found = log_prior_in_batch(
        scores, jnp.array([[0, -1], [-1, -1]]), jnp.array([[True, False], [True, False]])
    )
    expected = [
        [1.0 - np.log(np.exp(1.0) + 1.0), -np.inf],
        [0.0 - np.log(np.exp(2.0) + 1.0), -np.inf],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
