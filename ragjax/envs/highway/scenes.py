"""A memory of scenes: what other drivers saw and did on a highway, and what came of it in 5 s."""

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragjax.envs.highway.base import ACTION_NAMES, Driving
from ragjax.envs.highway.drivers import (
    FASTER,
    IDLE,
    LANE_LEFT,
    LANE_RIGHT,
    SLOWER,
    judge,
    look,
)
from ragjax.envs.highway.lanes import VEHICLE_LENGTH, Road, pick
from ragjax.envs.highway.traffic import observe
from ragjax.envs.highway.vehicles import VEHICLE_WIDTH, Vehicles, velocity
from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.text import counted

Drivers = Literal["mixed", "rules", "random"]
Kind = Literal["recorded", "shuffled", "empty", "oracle"]

HORIZON = 5  # seconds that an outcome is about
SECONDS = 25  # of a drive, in each of which a scene begins
SCENES_PER_DRIVE = 4  # what is drawn for: even the drives that end soonest have more on average
MAX_TIME = 10.0  # times to collision are cut here, s
DESIRED_SPEED = 30.0  # of drivers by rules, m/s
DECISIVE = 1.0  # an acceleration that is worth a step of speed, m/s²
PARTS = {"key": 26, "action": 5, "outcome": 4}  # numbers of a scene
VALUES = PARTS["action"] + PARTS["outcome"]  # numbers of what was done and what came of it


class Drive(NamedTuple):
    """D drives of T seconds and their horizon; [T,D] what holds before each step or after it.

    Attributes:
      key: [T,D,26] before: the observation, and the target lane as a share of all.
      action: before: what was chosen.
      crashed: before: whether the ego has crashed.
      crashed_after: after.
      time_to_collision: after, s.
      speed: after: forward, m/s.
      changed: after: whether the lane is another.
    """

    key: Array
    action: Array
    crashed: Array
    crashed_after: Array
    time_to_collision: Array
    speed: Array
    changed: Array


@dataclass(frozen=True)
class SceneMemory:
    """Scenes that a policy may retrieve, recorded by driving in traffic of its own.

    A scene [35] is a key, the observation [25] and the target lane as a share of all lanes [1], and a
    value: the action as one-hot [5]; and over the next 5 s whether the ego crashed, its least time to
    collision / 10 s, cut at 1, its mean speed / 30 m/s until a crash, and its lane changes / 5.

    Attributes:
      entries: N.
      seed: of the drives.
      density: of the traffic in which they are made, see `HighwayBase`.
      others: vehicles in it.
      drivers: who drives: `rules`, which take the action nearest to what IDM and MOBIL would do at a
        desired speed of 30 m/s; `random` actions; or `mixed`, half of the drives each. Those by rules
        last longer, and give more scenes.
      kind: `recorded`; `shuffled`, with values that belong to other keys; `empty`, zeros; or `oracle`,
        the N scenes of best outcome of four times as many drives: those without a crash, and of these
        the fastest first.
    """

    entries: int = 4096
    seed: int = field(default=0, metadata=SEED)
    density: float = 1.0
    others: int = 20
    drivers: Drivers = "mixed"
    kind: Kind = "recorded"

    def __post_init__(self):
        """Checks the fields."""
        require(
            4 <= self.entries <= 10**6,
            f"env.memory.entries is {self.entries}; choose 4 to 1000000.",
        )
        require(
            0 < self.density < math.inf,
            f"env.memory.density is {self.density}; it must be positive and finite.",
        )
        require(1 <= self.others <= 1000, f"env.memory.others is {self.others}; choose 1 to 1000.")
        require(self.seed >= 0, f"env.memory.seed is {self.seed}; it must not be negative.")
        for name, options in (("drivers", get_args(Drivers)), ("kind", get_args(Kind))):
            value = getattr(self, name)
            require(
                value in options,
                f"env.memory.{name} is {value!r}; choose one of {', '.join(options)}.",
            )


