"""Renaming is a bijection of names; corruption touches template words alone."""

import jax
import numpy as np
import pytest

from ragjax.ops.augmentation import corrupt_words, random_order, random_renaming

V = 20
CONTENT = np.isin(np.arange(V), [5, 7, 8, 9, 13, 14, 19])
NAMES = np.flatnonzero(CONTENT)
TEMPLATE = np.setdiff1d(np.arange(4, V), NAMES)


@jax.jit
def draw(keys, content, probability):
    return jax.vmap(lambda key: random_renaming(key, content, probability))(keys)


corrupt = jax.jit(corrupt_words)


@pytest.mark.parametrize("size", [1, 2, 512, 1000, 2**16 + 1])
def test_an_order_is_a_permutation(size):
    order = random_order(jax.random.PRNGKey(1), size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    assert order.dtype == np.int32


def test_every_order_is_drawn_equally_often():
    keys = jax.random.split(jax.random.PRNGKey(2), 24_000)
    orders = np.asarray(jax.vmap(lambda key: random_order(key, 4))(keys))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.sum((counts - 1000) ** 2 / 1000) < 49.7  # chi-squared with 23 degrees, p = .001


def renamings(probability, content=CONTENT):
    """[1000,V] renamings."""
    keys = jax.random.split(jax.random.PRNGKey(0), 1000)
    return np.asarray(draw(keys, content, np.float32(probability)))


def test_renaming_permutes_names_and_leaves_all_else():
    drawn = renamings(1.0)
    others = np.setdiff1d(np.arange(V), NAMES)
    np.testing.assert_array_equal(drawn[:, others], np.tile(others, (1000, 1)))
    np.testing.assert_array_equal(np.sort(drawn[:, NAMES], axis=1), np.tile(NAMES, (1000, 1)))


def test_renaming_reaches_every_name_about_equally_often():
    drawn = renamings(1.0)[:, NAMES]
    share = np.array([[np.mean(drawn[:, i] == name) for name in NAMES] for i in range(len(NAMES))])
    assert np.all(np.abs(share - 1 / len(NAMES)) < 0.055)  # 5 standard errors


def test_renaming_probability():
    identity = np.arange(V)
    assert np.all(renamings(0.0) == identity)
    kept = np.mean(np.all(renamings(0.7) == identity, axis=1))
    assert abs(kept - 0.3) < 0.07


def test_no_names_to_rename():
    assert np.all(renamings(1.0, np.zeros(V, bool)) == np.arange(V))


def corrupted(probability, content=CONTENT):
    """500 rows of all tokens, before and after."""
    question = np.tile(np.arange(V, dtype=np.int32), (500, 1))
    key = jax.random.PRNGKey(2)
    return question, np.asarray(corrupt(key, question, content, np.float32(probability)))


def test_corruption_touches_template_words_alone():
    question, out = corrupted(1.0)
    safe = np.concatenate([np.arange(4), NAMES])
    np.testing.assert_array_equal(out[:, safe], question[:, safe])
    touched = out[:, TEMPLATE]
    assert set(np.unique(touched)) == {0, *TEMPLATE.tolist()}
    assert abs(np.mean(touched == 0) - 0.5) < 0.03
    replaced = touched[touched != 0]
    for word in TEMPLATE:
        assert abs(np.mean(replaced == word) - 1 / len(TEMPLATE)) < 0.03


def test_corruption_probability():
    question, out = corrupted(0.0)
    np.testing.assert_array_equal(out, question)
    question, out = corrupted(0.2)
    # A replacement is the word itself once in a while.
    expected = 0.2 * (1 - 0.5 / len(TEMPLATE))
    assert abs(np.mean((out != question)[:, TEMPLATE]) - expected) < 0.03


def test_half_of_what_is_corrupted_is_left_out():
    question, out = corrupted(0.4)
    touched = (out != question)[:, TEMPLATE]
    left_out = np.mean((out[:, TEMPLATE] == 0)[touched])
    # Those that are replaced by themselves can't be told from others.
    assert abs(left_out - 1 / (2 - 1 / len(TEMPLATE))) < 0.03


def test_corruption_without_template_words():
    question, out = corrupted(1.0, np.arange(V) > 3)
    np.testing.assert_array_equal(out, question)
