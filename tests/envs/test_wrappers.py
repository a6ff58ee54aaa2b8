"""Each wrapper on an environment that counts, and the running moments against Gymnasium's."""

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.utils import RunningMeanStd

from ragjax.envs import wrappers
from ragjax.envs.base import timestep
from ragjax.envs.cartpole import CartPole
from ragjax.envs.lookup import Lookup
from ragjax.errors import UserError
from ragjax.types import Env

END = 5  # steps after which the counting environment terminates by itself
E = 3
STEPS = 16


@struct.dataclass
class Count:
    """Steps made, and a number that the episode was born with."""

    steps: Any
    birth: Any


def counting() -> Env:
    """Observation [2]: steps made, birth; the reward is the action plus noise of the step's key."""

    def observe(state):
        return jnp.stack([state.steps.astype(jnp.float32), state.birth])

    def reset(params, key):
        state = Count(jnp.zeros((), jnp.int32), jax.random.uniform(key))
        return state, timestep(observe(state))

    def step(params, key, state, action):
        state = Count(state.steps + 1, state.birth)
        reward = action.astype(jnp.float32) + 0.5 * jax.random.uniform(key)
        return state, timestep(observe(state), reward, terminated=state.steps >= END)

    low, high = np.zeros(2, np.float32), np.asarray([END, 1], np.float32)
    return Env((), reset, step, num_actions=4, low=low, high=high)


KEY = jax.random.key(0)
ACTIONS = np.random.default_rng(0).integers(4, size=(STEPS, E)).astype(np.int32)


def play(env, actions):
    """(first state, first timestep, states, timesteps): NumPy arrays, the last two of [T,...]."""

    @jax.jit
    def run(key, actions):
        state, first = env.reset(env.params, key)

        def step(carry, inputs):
            key, action = inputs
            state, shown = env.step(env.params, key, carry, action)
            return state, (state, shown)

        keys = jax.random.split(jax.random.fold_in(key, 1), len(actions))
        return state, first, *jax.lax.scan(step, state, (keys, actions))[1]

    return jax.tree.map(np.asarray, run(jax.random.key(7), jnp.asarray(actions, jnp.int32)))


@pytest.mark.parametrize("limit", [1, 3, END, END + 2])
def test_time_limit(limit):
    """Truncated at the limit and not before, whether or not the task ends there too."""
    env = wrappers.time_limit(counting(), limit)
    _, first, states, steps = play(env, ACTIONS[: END + 2, 0])
    number = np.arange(1, END + 3)
    assert not first.truncated
    np.testing.assert_array_equal(states.steps, number)
    np.testing.assert_array_equal(steps.truncated, number >= limit)
    np.testing.assert_array_equal(steps.terminated, number >= END)
    np.testing.assert_array_equal(steps.done, number >= min(limit, END))


def test_the_tighter_of_two_time_limits_holds():
    env = wrappers.time_limit(wrappers.time_limit(counting(), 2), 4)
    *_, steps = play(env, ACTIONS[: END + 2, 0])
    np.testing.assert_array_equal(steps.truncated, np.arange(1, END + 3) >= 2)


@pytest.mark.parametrize("limit", [0, -3])
def test_time_limit_is_checked(limit):
    with pytest.raises(UserError, match=f"time_limit is {limit}; "):
        wrappers.time_limit(counting(), limit)


def test_episode_statistics():
    env = wrappers.episode_statistics(counting())
    _, first, _, steps = play(env, ACTIONS[:END, 0])
    assert first.metrics == {"episode_return": 0.0, "episode_length": 0}
    np.testing.assert_allclose(steps.metrics["episode_return"], np.cumsum(steps.reward), rtol=1e-6)
    np.testing.assert_array_equal(steps.metrics["episode_length"], np.arange(1, END + 1))


@pytest.fixture(scope="module")
def resetting():
    """Played with automatic resets around a time limit of 3 and statistics."""
    env = wrappers.episode_statistics(wrappers.time_limit(counting(), 3))
    return play(wrappers.auto_reset(env), ACTIONS[:, 0])


