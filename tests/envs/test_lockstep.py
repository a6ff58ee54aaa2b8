"""Classic control in lockstep with Gymnasium, which computes in float64 and keeps its own time limit.

Errors of float32 grow e-fold in a quarter of a second below a pole, and faster in an acrobot. So whole
trajectories are compared for the mountain car and for short episodes of the cart; elsewhere our state
is set to Gymnasium's before each step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs import acrobot, cartpole, mountain_car, wrappers
from ragjax.envs.base import Environment

EPISODES = 6  # half of them by each policy


def chance(state, rng):
    """Any action, to Gymnasium's taste; the caller folds it into the range."""
    return int(rng.integers(6))


def balance(state, rng):
    """Keeps the pole up and the cart on its track for 500 steps, mostly."""
    return int(np.dot([0.1, 0.3, 1.0, 0.5], state) + 0.02 * rng.standard_normal() > 0)


def swing(state, rng):
    """Pushes the car along, so that it hits the wall on the left and reaches the goal."""
    return 2 if state[1] >= 0 else 0


def pump(state, rng):
    """Pulls the lower link along with the upper one's swing, until the tip is up."""
    return 2 if state[2] < 0 else 0


@dataclass(frozen=True)
class Case:
    """An environment, its counterpart, a policy that gets far, and states from anywhere."""

    spec: Environment
    state: type
    policy: Callable
    spread: tuple[float, ...]  # half-widths of a box of states about 0
    anywhere: float  # the largest error of a step from there: two fast links lose three digits
    exact: slice  # the episodes whose whole trajectories can be compared
    gym_id: str

    def __str__(self):
        return self.gym_id


