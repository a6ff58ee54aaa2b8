"""What episodes start with, against recorded resets of HighwayEnv (tests/goldens)."""

from pathlib import Path

import jax
import numpy as np
import pytest

from ragjax.envs.highway.highway import Highway, HighwayFast
from ragjax.envs.highway.merge import Merge

GOLDENS = Path(__file__).parents[2] / "goldens" / "highway"
SPECS = {"highway_fast": HighwayFast(), "highway": Highway(others=12), "merge_v0": Merge()}
RESETS = 2000
RECORDED = {"highway_fast": 2000, "highway": 500, "merge_v0": 500}


def figures(kind, vehicles):
    """Name -> numbers of which quantiles were recorded."""
    if kind == "merge_v0":
        found = {
            f"{name}_{row}": getattr(vehicles, name)[:, row]
            for name in ("x", "speed")
            for row in (1, 2, 3)
        }
        return found | {"y": vehicles.y[:, 1:4]}
    return {
        "ego_x": vehicles.x[:, 0],
        "first_gap": vehicles.x[:, 1] - vehicles.x[:, 0],
        "gap": np.diff(vehicles.x[:, 1:]),
        "speed": vehicles.speed[:, 1:],
        "timer": vehicles.timer[:, 1:],
        "exponent": vehicles.exponent[:, 1:],
        "y": vehicles.y,
    }


def kolmogorov_smirnov(values, quantiles):
    """The largest difference between a distribution function and one of 101 quantiles."""
    place = np.linspace(0.0, 1.0, len(quantiles))
    values = np.sort(np.asarray(values, float).ravel())
    below, upto = (np.searchsorted(values, quantiles, side) for side in ("left", "right"))
    # Of a value that comes several times, the distribution function takes all steps between.
    low = np.array([place[quantiles == each].min() for each in quantiles])
    high = np.array([place[quantiles == each].max() for each in quantiles])
    count = len(values)
    return max(np.max(below / count - low), np.max(high - upto / count), 0.0)


@pytest.mark.parametrize("kind", SPECS)
def test_first_states_are_distributed_as_in_the_original(kind):
    """By the Kolmogorov-Smirnov test, at a level of 0.1 per cent; numbers of one episode as one."""
    spec = SPECS[kind]
    road, keys = spec.road(), jax.random.split(jax.random.key(0), RESETS)
    vehicles = jax.jit(jax.vmap(spec.first_vehicles, (None, 0)))(road, keys)
    vehicles = jax.tree.map(np.asarray, vehicles)
    critical = 1.95 * np.sqrt(1 / RESETS + 1 / RECORDED[kind]) + 0.01  # between quantiles
    with np.load(GOLDENS / f"{kind}.npz") as arrays:
        for name, values in figures(kind, vehicles).items():
            distance = kolmogorov_smirnov(values, arrays[f"reset/{name}"])
            assert distance <= critical, (name, distance)
            shifted = values + 0.2 * (np.ptp(values) + 1e-9)
            assert kolmogorov_smirnov(shifted, arrays[f"reset/{name}"]) > critical, name
    ego_speed = 30.0 if kind == "merge_v0" else 25.0
    np.testing.assert_array_equal(vehicles.speed[:, 0], ego_speed)
    np.testing.assert_array_equal(vehicles.target_speed[:, 0], ego_speed)
    assert np.all(vehicles.lane == vehicles.target_lane)
    assert not np.any(vehicles.heading)