def test_auto_reset_keeps_the_step_that_was_made(resetting):
    _, first, _, steps = resetting
    number = np.arange(STEPS)
    done = number % 3 == 2
    np.testing.assert_array_equal(steps.truncated, done)
    np.testing.assert_array_equal(steps.final_observation[:, 0], number % 3 + 1)
    np.testing.assert_array_equal(steps.metrics["episode_length"], number % 3 + 1)
    noise = steps.reward - ACTIONS[:, 0]
    assert np.all((noise >= 0) & (noise < 0.5))
    total = [steps.reward[n - n % 3 : n + 1].sum() for n in number]
    np.testing.assert_allclose(steps.metrics["episode_return"], total, rtol=1e-6)
    # The final observation is of the episode that ended.
    births = [first.observation[1], *steps.observation[:-1, 1]]
    np.testing.assert_array_equal(steps.final_observation[:, 1], births)


def test_auto_reset_shows_the_new_episode(resetting):
    _, _, states, steps = resetting
    done = steps.truncated
    np.testing.assert_array_equal(steps.observation[done, 0], 0)
    np.testing.assert_array_equal(steps.observation[~done], steps.final_observation[~done])
    births = steps.observation[done, 1]
    assert len(set(births)) == len(births)  # no two episodes are born alike
    drawn = 2 * (steps.reward - ACTIONS[:, 0])[done]  # by the step that ended the one before
    assert np.all(np.abs(births - drawn) > 1e-3)  # the two draw by keys of their own
    np.testing.assert_array_equal(states.total[done], 0)
    np.testing.assert_array_equal(states.length[done], 0)
    np.testing.assert_array_equal(states.inner.steps[done], 0)
    np.testing.assert_array_equal(states.inner.inner.steps[done], 0)
    np.testing.assert_array_equal(states.inner.inner.birth, steps.observation[:, 1])


def test_auto_reset_restarts_at_a_termination_too():
    *_, steps = play(wrappers.auto_reset(counting()), ACTIONS[:, 0])
    number = np.arange(STEPS)
    np.testing.assert_array_equal(steps.terminated, number % END == END - 1)
    np.testing.assert_array_equal(steps.observation[:, 0], (number + 1) % END)


def test_without_a_reset_steps_are_the_same_until_the_end():
    """Under the keys of `auto_reset`; there the last state can be seen."""
    *_, steps = play(wrappers.auto_reset(counting()), ACTIONS[:, 0])
    *_, states, watched = play(wrappers.without_reset(counting()), ACTIONS[:, 0])
    np.testing.assert_array_equal(watched.reward[:END], steps.reward[:END])
    np.testing.assert_array_equal(watched.observation[:END], steps.final_observation[:END])
    np.testing.assert_array_equal(states.steps, np.arange(1, STEPS + 1))


@pytest.mark.parametrize("history", [False, True])
def test_the_innermost_state_is_the_environment_s_own(history):
    spec = CartPole(history=history)
    state, _ = jax.eval_shape(lambda key: spec.watched(E).reset(spec.build().params, key), KEY)
    own, _ = jax.eval_shape(lambda key: spec.build().reset(spec.build().params, key), KEY)
    found = wrappers.innermost(state)
    assert type(found) is type(own)
    assert found.position.shape == (E,)
    assert wrappers.innermost(own) is own


def test_a_batch_is_its_environments_one_by_one():
    single = wrappers.auto_reset(wrappers.episode_statistics(counting()))
    batch = wrappers.batch(single, E)
    key, next_key = jax.random.split(jax.random.key(0))
    state, first = jax.jit(batch.reset)((), key)
    new, shown = jax.jit(batch.step)((), next_key, state, jnp.asarray(ACTIONS[0]))
    reset, step = jax.jit(single.reset), jax.jit(single.step)
    for row in range(E):
        own, own_first = reset((), jax.random.split(key, E)[row])
        own_key = jax.random.split(next_key, E)[row]
        own_new, own_shown = step((), own_key, own, jnp.asarray(ACTIONS[0, row]))
        jax.tree.map(
            lambda one, all_, row=row: np.testing.assert_allclose(one, all_[row], rtol=1e-6),
            (own, own_first, own_new, own_shown),
            (state, first, new, shown),
        )
    assert len(set(np.asarray(first.observation[:, 1]))) == E


