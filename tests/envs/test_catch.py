"""Catch against a picture drawn by hand, and what the best and the worst play return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.catch import Catch, State
from ragjax.errors import UserError

ROWS, COLUMNS = 10, 5
MANY = 2000
ENV = Catch().build()


@pytest.fixture(scope="module")
def play():
    """(policy: (ball's column, paddle's column) -> [B] actions) -> all that B episodes showed.

    Returns the first observations and `Timestep`s of [9,B,...], pictures being [...,10,5].
    """
    reset = jax.jit(jax.vmap(ENV.reset, (None, 0)))
    step = jax.jit(jax.vmap(ENV.step, (None, None, 0, 0)))

    def run(policy):
        state, first = reset((), jax.random.split(jax.random.key(0), MANY))
        steps = []
        for _ in range(ROWS - 1):
            picture = np.asarray((steps[-1] if steps else first).observation)
            picture = picture.reshape(MANY, ROWS, COLUMNS)
            ball, paddle = picture[:, :-1].max(1).argmax(-1), picture[:, -1].argmax(-1)
            action = jnp.asarray(policy(ball, paddle), jnp.int32)
            state, shown = step((), jax.random.key(1), state, action)
            steps.append(shown)
        return first, jax.tree.map(lambda *x: np.stack(x), *steps)

    return run


def follow(ball, paddle):
    return 1 + np.sign(ball - paddle)


def test_every_ball_can_be_caught(play):
    _, steps = play(follow)
    np.testing.assert_array_equal(steps.reward[:-1], 0)
    np.testing.assert_array_equal(steps.reward[-1], 1)


def test_every_ball_can_be_missed(play):
    _, steps = play(lambda ball, paddle: np.where(ball > COLUMNS // 2, 0, 2))
    missed = steps.reward[-1] == -1
    np.testing.assert_array_equal(steps.reward[:-1], 0)
    assert np.all(missed)


def test_an_episode_ends_by_itself_after_nine_steps(play):
    _, steps = play(follow)
    assert not np.any(steps.terminated[:-1])
    assert np.all(steps.terminated[-1])
    assert Catch().time_limit >= ROWS - 1


def test_the_picture_is_that_of_bsuite(play):
    """Ball from any column of the top, one row a step; paddle from the middle, walls hold it."""
    rng = np.random.default_rng(0)
    actions = rng.integers(3, size=(ROWS - 1, MANY))
    queue = iter(actions)
    first, steps = play(lambda ball, paddle: next(queue))
    board = np.asarray(first.observation).reshape(MANY, ROWS, COLUMNS)
    column, paddle = board[:, 0].argmax(-1), np.full(MANY, COLUMNS // 2)
    rows = np.arange(MANY)

    def draw(row):
        expected = np.zeros((MANY, ROWS, COLUMNS), np.float32)
        expected[rows, row, column] = 1
        expected[rows, -1, paddle] = 1
        return expected.reshape(MANY, -1)

    np.testing.assert_array_equal(first.observation, draw(0))
    for number, action in enumerate(actions):
        paddle = np.clip(paddle + action - 1, 0, COLUMNS - 1)
        np.testing.assert_array_equal(steps.observation[number], draw(number + 1))
    np.testing.assert_array_equal(steps.reward[-1], np.where(paddle == column, 1.0, -1.0))
    assert {0, COLUMNS - 1} <= set(paddle)


def test_balls_start_anywhere_alike(play):
    first, _ = play(follow)
    columns = np.asarray(first.observation)[:, :COLUMNS].argmax(-1)
    shares = np.bincount(columns, minlength=COLUMNS) / MANY
    np.testing.assert_allclose(shares, 1 / COLUMNS, atol=0.04)


def test_size_is_a_choice():
    env = Catch(rows=3, columns=2).build()
    state, first = jax.eval_shape(env.reset, (), jax.random.key(0))
    assert isinstance(state, State)
    assert first.observation.shape == env.low.shape == (6,)


@pytest.mark.parametrize("size", [{"rows": 1}, {"columns": 0}])
def test_size_is_checked(size):
    (name, value), *_ = size.items()
    with pytest.raises(UserError, match=rf"env\.{name} is {value}; "):
        Catch(**size)
