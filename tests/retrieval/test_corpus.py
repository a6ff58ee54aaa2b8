"""Looking up passages by row, and embedding the corpus in chunks."""

import jax
import numpy as np
import pytest

from ragjax.retrieval.corpus import embed_in_chunks, gather_passages


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_rows_and_misses(corpus, kind):
    ids = np.array([[[0, 5], [-1, 3]]], np.int32)
    rows = np.asarray(corpus).astype(kind)
    out = np.asarray(jax.jit(gather_passages)(rows, ids))
    assert out.dtype == kind
    np.testing.assert_array_equal(out[0, 0], rows[[0, 5]])
    np.testing.assert_array_equal(out[0, 1, 0], np.zeros(5))  # never the last row
    np.testing.assert_array_equal(out[0, 1, 1], rows[3])


@pytest.mark.parametrize("chunk", [1, 4, 6, 256])
def test_chunks_do_not_matter(toy, corpus, chunk):
    embed = toy.model.retriever.embed

    @jax.jit
    def chunked(params, corpus):
        return embed_in_chunks(lambda rows: embed(params, rows), corpus, chunk)

    expected = jax.jit(embed)(toy.params, corpus)
    actual = chunked(toy.params, corpus)
    assert actual.shape == (6, 8)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_no_more_rows_are_embedded_at_once_than_a_chunk_holds():
    seen = []

    def embed(rows):
        seen.append(rows.shape)
        return rows

    jax.eval_shape(lambda rows: embed_in_chunks(embed, rows, 4), np.zeros((6, 3)))
    assert set(seen) == {(4, 3)}
