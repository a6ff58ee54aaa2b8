"""Writes highway/*.npz beside this file: single steps and resets of HighwayEnv, in float64.

    pip install highway-env==1.12.1
    python tests/goldens/make_highway.py [highway_fast highway merge_v0 merge_v1]

States come from play by random actions, and are then scattered: positions, headings, speeds, timers and
target lanes are changed by chance, some vehicles crash or are about to, and in `merge` all vehicles are
put on lanes by chance, the ego on each of the nine in turn. From each state every action is tried.
Passed over are states from which a rounding error decides: a vehicle that an impact has moved away just
so far that it still touches or does not, and two that touch and are parallel but for the last digits, so
that an impact is along the axis of either.
The test needs no HighwayEnv.
"""

import copy
import sys
from pathlib import Path

import gymnasium
import highway_env
import numpy as np

HERE = Path(__file__).parent
STATES, RESETS, ACTIONS = 216, 2000, 5
QUANTILES = np.linspace(0.0, 1.0, 101)
MERGE = [("a", "b", 0), ("a", "b", 1), ("b", "c", 0), ("b", "c", 1), ("b", "c", 2)]
MERGE += [("c", "d", 0), ("c", "d", 1), ("j", "k", 0), ("k", "b", 0)]
SPEEDS = (20.0, 25.0, 30.0)
INPUTS = ("x", "y", "heading", "speed", "impact_x", "impact_y", "target_speed", "exponent", "timer")
OUTPUTS = ("x", "y", "heading", "speed", "impact_x", "impact_y", "target_speed", "timer")
WHOLE = ("crashed", "hit", "lane", "target_lane")
DENSITIES = (1.0, 1.5, 2.0, 4.0)
KINDS = {
    "highway_fast": ("highway-fast-v0", 20),
    "highway": ("highway-v0", 12),
    "merge_v0": ("merge-v0", 4),
    "merge_v1": ("merge-v1", 4),
}


def lane_names(env):
    lanes = env.config.get("lanes_count")
    return [("0", "1", row) for row in range(lanes)] if lanes else MERGE


def read(env):
    """Name -> [V] of all vehicles."""
    names, found = lane_names(env), []
    for vehicle in env.road.vehicles:
        impact = vehicle.impact
        row = {
            "x": vehicle.position[0],
            "y": vehicle.position[1],
            "heading": vehicle.heading,
            "speed": vehicle.speed,
            "crashed": vehicle.crashed,
            "hit": impact is not None,
            "impact_x": 0.0 if impact is None else impact[0],
            "impact_y": 0.0 if impact is None else impact[1],
            "lane": names.index(vehicle.lane_index),
            "target_lane": names.index(vehicle.target_lane_index),
            "target_speed": vehicle.target_speed,
            "exponent": getattr(vehicle, "DELTA", 4.0),
            "timer": getattr(vehicle, "timer", 0.0),
        }
        found.append(row)
    whole = WHOLE[:2], WHOLE[2:]
    types = dict.fromkeys(whole[0], bool) | dict.fromkeys(whole[1], int)
    return {
        name: np.array([row[name] for row in found], types.get(name, float)) for name in found[0]
    }


def write(env, state):
    """Puts all vehicles into a state."""
    names = lane_names(env)
    for row, vehicle in enumerate(env.road.vehicles):
        vehicle.position = np.array([state["x"][row], state["y"][row]])
        for name in ("heading", "speed", "target_speed"):
            setattr(vehicle, name, state[name][row])
        vehicle.crashed = bool(state["crashed"][row])
        impact = np.array([state["impact_x"][row], state["impact_y"][row]])
        vehicle.impact = impact if state["hit"][row] else None
        vehicle.target_lane_index = names[state["target_lane"][row]]
        network = env.road.network
        vehicle.lane_index = network.get_closest_lane_index(vehicle.position, vehicle.heading)
        vehicle.lane = network.get_lane(vehicle.lane_index)
        if row:
            vehicle.timer, vehicle.DELTA = state["timer"][row], state["exponent"][row]


def scatter(rng, state, lanes):
    """Noise on everything, and some crashes."""
    count = len(state["x"])

    def some(share):
        return rng.random(count) < share

    state["y"] += rng.normal(0, 0.7, count) * some(0.5)
    state["heading"] += rng.normal(0, 0.06, count) * some(0.5)
    state["speed"] += rng.normal(0, 3.0, count) * some(0.7)
    state["timer"] = rng.uniform(0, 1.4, count)
    side = np.clip(state["target_lane"] + rng.integers(-1, 2, count), 0, lanes - 1)
    state["target_lane"] = np.where(some(0.3), side, state["target_lane"])
    state["crashed"] |= some(0.04)
    state["crashed"][0] = False
    state["hit"] |= some(0.04)
    for name in ("impact_x", "impact_y"):
        state[name] = np.where(state["hit"], rng.normal(0, 0.5, count), 0.0)
    state["target_speed"][0] = rng.choice(SPEEDS)
    if rng.random() < 0.4:  # somebody just ahead of the ego, or beside it
        other = rng.integers(1, count)
        state["x"][other] = state["x"][0] + rng.uniform(-4.0, 12.0)
        state["y"][other] = state["y"][0] + rng.choice([-4.0, -2.5, 0.0, 2.5, 4.0])
    return state


