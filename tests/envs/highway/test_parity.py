"""Single steps from recorded states of HighwayEnv 1.12.1, in double precision (tests/goldens)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.highway.highway import Highway, HighwayFast
from ragjax.envs.highway.lanes import nearest_lane
from ragjax.envs.highway.merge import Merge
from ragjax.envs.highway.traffic import observe
from ragjax.envs.highway.vehicles import Vehicles

GOLDENS = Path(__file__).parents[2] / "goldens" / "highway"
SPECS = {
    "highway_fast": HighwayFast(),
    "highway": Highway(others=12),
    "merge_v0": Merge(neighbours="v0"),
    "merge_v1": Merge(),
}
EXACT = ("crashed", "lane", "target_lane")
CLOSE = ("x", "y", "heading", "speed", "target_speed")
IMPACT = ("impact_x", "impact_y")
ACTIONS = 5


def recorded(kind, when):
    """Name -> array of one environment, before or after the step."""
    with np.load(GOLDENS / f"{kind}.npz") as arrays:
        names = [name for name in arrays.files if name.startswith(f"{when}/")]
        return {name.removeprefix(f"{when}/"): arrays[name] for name in names}


def doubled(tree):
    """The same with every floating-point number in double precision."""
    return jax.tree.map(
        lambda leaf: leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


@pytest.fixture(scope="module", params=SPECS)
def stepped(request):
    """The environment's name, what was recorded after the step, and the same from our step."""
    spec, before = SPECS[request.param], recorded(request.param, "before")
    with jax.enable_x64(True):
        road = doubled(spec.road())
        given = {name: jnp.asarray(values.astype(float)) for name, values in before.items()}
        for name in ("crashed", "hit"):
            given[name] = given[name] > 0
        for name in ("lane", "target_lane"):
            given[name] = given[name].astype(jnp.int32)
        still = jnp.zeros_like(given["x"])
        vehicles = Vehicles(steering=still, acceleration=still, **given)

        def step(vehicles, action):
            after = spec.advance(road, vehicles, action)
            lane = nearest_lane(road.lanes, vehicles.x, vehicles.y, vehicles.heading)
            return {
                "vehicles": after,
                "observation": observe(road, after, spec.height),
                "reward": spec.reward(road, after, action),
                "terminated": spec.terminated(after),
                "lane_before": lane,
            }

        actions = jnp.arange(ACTIONS, dtype=jnp.int32)
        tried = jax.vmap(jax.vmap(step, (None, 0), -1), (0, None))
        made = jax.tree.map(np.asarray, jax.jit(tried)(vehicles, actions))
    assert made["vehicles"].x.dtype == np.float64
    return request.param, recorded(request.param, "after"), made


def test_there_are_states_enough(stepped):
    """Of every kind: each lane, crashes and impacts, and steps that end an episode and that don't."""
    kind, after, _ = stepped
    states, vehicles, actions = after["x"].shape
    assert states >= 200
    assert vehicles == {"highway_fast": 21, "highway": 13}.get(kind, 5)
    assert actions == ACTIONS
    for lane in range(len(SPECS[kind].road().lanes.y)):
        assert np.sum(recorded(kind, "before")["lane"][:, 0] == lane) >= 5
    assert np.sum(after["crashed"][:, 0]) >= 50
    assert np.sum(after["hit"]) >= 50
    assert 50 <= np.sum(after["terminated"]) <= after["terminated"].size - 50
    assert np.any(after["target_lane"] != recorded(kind, "before")["target_lane"][..., None])


def test_lanes_are_those_of_the_original(stepped):
    kind, _, made = stepped
    lanes = np.broadcast_to(recorded(kind, "before")["lane"][..., None], made["lane_before"].shape)
    np.testing.assert_array_equal(made["lane_before"], lanes)


@pytest.mark.parametrize("name", EXACT)
def test_flags_and_lanes_are_equal(stepped, name):
    _, after, made = stepped
    np.testing.assert_array_equal(getattr(made["vehicles"], name), after[name])


@pytest.mark.parametrize("name", CLOSE)
def test_motion_is_equal(stepped, name):
    _, after, made = stepped
    np.testing.assert_allclose(getattr(made["vehicles"], name), after[name], rtol=0, atol=1e-9)


def test_impacts_and_timers_are_equal(stepped):
    """An impact of no length is none; timers are those of the others, for the ego has none."""
    _, after, made = stepped
    vehicles = made["vehicles"]
    impacts = [np.where(vehicles.hit, getattr(vehicles, name), 0.0) for name in IMPACT]
    for name, ours in zip(IMPACT, impacts, strict=True):
        np.testing.assert_allclose(ours, after[name], rtol=0, atol=1e-9)
    theirs = np.hypot(*(after[name] for name in IMPACT)) > 1e-9
    np.testing.assert_array_equal(np.hypot(*impacts) > 1e-9, theirs)
    np.testing.assert_allclose(vehicles.timer[:, 1:], after["timer"][:, 1:], rtol=0, atol=1e-9)


def test_what_is_shown_is_equal(stepped):
    """Observations as single precision, which is what the original gives."""
    _, after, made = stepped
    np.testing.assert_allclose(made["reward"], after["reward"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(made["terminated"], after["terminated"])
    np.testing.assert_allclose(made["observation"], after["observation"], rtol=0, atol=6e-8)
