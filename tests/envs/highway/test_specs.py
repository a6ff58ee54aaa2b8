"""Configs of the driving environments, and what ends an episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.highway.drivers import IDLE, LANE_LEFT, SLOWER
from ragjax.envs.highway.highway import Highway, HighwayFast
from ragjax.envs.highway.merge import Merge
from ragjax.errors import UserError


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        (HighwayFast, "lanes", 0, r"env\.lanes is 0; choose 1 to 100\."),
        (HighwayFast, "others", 0, r"env\.others is 0; choose 1 to 1000\."),
        (Highway, "density", 0.0, r"env\.density is 0\.0; it must be positive and finite\."),
        (
            Highway,
            "density",
            float("nan"),
            r"env\.density is nan; it must be positive and finite\.",
        ),
        (Highway, "ego_spacing", -1.0, r"env\.ego_spacing is -1\.0; it must be positive"),
        (
            Merge,
            "simulation_hz",
            0,
            r"env\.simulation_hz is 0; choose 1 to 1000 sub-steps a second\.",
        ),
    ],
)
def test_fields_are_checked(kind, field, value, said):
    with pytest.raises(UserError, match=said):
        kind(**{field: value})


def played(spec, actions, seed=0):
    """The timesteps of some actions, of one episode."""
    env = spec.whole_episode(spec.build())
    step = jax.jit(env.step)
    state, _ = jax.jit(env.reset)(env.params, jax.random.key(seed))
    made = []
    for action in actions:
        state, timestep = step(env.params, jax.random.key(0), state, jnp.int32(action))
        made.append(jax.tree.map(np.asarray, timestep))
    return made


def test_a_crash_terminates_and_the_duration_truncates():
    """Idle drivers crash sooner or later; slow ones mostly come to the end."""
    idle = played(HighwayFast(time_limit=60), [IDLE] * 60)
    end = next(number for number, made in enumerate(idle) if made.done)
    assert idle[end].terminated
    assert idle[end].metrics["episode_crashed"] == 1
    assert idle[end].metrics["episode_success"] == 0
    assert idle[end - 1].metrics["episode_success"] == 1
    assert not any(made.metrics["episode_crashed"] for made in idle[:end])
    assert idle[end].reward < idle[end - 1].reward - 0.5

    slow = played(HighwayFast(time_limit=4), [SLOWER] * 4)
    assert [bool(made.truncated) for made in slow] == [False] * 3 + [True]
    assert not slow[-1].terminated


def test_speed_and_lane_changes_are_those_of_the_episode():
    made = played(HighwayFast(lanes=6, density=0.1), [LANE_LEFT, LANE_LEFT, IDLE, SLOWER])
    speeds = [each.observation[3] * 80.0 for each in made]
    for number, each in enumerate(made):
        assert each.metrics["episode_speed"] == pytest.approx(
            np.mean(speeds[: number + 1]), rel=1e-5
        )
    start = round(float(made[0].observation[2]) * 6 - 0.5)
    assert made[-1].metrics["episode_lane_changes"] == min(2, max(start, 0) + 1)
    assert speeds[-1] < 24.0


def test_the_way_s_end_terminates_a_merge():
    """A slow ego mostly comes there; of a few seeds the first in which it does."""
    for seed in range(3):
        made = played(Merge(), [SLOWER] * 20, seed)
        end = next(number for number, each in enumerate(made) if each.done)
        if not made[end].metrics["episode_crashed"]:
            break
    assert made[end].metrics["episode_crashed"] == 0
    assert made[end].terminated
    assert 12 <= end < 20


def test_denser_traffic_is_nearer():
    sparse, dense = (
        spec.first_vehicles(spec.road(), jax.random.key(0)).x
        for spec in (HighwayFast(others=30), HighwayFast(density=2.0, others=30))
    )
    assert sparse.shape == dense.shape == (31,)
    np.testing.assert_allclose(np.diff(sparse), 2 * np.diff(dense), rtol=1e-4)
