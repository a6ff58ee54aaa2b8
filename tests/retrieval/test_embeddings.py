"""Embeddings on disk are searched exactly, block by block."""

import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.retrieval import embeddings
from ragjax.retrieval.embeddings import EmbeddingsWriter, StoredEmbeddings, search_rows


def stored(rows, directory, dtype="float32", chunk=16):
    count, width = rows.shape
    plan = {"count": count, "width": width, "dtype": dtype, "chunk": chunk}
    writer = EmbeddingsWriter(directory.with_name("partial"), plan)
    for places in writer.chunks:
        writer.write(rows[places.start : places.stop])
    return writer.finish(directory, {})


def expected(rows, queries, k):
    """By sorting all scores; ties by the lower row."""
    scores = queries.astype(np.float64) @ rows.T.astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_best_rows_are_found_whatever_the_blocks(dtype, tmp_path, monkeypatch):
    """Small whole numbers, which every dtype holds: half of the scores are ties."""
    monkeypatch.setattr(embeddings, "QUERIES", 5)  # of which 9 is no multiple
    rng = np.random.default_rng(0)
    rows = rng.integers(-3, 4, (70, 4)).astype(np.float32)
    queries = rng.integers(-3, 4, (9, 4)).astype(np.float32)
    found = stored(rows, tmp_path / "e", dtype)
    np.testing.assert_array_equal(found.block(3, 9), rows[3:9])
    for k, block in ((1, 8), (5, 8), (5, 70), (5, 1000), (70, 32), (70, 7)):
        topk = search_rows(found, queries, k, block)
        ids, scores = expected(rows, queries, k)
        np.testing.assert_array_equal(topk.ids, ids)
        np.testing.assert_array_equal(topk.scores, scores)
        assert topk.valid.all()


def test_scores_that_differ_little(tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((60, 8)).astype(np.float32)
    queries = rng.standard_normal((5, 8)).astype(np.float32)
    topk = search_rows(stored(rows, tmp_path / "e"), queries, 5, 8)
    ids, scores = expected(rows, queries, 5)
    np.testing.assert_array_equal(topk.ids, ids)
    np.testing.assert_allclose(topk.scores, scores, rtol=1e-5)


@pytest.mark.parametrize("k", [0, 4])
def test_k_has_to_fit(k, tmp_path):
    found = stored(np.eye(3, dtype=np.float32), tmp_path / "e")
    with pytest.raises(UserError, match=f"k is {k}, but there are 3 passages"):
        search_rows(found, np.ones((1, 3), np.float32), k)


def test_what_a_dtype_can_t_hold_is_refused(tmp_path):
    rows = np.ones((20, 2), np.float32)
    rows[17, 1] = 1e5
    assert stored(rows, tmp_path / "fits", "bfloat16").rows.dtype == jnp.bfloat16
    with pytest.raises(UserError, match="embedding of passage 17 is not finite as float16; give"):
        stored(rows, tmp_path / "e", "float16")


@pytest.mark.parametrize("name", ["embeddings.npy", "manifest.json"])
def test_what_was_cut_is_refused(name, tmp_path):
    path = stored(np.ones((5, 2), np.float32), tmp_path / "e").directory / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="make them again with `ragjax index build --force`"):
        StoredEmbeddings(tmp_path / "e", verify=False)