def replay(observations, finals, rewards, terminated, truncated):
    """A batch that shows given arrays: observations [T+1,E,O], the others [T,E,...]."""

    def reset(params, key):
        observation = params[0][0]
        shown = timestep(observation)
        rows = jnp.zeros(observation.shape[0])
        return jnp.zeros((), jnp.int32), dataclasses.replace(
            shown, reward=rows, terminated=rows > 0, truncated=rows > 0, metrics={"raw": rows}
        )

    def step(params, key, state, action):
        observations, *others = params
        final, reward, terminated, truncated = (array[state] for array in others)
        shown = timestep(observations[state + 1], reward, terminated, truncated)
        return state + 1, dataclasses.replace(
            shown, final_observation=final, metrics={"raw": reward}
        )

    params = tuple(map(jnp.asarray, (observations, finals, rewards, terminated, truncated)))
    return Env(params, reset, step, num_actions=4, low=None, high=None)


@dataclasses.dataclass
class Recorded:
    """What `replay` shows, at random."""

    observations: np.ndarray
    finals: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    @property
    def env(self):
        return replay(**vars(self))

    @property
    def done(self):
        return self.terminated | self.truncated


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(3)
    means, scales = np.array([0.0, 50.0, -0.3]), np.array([1.0, 4.0, 1e-3])
    observations = means + scales * rng.standard_normal((STEPS + 1, E, 3))
    terminated = rng.random((STEPS, E)) < 0.2
    finals = np.where(terminated[..., None], observations[1:] + scales, observations[1:])
    return Recorded(
        observations.astype(np.float32),
        finals.astype(np.float32),
        (2.0 + rng.standard_normal((STEPS, E))).astype(np.float32),
        terminated,
        rng.random((STEPS, E)) < 0.1,
    )


