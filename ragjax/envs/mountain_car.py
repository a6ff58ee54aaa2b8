"""MountainCar: a car too weak to drive up a hill has to swing itself up.

The task of Moore (1990), "Efficient memory-based learning for robot control", as in Sutton & Barto
(2nd ed., example 10.1) and Gymnasium's `MountainCar-v0`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.scene import Circle, Line, Polygon, Rectangle, Scene
from ragjax.types import Env, Leaf, PRNGKey, Timestep


@struct.dataclass
class Physics:
    """The constants of the dynamics; all are [].

    Attributes:
      force: of the engine.
      gravity: pull of the hill where it is steepest.
      min_position: where a wall stops the car.
      max_position: where the world ends.
      max_speed: bound of the velocity, either way.
      goal_position: the episode ends from here on.
      goal_velocity: slowest velocity that counts at the goal.
      start_low: an episode starts at rest between this position
      start_high: and that one, uniformly.
    """

    force: Leaf = 0.001
    gravity: Leaf = 0.0025
    min_position: Leaf = -1.2
    max_position: Leaf = 0.6
    max_speed: Leaf = 0.07
    goal_position: Leaf = 0.5
    goal_velocity: Leaf = 0.0
    start_low: Leaf = -0.6
    start_high: Leaf = -0.4


@struct.dataclass
class State:
    """Position x and velocity v of the car; both are []."""

    position: Leaf
    velocity: Leaf


def _observe(state: State) -> Array:
    return jnp.stack([state.position, state.velocity])


def _reset(physics: Physics, key: PRNGKey) -> tuple[State, Timestep]:
    low, high = physics.start_low, physics.start_high
    state = State(jax.random.uniform(key, minval=low, maxval=high), jnp.zeros(()))
    return state, timestep(_observe(state))


def _step(
    physics: Physics, key: PRNGKey, state: State, action: Int[Array, ""]
) -> tuple[State, Timestep]:
    """Moves by v' = v + (action - 1) force - gravity cos 3x and x' = x + v', within their bounds."""
    del key
    throttle = jnp.asarray(action, jnp.float32) - 1.0
    slope = physics.gravity * jnp.cos(3.0 * state.position)
    velocity = state.velocity + throttle * physics.force - slope
    velocity = jnp.clip(velocity, -physics.max_speed, physics.max_speed)
    position = state.position + velocity
    at_wall = (position <= physics.min_position) & (velocity < 0.0)
    state = State(
        position=jnp.clip(position, physics.min_position, physics.max_position),
        velocity=jnp.where(at_wall, 0.0, velocity),
    )
    arrived = state.position >= physics.goal_position
    terminated = arrived & (state.velocity >= physics.goal_velocity)
    return state, timestep(_observe(state), reward=-1.0, terminated=terminated)


def _height(position: float) -> float:
    """Of the hill."""
    return 0.45 * math.sin(3 * position) + 0.55


@dataclass(frozen=True)
class MountainCar(Environment):
    """Reward -1 a step until the car is on top of the right hill.

    Actions: 0 accelerates to the left, 1 lets the car roll, 2 accelerates to the right. Observation
    [2]: position and velocity.
    """

    name: ClassVar[str] = "mountain_car"

    time_limit: int = 200

    def scene(self, params: Physics, state: State) -> Scene:
        """The car on the hill, whose height is 0.45 sin 3x + 0.55 as in Gymnasium's pictures."""
        left, right = float(params.min_position), float(params.max_position)
        x, goal = float(state.position), float(params.goal_position)
        hill = [(place, _height(place)) for place in np.linspace(left, right, 80).tolist()]
        slope = math.atan(1.35 * math.cos(3 * x))

        def beside(along: float, above: float) -> tuple[float, float]:
            """A point of the car, as seen from where it touches the hill."""
            sine, cosine = math.sin(slope), math.cos(slope)
            return x + along * cosine - above * sine, _height(x) + along * sine + above * cosine

        wheels = [Circle(*beside(side, 0.02), 0.02, role="ink") for side in (-0.035, 0.035)]
        flag = [(goal, _height(goal) + up) for up in (0.2, 0.13)]
        return Scene(
            [
                Polygon([(left, 0.0), *hill, (right, 0.0)], role="ground"),
                Line([(goal, _height(goal)), flag[0]], role="ink"),
                Polygon([*flag, (goal + 0.08, _height(goal) + 0.165)], role="goal"),
                Rectangle(*beside(0.0, 0.05), 0.12, 0.05, slope),
                *wheels,
            ],
            x=(left, right),
            y=(0.0, 1.25),
            caption=f"position {x:.2f}, velocity {float(state.velocity):+.3f}",
        )

    def action_name(self, action: int) -> str:
        """Where the car accelerates."""
        return ("accelerate left", "roll", "accelerate right")[action]

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        physics = Physics()
        low = np.asarray([physics.min_position, -physics.max_speed], np.float32)
        high = np.asarray([physics.max_position, physics.max_speed], np.float32)
        return Env(physics, _reset, _step, num_actions=3, low=low, high=high)
