"""Texts read at several widths: each at one that holds it, in its own place again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.models.buckets import read_by_length, widths_of


@pytest.mark.parametrize(
    ("longest", "buckets", "wanted"),
    [
        (128, 4, [32, 64, 96, 128]),
        (128, 1, [128]),
        (100, 3, [40, 72, 100]),
        (16, 4, [8, 16]),
        (7, 5, [7]),
        (8, 2, [8]),
    ],
)
def test_widths(longest, buckets, wanted):
    assert widths_of(longest, buckets) == wanted


def texts(rng, count, longest, shortest=0):
    lengths = rng.integers(shortest, longest + 1, count)
    tokens = rng.integers(1, 50, (count, longest))
    return jnp.asarray(np.where(np.arange(longest) < lengths[:, None], tokens, 0)), lengths


@pytest.mark.parametrize("seed", range(6))
def test_each_text_is_read_whole_and_in_its_place(seed):
    rng = np.random.default_rng(seed)
    count, longest, buckets = (int(rng.integers(*ends)) for ends in ((1, 14), (3, 70), (1, 6)))
    tokens, lengths = texts(rng, count, longest)
    total = read_by_length(
        lambda rows, mask: jnp.sum(rows**2, axis=-1), tokens, tokens > 0, buckets, axis=None
    )
    np.testing.assert_array_equal(total, jnp.sum(tokens**2, axis=-1))

    def read(rows, mask=None):
        return {"states": rows[..., None].astype(jnp.float32) * jnp.arange(1.0, 4.0)}

    states = jax.jit(lambda t: read_by_length(read, t, t > 0, buckets))(tokens)["states"]
    assert states.shape == (count, longest, 3)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(states[row, :length], read(tokens)["states"][row, :length])


def test_a_text_with_padding_before_its_tokens_is_read_to_its_end():
    """Few tokens, the last of which stands at the end."""
    tokens = jnp.zeros((6, 32), jnp.int32).at[:, -2:].set(jnp.arange(1, 13).reshape(6, 2))
    tokens = tokens.at[3:, :4].set(9)
    total = read_by_length(
        lambda rows, mask: jnp.sum(rows, axis=-1), tokens, tokens > 0, 4, axis=None
    )
    np.testing.assert_array_equal(total, jnp.sum(tokens, axis=-1))


def test_short_texts_are_read_at_narrow_widths():
    tokens, _ = texts(np.random.default_rng(0), 8, 32, shortest=1)
    seen = []

    def read(rows, mask):
        jax.debug.callback(lambda width: seen.append(int(width)), rows.shape[1])
        return rows[..., None]

    tokens = tokens.at[:4, 5:].set(0)
    jax.block_until_ready(read_by_length(read, tokens, tokens > 0, 4))
    jax.effects_barrier()
    assert len(seen) == 4
    assert sorted(seen)[:2] == [8, 8]


def test_the_gradient_is_that_of_all_at_once():
    tokens, _ = texts(np.random.default_rng(1), 7, 40)

    def total(table, buckets):
        def read(rows, mask):
            is_token = mask[..., None]
            states = jnp.cumsum(jnp.where(is_token, table[rows], 0.0), axis=-2)
            return jnp.where(is_token, jnp.tanh(states), 0.0)

        return jnp.sum(read_by_length(read, tokens, tokens > 0, buckets) ** 2)

    with jax.enable_x64(True):  # where rounding is far below what a wrong row would change
        table = jax.random.normal(jax.random.key(0), (50, 4))
        one, several = (jax.grad(total)(table, buckets) for buckets in (1, 4))
    assert table.dtype == jnp.float64
    np.testing.assert_allclose(several, one, rtol=1e-12, atol=1e-12)
