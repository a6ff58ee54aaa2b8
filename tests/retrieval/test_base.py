"""What all kinds of index and all retrievers rely on: the best of given scores, and misses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.retrieval.base import Index, RetrieverSpec, best, or_empty, prior_of_scores
from ragjax.types import TopK

NONE = -np.inf


def test_the_best_by_hand():
    scores = np.array([[1.0, 3.0, 3.0, NONE], [NONE, NONE, 0.5, NONE]], np.float32)
    found = jax.device_get(jax.jit(lambda scores: best(scores, 3))(scores))
    assert found.ids.tolist() == [[1, 2, 0], [2, -1, -1]]
    assert found.valid.tolist() == [[True] * 3, [True, False, False]]
    assert found.scores.tolist() == [[3.0, 3.0, 1.0], [0.5, NONE, NONE]]
    assert found.ids.dtype == np.int32


def test_the_best_have_no_gradient():
    """What is found is a choice; only the scores inside the step are learned from."""
    gradient = jax.grad(lambda scores: jnp.sum(best(scores, 1).scores))(jnp.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])


@pytest.mark.parametrize("k", [0, 5])
def test_a_k_outside_the_corpus_is_named(k):
    with pytest.raises(UserError, match=f"k is {k}, but there are 4 passages to retrieve from"):
        best(jnp.zeros((2, 4)), k)


def test_the_empty_passage_stands_where_nothing_is_found():
    found = TopK(
        np.array([[4, 7, -1], [3, -1, 5], [6, 6, 6]], np.int32),
        np.array([[0.9, 0.8, 0.7], [0.5, 0.4, 0.3], [0.2, 0.1, 0.0]], np.float32),
        np.array([[True, False, True], [True, True, False], [False] * 3]),
    )
    clean = jax.device_get(jax.jit(or_empty)(found))
    assert clean.ids.tolist() == [[4, -1, -1], [3, -1, -1], [-1, -1, -1]]
    assert clean.valid.tolist() == [[True, False, False]] * 3
    np.testing.assert_allclose(
        clean.scores, [[0.9, NONE, NONE], [0.5, NONE, NONE], [0, NONE, NONE]]
    )


def test_priors_of_scores_and_their_gradient():
    topk = TopK(
        jnp.array([[3, 1, -1]]),
        jnp.array([[0.5, 0.25, -jnp.inf]]),
        jnp.array([[True, True, False]]),
    )

    def first(scale):
        prior = prior_of_scores(scale, topk)
        return prior[0, 0], prior

    gradient, prior = jax.jit(jax.grad(first, has_aux=True))(jnp.float32(4.0))
    chance = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(np.exp(prior), [[chance, 1 - chance, 0]], rtol=1e-5)
    np.testing.assert_allclose(gradient, 0.25 * (1 - chance), rtol=1e-5)


def test_bases_say_what_they_lack():
    with pytest.raises(NotImplementedError, match="RetrieverSpec is searched inside"):
        RetrieverSpec().lookup((), (), 1)
    with pytest.raises(NotImplementedError, match="Index does not score every passage"):
        Index().scores(None, jnp.zeros((1, 2)))
