"""The testbed's distributions, and the arm that it calls the best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.testbed import State, Testbed
from ragjax.errors import UserError

MANY = 4000


@pytest.fixture(scope="module", params=[0.0, 4.0])
def drawn(request):
    """(mean, [B,10] values, first timesteps) of many episodes."""
    env = Testbed(mean=request.param).build()
    keys = jax.random.split(jax.random.key(0), MANY)
    state, first = jax.jit(jax.vmap(env.reset, (None, 0)))(env.params, keys)
    return request.param, np.asarray(state.values), first


def test_true_values_are_normal_about_the_mean(drawn):
    mean, values, first = drawn
    assert values.shape == (MANY, 10)
    np.testing.assert_allclose(values.mean(0), mean, atol=0.08)
    np.testing.assert_allclose(values.std(0), 1.0, atol=0.06)
    np.testing.assert_allclose(np.corrcoef(values.T), np.eye(10), atol=0.08)
    np.testing.assert_array_equal(first.observation, np.ones((MANY, 1)))
    np.testing.assert_array_equal(first.metrics["optimal"], 0)


@pytest.fixture(scope="module")
def pulled():
    """(true values [3], `Timestep`s [3,B]) of many pulls of each of three arms."""
    env = Testbed(arms=3).build()
    values = jnp.asarray([-1.5, 2.0, 0.25])

    def pull(key, action):
        return env.step(env.params, key, State(values), action)

    keys = jax.random.split(jax.random.key(1), (3, MANY))
    pull = jax.jit(jax.vmap(jax.vmap(pull, (0, None))))
    state, steps = pull(keys, jnp.arange(3))
    np.testing.assert_array_equal(state.values, np.broadcast_to(values, (3, MANY, 3)))
    return np.asarray(values), jax.tree.map(np.asarray, steps)


def test_rewards_are_normal_about_the_arms_value(pulled):
    values, steps = pulled
    np.testing.assert_allclose(steps.reward.mean(1), values, atol=0.08)
    np.testing.assert_allclose(steps.reward.std(1), 1.0, atol=0.06)
    np.testing.assert_allclose(np.corrcoef(steps.reward), np.eye(3), atol=0.08)


def test_the_best_arm_is_optimal(pulled):
    _, steps = pulled
    optimal = steps.metrics["optimal"]
    assert optimal.dtype == np.float32
    np.testing.assert_array_equal(optimal, np.repeat([[0.0], [1.0], [0.0]], MANY, 1))
    assert not np.any(steps.done)
    np.testing.assert_array_equal(steps.observation, np.ones((3, MANY, 1)))


def test_an_episode_lasts_as_long_as_its_time_limit():
    """And the next one draws new values; the metric survives the wrappers."""
    env = Testbed(arms=4, time_limit=3).vectorise(2)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, _ = reset(env.params, jax.random.key(0))
    drawn = [np.asarray(state.inner.inner.values)]
    for number in range(1, 7):
        best = jnp.argmax(jnp.asarray(drawn[-1]), -1)
        key = jax.random.key(number)
        state, shown = step(env.params, key, state, best.astype(jnp.int32))
        drawn.append(np.asarray(state.inner.inner.values))
        np.testing.assert_array_equal(shown.metrics["optimal"], 1)
        np.testing.assert_array_equal(shown.truncated, number % 3 == 0)
        assert not np.any(shown.terminated)
        assert np.all((drawn[-1] != drawn[-2]) == (number % 3 == 0))


@pytest.mark.parametrize(("field", "value"), [("arms", 0), ("mean", -1.0), ("mean", float("nan"))])
def test_fields_are_checked(field, value):
    with pytest.raises(UserError, match=rf"env\.{field} is {value}; "):
        Testbed(**{field: value})
