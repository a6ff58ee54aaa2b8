"""The random walk's values, which example 6.2 of Sutton & Barto (2nd ed.) knows: 1/6 to 5/6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.random_walk import RandomWalk, State
from ragjax.errors import UserError

ENV = RandomWalk().build()
MANY = 4000
STEPS = 100  # one walk in a million is longer


@pytest.fixture(scope="module")
def returns():
    """([5] mean return, [5] mean length) of walks from each state."""

    def walk(key, place):
        def step(carry, key):
            state, running = carry
            state, shown = ENV.step(ENV.params, key, state, jnp.zeros((), jnp.int32))
            reward = jnp.where(running, shown.reward, 0.0)
            return (state, running & ~shown.done), (reward, running)

        carry = State(place), jnp.ones((), bool)
        _, (rewards, running) = jax.lax.scan(step, carry, jax.random.split(key, STEPS))
        return rewards.sum(), running.astype(jnp.float32).sum()

    keys = jax.random.split(jax.random.key(0), (5, MANY))
    walks = jax.jit(jax.vmap(jax.vmap(walk, (0, None))))
    return [np.asarray(found).mean(1) for found in walks(keys, jnp.arange(1, 6))]


def test_values_are_those_of_the_book(returns):
    np.testing.assert_allclose(returns[0], np.arange(1, 6) / 6, atol=0.03)


def test_lengths_are_those_of_the_ruined_gambler(returns):
    place = np.arange(1, 6)
    np.testing.assert_allclose(returns[1], place * (6 - place), rtol=0.06)


@pytest.fixture(scope="module")
def moves():
    """place -> (its successors' places, `Timestep`s of [64]) by as many keys."""
    step = jax.jit(jax.vmap(ENV.step, (None, 0, None, None)))
    keys = jax.random.split(jax.random.key(2), 64)

    def run(place):
        state = State(jnp.asarray(place, jnp.int32))
        state, shown = step(ENV.params, keys, state, jnp.zeros((), jnp.int32))
        return np.asarray(state.place), jax.tree.map(np.asarray, shown)

    return run


@pytest.mark.parametrize("place", range(1, 6))
def test_moves(place, moves):
    """One to the left or the right; only the right end pays; the ends are shown as zeros."""
    places, shown = moves(place)
    assert set(places) == {place - 1, place + 1}
    np.testing.assert_array_equal(shown.reward, places == 6)
    np.testing.assert_array_equal(shown.terminated, (places == 0) | (places == 6))
    assert not np.any(shown.truncated)
    np.testing.assert_array_equal(shown.observation, np.eye(7)[places][:, 1:6])


@pytest.mark.parametrize("states", [1, 5, 19])
def test_walks_start_in_the_centre(states):
    env = RandomWalk(states=states).build()
    _, first = env.reset(env.params, jax.random.key(0))
    np.testing.assert_array_equal(first.observation, np.eye(states)[states // 2])
    assert env.num_actions == 1


@pytest.mark.parametrize("states", [0, -1, 4])
def test_states_are_checked(states):
    with pytest.raises(UserError, match=rf"env\.states is {states}; "):
        RandomWalk(states=states)
