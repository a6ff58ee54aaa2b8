"""Driving on a highway which a vehicle merges into from a ramp: merge-v0 and merge-v1.

After HighwayEnv 1.12.1 (Leurent 2018, "An environment for autonomous driving decision-making"), whose
states it equals step by step.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.envs.highway.base import Driving
from ragjax.envs.highway.drivers import LANE_LEFT, LANE_RIGHT
from ragjax.envs.highway.lanes import WIDTH, Lane, Road, make_lanes, pick
from ragjax.envs.highway.vehicles import Vehicles, place_vehicles
from ragjax.errors import require
from ragjax.types import PRNGKey

Neighbours = Literal["v1", "v0"]

LANES = (
    Lane("ab", 0.0, 230.0, 0.0),
    Lane("ab", 0.0, 230.0, 4.0),
    Lane("bc", 230.0, 310.0, 0.0),
    Lane("bc", 230.0, 310.0, 4.0),
    Lane("bc", 230.0, 310.0, 8.0, forbidden=True),
    Lane("cd", 310.0, 460.0, 0.0),
    Lane("cd", 310.0, 460.0, 4.0),
    Lane("jk", 0.0, 150.0, 14.5, forbidden=True),
    Lane("kb", 150.0, 230.0, 11.25, forbidden=True, amplitude=3.25, wavelength=160.0),
)
RAMP = 4  # the lane that ends, where its vehicles merge
OBSTACLE = (310.0, 8.0)  # at the end of the ramp, m
LIMIT = 20.0  # of the speed, m/s, for all but the ego
GOAL = 370.0  # where an episode ends, m
EXPONENT = 4.0
COLLISION, RIGHT_LANE, HIGH_SPEED, MERGING, CHANGE = -1.0, 0.1, 0.2, -0.5, -0.05  # rewards
REWARDED_SPEED = (20.0, 30.0)  # m/s


@dataclass(frozen=True)
class Merge(Driving):
    """`merge-v1` and `merge-v0`: two lanes, and a ramp whose vehicle has to come in before its end.

    With c = 1 after a crash, l the lane's number, v the speed, and m = 1 in a step of LANE_LEFT or
    LANE_RIGHT, the reward of a step is

        (1.5 - c + 0.1 l + 0.2 (v - 20) / 10 - 0.05 m - 0.5 Σ (target - v) / target) / 1.8

    summed over the vehicles that are on the ramp's last 80 m. An episode terminates by a crash or
    beyond 370 m; the ego drives at 20 m/s and more unless it crashes, so that no episode of the original
    reaches the time limit.

    Attributes:
      neighbours: where leaders and followers are looked for: on the lane itself and those that it goes
        on to and comes from (`v1`), or on the lane itself only (`v0`).
    """

    name: ClassVar[str] = "merge"

    time_limit: int = 60
    neighbours: Neighbours = "v1"

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        options = get_args(Neighbours)
        require(
            self.neighbours in options,
            f"env.neighbours is {self.neighbours!r}; choose one of {', '.join(options)}.",
        )

    def road(self) -> Road:
        """Two lanes, the ramp beside them, and the obstacle at its end."""
        lanes = make_lanes(LANES, connected=self.neighbours == "v1")
        return Road(lanes, jnp.asarray(LIMIT, float), jnp.asarray([OBSTACLE], float))

    @property
    def height(self) -> float:
        """The width of the two lanes, m."""
        return 2 * WIDTH

    def first_vehicles(self, road: Road, key: PRNGKey) -> Vehicles:
        """The ego, three others in a lane by chance, and the one that merges."""
        lane_key, x_key, speed_key = jax.random.split(key, 3)
        dtype = road.limit.dtype
        lane = jax.random.randint(lane_key, (3,), 0, 2).astype(dtype)
        x = jnp.asarray([30.0, 90.0, 70.0, 5.0, 110.0], dtype)
        x = x.at[1:4].add(jax.random.uniform(x_key, (3,), dtype, -5.0, 5.0))
        y = jnp.asarray([4.0, 0.0, 0.0, 0.0, 14.5], dtype).at[1:4].set(WIDTH * lane)
        speed = jnp.asarray([30.0, 29.0, 31.0, 31.5, 20.0], dtype)
        speed = speed.at[1:4].add(jax.random.uniform(speed_key, (3,), dtype, -1.0, 1.0))
        target_speed = speed.at[4].set(30.0)
        exponent = jnp.full_like(speed, EXPONENT)
        return place_vehicles(road.lanes, x, y, speed, target_speed, exponent)

    def reward(self, road: Road, vehicles: Vehicles, action: Int[Array, ""]) -> Float[Array, ""]:
        """See the class."""
        dtype = vehicles.x.dtype
        slow, fast = REWARDED_SPEED
        place = pick(road.lanes.place, vehicles.lane[:1])[0].astype(dtype)
        speed = (vehicles.speed[0] - slow) / (fast - slow)
        changes = ((action == LANE_LEFT) | (action == LANE_RIGHT)).astype(dtype)
        late = (vehicles.target_speed - vehicles.speed) / vehicles.target_speed
        late = jnp.sum(jnp.where(vehicles.lane == RAMP, late, 0.0))
        raw = COLLISION * vehicles.crashed[0].astype(dtype) + RIGHT_LANE * place
        raw += HIGH_SPEED * speed + CHANGE * changes + MERGING * late
        least = COLLISION + MERGING
        return (raw - least) / (RIGHT_LANE + HIGH_SPEED - least)

    def terminated(self, vehicles: Vehicles) -> Array:
        """A crash, or the way's end."""
        return vehicles.crashed[0] | (vehicles.x[0] > GOAL)
