"""The contrastive loss by loops, and which passages are held against a question."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from ragjax.ops.contrastive import contrastive, negatives_of_batch

B, M, R, N = 4, 3, 2, 6


def drawn(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, N, (B, M)).astype(np.int32)
    valid = (ids >= 0) & (rng.random((B, M)) < 0.9)
    positives = np.where(rng.random((B, R)) < 0.7, rng.integers(0, N, (B, R)), -1).astype(np.int32)
    return ids, valid, positives


def by_hand(ids, valid, positives):
    expected = np.zeros((B, B * M), bool)
    for b in range(B):
        seen = set()
        for column, (row, there) in enumerate(zip(ids.ravel(), valid.ravel(), strict=True)):
            if there and row not in seen:
                seen.add(row)
                expected[b, column] = row not in positives[b]
    return expected


def test_negatives_by_hand():
    """Batches this small are full of repeated passages, of gold ones of others and of misses."""
    find, counts = jax.jit(negatives_of_batch), np.zeros(2)
    for seed in range(50):
        ids, valid, positives = drawn(seed)
        found = np.asarray(find(ids, valid, positives))
        np.testing.assert_array_equal(found, by_hand(ids, valid, positives))
        counts += np.bincount(found.ravel(), minlength=2)
    assert np.all(counts > 100)


def test_values_by_hand():
    rng = np.random.default_rng(0)
    positive, scores = rng.normal(size=8) * 5, rng.normal(size=(8, 6)) * 5
    negatives = rng.random((8, 6)) < 0.5
    negatives[0], negatives[1], positive[2] = False, True, scores[2, 3]
    dirty = np.where(negatives, scores, np.nan).astype(np.float32)
    found = jax.jit(contrastive)(positive.astype(np.float32), dirty, negatives)
    for b in range(8):
        others = sum(np.exp(scores[b, c]) for c in range(6) if negatives[b, c])
        expected = -np.log(np.exp(positive[b]) / (np.exp(positive[b]) + others))
        np.testing.assert_allclose(found[b], expected, rtol=1e-4, atol=1e-6)
    assert found[0] == 0.0
    slopes = jax.jit(
        jax.grad(lambda p, s: jnp.sum(contrastive(p, s, jnp.asarray(negatives))), (0, 1))
    )(positive.astype(np.float32), dirty)
    assert np.all(np.asarray(slopes[1])[~negatives] == 0)
    np.testing.assert_allclose(slopes[0], -np.sum(slopes[1], axis=-1), atol=1e-6)
    with jax.enable_x64(True):
        fixed = jax.jit(lambda p, s: contrastive(p, s, jnp.asarray(negatives)))
        check_grads(fixed, (positive, scores), order=1, modes=["rev"])
