"""Exact search against sorting in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.retrieval.exact import ExactIndex

EMBEDDINGS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
QUERY = np.random.default_rng(1).normal(size=(2, 3, 5)).astype(np.float32)


def search(query, embeddings, k):
    run = jax.jit(lambda query, embeddings: ExactIndex(embeddings).search(query, k))
    return jax.device_get(run(query, embeddings))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_best_first(k):
    found = search(QUERY, EMBEDDINGS, k)
    scores = QUERY @ EMBEDDINGS.T
    expected = np.argsort(-scores, axis=-1)[..., :k]
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, expected, -1), rtol=1e-5)
    assert found.ids.dtype == np.int32
    assert np.all(found.valid)


def test_ties_go_to_the_lower_row():
    embeddings = np.array([[1, 0], [2, 0], [1, 0], [2, 0], [0, 0]], np.float32)
    found = search(np.array([[1.0, 0.0]], np.float32), embeddings, 5)
    assert found.ids[0].tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("k", [0, 8])
def test_k_outside_the_corpus(k):
    with pytest.raises(ValueError, match=f"k is {k}, but the index holds 7"):
        ExactIndex(jnp.asarray(EMBEDDINGS)).search(jnp.asarray(QUERY), k)


def test_no_gradient():
    def total(query, embeddings):
        return jnp.sum(ExactIndex(embeddings).search(query, 2).scores)

    for gradient in jax.jit(jax.grad(total, (0, 1)))(QUERY, EMBEDDINGS):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))
