"""The corridor's transitions, and the returns that example 13.1 of Sutton & Barto (2nd ed.) names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.short_corridor import ShortCorridor, State

ENV = ShortCorridor().build()
LEFT, RIGHT = 0, 1


@pytest.fixture(scope="module")
def moves():
    """([3,2] successors of each place by action, their `Timestep`s)."""
    step = jax.vmap(jax.vmap(ENV.step, (None, None, None, 0)), (None, None, 0, None))
    key = jax.random.key(0)
    state, shown = jax.jit(step)((), key, State(jnp.arange(3)), jnp.arange(2))
    return np.asarray(state.place), jax.tree.map(np.asarray, shown)


def start_value(places, probability):
    """The expected return from the first state, by v = r + P v with r = -1."""
    chances = np.zeros((3, 3))
    for place in range(3):
        for action, chance in [(LEFT, 1 - probability), (RIGHT, probability)]:
            if places[place, action] < 3:
                chances[place, places[place, action]] += chance
    return np.linalg.solve(np.eye(3) - chances, -np.ones(3))[0]


def test_moves(moves):
    """The first state's wall holds, the second one's actions are swapped."""
    places, shown = moves
    np.testing.assert_array_equal(places, [[0, 1], [2, 0], [1, 3]])
    np.testing.assert_array_equal(shown.reward, -np.ones((3, 2)))
    np.testing.assert_array_equal(shown.terminated, places == 3)
    assert not np.any(shown.truncated)


def test_all_states_look_alike(moves):
    state, first = ENV.reset((), jax.random.key(0))
    assert state.place == 0
    np.testing.assert_array_equal(first.observation, [1])
    np.testing.assert_array_equal(moves[1].observation, np.ones((3, 2, 1)))


def test_the_best_chance_returns_what_the_book_says(moves):
    places, _ = moves
    assert start_value(places, 0.59) == pytest.approx(-11.6, abs=0.1)
    grid = np.linspace(0.01, 0.99, 981)
    best = grid[np.argmax([start_value(places, chance) for chance in grid])]
    assert best == pytest.approx(2 - np.sqrt(2), abs=0.001)


@pytest.mark.parametrize(("chance", "expected"), [(0.05, -82.0), (0.95, -44.0)])
def test_nearly_greedy_policies_return_what_the_book_says(chance, expected, moves):
    """ε-greedy with ε = 0.1, of either action."""
    assert start_value(moves[0], chance) == pytest.approx(expected, abs=0.3)


@pytest.mark.parametrize("chance", [0.2, 0.7])
def test_the_formula_of_the_docstring(chance, moves):
    expected = (2 * chance - 4) / (chance * (1 - chance))
    assert start_value(moves[0], chance) == pytest.approx(expected)
