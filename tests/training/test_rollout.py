"""Rollouts against a plain loop, episodes that start anew, and whole episodes played to their end."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from tiny_env import STATES, TinyMdp

from ragjax.envs.base import Environment, timestep
from ragjax.envs.wrappers import normalise_observations, normalise_rewards, observation_moments
from ragjax.ops.distributions import Categorical
from ragjax.training.rollout import (
    RolloutCarry,
    episode_means,
    play_episodes,
    rollout,
    start,
    start_episodes,
)
from ragjax.types import Env, Figure, Rollout

E, T = 4, 12
LOGITS = np.random.default_rng(0).normal(size=(STATES + 1, 2)).astype(np.float32)


def act(observation):
    """A fixed policy on the tiny process."""
    place = jnp.argmax(observation, axis=-1)
    return Categorical(jnp.asarray(LOGITS)[place])


@pytest.fixture(scope="module")
def played():
    """(env, key, where it started, where it stands, the rollout), with a time limit of 2 steps."""
    env = TinyMdp(time_limit=2).vectorise(E)
    begin, key = jax.jit(lambda key: start(env, key))(jax.random.PRNGKey(1)), jax.random.PRNGKey(2)
    after, steps = jax.jit(lambda carry, key: rollout(env, act, carry, key, T))(begin, key)
    return env, key, begin, after, jax.device_get(steps)


def test_a_rollout_is_a_plain_loop(played):
    """The same keys, one step and one record at a time."""
    env, key, begin, after, steps = played
    action_key, env_key = jax.random.split(key)
    action_keys, env_keys = jax.random.split(action_key, T), jax.random.split(env_key, T)
    step = jax.jit(env.step)
    state, shown, rows = begin.env_state, begin.timestep, []
    for t in range(T):
        observation = shown.observation
        distribution = act(observation)
        action = distribution.sample(action_keys[t])
        state, shown = step(env.params, env_keys[t], state, action)
        rows.append(
            {
                "observation": observation,
                "action": action,
                "log_probs": distribution.log_probs,
                "reward": shown.reward,
                "terminated": shown.terminated,
                "truncated": shown.truncated,
                "final_observation": shown.final_observation,
                "weight": np.ones(E),
                "metrics": shown.metrics,
            }
        )
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    for name, leaves in expected.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), getattr(steps, name), leaves
        )
    np.testing.assert_array_equal(steps.last_observation, shown.observation)
    jax.tree.map(np.testing.assert_array_equal, after, RolloutCarry(state, shown))


def test_behaviour_log_probs_are_those_of_the_policy_that_acted(played):
    """Of the observation acted on, and normalised; the actions follow them."""
    *_, steps = played
    place = np.argmax(steps.observation, axis=-1)
    logits = LOGITS[place].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(steps.log_probs, expected, rtol=1e-5, atol=1e-6)
    assert set(np.unique(steps.action)) == {0, 1}

    # A policy that all but always takes one action in each state is seen to take it.
    sure = np.array([[30.0, 0.0], [0.0, 30.0], [30.0, 0.0], [0.0, 0.0]], np.float32)
    env, key, begin, *_ = played
    certain = lambda observation: Categorical(jnp.asarray(sure)[jnp.argmax(observation, -1)])  # noqa: E731
    _, steps = jax.jit(lambda carry: rollout(env, certain, carry, key, T))(begin)
    np.testing.assert_array_equal(steps.action, np.argmax(steps.observation, axis=-1) == 1)
    chosen = np.take_along_axis(
        np.asarray(steps.log_probs), np.asarray(steps.action)[..., None], -1
    )
    np.testing.assert_allclose(chosen, 0.0, atol=1e-6)


def test_truncation_within_the_window(played):
    """The final observation is of the episode that was cut, the next one acted on of the new one."""
    *_, steps = played
    cut_short = steps.truncated & ~steps.terminated
    assert cut_short[:-1].any()
    assert (steps.truncated & steps.terminated).any()
    assert (steps.terminated & ~steps.truncated).any()
    following = np.concatenate([steps.observation[1:], steps.last_observation[None]])
    done = steps.truncated | steps.terminated
    np.testing.assert_array_equal(following[~done], steps.final_observation[~done])
    assert np.any(following[cut_short] != steps.final_observation[cut_short])
    # An episode that was cut has 2 steps, and its last observation is a state of the process.
    np.testing.assert_array_equal(steps.metrics["episode_length"][steps.truncated], 2)
    np.testing.assert_array_equal(steps.final_observation[cut_short].sum(axis=-1), 1.0)
    # Every step after an end is the first one of an episode.
    np.testing.assert_array_equal(steps.metrics["episode_length"][1:][done[:-1]], 1)


def test_only_first_episodes_count_where_a_rollout_is_episodic(played):
    """Weight 1 up to and with the step that ends the first episode, and 0 from there on."""
    env, key, begin, after, steps = played
    run = jax.jit(lambda carry, key: rollout(env, act, carry, key, T, episodic=True))
    again, counted = run(begin, key)
    done = steps.terminated | steps.truncated
    for column in range(E):
        end = int(np.argmax(done[:, column]))
        assert done[end, column]
        expected = (np.arange(T) <= end).astype(np.float32)
        np.testing.assert_array_equal(counted.weight[:, column], expected)
    # Nothing else differs.
    np.testing.assert_array_equal(steps.weight, 1.0)
    jax.tree.map(np.testing.assert_array_equal, counted.replace(weight=steps.weight), steps)
    jax.tree.map(np.testing.assert_array_equal, again, after)


@struct.dataclass
class Countdown:
    """Steps [] that are left, and the length [] that the episode was born with."""

    left: Any
    born: Any


@dataclass(frozen=True)
class Fuse(Environment):
    """Burns for 1 to 6 steps; observation [2]: steps left, and the length the episode was born with.

    The reward is 10^(steps made before), so that a return tells the length: 1, 11, 111, ...; action 1
    adds a half.
    """

    name: ClassVar[str] = "fuse"

    time_limit: int = 50

    def build(self):
        def observe(state):
            return jnp.stack([state.left, state.born]).astype(jnp.float32)

        def reset(params, key):
            born = jax.random.randint(key, (), 1, 7)
            return Countdown(born, born), timestep(observe(Countdown(born, born)))

        def step(params, key, state, action):
            made = (state.born - state.left).astype(jnp.float32)
            reward = jnp.round(10.0**made) + 0.5 * (action == 1).astype(jnp.float32)
            state = Countdown(state.left - 1, state.born)
            return state, timestep(observe(state), reward, terminated=state.left == 0)

        high = np.full(2, 6, np.float32)
        return Env((), reset, step, num_actions=2, low=0 * high, high=high)


ONES = np.array([0, 1, 11, 111, 1111, 11111, 111111], np.float32)


def flat(observation):
    """Action 1 is likelier, at 3:1."""
    return Categorical(jnp.tile(jnp.log(jnp.asarray([0.25, 0.75])), (*observation.shape[:-1], 1)))


GREEDY = np.arange(80) % 3 == 0


@pytest.fixture(scope="module")
def fuses():
    """(key, limit) -> returns and lengths of 80 episodes, and the lengths first born with."""
    env = Fuse().vectorise(80)

    @functools.partial(jax.jit, static_argnums=1)
    def play(key, limit):
        reset_key, _ = jax.random.split(key)
        born = start(env, reset_key).timestep.observation[:, 1]
        played = play_episodes(env, flat, key, limit, jnp.asarray(GREEDY))
        return played["return"], played["length"], born

    return lambda key, limit: map(np.asarray, play(key, limit))


@pytest.mark.parametrize("seed", [0, 1])
def test_one_whole_episode_each(fuses, seed):
    """Those that were begun, and not the ones that follow while others still burn."""
    returns, lengths, born = fuses(jax.random.PRNGKey(seed), 50)
    assert {1, 6} < set(born)
    born = born.astype(int)
    np.testing.assert_array_equal(lengths, born)
    ones = 2 * (returns - ONES[born])  # how often action 1 was taken
    assert np.all((ones >= 0) & (ones <= born))
    np.testing.assert_array_equal(ones[GREEDY], born[GREEDY])
    drawn, total = ones[~GREEDY].sum(), born[~GREEDY].sum()
    assert abs(drawn - 0.75 * total) < 4 * np.sqrt(total * 0.75 * 0.25)


def test_the_limit_bounds_the_loop(fuses):
    """Episodes that did not end within it have no length."""
    _, lengths, born = fuses(jax.random.PRNGKey(0), 3)
    np.testing.assert_array_equal(lengths, np.where(born <= 3, born, 0))


def test_what_is_acted_on_may_be_drawn_anew_in_every_step():
    """By keys of its own, so that the same key plays the same episodes."""
    env = Fuse().vectorise(80)

    def look(key, observation):
        return jax.random.bernoulli(key, 0.5, observation.shape[:-1])

    def sure(seen):
        return Categorical(jnp.where(seen[..., None] == jnp.array([False, True]), 0.0, -jnp.inf))

    @jax.jit
    def play(key):
        return play_episodes(env, sure, key, 50, jnp.ones(80, bool), inputs=look)

    played = jax.device_get(play(jax.random.PRNGKey(0)))
    ones = 2 * (played["return"] - ONES[played["length"]])  # how often action 1 was taken
    drawn, total = ones.sum(), played["length"].sum()
    assert abs(drawn - 0.5 * total) < 4 * np.sqrt(total * 0.25)
    assert np.any((ones > 0) & (ones < played["length"]))
    jax.tree.map(np.testing.assert_array_equal, play(jax.random.PRNGKey(0)), played)
    assert np.any(play(jax.random.PRNGKey(1))["return"] != played["return"])


def wrapped(env, discount=0.9):
    """Both normalisers around a batch, in the order in which experiments put them."""
    return normalise_observations(normalise_rewards(env, discount))


@pytest.fixture(scope="module")
def restarted():
    """(raw env, carry in mid-episode, carry of new episodes, key of their reset)."""
    raw = Fuse().vectorise(E)
    env, key = wrapped(raw), jax.random.PRNGKey(3)

    @jax.jit
    def run(key):
        begin = start(env, key)
        middle, _ = rollout(env, flat, begin, key, 10)
        return middle, start_episodes(raw, middle, key), raw.reset(raw.params, key)

    return *run(key), env, key


def test_new_episodes_start_in_every_environment(restarted):
    middle, fresh, (raw_state, _), *_ = restarted
    batch = lambda carry: carry.env_state.inner.inner  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, batch(fresh), raw_state)
    np.testing.assert_array_equal(batch(fresh).length, 0)
    assert np.any(np.asarray(batch(middle).length) > 0)
    np.testing.assert_array_equal(fresh.timestep.reward, 0)
    assert not np.any(fresh.timestep.done)
    assert jax.tree.structure(fresh) == jax.tree.structure(middle)


def test_normalisers_keep_what_they_have_learned(restarted):
    """The rewards' moments stay; the observations' take the first observations in, as at any reset."""
    middle, fresh, (_, raw_shown), *_ = restarted
    old, new = middle.env_state.inner, fresh.env_state.inner
    jax.tree.map(np.testing.assert_array_equal, new.moments, old.moments)
    assert old.moments.count > 30
    expected = middle.env_state.moments.update(raw_shown.observation)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), fresh.env_state.moments, expected
    )
    np.testing.assert_allclose(expected.count, middle.env_state.moments.count + E)


def test_the_first_observation_is_normalised_by_all_that_was_seen(restarted):
    """And not by the few numbers of the reset alone."""
    _, fresh, (_, raw_shown), *_ = restarted
    moments = observation_moments(fresh.env_state)
    expected = (raw_shown.observation - moments.mean) / np.sqrt(moments.variance + 1e-8)
    np.testing.assert_allclose(fresh.timestep.observation, expected, rtol=1e-5)


def test_the_discounted_return_of_a_new_episode_starts_at_zero(restarted):
    """The reward's normaliser would otherwise mix the old episode's return into the new one."""
    middle, fresh, _, env, key = restarted
    assert np.any(middle.env_state.inner.returns != 0)
    np.testing.assert_array_equal(fresh.env_state.inner.returns, 0)
    action = jnp.zeros(E, jnp.int32)
    state, _ = jax.jit(env.step)(env.params, key, fresh.env_state, action)
    ended = np.asarray(fresh.env_state.inner.inner.inner.inner.born) == 1
    np.testing.assert_array_equal(state.inner.returns, np.where(ended, 0.0, 1.0))


def test_without_normalisers_new_episodes_are_a_reset():
    env = Fuse().vectorise(E)
    key = jax.random.PRNGKey(4)
    begin = start(env, jax.random.PRNGKey(0))
    jax.tree.map(np.testing.assert_array_equal, start_episodes(env, begin, key), start(env, key))


def test_the_mean_of_the_episodes_that_ended_and_count():
    flags = lambda *rows: np.array(rows, bool)  # noqa: E731
    steps = Rollout(*[np.zeros((3, 2), np.float32)] * 10).replace(
        terminated=flags([0, 0], [1, 0], [0, 1]),
        truncated=flags([0, 1], [1, 0], [0, 0]),
        weight=np.array([[1, 1], [1, 1], [1, 0]], np.float32),
        metrics={
            "episode_return": np.array([[100, 3], [5, 100], [100, 100]], np.float32),
            "episode_length": np.array([[9, 1], [2, 9], [9, 9]], np.int32),
            "episode_retrievals": Figure(
                np.array([[9, 0], [2, 9], [9, 9]], np.float32), np.arange(6).reshape(3, 2) != 1
            ),
            "gold": np.zeros((3, 2), np.int32),
        },
    )
    steps = jax.tree.map(jnp.asarray, steps)
    means = {name: np.asarray(mean) for name, mean in episode_means(steps).items()}
    assert means["episode_return"] == 4.0
    assert means["episode_length"] == 1.5
    assert means["episode_retrievals"] == 2.0  # of the one episode that it is about
    assert set(means) == {"episode_return", "episode_length", "episode_retrievals"}
    none = dataclasses.replace(steps, weight=jnp.zeros((3, 2)))
    assert episode_means(none)["episode_return"] == Figure(0.0, False)


def test_a_figure_is_no_sequence():
    """Python would go through its places, and a device has one at every number."""
    with pytest.raises(TypeError, match="not iterable"):
        list(Figure(jnp.arange(3.0), jnp.ones(3, bool)))