def test_observations_are_normalised_as_in_gymnasium(recorded):
    env = wrappers.normalise_observations(recorded.env)
    first_state, first, states, steps = play(env, ACTIONS)
    theirs = RunningMeanStd(shape=(3,))
    for number, values in enumerate(recorded.observations.astype(np.float64)):
        theirs.update(values)
        state = first_state if number == 0 else jax.tree.map(lambda x, n=number: x[n - 1], states)
        moments = wrappers.observation_moments(state)
        assert moments is not None
        np.testing.assert_allclose(moments.mean, theirs.mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(moments.variance, theirs.var, rtol=1e-4)
        np.testing.assert_allclose(moments.count, theirs.count, rtol=1e-6)

        deviation = np.sqrt(theirs.var + 1e-8)
        expected = np.clip((values - theirs.mean) / deviation, -10, 10)
        shown = first if number == 0 else jax.tree.map(lambda x, n=number: x[n - 1], steps)
        np.testing.assert_allclose(shown.observation, expected, atol=1e-3)
        if number:
            final = recorded.finals[number - 1].astype(np.float64)
            expected = np.clip((final - theirs.mean) / deviation, -10, 10)
            np.testing.assert_allclose(shown.final_observation, expected, atol=1e-3)
    np.testing.assert_array_equal(steps.metrics["raw"], recorded.rewards)
    np.testing.assert_array_equal(steps.reward, recorded.rewards)


def test_moments_are_gymnasiums_to_five_digits():
    """On numbers of the size of one, where float32 has the digits."""
    values = np.random.default_rng(0).standard_normal((50, 4, 2)).astype(np.float32)
    update = jax.jit(lambda moments, batch: moments.update(batch))
    ours, theirs = wrappers.Moments.start(jnp.asarray(values[0])), RunningMeanStd(shape=(2,))
    for batch in values:
        ours = update(ours, jnp.asarray(batch))
        theirs.update(batch.astype(np.float64))
        np.testing.assert_allclose(ours.mean, theirs.mean, atol=1e-5)
        np.testing.assert_allclose(ours.variance, theirs.var, atol=1e-5)
    np.testing.assert_allclose(
        wrappers.normalised(ours, jnp.asarray(values)),
        (values - theirs.mean) / np.sqrt(theirs.var + 1e-8),
        atol=1e-5,
    )


def test_normalised_observations_are_cut():
    moments = wrappers.Moments(jnp.zeros(3), jnp.ones(3), jnp.ones(()))
    observation = jnp.asarray([-1e6, 0.5, 11.0])
    actual = wrappers.normalised(moments, observation)
    np.testing.assert_allclose(actual, [-10.0, 0.5, 10.0], rtol=1e-6)


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_rewards_are_normalised_by_the_discounted_return(discount, recorded):
    """G_t = γ G_{t-1} + r_t with G_{t-1} = 0 where the step before ended an episode."""
    _, first, _, steps = play(wrappers.normalise_rewards(recorded.env, discount), ACTIONS)
    returns, theirs = np.zeros(E), RunningMeanStd()
    for number, reward in enumerate(recorded.rewards.astype(np.float64)):
        ended = recorded.done[number - 1] if number else np.zeros(E, bool)
        returns = np.where(ended, 0.0, discount * returns) + reward
        theirs.update(returns)
        expected = np.clip(reward / np.sqrt(theirs.var + 1e-8), -10, 10)
        np.testing.assert_allclose(steps.reward[number], expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(first.reward, 0)
    np.testing.assert_array_equal(steps.metrics["raw"], recorded.rewards)
    np.testing.assert_array_equal(steps.observation, recorded.observations[1:])


class Replay(gymnasium.vector.VectorEnv):
    """The recorded batch for Gymnasium, where every end is a truncation."""

    def __init__(self, recorded):
        self.num_envs, self.recorded, self.number = E, recorded, 0
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def step(self, actions):
        reward = self.recorded.rewards[self.number].astype(np.float64)
        ended = self.recorded.done[self.number]
        self.number += 1
        return self.recorded.observations[self.number], reward, np.zeros(E, bool), ended, {}


def test_rewards_are_gymnasiums_where_nothing_terminates(recorded):
    """At a termination Gymnasium forgets the episode's earlier rewards one step sooner than we do."""
    assert recorded.done.any()
    gym = gymnasium.wrappers.vector.NormalizeReward(Replay(recorded), gamma=0.95)
    *_, steps = play(wrappers.normalise_rewards(recorded.env, 0.95), ACTIONS)
    for number in range(STEPS):
        _, expected, *_ = gym.step(ACTIONS[number])
        expected = np.clip(expected, -10, 10)
        np.testing.assert_allclose(steps.reward[number], expected, atol=1e-5, rtol=1e-5)


def test_a_discount_may_be_traced(recorded):
    @jax.jit
    @jax.vmap
    def reward_after_two_steps(discount):
        env = wrappers.normalise_rewards(recorded.env, discount)
        key, action = jax.random.key(0), jnp.asarray(ACTIONS[0])
        state, _ = env.reset(env.params, key)
        state, _ = env.step(env.params, key, state, action)
        return env.step(env.params, key, state, action)[1].reward

    both = reward_after_two_steps(jnp.asarray([0.0, 0.9]))
    for rewards, discount in zip(both, (0.0, 0.9), strict=True):
        *_, steps = play(wrappers.normalise_rewards(recorded.env, discount), ACTIONS[:2])
        np.testing.assert_allclose(rewards, steps.reward[1], rtol=1e-5)


@pytest.fixture(scope="module")
def normalised_cartpole():
    """Both normalisers around E poles, and how it was played."""
    env = wrappers.normalise_observations(CartPole(time_limit=11).vectorise(E))
    return play(wrappers.normalise_rewards(env, 0.99), ACTIONS % 2)


def test_statistics_keep_the_rewards_as_they_were(normalised_cartpole):
    """The cart's reward is 1 a step, so return and length are one number."""
    *_, steps = normalised_cartpole
    metrics = steps.metrics
    np.testing.assert_array_equal(metrics["episode_return"], metrics["episode_length"])
    assert metrics["episode_length"].max() > 5
    assert np.any(steps.reward != 1)


def test_moments_are_found_below_other_wrappers(normalised_cartpole):
    first_state, _, states, _ = normalised_cartpole
    for state in (first_state, states):
        assert wrappers.observation_moments(state) is state.inner.moments
    assert wrappers.observation_moments(states.inner) is states.inner.moments
    assert wrappers.observation_moments(states.inner.inner) is None
    np.testing.assert_allclose(states.inner.moments.count[-1], (STEPS + 1) * E, rtol=1e-5)


def test_history_holds_the_episode_so_far():
    """Rows of (observation, action, 1) from the episode's start; the current row has no action."""
    limit = 4
    env = wrappers.episode_history(wrappers.time_limit(counting(), limit), limit)
    batch = wrappers.batch(wrappers.auto_reset(env), E)
    _, first, _, steps = play(batch, ACTIONS)
    plain = wrappers.batch(wrappers.auto_reset(wrappers.time_limit(counting(), limit)), E)
    *_, shown = play(plain, ACTIONS)
    assert first.observation.shape == (E, limit + 1, 2 + 4 + 1) == (E, *batch.low.shape)
    for time in range(STEPS):
        at = (time + 1) % limit  # steps made in the running episode
        for place in range(E):
            history = np.asarray(steps.observation[time, place])
            np.testing.assert_array_equal(history[:, -1], np.arange(limit + 1) <= at)
            np.testing.assert_array_equal(history[at, :2], shown.observation[time, place])
            np.testing.assert_array_equal(history[at, 2:-1], 0)
            np.testing.assert_array_equal(history[at + 1 :], 0)
            for row in range(at):
                taken = ACTIONS[time - at + 1 + row, place]
                np.testing.assert_array_equal(history[row, 2:-1], np.arange(4) == taken)
                np.testing.assert_array_equal(history[row, 0], row)


def test_history_holds_what_a_time_limit_cuts_off():
    """The observation after the last step: the value of all that would have followed is its own."""
    limit = 4
    env = wrappers.auto_reset(
        wrappers.episode_history(wrappers.time_limit(counting(), limit), limit)
    )
    _, first, _, steps = play(env, ACTIONS[:limit, 0])
    assert steps.truncated.tolist() == [False] * 3 + [True]
    assert not steps.terminated.any()
    last = np.asarray(steps.final_observation[-1])
    np.testing.assert_array_equal(last[:, -1], 1)  # every row is there
    np.testing.assert_array_equal(last[:, 0], np.arange(limit + 1))  # steps made
    np.testing.assert_array_equal(last[:, 1], first.observation[0, 1])  # all of one episode
    np.testing.assert_array_equal(last[:-1, 2:-1], np.eye(4)[ACTIONS[:limit, 0]])
    np.testing.assert_array_equal(last[-1, 2:-1], 0)


def test_history_needs_flat_observations():
    square = counting()._replace(low=np.zeros((2, 2), np.float32))
    with pytest.raises(UserError, match=r"env.history needs flat observations, not those of shape"):
        wrappers.episode_history(square, 3)


def test_other_arrays_can_be_bound_to_an_environment():
    """Of passages and tables alike; its own constants, which are no arrays, stay."""
    own, other = (Lookup(passages=5, noise=noise, passage_seed=seed).build() for noise, seed in
                  ((0.5, 0), (0.0, 1)))  # fmt: skip
    data = wrappers.env_data(other)
    bound = wrappers.bind_env(own, data)
    np.testing.assert_array_equal(bound.passages, other.passages)
    np.testing.assert_array_equal(bound.params.keys, other.params.keys)
    np.testing.assert_array_equal(bound.params.answers, other.params.answers)
    assert bound.params.noise == 0.5


def test_normalised_environments_step_where_numbers_have_64_bits():
    """The pure functions follow JAX's own switch; a scan needs each state to keep its types."""
    env = CartPole().vectorise(E)
    env = wrappers.normalise_observations(wrappers.normalise_rewards(env, 0.9))

    def step(state, key):
        return env.step(env.params, key, state, jnp.zeros(E, jnp.int32))

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        state, first = env.reset(env.params, jax.random.PRNGKey(0))
        keys = jax.random.split(jax.random.PRNGKey(1), STEPS)
        _, steps = jax.jit(lambda state: jax.lax.scan(step, state, keys))(state)
    assert first.reward.dtype == steps.reward.dtype == jnp.float32
    assert first.observation.dtype == steps.observation.dtype == jnp.float64
    assert np.all(np.isfinite(steps.observation))
    assert np.any(steps.reward != 1)
