"""Lookup: what is observed names a passage, and only the passage says what is right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.lookup import Lookup
from ragjax.errors import UserError

SPEC = Lookup(passages=6, actions=3, key_width=4, steps=2)


def test_an_episode_by_hand():
    env = SPEC.build()
    state, first = env.reset(env.params, jax.random.key(0))
    row = int(state.passage)
    keys, said = np.split(np.asarray(env.passages), [4], axis=-1)
    np.testing.assert_array_equal(first.observation, [*keys[row], 1, 0])
    answer = int(np.argmax(said[row]))
    state, second = env.step(env.params, jax.random.key(1), state, jnp.int32(answer))
    np.testing.assert_array_equal(second.observation, [0, 0, 0, 0, 0, 1])
    assert second.reward == 1
    assert not second.terminated
    wrong, right = answer, (answer + 1) % 3  # a step later the next action is right
    _, missed = env.step(env.params, jax.random.key(2), state, jnp.int32(wrong))
    _, hit = env.step(env.params, jax.random.key(2), state, jnp.int32(right))
    assert (missed.reward, hit.reward) == (0, 1)
    assert missed.terminated
    assert hit.terminated


def test_passages_are_named_equally_often_and_say_every_action():
    env = SPEC.build()
    keys = jax.random.split(jax.random.key(3), 3000)
    state, _ = jax.vmap(env.reset, (None, 0))(env.params, keys)
    counts = np.bincount(state.passage, minlength=6)
    assert np.all(np.abs(counts - 500) < 5 * np.sqrt(500))
    np.testing.assert_array_equal(np.asarray(env.passages)[:, 4:].sum(axis=0), [2, 2, 2])
    np.testing.assert_allclose(np.linalg.norm(env.params.keys, axis=-1), 1, rtol=1e-6)


def test_other_seeds_make_other_passages():
    one, again, other = (
        Lookup(passages=6, actions=3, key_width=4, passage_seed=seed).build() for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.passages, again.passages)
    assert np.all(np.asarray(one.passages)[:, :4] != np.asarray(other.passages)[:, :4])


def test_noise_blurs_the_key_alone():
    env = Lookup(passages=1, key_width=500, noise=0.5).build()
    _, first = env.reset(env.params, jax.random.key(4))
    blur = np.asarray(first.observation[:500] - env.params.keys[0])
    assert np.std(blur) == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(first.observation[500:], [1])


def test_noise_says_nothing_of_the_passage():
    """It is drawn with a key of its own."""
    env, key = Lookup(passages=2, actions=2, key_width=3, noise=0.5).build(), jax.random.key(5)
    state, first = env.reset(env.params, key)
    blur = (first.observation[:3] - env.params.keys[state.passage]) / 0.5
    which, other = jax.random.split(key)
    assert state.passage == jax.random.randint(which, (), 0, 2)
    np.testing.assert_allclose(blur, jax.random.normal(other, (3,)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"passages": 0}, r"env.passages is 0; it must be at least 1"),
        ({"noise": -1.0}, r"env.noise is -1.0; it must not be negative"),
        ({"steps": 3, "time_limit": 2}, r"env.steps is 3, more than env.time_limit 2"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Lookup(**fields)
