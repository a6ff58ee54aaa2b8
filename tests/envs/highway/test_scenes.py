"""Memories of scenes: what is recorded, how it is made worse or better, and policies that read it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.highway.highway import HighwayFast
from ragjax.envs.highway.scenes import (
    HORIZON,
    SECONDS,
    VALUES,
    Drive,
    SceneMemory,
    outcomes,
    record_scenes,
    time_to_collision,
)
from ragjax.envs.highway.traffic import SPREAD, USUAL
from ragjax.envs.highway.vehicles import place_vehicles
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.a2c import A2C

HIGHWAY = HighwayFast(others=4)
MEMORY = SceneMemory(entries=128, others=4)


def scenes(**fields):
    return HIGHWAY.scenes(dataclasses.replace(MEMORY, **fields))


@pytest.fixture(scope="module")
def recorded():
    return scenes()


def test_scenes_are_the_passages(recorded):
    env = dataclasses.replace(HIGHWAY, memory=MEMORY).build()
    np.testing.assert_array_equal(env.passages, recorded)
    assert recorded.shape == (128, 35)
    assert HIGHWAY.build().passages is None
    np.testing.assert_array_equal(recorded[:, 0], 1.0)  # the ego is present
    np.testing.assert_array_equal(recorded[:, 26:31].sum(1), 1.0)
    assert np.all((recorded[:, 31:33] >= 0) & (recorded[:, 31:33] <= 1))
    assert set(np.round(recorded[:, 25] * 2)) == {0, 1, 2}


def test_they_are_those_of_the_seed_and_the_traffic(recorded):
    record_scenes.cache_clear()
    np.testing.assert_array_equal(scenes(), recorded)
    assert not np.array_equal(scenes(seed=1), recorded)
    assert not np.array_equal(scenes(density=3.0), recorded)


def test_standardised_observations_and_keys_are_of_one_scale():
    """Of the usual traffic each number is of mean 0 and deviation 1, roughly; the values stay."""
    plain, spec = HighwayFast(), HighwayFast(standardised=True)
    own, scaled = (each.scenes(SceneMemory(entries=1024)) for each in (plain, spec))
    usual, spread = USUAL.reshape(-1), SPREAD.reshape(-1)
    np.testing.assert_allclose(scaled[:, :25], (own[:, :25] - usual) / spread, atol=1e-4)
    np.testing.assert_array_equal(scaled[:, 25:], own[:, 25:])
    numbers = scaled[:, :25].reshape(-1, 5, 5)[..., 1:]
    assert np.max(np.abs(numbers.mean(axis=0))) < 0.5
    deviations = numbers.std(axis=0)
    assert deviations.max() < 1.5
    assert deviations.min() > 0.2
    env = spec.build()
    seen = env.reset(env.params, jax.random.key(0))[1].observation
    theirs = plain.build().reset(env.params, jax.random.key(0))[1].observation
    np.testing.assert_allclose(seen, (theirs - usual) / spread, atol=1e-4)
    np.testing.assert_allclose(env.high, (1 - usual) / spread, rtol=1e-5)


def test_shuffled_empty_and_oracle_scenes(recorded):
    shuffled, empty, oracle = (scenes(kind=kind) for kind in ("shuffled", "empty", "oracle"))
    np.testing.assert_array_equal(shuffled[:, :-VALUES], recorded[:, :-VALUES])
    assert not np.array_equal(shuffled[:, -VALUES:], recorded[:, -VALUES:])
    np.testing.assert_array_equal(
        np.sort(shuffled[:, -VALUES:], axis=0), np.sort(recorded[:, -VALUES:], axis=0)
    )
    assert empty.shape == recorded.shape
    assert not np.any(empty)
    assert not np.any(oracle[:, 31])
    assert np.all(np.diff(oracle[:, 33]) <= 0)
    assert oracle[:, 33].min() > recorded[:, 33].mean()


def test_drivers_by_rules_crash_less():
    rules, chance = (scenes(drivers=drivers)[:, 31].mean() for drivers in ("rules", "random"))
    assert rules < 0.05
    assert chance > rules + 0.1


def test_outcomes_by_hand():
    """One drive that changes lanes in second 1, and crashes in second 6."""
    seconds = np.arange(SECONDS + HORIZON)
    crashed_after = seconds >= 6
    made = Drive(
        key=np.zeros((len(seconds), 1, 26), np.float32),
        action=np.full((len(seconds), 1), 3),
        crashed=(seconds >= 7)[:, None],
        crashed_after=crashed_after[:, None],
        time_to_collision=np.where(seconds == 3, 4.0, 8.0).astype(np.float32)[:, None],
        speed=np.where(crashed_after, 6.0, 30.0).astype(np.float32)[:, None],
        changed=(seconds == 1)[:, None],
    )
    found, counts = outcomes(jax.tree.map(jnp.asarray, made))
    assert found.shape == (1, SECONDS, 35)
    np.testing.assert_array_equal(counts[0], seconds[:SECONDS] < 7)
    np.testing.assert_allclose(found[0, 0, 26:], [0, 0, 0, 1, 0, 0, 0.4, 1.0, 0.2], rtol=1e-6)
    np.testing.assert_allclose(found[0, 2, 31:], [1, 0, (4 * 30 + 6) / 150, 0], rtol=1e-6)
    np.testing.assert_allclose(found[0, 6, 31:], [1, 0, 0.2, 0], rtol=1e-6)


def test_time_to_collision_by_hand():
    """20 m behind one that is 4 m/s slower; a faster one and those beside and behind don't count."""
    x, y = jnp.asarray([100.0, 125.0, 110.0, 90.0, 115.0]), jnp.asarray([4.0, 4.5, 0.0, 4.0, 4.0])
    speed = jnp.asarray([25.0, 21.0, 10.0, 10.0, 26.0])
    vehicles = place_vehicles(HIGHWAY.road().lanes, x, y, speed, speed, jnp.full((5,), 4.0))
    np.testing.assert_allclose(time_to_collision(vehicles), 5.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("entries", 3, r"env\.memory\.entries is 3; choose 4 to 1000000\."),
        ("density", 0.0, r"env\.memory\.density is 0\.0; it must be positive and finite\."),
        ("others", 0, r"env\.memory\.others is 0; choose 1 to 1000\."),
        ("seed", -1, r"env\.memory\.seed is -1; it must not be negative\."),
    ],
)
def test_fields_are_checked(field, value, said):
    with pytest.raises(UserError, match=said):
        SceneMemory(**{field: value})