def spread_over_lanes(rng, env, state, number):
    """All vehicles on lanes by chance, the ego on lane `number`."""
    count, start = len(state["x"]), np.array([0, 0, 230, 230, 230, 310, 310, 0, 150])
    for row in range(count):
        lane = number if row == 0 else rng.integers(len(MERGE))
        object_ = env.road.network.get_lane(MERGE[lane])
        s = rng.uniform(0, object_.length)
        if row and rng.random() < 0.4:  # near the ego
            s = state["x"][0] + rng.uniform(-20, 20) - start[lane]
        x, y = object_.position(s, rng.normal(0, 0.4))
        state["x"][row], state["y"][row] = x, y
        state["heading"][row] = object_.heading_at(s) + rng.normal(0, 0.03)
        state["speed"][row] = rng.uniform(15, 32)
        state["target_lane"][row] = lane
    return state


def touches_by_rounding(env):
    """Whether some action leads to an impact of less than a micrometre, or of parallel vehicles."""
    hertz = env.config["simulation_frequency"]
    for action in range(ACTIONS):
        tried = copy.deepcopy(env)
        tried.config["policy_frequency"] = hertz
        for sub_step in range(hertz):
            tried.step(1 if sub_step else action)  # IDLE changes nothing
            after = read(tried)
            if np.any(after["hit"] & (np.hypot(after["impact_x"], after["impact_y"]) < 1e-6)):
                return True
            headings = np.sort(np.abs(after["heading"][after["hit"]]))
            if np.any((np.diff(headings) > 0) & (np.diff(headings) < 1e-5)):
                return True
    return False


def record(kind):
    """Arrays of S states and of what A actions make of each."""
    name, others = KINDS[kind]
    rng, made = np.random.default_rng(0), []
    for number in range(2 * STATES):
        if len(made) == STATES:
            break
        density = DENSITIES[number % len(DENSITIES)]
        merges = kind.startswith("merge")
        config = {} if merges else {"vehicles_count": others, "vehicles_density": density}
        env = gymnasium.make(name, config=config).unwrapped
        env.reset(seed=number)
        for _ in range(rng.integers(0, 10)):
            kept = copy.deepcopy(env)
            _, _, terminated, truncated, _ = env.step(int(rng.integers(ACTIONS)))
            if terminated or truncated:
                env = kept
                break
        state = read(env)
        if merges and number % 4:
            state = spread_over_lanes(rng, env, state, number % len(MERGE))
        if number % 3:
            lanes = 2 if merges else env.config["lanes_count"]
            kept = state["target_lane"].copy()
            state = scatter(rng, state, lanes)
            if merges:  # a lane beside the one before, on the same road
                road = np.array([0, 0, 2, 2, 2, 5, 5, 7, 8])
                place = np.clip(state["target_lane"], 0, 1)
                width = np.array([2, 2, 3, 3, 3, 2, 2, 1, 1])[kept]
                state["target_lane"] = np.where(width > 1, road[kept] + place, kept)
        for field in INPUTS:  # as single precision can hold it
            state[field] = state[field].astype(np.float32).astype(np.float64)
        write(env, state)
        if touches_by_rounding(env):
            print(kind, "passes over state", number)
            continue
        before = read(env)
        steps = []
        for action in range(ACTIONS):
            tried = copy.deepcopy(env)
            observation, reward, terminated, _, _ = tried.step(action)
            steps.append(read(tried) | {"observation": observation} | {"reward": reward})
            steps[-1]["terminated"] = terminated
        made.append((before, steps))
    arrays = {}
    for field in INPUTS + WHOLE:
        values = np.stack([before[field] for before, _ in made])
        arrays[f"before/{field}"] = values.astype(np.float32 if field in INPUTS else np.int8)
    for field in (*OUTPUTS, *WHOLE, "observation", "reward", "terminated"):
        # Actions last: most vehicles do the same whatever the ego does, which packs well.
        values = np.stack([np.stack([step[field] for step in steps], -1) for _, steps in made])
        arrays[f"after/{field}"] = values.astype(np.int8) if field in WHOLE else values
    return arrays


def resets(kind):
    """Quantiles of what episodes start with."""
    env = gymnasium.make(KINDS[kind][0]).unwrapped
    found = []
    for seed in range(RESETS if kind == "highway_fast" else RESETS // 4):
        env.reset(seed=seed)
        found.append(read(env))
    arrays = {}
    stacked = {name: np.stack([state[name] for state in found]) for name in found[0]}
    if kind.startswith("merge"):
        figures = {
            f"{name}_{row}": stacked[name][:, row] for name in ("x", "speed") for row in (1, 2, 3)
        }
        figures["y"] = stacked["y"][:, 1:4]
    else:
        figures = {
            "ego_x": stacked["x"][:, 0],
            "first_gap": stacked["x"][:, 1] - stacked["x"][:, 0],
            "gap": np.diff(stacked["x"][:, 1:]),
            "speed": stacked["speed"][:, 1:],
            "timer": stacked["timer"][:, 1:],
            "exponent": stacked["exponent"][:, 1:],
            "y": stacked["y"],
        }
    for name, values in figures.items():
        arrays[f"reset/{name}"] = np.quantile(values, QUANTILES)
    return arrays


def main(kinds):
    assert highway_env.__version__ == "1.12.1", highway_env.__version__
    (HERE / "highway").mkdir(exist_ok=True)
    for kind in kinds or KINDS:
        arrays = record(kind) | resets(kind)
        np.savez_compressed(HERE / "highway" / f"{kind}.npz", **arrays)
        print(kind, "crashes of the ego:", int(arrays["after/crashed"][:, 0].sum()))


if __name__ == "__main__":
    main(sys.argv[1:])
