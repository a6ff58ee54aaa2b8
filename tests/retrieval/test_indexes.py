"""Every kind of index against sorting in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import specs_of
from user_retriever import Sparse

from ragjax.errors import UserError
from ragjax.retrieval.base import Index
from ragjax.retrieval.exact import Exact

EMBEDDINGS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
QUERY = np.random.default_rng(1).normal(size=(2, 3, 5)).astype(np.float32)
KINDS = [*(kind() for kind in specs_of(Index)), Sparse(-np.inf)]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)


def search(kind, query, embeddings, k):
    run = jax.jit(lambda query, embeddings: kind.search(kind.build(embeddings), query, k))
    return jax.device_get(run(query, embeddings))


def test_the_package_has_one():
    assert Exact in specs_of(Index)


@each
@pytest.mark.parametrize("k", [1, 3, 7])
def test_best_first(kind, k):
    found = search(kind, QUERY, EMBEDDINGS, k)
    scores = QUERY @ EMBEDDINGS.T
    expected = np.argsort(-scores, axis=-1)[..., :k]
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, expected, -1), rtol=1e-5)
    assert found.ids.dtype == np.int32
    assert np.all(found.valid)


@each
def test_ties_go_to_the_lower_row(kind):
    embeddings = np.array([[1, 0], [2, 0], [1, 0], [2, 0], [0, 0]], np.float32)
    found = search(kind, np.array([[1.0, 0.0]], np.float32), embeddings, 5)
    assert found.ids[0].tolist() == [1, 3, 0, 2, 4]


@each
@pytest.mark.parametrize("k", [0, 8])
def test_k_outside_the_corpus(kind, k):
    with pytest.raises(UserError, match=f"k is {k}, but there are 7 passages"):
        kind.search(kind.build(jnp.asarray(EMBEDDINGS)), jnp.asarray(QUERY), k)


@each
def test_no_gradient(kind):
    def total(query, embeddings):
        return jnp.sum(kind.search(kind.build(embeddings), query, 2).scores)

    for gradient in jax.jit(jax.grad(total, (0, 1)))(QUERY, EMBEDDINGS):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@each
def test_all_scores_where_there_are_any(kind):
    if kind.scores_all:
        scores = jax.jit(lambda x, q: kind.scores(kind.build(x), q))(EMBEDDINGS, QUERY)
        np.testing.assert_allclose(scores, QUERY @ EMBEDDINGS.T, rtol=1e-4, atol=1e-6)


@each
def test_it_is_a_frozen_spec_whose_index_is_arrays(kind):
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind.something = 1
    built = jax.eval_shape(kind.build, jnp.asarray(EMBEDDINGS))
    # Numbers to be averaged or marked are float32; a fingerprint is not of them.
    assert {leaf.dtype.name for leaf in jax.tree.leaves(built)} <= {"float32", "uint32"}
