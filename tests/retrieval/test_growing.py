"""The memory that grows inside an episode, against a list in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
from compilations import compiled

from ragjax.retrieval.growing import GrowingMemory, recall

CAPACITY, WIDTH, STEPS = 5, 2, 9


def test_it_holds_the_newest_rows_of_each_episode_inside_jit():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, STEPS, 2, WIDTH)).astype(np.float32)
    where = rng.random((3, STEPS, 2)) < 0.6
    step = jax.jit(jax.vmap(GrowingMemory.add))
    memory = jax.vmap(lambda _: GrowingMemory.empty(CAPACITY, WIDTH))(jnp.arange(3))
    kept = [[], [], []]
    for t in range(STEPS):
        memory = step(memory, rows[:, t], where[:, t])
        for e in range(3):
            kept[e] += [row for row, keep in zip(rows[e, t], where[e, t], strict=True) if keep]
            found = np.asarray(memory.rows[e])[np.asarray(jax.vmap(lambda m: m.known)(memory)[e])]
            newest = np.array(kept[e][-CAPACITY:]).reshape(-1, WIDTH)
            np.testing.assert_array_equal(
                sorted(map(tuple, found)), sorted(map(tuple, newest.astype(np.float32)))
            )
            assert int(memory.written[e]) == len(kept[e])
    assert min(map(len, kept)) > CAPACITY  # every ring went round
    with compiled() as programs:
        step(memory, rows[:, 0], where[:, 0])
    assert not programs


def test_recall_finds_the_best_known_rows_and_says_what_is_missing():
    keys = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 3)), jnp.float32)
    query = jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)), jnp.float32)
    known = jnp.asarray([[1] * 6, [1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0], [0] * 6], bool)
    found = recall(query, keys, known, 3)
    scores = np.einsum("bd,bmd->bm", query, keys)
    for row in range(4):
        rows = [m for m in np.argsort(-scores[row]) if known[row, m]][:3]
        np.testing.assert_array_equal(found.ids[row], rows + [-1] * (3 - len(rows)))
        np.testing.assert_array_equal(found.valid[row], np.arange(3) < len(rows))
        np.testing.assert_allclose(
            np.asarray(found.scores[row])[: len(rows)], scores[row][rows], rtol=1e-5
        )
