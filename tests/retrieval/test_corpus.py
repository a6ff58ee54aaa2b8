"""Looking up passages by row, and embedding the corpus in chunks."""

import jax
import numpy as np
import pytest

from ragjax.retrieval.corpus import embed_corpus, gather_passages


def test_rows_and_misses(corpus):
    ids = np.array([[[0, 5], [-1, 3]]], np.int32)
    out = np.asarray(jax.jit(gather_passages)(corpus, ids))
    rows = np.asarray(corpus)
    np.testing.assert_array_equal(out[0, 0], rows[[0, 5]])
    np.testing.assert_array_equal(out[0, 1, 0], np.zeros(5))  # never the last row
    np.testing.assert_array_equal(out[0, 1, 1], rows[3])


@pytest.mark.parametrize("chunk", [1, 4, 6, 256])
def test_chunks_do_not_matter(toy, corpus, chunk):
    embed = jax.jit(lambda params, corpus: embed_corpus(toy.model, params, corpus, chunk))
    expected = jax.jit(toy.model.embed_passage)(toy.params, corpus)
    actual = embed(toy.params, corpus)
    assert actual.shape == (6, 8)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