@functools.lru_cache(maxsize=16)
def record_scenes(spec: Driving, memory: SceneMemory) -> np.ndarray:
    """The passages [N,35] of a memory; equal arguments give equal ones.

    Args:
      spec: the highway that is driven on, with the memory's traffic.
      memory: what is recorded.
    """
    drives = -(-memory.entries // SCENES_PER_DRIVE) * (4 if memory.kind == "oracle" else 1)
    key = jax.random.PRNGKey(memory.seed)
    made = jax.jit(functools.partial(_drive, spec, memory.drivers, drives))(spec.road(), key)
    scenes, counts = (np.asarray(part) for part in outcomes(made))
    scenes = scenes[counts]
    require(
        len(scenes) >= memory.entries,
        f"env.memory.entries is {memory.entries}, but {drives} drives in traffic of density "
        f"{memory.density} gave {len(scenes)} scenes before they crashed; lower env.memory.density.",
    )
    if memory.kind == "oracle":
        crashed, speed = scenes[:, -4], scenes[:, -2]
        scenes = scenes[np.lexsort((-speed, crashed))]
    scenes = scenes[: memory.entries]
    if memory.kind == "shuffled":
        order = np.random.default_rng(memory.seed).permutation(len(scenes))
        scenes = np.concatenate([scenes[:, :-VALUES], scenes[order, -VALUES:]], axis=1)
    return np.zeros_like(scenes) if memory.kind == "empty" else scenes


def describe_scene(scene: np.ndarray) -> str:
    """What was done in a scene [35], and what came of it in the next 5 s, in a few words."""
    action, (crashed, time, speed, changes) = scene[-VALUES:-4], scene[-4:]
    done = ACTION_NAMES[int(np.argmax(action))] if action.any() else "nothing"
    near = f"{time * MAX_TIME:.1f}" if time < 1 else f"over {MAX_TIME:.0f}"  # cut there
    end = "crashed" if crashed else f"{near} s to collision"
    moves = counted(round(float(changes) * HORIZON), "lane change")
    return f"{done}: {speed * DESIRED_SPEED:.1f} m/s, {moves}, {end}"


def _drive(spec: Driving, drivers: Drivers, count: int, road: Road, key: Array) -> Drive:
    """Drives of `count` egos side by side; with `mixed` drivers, every other one by rules."""
    reset_key, key = jax.random.split(key)
    first = jax.vmap(spec.first_vehicles, (None, 0))
    vehicles = first(road, jax.random.split(reset_key, count))
    by_rules = jnp.full((count,), drivers == "rules")
    if drivers == "mixed":
        by_rules = jnp.arange(count, dtype=jnp.int32) % 2 == 0

    def step(vehicles: Vehicles, key: Array):
        observation = jax.vmap(observe, (None, 0, None))(road, vehicles, spec.height)
        lane = vehicles.target_lane[:, :1].astype(observation.dtype) / max(len(road.lanes.y) - 1, 1)
        chance = jax.random.randint(key, (count,), 0, 5, jnp.int32)
        action = jnp.where(by_rules, jax.vmap(rule_action, (None, 0))(road, vehicles), chance)
        after = jax.vmap(spec.advance, (None, 0, 0))(road, vehicles, action)
        return after, Drive(
            key=jnp.concatenate([spec.standardise(observation.reshape(count, -1)), lane], axis=-1),
            action=action,
            crashed=vehicles.crashed[:, 0],
            crashed_after=after.crashed[:, 0],
            time_to_collision=jax.vmap(time_to_collision)(after),
            speed=jax.vmap(velocity)(after)[0][:, 0],
            changed=after.lane[:, 0] != vehicles.lane[:, 0],
        )

    return jax.lax.scan(step, vehicles, jax.random.split(key, SECONDS + HORIZON))[1]


def outcomes(made: Drive) -> tuple[Array, Array]:
    """Scenes [D,T,35] of drives, and whether each counts: the ego had not crashed before it."""
    windows = jnp.arange(SECONDS)[:, None] + jnp.arange(HORIZON)  # [T,5]
    crashed = made.crashed_after[windows]  # [T,5,D]
    # The second in which it crashes still counts; what a wreck does is nobody's choice.
    going = (~made.crashed[windows]).astype(made.speed.dtype)
    time = jnp.where(crashed, 0.0, made.time_to_collision[windows])
    speed = jnp.sum(made.speed[windows] * going, axis=1) / jnp.maximum(jnp.sum(going, axis=1), 1.0)
    changes = jnp.sum(made.changed[windows].astype(going.dtype) * going, axis=1)
    values = [
        jnp.any(crashed, axis=1).astype(going.dtype),
        jnp.min(time, axis=1) / MAX_TIME,
        speed / DESIRED_SPEED,
        changes / HORIZON,
    ]
    action = jax.nn.one_hot(made.action[:SECONDS], 5)
    scenes = jnp.concatenate([made.key[:SECONDS], action, jnp.stack(values, axis=-1)], axis=-1)
    return jnp.swapaxes(scenes, 0, 1), jnp.swapaxes(~made.crashed[:SECONDS], 0, 1)


def rule_action(road: Road, vehicles: Vehicles) -> Int[Array, ""]:
    """The meta-action nearest to what IDM and MOBIL would do in the ego's place.

    LANE_LEFT or LANE_RIGHT if MOBIL would change; else FASTER or SLOWER if IDM, with a desired speed of
    30 m/s, would accelerate or brake by more than 1 m/s²; else IDLE.
    """
    fast = jnp.full_like(vehicles.target_speed[:1], DESIRED_SPEED)
    vehicles = dataclasses.replace(
        vehicles,
        target_speed=jnp.concatenate([fast, vehicles.target_speed[1:]]),
    )
    judged = judge(road.lanes, vehicles, look(road, vehicles), vehicles.lane)
    here, there = (pick(road.lanes.place, lane[:1])[0] for lane in (vehicles.lane, judged.lane))
    acceleration = judged.acceleration[0]
    speed = jnp.where(acceleration > DECISIVE, FASTER, IDLE)
    speed = jnp.where(acceleration < -DECISIVE, SLOWER, speed)
    action = jnp.where(there < here, LANE_LEFT, jnp.where(there > here, LANE_RIGHT, speed))
    return action.astype(jnp.int32)


def time_to_collision(vehicles: Vehicles) -> Float[Array, ""]:
    """Seconds until the ego would touch a slower vehicle ahead of it, at most 10.

    Ahead is who is less than a vehicle's width to the side; all keep their forward speeds.
    """
    forward = velocity(vehicles)[0]
    gap = vehicles.x[1:] - vehicles.x[0] - VEHICLE_LENGTH
    closing = forward[0] - forward[1:]
    in_way = (jnp.abs(vehicles.y[1:] - vehicles.y[0]) < VEHICLE_WIDTH) & (closing > 0)
    in_way &= vehicles.x[1:] > vehicles.x[0]
    time = jnp.maximum(gap, 0.0) / jnp.where(in_way, closing, 1.0)
    return jnp.min(jnp.where(in_way, time, MAX_TIME), initial=MAX_TIME)
