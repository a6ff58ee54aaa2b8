"""MountainCar: a car too weak to drive up a hill has to swing itself up.

The task of Moore (1990), "Efficient memory-based learning for robot control", as in Sutton & Barto
(2nd ed., example 10.1) and Gymnasium's `MountainCar-v0`.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
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


@dataclass(frozen=True)
class MountainCar(Environment):
    """Reward -1 a step until the car is on top of the right hill.

    Actions: 0 accelerates to the left, 1 lets the car roll, 2 accelerates to the right. Observation
    [2]: position and velocity.
    """

    name: ClassVar[str] = "mountain_car"

    time_limit: int = 200

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        physics = Physics()
        low = np.asarray([physics.min_position, -physics.max_speed], np.float32)
        high = np.asarray([physics.max_position, physics.max_speed], np.float32)
        return Env(physics, _reset, _step, num_actions=3, low=low, high=high)