@pytest.mark.slow
def test_a_run_is_measured_with_another_memory():
    """Its own memory gives its own figures again; another one gives others, without training."""
    config = EpisodesConfig(
        env=dataclasses.replace(HIGHWAY, memory=MEMORY, time_limit=5),
        algorithm=A2C(num_envs=2, rollout_length=4),
        policy=RetrievalPolicy(k=2, hidden=(8,), reads="passage"),
        env_steps=8,
        evaluation=EpisodeEvaluation(episodes=20, every=0),
    )
    learner = config.create()
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)
    own = learner.evaluate(state)[0].summary()
    assert config.in_environment(config.env).evaluate(state)[0].summary() == own

    dense = dataclasses.replace(MEMORY, density=3.0, entries=64)
    other = config.in_environment(dataclasses.replace(config.env, memory=dense))
    seen = jnp.asarray(learner.raw_env.passages[:3, :25])
    probabilities = [np.exp(each.acting(state)(seen).log_probs) for each in (learner, other)]
    assert np.max(np.abs(probabilities[0] - probabilities[1])) > 1e-6
    assert other.evaluate(state)[0].summary().keys() == own.keys()
    with pytest.raises(UserError, match=r"choose one of the same shapes\."):
        config.in_environment(dataclasses.replace(config.env, memory=None))
