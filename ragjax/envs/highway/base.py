"""What the driving environments have in common."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.highway.lanes import Road, pick
from ragjax.envs.highway.picture import picture
from ragjax.envs.highway.traffic import COLUMNS, ROWS, drive, observe
from ragjax.envs.highway.vehicles import Vehicles, velocity
from ragjax.envs.scene import Scene
from ragjax.errors import require
from ragjax.types import Env, Leaf, PRNGKey, Timestep

ACTION_NAMES = ("left", "idle", "right", "faster", "slower")  # in the order of their numbers


@struct.dataclass
class State:
    """An episode.

    Attributes:
      vehicles: `Vehicles`.
      distance: [] sum over the steps so far of the ego's forward speed, m/s.
      lane_changes: [] steps so far in which the ego came to another lane.
      steps: [] how many.
    """

    vehicles: Leaf
    distance: Leaf
    lane_changes: Leaf
    steps: Leaf


@dataclass(frozen=True)
class Driving(Environment):
    """Base of the driving environments. A step is one second.

    Actions: 0 LANE_LEFT, 1 IDLE, 2 LANE_RIGHT, 3 FASTER, 4 SLOWER. Observation [25]: five rows, see
    `traffic.observe`. Metrics of an episode: `crashed`, 1 if the ego has; `speed`, the mean of its
    forward speed after each step, m/s; `lane_changes`; `success`, 1 if it has not crashed.

    Attributes:
      simulation_hz: sub-steps of a second.
    """

    everyone_collides: ClassVar[bool] = True

    simulation_hz: int = 15

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            1 <= self.simulation_hz <= 1000,
            f"env.simulation_hz is {self.simulation_hz}; choose 1 to 1000 sub-steps a second.",
        )

    def road(self) -> Road:
        """What is driven on."""
        raise NotImplementedError

    @property
    def height(self) -> float:
        """What y is divided by in observations, m."""
        raise NotImplementedError

    def first_vehicles(self, road: Road, key: PRNGKey) -> Vehicles:
        """Those that an episode starts with, drawn by chance."""
        raise NotImplementedError

    def reward(self, road: Road, vehicles: Vehicles, action: Int[Array, ""]) -> Float[Array, ""]:
        """Of the ego, after the step in which it took this action."""
        raise NotImplementedError

    def terminated(self, vehicles: Vehicles) -> Array:
        """Whether the episode has ended: the ego has crashed, by default."""
        return vehicles.crashed[0]

    def advance(self, road: Road, vehicles: Vehicles, action: Int[Array, ""]) -> Vehicles:
        """One second, in which chance decides nothing."""
        return drive(
            road, vehicles, action, hertz=self.simulation_hz, everyone=self.everyone_collides
        )

    def standardise(self, observation: Any) -> Any:
        """What a policy sees of an observation [...,25]: itself, by default."""
        return observation

    def scene(self, params: Road, state: State) -> Scene:
        """The road around the ego."""
        speed = float(velocity(state.vehicles)[0][0])
        words = f"{speed:.1f} m/s"
        if bool(state.vehicles.crashed[0]):
            words += ", crashed"
        return picture(params, state.vehicles, words)

    def action_name(self, action: int) -> str:
        """What the ego is told to do."""
        return ACTION_NAMES[action]

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""

        def show(road: Road, state: State, reward: Array, terminated: Array) -> Timestep:
            observation = observe(road, state.vehicles, self.height).reshape(-1)
            seen = self.standardise(observation.astype(jnp.float32))
            made = timestep(seen, reward, terminated)
            crashed = state.vehicles.crashed[0].astype(jnp.float32)
            metrics = {
                "episode_crashed": crashed,
                "episode_success": 1.0 - crashed,
                "episode_speed": state.distance / jnp.maximum(state.steps, 1),
                "episode_lane_changes": state.lane_changes,
            }
            return dataclasses.replace(made, metrics=metrics)

        def reset(road: Road, key: PRNGKey) -> tuple[State, Timestep]:
            zero = jnp.zeros(())
            state = State(self.first_vehicles(road, key), zero, zero, zero)
            return state, show(road, state, zero, jnp.zeros((), bool))

        def step(
            road: Road, key: PRNGKey, state: State, action: Int[Array, ""]
        ) -> tuple[State, Timestep]:
            del key
            before, after = state.vehicles, self.advance(road, state.vehicles, action)
            places = [pick(road.lanes.place, each.lane[:1])[0] for each in (before, after)]
            changed = (places[0] != places[1]).astype(jnp.float32)
            state = State(
                vehicles=after,
                distance=state.distance + velocity(after)[0][0].astype(jnp.float32),
                lane_changes=state.lane_changes + changed,
                steps=state.steps + 1,
            )
            reward = self.reward(road, after, action)
            return state, show(road, state, reward, self.terminated(after))

        ones = np.ones((ROWS * COLUMNS,), np.float32)
        low, high = self.standardise(-ones), self.standardise(ones)
        return Env(self.road(), reset, step, len(ACTION_NAMES), low=low, high=high)
