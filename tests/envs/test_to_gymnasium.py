"""Our environments as Gymnasium's: its own checker passes, and nothing changes on the way."""

import gymnasium
import jax
import numpy as np
import pytest
from env_specs import traceable_specs
from gymnasium.utils.env_checker import check_env

from ragjax.envs.cartpole import CartPole
from ragjax.envs.to_gymnasium import as_gymnasium, as_gymnasium_vector

E = 3
LIMIT = 15
STEPS = 40


@pytest.mark.parametrize("kind", traceable_specs(), ids=lambda kind: kind.name)
def test_gymnasiums_checker_passes(kind):
    spec = kind()
    env = as_gymnasium(spec)
    check_env(env, skip_render_check=True)  # warnings are errors
    ours = spec.build()
    if ours.slate:
        assert env.action_space.nvec.tolist() == [ours.num_actions] * ours.slate
    else:
        assert env.action_space == gymnasium.spaces.Discrete(ours.num_actions)
    assert env.observation_space.dtype == np.float32
    assert env.observation_space.shape == ours.low.shape


def test_the_bounds_are_ours_and_finite():
    box = as_gymnasium(CartPole()).observation_space
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(box.high[[0, 2]], CartPole().build().high[[0, 2]])
    np.testing.assert_array_equal(box.high[[1, 3]], largest)
    np.testing.assert_array_equal(box.low, -box.high)


def key_of(seed):
    """The key that a seed stands for, by the documented convention."""
    np_random, _ = gymnasium.utils.seeding.np_random(seed)
    return jax.random.PRNGKey(int(np_random.integers(2**31)))


def test_an_episode_is_our_own():
    env, ours = as_gymnasium(CartPole(time_limit=LIMIT)), CartPole().build()
    step = jax.jit(ours.step)
    observation, info = env.reset(seed=7)
    reset_key, key = jax.random.split(key_of(7))
    state, timestep = ours.reset(ours.params, reset_key)
    np.testing.assert_array_equal(observation, timestep.observation)
    observation += 1  # what a caller does with it is no business of the environment
    assert info == {}
    for number in range(1, LIMIT + 1):
        action = np.int64(number % 2)
        observation, reward, terminated, truncated, info = env.step(action)
        step_key, key = jax.random.split(key)
        state, timestep = step(ours.params, step_key, state, np.int32(action))
        np.testing.assert_allclose(observation, timestep.observation, rtol=1e-6)
        assert (reward, terminated, truncated, info) == (1.0, False, number == LIMIT, {})


def test_termination_is_no_truncation():
    env = as_gymnasium(CartPole())
    env.reset(seed=0)
    for _ in range(20):
        _, _, terminated, truncated, _ = env.step(1)
        if terminated:
            break
    assert (terminated, truncated) == (True, False)


def test_resets_without_a_seed_go_on_from_the_last_one():
    env = as_gymnasium(CartPole())

    def two(seed):
        return [env.reset(seed=seed)[0], env.reset()[0]]

    first, again, other = two(3), two(3), two(4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, other)
    assert not np.array_equal(as_gymnasium(CartPole()).reset()[0], env.reset()[0])


@pytest.fixture(scope="module")
def vector():
    return as_gymnasium_vector(CartPole(time_limit=LIMIT), E)


def play(vector, seed):
    actions = np.random.default_rng(0).integers(2, size=(STEPS, E))
    first, infos = vector.reset(seed=seed)
    assert infos == {}
    return first, [vector.step(action) for action in actions]


def test_the_vector_is_our_own_batch(vector):
    ours = CartPole(time_limit=LIMIT).vectorise(E)
    step = jax.jit(ours.step)
    actions = np.random.default_rng(0).integers(2, size=(STEPS, E)).astype(np.int32)
    first, steps = play(vector, 5)
    reset_key, key = jax.random.split(key_of(5))
    state, timestep = ours.reset(ours.params, reset_key)
    np.testing.assert_array_equal(first, timestep.observation)
    ends = set()
    for action, (observation, reward, terminated, truncated, infos) in zip(
        actions, steps, strict=True
    ):
        step_key, key = jax.random.split(key)
        state, timestep = step(ours.params, step_key, state, action)
        np.testing.assert_allclose(observation, timestep.observation, rtol=1e-6)
        np.testing.assert_array_equal(reward, timestep.reward)
        np.testing.assert_array_equal(terminated, timestep.terminated)
        np.testing.assert_array_equal(truncated, timestep.truncated)
        done = terminated | truncated
        assert ("final_obs" in infos) == done.any()
        if done.any():
            ends |= set(zip(terminated[done], truncated[done], strict=True))
            np.testing.assert_array_equal(infos["_final_obs"], done)
            assert infos["final_info"] == {}
            for row in range(E):
                if not done[row]:
                    assert infos["final_obs"][row] is None
                    continue
                last = infos["final_obs"][row]
                np.testing.assert_allclose(last, timestep.final_observation[row], rtol=1e-6)
                assert not np.array_equal(last, observation[row])
                assert np.abs(observation[row]).max() <= 0.05  # the start of a new episode
    assert {(True, False), (False, True)} <= ends


def test_the_format_is_that_of_sync_vector_env(vector):
    theirs = gymnasium.make_vec(
        "CartPole-v1",
        E,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
    )
    assert vector.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert vector.num_envs == E
    assert vector.single_action_space == theirs.single_action_space
    assert vector.action_space == theirs.action_space
    assert vector.observation_space.shape == theirs.observation_space.shape
    assert vector.observation_space.dtype == theirs.observation_space.dtype
    _, ours = play(vector, 0)
    _, others = play(theirs, 0)

    def formats(steps):
        """Dtypes and shapes of a step in which an episode ended, and of its infos."""
        step = next(step for step in steps if step[-1])
        arrays = [*step[:-1], step[-1]["final_obs"], step[-1]["_final_obs"]]
        return [(array.dtype, array.shape) for array in arrays], sorted(step[-1])

    assert formats(ours) == formats(others)
    assert all(observation in vector.observation_space for observation, *_ in ours)


def test_seeds_reproduce_the_vector(vector):
    (first, steps), (again, steps_again), (other, _) = (play(vector, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    for step, step_again in zip(steps, steps_again, strict=True):
        np.testing.assert_array_equal(step[0], step_again[0])
    assert not np.array_equal(first, other)
    assert len(np.unique(first, axis=0)) == E


def test_wrappers_of_gymnasium_fit(vector):
    recorded = gymnasium.wrappers.vector.RecordEpisodeStatistics(vector)
    recorded.reset(seed=0)
    lengths = []
    for number in range(STEPS):
        infos = recorded.step(np.full(E, number % 2))[-1]
        if "episode" in infos:
            lengths += list(infos["episode"]["l"][infos["_episode"]])
    assert lengths
    assert set(lengths) == {LIMIT}
