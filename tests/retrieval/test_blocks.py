"""Search in blocks, on one device and over several, against sorting in NumPy."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.mesh import data_mesh
from ragjax.retrieval import blocks
from ragjax.retrieval.blocks import best_in_blocks, best_in_shards, shard_rows

BLOCK = 64  # so that few passages are several blocks
in_blocks = jax.jit(partial(best_in_blocks, block=BLOCK), static_argnames="k")
in_shards = jax.jit(partial(best_in_shards, block=BLOCK), static_argnames="k")

# N: less than a block, one, one more, several with a rest of one row, of a group and of all but a row.
SIZES = (1, 5, 63, 64, 65, 96, 128, 129, 200, 255, 256, 257)


def drawn(rng, count, width=4, queries=6):
    """Small whole numbers, so that sums are exact and ties are many."""
    return (
        rng.integers(-2, 3, (count, width)).astype(np.float32),
        rng.integers(-2, 3, (queries, width)).astype(np.float32),
    )


def sorted_by_numpy(embeddings, query, k):
    scores = query @ embeddings.T
    ids = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=-1)


def depths(count):
    return sorted({1, min(3, count), min(40, count), count})


@pytest.mark.parametrize("count", SIZES)
def test_drawn_cases_with_ties(count):
    rng = np.random.default_rng(count)
    mesh = data_mesh()
    assert mesh.size > 1, "the tests run on simulated devices"
    for k in depths(count):
        for _ in range(24):
            embeddings, query = drawn(rng, count)
            ids, scores = sorted_by_numpy(embeddings, query, k)
            index = shard_rows(embeddings, mesh, block=BLOCK)
            for found in (in_blocks(embeddings, query, k=k), in_shards(index, query, k=k)):
                np.testing.assert_array_equal(found.ids, ids)
                np.testing.assert_array_equal(found.scores, scores)
                assert np.all(found.valid)


@pytest.mark.parametrize("count", [65, 200, 1025, 3000])
def test_as_an_accelerator_searches(count, monkeypatch):
    """All rows of a device in one product, few queries at a time, and maxima looked at twice."""
    monkeypatch.setattr(blocks, "_in_one_product", lambda: True)
    monkeypatch.setattr(blocks, "NARROW", 1)
    monkeypatch.setattr(blocks, "GROUP", 2)
    monkeypatch.setattr(blocks, "SCORES", 2 * count)  # two queries at a time
    rng = np.random.default_rng(count)
    for k in (1, 3, 40):
        alone = jax.jit(partial(best_in_blocks, k=k, block=BLOCK))
        shards = jax.jit(partial(best_in_shards, k=k, block=BLOCK))
        for _ in range(4):
            embeddings, query = drawn(rng, count)
            ids, scores = sorted_by_numpy(embeddings, query, k)
            index = shard_rows(embeddings, data_mesh(), block=BLOCK)
            for found in (alone(embeddings, query), shards(index, query)):
                np.testing.assert_array_equal(found.ids, ids)
                np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize(("count", "k"), [(60, 7), (200, 7), (257, 40), (129, 129)])
def test_one_device_and_several_agree_to_the_bit(count, k):
    """Of numbers whose sums are rounded, and of equal rows, whose ties the lower one wins."""
    rng = np.random.default_rng(k)
    embeddings = rng.standard_normal((count, 24)).astype(np.float32)
    embeddings[count // 2 :] = embeddings[: count - count // 2]
    query = rng.standard_normal((9, 24)).astype(np.float32)
    one = in_blocks(embeddings, query, k=k)
    many = in_shards(shard_rows(embeddings, data_mesh(), block=BLOCK), query, k=k)
    jax.tree.map(np.testing.assert_array_equal, one, many)
    _, scores = sorted_by_numpy(embeddings, query, k)
    np.testing.assert_allclose(one.scores, scores, rtol=1e-5, atol=1e-5)


def test_eight_devices_some_of_them_empty():
    """In a process of its own: this one has begun with fewer."""
    code = """