CASES = [
    Case(
        cartpole.CartPole(),
        cartpole.State,
        balance,
        (3.0, 3.0, 0.3, 3.0),
        1e-5,
        slice(0, EPISODES // 2),
        "CartPole-v1",
    ),
    Case(
        acrobot.Acrobot(),
        acrobot.State,
        pump,
        (np.pi, np.pi, 4 * np.pi, 9 * np.pi),
        2e-3,
        slice(0),
        "Acrobot-v1",
    ),
    Case(
        mountain_car.MountainCar(),
        mountain_car.State,
        swing,
        (1.2, 0.07),
        1e-5,
        slice(None),
        "MountainCar-v0",
    ),
]


@dataclass
class Pair:
    """A case with both sides ready to run.

    Episodes are padded to the time limit; `played` marks the steps that were made.
    """

    case: Case
    gym: Any
    ours: Callable  # (states [B,T,S], actions [B,T], whether to set our state) -> [B,T,...]
    reset: Callable  # keys [B] -> (states, timesteps)
    states: np.ndarray
    actions: np.ndarray
    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    after: np.ndarray
    played: np.ndarray


def record(case, env):
    """Gymnasium's episodes, as the arrays of a `Pair`."""
    shape, size = (EPISODES, case.spec.time_limit), len(case.spread)
    arrays = {
        "states": np.zeros((*shape, size)),
        "after": np.zeros((*shape, size)),
        "actions": np.zeros(shape, np.int32),
        "observations": np.zeros((*shape, *env.observation_space.shape)),
        "rewards": np.zeros(shape),
        "terminated": np.zeros(shape, bool),
        "truncated": np.zeros(shape, bool),
        "played": np.zeros(shape, bool),
    }
    for episode in range(EPISODES):
        policy = chance if episode < EPISODES // 2 else case.policy
        rng = np.random.default_rng(episode)
        env.reset(seed=episode)
        step, done = 0, False
        while not done:
            state = np.array(env.unwrapped.state, np.float64)
            action = policy(state, rng) % int(env.action_space.n)
            observation, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            values = {
                "states": state,
                "after": env.unwrapped.state,
                "actions": action,
                "observations": observation,
                "rewards": reward,
                "terminated": terminated,
                "truncated": truncated,
                "played": True,
            }
            for name, value in values.items():
                arrays[name][episode, step] = value
            step += 1
    return arrays


def follower(case, env):
    """The jitted function `Pair.ours`."""

    def run(states, actions, synchronised):
        def step(state, inputs):
            known, action = inputs
            inner = jax.tree.map(
                lambda own, given: jnp.where(synchronised, given, own),
                state.inner,
                case.state(*known),
            )
            key = jax.random.key(0)  # the dynamics draw nothing
            state = state.replace(inner=inner)
            state, timestep = env.step(env.params, key, state, action)
            return state, (jnp.stack(jax.tree.leaves(state.inner)), timestep)

        first = wrappers.Limited(case.state(*states[0]), jnp.zeros((), jnp.int32))
        return jax.lax.scan(step, first, (states, actions))[1]

    batched = jax.jit(jax.vmap(run, (0, 0, None)))

    def call(states, actions, synchronised):
        inputs = jnp.asarray(states, jnp.float32), jnp.asarray(actions, jnp.int32)
        return jax.tree.map(np.asarray, batched(*inputs, jnp.asarray(synchronised)))

    return call


@pytest.fixture(scope="module", params=CASES, ids=str)
def pair(request):
    case = request.param
    env = wrappers.time_limit(case.spec.build(), case.spec.time_limit)
    gym = gymnasium.make(case.gym_id)
    arrays = record(case, gym)
    reset = jax.jit(jax.vmap(env.reset, (None, 0)))
    yield Pair(case, gym, follower(case, env), lambda keys: reset(env.params, keys), **arrays)
    gym.close()


def compare(pair, states, timestep, chosen, tolerance):
    """Compares the chosen steps ([B,T] bool) of ours with the recorded ones."""
    np.testing.assert_allclose(states[chosen], pair.after[chosen], atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(
        timestep.observation[chosen], pair.observations[chosen], atol=tolerance, rtol=tolerance
    )
    np.testing.assert_array_equal(timestep.reward[chosen], pair.rewards[chosen])
    np.testing.assert_array_equal(timestep.terminated[chosen], pair.terminated[chosen])
    np.testing.assert_array_equal(timestep.truncated[chosen], pair.truncated[chosen])


def test_every_step_is_gymnasiums(pair):
    states, timestep = pair.ours(pair.states, pair.actions, True)
    assert pair.played.sum() > 500
    compare(pair, states, timestep, pair.played, 1e-5)


def test_whole_trajectories_are_gymnasiums(pair):
    states, timestep = pair.ours(pair.states, pair.actions, False)
    chosen = np.zeros_like(pair.played)
    chosen[pair.case.exact] = pair.played[pair.case.exact]
    compare(pair, states, timestep, chosen, 1e-5)


def test_recorded_episodes_end_in_both_ways(pair):
    """Else the comparisons of the flags would compare nothing."""
    assert pair.terminated.any()
    assert pair.truncated[:, -1].any()
    assert not pair.truncated[:, :-1].any()


def test_a_step_from_anywhere_is_gymnasiums(pair):
    """Also where angles wrap around, velocities are cut, walls are hit and poles lie."""
    rng = np.random.default_rng(0)
    shape = pair.actions.shape
    before = rng.uniform(-1, 1, (*shape, len(pair.case.spread))) * pair.case.spread
    before = before.astype(np.float32).astype(np.float64)
    actions = rng.integers(pair.gym.action_space.n, size=shape)
    states, timestep = pair.ours(before, actions, True)
    env = pair.gym.unwrapped
    after, observations = np.zeros_like(states), np.zeros_like(timestep.observation)
    for place in np.ndindex(*shape):
        env.state = before[place]
        env.steps_beyond_terminated = None
        observations[place], reward, terminated, _, _ = env.step(int(actions[place]))
        after[place] = env.state
        assert timestep.reward[place] == reward
        assert timestep.terminated[place] == terminated
    for ours, theirs in [(states, after), (timestep.observation, observations)]:
        np.testing.assert_allclose(ours, theirs, atol=pair.case.anywhere, rtol=1e-5)
        assert np.quantile(np.abs(ours - theirs), 0.9) < 1e-5


def test_spaces_are_gymnasiums(pair):
    env = pair.case.spec.build()
    np.testing.assert_array_equal(env.low, pair.gym.observation_space.low)
    np.testing.assert_array_equal(env.high, pair.gym.observation_space.high)
    assert env.num_actions == pair.gym.action_space.n
    assert pair.case.spec.time_limit == pair.gym.spec.max_episode_steps


def test_first_states_are_distributed_as_gymnasiums(pair):
    """Uniform: the same range, mean and variance in each number."""
    count = 2000
    states, timestep = pair.reset(jax.random.split(jax.random.key(3), count))
    ours = np.stack(jax.tree.leaves(states.inner), -1)
    theirs = []
    for seed in range(count):
        pair.gym.unwrapped.reset(seed=seed)
        theirs.append(np.array(pair.gym.unwrapped.state))
    width = np.ptp(theirs, axis=0).max()
    np.testing.assert_allclose(ours.min(0), np.min(theirs, 0), atol=0.01 * width)
    np.testing.assert_allclose(ours.max(0), np.max(theirs, 0), atol=0.01 * width)
    np.testing.assert_allclose(ours.mean(0), np.mean(theirs, 0), atol=0.04 * width)
    np.testing.assert_allclose(ours.std(0), np.std(theirs, 0), atol=0.02 * width)
    correlations = np.corrcoef(ours[:, ours.std(0) > 0].T)
    np.testing.assert_allclose(correlations, np.eye(len(np.atleast_1d(correlations))), atol=0.1)

    if pair.case.gym_id == "Acrobot-v1":
        waves = [wave(ours[:, number]) for number in (0, 1) for wave in (np.cos, np.sin)]
        ours = np.stack([*waves, ours[:, 2], ours[:, 3]], -1)
    np.testing.assert_allclose(timestep.observation, ours, atol=1e-6)
