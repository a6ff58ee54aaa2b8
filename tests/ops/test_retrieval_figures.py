"""A retriever's figures by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.ops.retrieval_figures import retrieval_figures


def test_figures_by_hand():
    prior = jnp.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]])
    posterior = jnp.array([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.8, 0.1, 0.1]])
    ids = jnp.array([[3, 1, -1], [1, 0, 2], [4, 4, 4]])
    weight = jnp.array([1.0, 1.0, 0.0])  # the last row does not count
    gold = ids == jnp.array([[1], [4], [4]])
    found = retrieval_figures(jnp.log(prior), jnp.log(posterior), ids, weight, 5, gold)
    entropies = [np.log(2), 1.5 * np.log(2)]
    assert found["prior_entropy"] == pytest.approx(np.mean(entropies), rel=1e-6)
    assert found["posterior_entropy"] == pytest.approx(0.75 * np.log(2), rel=1e-6)
    assert found["effective_passages"] == pytest.approx(np.mean(np.exp(entropies)), rel=1e-6)
    assert found["passage_credit"] == pytest.approx(np.log(2) / 2, rel=1e-6)
    assert found["hub_share"] == pytest.approx((0.5 + 0.25) / 2)  # passage 1
    assert found["recall"] == pytest.approx(0.5)


def test_rows_that_do_not_count_may_hold_anything():
    log = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
    ids, weight = jnp.array([[0, 1], [0, 1]]), jnp.array([1.0, 0.0])
    spoilt = log.at[1].set(jnp.nan)
    one = retrieval_figures(log, log, ids, weight, 2)
    other = retrieval_figures(spoilt, spoilt, ids, weight, 2)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_empty_passage_is_no_hub():
    """It is read where nothing is found, and is none of the corpus."""
    log = jnp.log(jnp.array([[1.0, 0.0], [0.4, 0.6]]))
    ids = jnp.array([[-1, -1], [0, 2]])
    found = retrieval_figures(log, log, ids, jnp.ones(2), 3)
    assert found["hub_share"] == pytest.approx(0.6 / 2)  # passage 2