import jax, numpy as np
from ragjax.mesh import data_mesh
from ragjax.retrieval.blocks import best_in_blocks, best_in_shards, shard_rows
rng = np.random.default_rng(0)
mesh = data_mesh(8)
assert mesh.size == 8
for count, k in ((60, 9), (129, 3), (300, 20), (1000, 300)):
    embeddings = rng.standard_normal((count, 16)).astype(np.float32)
    embeddings[count // 3] = embeddings[count - 1]
    query = rng.standard_normal((5, 16)).astype(np.float32)
    index = shard_rows(embeddings, mesh, block=64)
    one = jax.jit(lambda e, q: best_in_blocks(e, q, k, block=64))(embeddings, query)
    many = jax.jit(lambda i, q: best_in_shards(i, q, k, block=64))(index, query)
    jax.tree.map(np.testing.assert_array_equal, one, many)
print("same")
"""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "same\n", done.stderr


def test_each_device_holds_its_own_rows_only():
    embeddings = np.arange(130 * 2, dtype=np.float32).reshape(130, 2)
    index = shard_rows(embeddings, data_mesh(2), block=BLOCK)
    first, second = (np.asarray(shard.data) for shard in index.rows.addressable_shards)
    assert index.rows.shape == (256, 2)
    np.testing.assert_array_equal(first, embeddings[:128])
    np.testing.assert_array_equal(second[:2], embeddings[128:])
    np.testing.assert_array_equal(second[2:], np.zeros((126, 2)))


def test_batch_axes_and_many_queries():
    """More queries than are searched at once, on several axes."""
    rng = np.random.default_rng(0)
    embeddings, query = drawn(rng, 200, queries=300)
    found = in_blocks(embeddings, query.reshape(3, 100, -1), k=5)
    assert found.ids.shape == (3, 100, 5)
    ids, _ = sorted_by_numpy(embeddings, query, 5)
    np.testing.assert_array_equal(np.reshape(found.ids, (300, 5)), ids)


def test_rows_that_are_scored_again_a_few_queries_at_a_time(monkeypatch):
    """Where each query's take much memory; the passages are still read once for all of them."""
    rng = np.random.default_rng(3)
    embeddings, query = drawn(rng, 257, queries=11)
    expected = best_in_blocks(jnp.asarray(embeddings), jnp.asarray(query), 5, block=BLOCK)
    monkeypatch.setattr(blocks, "GATHERED", 5 * 32 * 4 * 3)  # three queries
    for found in (
        best_in_blocks(jnp.asarray(embeddings), jnp.asarray(query), 5, block=BLOCK),
        best_in_shards(
            shard_rows(embeddings, data_mesh(), block=BLOCK), jnp.asarray(query), 5, block=BLOCK
        ),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_rows_are_multiplied_in_full(kind):
    rng = np.random.default_rng(1)
    half = jnp.asarray(rng.standard_normal((150, 8)), kind)
    query = rng.standard_normal((4, 8)).astype(np.float32)
    found = in_blocks(half, query, k=3)
    ids, scores = sorted_by_numpy(np.asarray(half, np.float32), query, 3)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    assert found.scores.dtype == np.float32


def test_no_score_matrix_is_made():
    """Of a thousand queries and passages no array holds a number for each pair."""
    shapes = (
        jax.ShapeDtypeStruct((65_536, 8), np.float32),
        jax.ShapeDtypeStruct((512, 8), np.float32),
    )
    program = jax.jit(lambda e, q: best_in_blocks(e, q, 10)).lower(*shapes).as_text()
    for queries in (256, 512):
        assert f"{queries}x65536" not in program
        assert f"65536x{queries}" not in program
    assert "4096x256" in program


def test_nan_stays_nan():
    """A query that has gone wrong is not passed over: its scores say so."""
    embeddings, query = drawn(np.random.default_rng(0), 200)
    query[2] = np.nan
    found = in_blocks(embeddings, query, k=3)
    assert np.isnan(np.asarray(found.scores)[2]).all()
    assert np.isfinite(np.asarray(found.scores)[[0, 1, 3, 4, 5]]).all()


def test_no_gradient():
    embeddings, query = drawn(np.random.default_rng(0), 130)
    total = lambda e, q: jnp.sum(best_in_blocks(e, q, 3, block=BLOCK).scores)  # noqa: E731
    for gradient in jax.grad(total, (0, 1))(jnp.asarray(embeddings), jnp.asarray(query)):
        assert not np.any(gradient)


@pytest.mark.parametrize("k", [0, 131])
def test_a_depth_that_the_corpus_does_not_have(k):
    embeddings, query = drawn(np.random.default_rng(0), 130)
    with pytest.raises(UserError, match=f"k is {k}, but there are 130 passages"):
        best_in_blocks(jnp.asarray(embeddings), jnp.asarray(query), k, block=BLOCK)
    index = shard_rows(embeddings, data_mesh(), block=BLOCK)
    with pytest.raises(UserError, match=f"k is {k}, but there are 130 passages"):
        best_in_shards(index, jnp.asarray(query), k, block=BLOCK)


@pytest.mark.parametrize("devices", [-1, 9])
def test_devices_that_are_not_there(devices):
    with pytest.raises(UserError, match=f"{devices} devices are asked for, but JAX has 2 here"):
        data_mesh(devices)
