"""Driving on a highway of several lanes among slower vehicles: highway-fast-v0 and highway-v0.

After HighwayEnv 1.12.1 (Leurent 2018, "An environment for autonomous driving decision-making"), whose
states it equals step by step.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragjax.envs.highway.base import Driving
from ragjax.envs.highway.lanes import (
    WIDTH,
    Lane,
    Road,
    local_coordinates,
    make_lanes,
    on_lane,
    pick,
)
from ragjax.envs.highway.scenes import PARTS, SceneMemory, describe_scene, record_scenes
from ragjax.envs.highway.traffic import SPREAD, USUAL
from ragjax.envs.highway.vehicles import Vehicles, place_vehicles, velocity
from ragjax.errors import require
from ragjax.types import Env, PRNGKey

LENGTH = 10_000.0  # of the road, m
LIMIT = 30.0  # of the speed, m/s
EGO_SPEED = 25.0  # at first, m/s
OTHERS_SPEED = (21.0, 24.0)  # at first, m/s
EXPONENT = (3.5, 4.5)  # of the others' drivers
COLLISION, RIGHT_LANE, HIGH_SPEED = -1.0, 0.1, 0.4  # rewards
REWARDED_SPEED = (20.0, 30.0)  # m/s


@dataclass(frozen=True)
class HighwayBase(Driving):
    """Base of the two highways.

    With c = 1 after a crash, l the target lane and v the forward speed, the reward of a step is

        (1 - c + 0.1 l / (lanes - 1) + 0.4 min(max((v - 20) / 10, 0), 1)) / 1.5

    and 0 off the road. An episode terminates by a crash, and is truncated at `time_limit` seconds.

    Attributes:
      lanes: how many; number 0 is the leftmost.
      others: vehicles beside the ego, all of them ahead of it at first.
      density: of the others; their gaps are 1 / density times as long.
      ego_spacing: of the ego's first gap, like 1 / density.
      memory: scenes that are the passages of the environment, None for none.
      standardised: whether observations o and the keys of scenes are (o - USUAL) / SPREAD, other than in
        the original, so that each of their numbers counts alike when like scenes are looked for.
    """

    lanes: int = 3
    others: int = 20
    density: float = 1.0
    ego_spacing: float = 1.5
    memory: SceneMemory | None = None
    standardised: bool = False

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(1 <= self.lanes <= 100, f"env.lanes is {self.lanes}; choose 1 to 100.")
        require(1 <= self.others <= 1000, f"env.others is {self.others}; choose 1 to 1000.")
        for name in ("density", "ego_spacing"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"env.{name} is {value}; it must be positive and finite.")

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        env = super().build()
        if self.memory is None:
            return env
        scenes = jnp.asarray(self.scenes(self.memory))
        return env._replace(passages=scenes, passage_parts=PARTS)

    def standardise(self, observation: Any) -> Any:
        """[...,25] as it is, or shifted and scaled where `standardised`."""
        if not self.standardised:
            return observation
        usual, spread = (
            np.asarray(each.reshape(-1), observation.dtype) for each in (USUAL, SPREAD)
        )
        return (observation - usual) / spread

    def scenes(self, memory: SceneMemory) -> np.ndarray:
        """The passages [N,35] of a memory: drives on this highway in the memory's traffic."""
        traffic = {"density": memory.density, "others": memory.others}
        return record_scenes(dataclasses.replace(self, memory=None, **traffic), memory)

    def describe_passage(self, row: int, content: np.ndarray) -> str:
        """What was done in the scene, and what came of it."""
        del row
        return describe_scene(content)

    def road(self) -> Road:
        """Straight lanes side by side."""
        lanes = [Lane("ab", 0.0, LENGTH, WIDTH * row) for row in range(self.lanes)]
        return Road(make_lanes(lanes, connected=False), jnp.asarray(LIMIT, float), None)

    @property
    def height(self) -> float:
        """The width of the road, m."""
        return WIDTH * self.lanes

    def first_vehicles(self, road: Road, key: PRNGKey) -> Vehicles:
        """One after another along the road, each in a lane by chance.

        A gap is (12 + speed) exp(-lanes / 8) / density, times a number of 0.9 to 1.1 by chance; the ego
        comes 3 gaps after the start of the road.
        """
        lane_key, speed_key, gap_key, exponent_key = jax.random.split(key, 4)
        count = self.others + 1
        dtype = road.limit.dtype
        lane = jax.random.randint(lane_key, (count,), 0, self.lanes)
        low, high = OTHERS_SPEED
        speed = jax.random.uniform(speed_key, (count,), dtype, low, high).at[0].set(EGO_SPEED)
        spacing = jnp.full((count,), 1 / self.density, dtype).at[0].set(self.ego_spacing)
        gap = spacing * (12.0 + speed) * math.exp(-self.lanes / 8)
        start = jnp.zeros_like(gap).at[0].set(3 * gap[0])
        x = jnp.cumsum(start + gap * jax.random.uniform(gap_key, (count,), dtype, 0.9, 1.1))
        exponent = jax.random.uniform(exponent_key, (count,), dtype, *EXPONENT)
        return place_vehicles(road.lanes, x, WIDTH * lane.astype(dtype), speed, speed, exponent)

    def reward(self, road: Road, vehicles: Vehicles, action: Int[Array, ""]) -> Float[Array, ""]:
        """See the class."""
        del action
        dtype = vehicles.x.dtype
        slow, fast = REWARDED_SPEED
        speed = jnp.clip((velocity(vehicles)[0][0] - slow) / (fast - slow), 0.0, 1.0)
        right = vehicles.target_lane[0].astype(dtype) / max(self.lanes - 1, 1)
        raw = (
            COLLISION * vehicles.crashed[0].astype(dtype) + RIGHT_LANE * right + HIGH_SPEED * speed
        )
        s, r = local_coordinates(road.lanes, vehicles.x[:1], vehicles.y[:1])
        on_road = pick(on_lane(road.lanes, s, r, 0.0), vehicles.lane[:1])[0]
        reward = (raw - COLLISION) / (RIGHT_LANE + HIGH_SPEED - COLLISION)
        return jnp.where(on_road, reward, 0.0)


@dataclass(frozen=True)
class HighwayFast(HighwayBase):
    """`highway-fast-v0`: 5 sub-steps a second, and only the ego's collisions count."""

    name: ClassVar[str] = "highway_fast"
    everyone_collides: ClassVar[bool] = False

    time_limit: int = 30
    simulation_hz: int = 5


@dataclass(frozen=True)
class Highway(HighwayBase):
    """`highway-v0`: more lanes and vehicles, 15 sub-steps a second, and all collisions count."""

    name: ClassVar[str] = "highway"

    time_limit: int = 40
    simulation_hz: int = 15
    lanes: int = 4
    others: int = 50
    ego_spacing: float = 2.0
