"""CartPole: a cart is pushed left and right under a pole that is to stay upright.

The task of Barto, Sutton & Anderson (1983), "Neuronlike adaptive elements that can solve difficult
learning control problems", with the dynamics of Florian (2005) as in Gymnasium's `CartPole-v1`.
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
from ragjax.envs.scene import Circle, Line, Rectangle, Scene
from ragjax.types import Env, Leaf, PRNGKey, Timestep


@struct.dataclass
class Physics:
    """The constants of the dynamics, in SI units; all are [].

    Attributes:
      gravity: g.
      cart_mass: of the cart alone.
      pole_mass: m_p.
      half_length: l, half the length of the pole.
      force: F, of a push.
      dt: seconds between two steps.
      max_position: the cart fails beyond it, on either side.
      max_angle: the pole fails beyond it, on either side.
      start: bound of the four uniform numbers that an episode starts from.
    """

    gravity: Leaf = 9.8
    cart_mass: Leaf = 1.0
    pole_mass: Leaf = 0.1
    half_length: Leaf = 0.5
    force: Leaf = 10.0
    dt: Leaf = 0.02
    max_position: Leaf = 2.4
    max_angle: Leaf = math.radians(12.0)
    start: Leaf = 0.05


@struct.dataclass
class State:
    """Position x and velocity of the cart, angle θ (0 is upright) and its velocity ω; all are []."""

    position: Leaf
    velocity: Leaf
    angle: Leaf
    angular_velocity: Leaf


def _observe(state: State) -> Array:
    return jnp.stack([state.position, state.velocity, state.angle, state.angular_velocity])


def _reset(physics: Physics, key: PRNGKey) -> tuple[State, Timestep]:
    start = jax.random.uniform(key, (4,), minval=-physics.start, maxval=physics.start)
    state = State(*start)
    return state, timestep(start)


def _step(
    physics: Physics, key: PRNGKey, state: State, action: Int[Array, ""]
) -> tuple[State, Timestep]:
    """One step of Euler's method, which moves by the velocities of before the push.

        a = (±F + m_p l ω² sin θ) / m
        dω/dt = (g sin θ - a cos θ) / (l (4/3 - m_p cos² θ / m))
        d²x/dt² = a - m_p l cos θ dω/dt / m

    where m is the mass of cart and pole.
    """
    del key
    mass = physics.cart_mass + physics.pole_mass
    lever = physics.pole_mass * physics.half_length / mass
    sine, cosine = jnp.sin(state.angle), jnp.cos(state.angle)
    push = jnp.where(action == 1, physics.force, -physics.force) / mass
    push += lever * state.angular_velocity**2 * sine
    inertia = physics.half_length * (4.0 / 3.0 - physics.pole_mass * cosine**2 / mass)
    angular_acceleration = (physics.gravity * sine - cosine * push) / inertia
    acceleration = push - lever * angular_acceleration * cosine
    state = State(
        position=state.position + physics.dt * state.velocity,
        velocity=state.velocity + physics.dt * acceleration,
        angle=state.angle + physics.dt * state.angular_velocity,
        angular_velocity=state.angular_velocity + physics.dt * angular_acceleration,
    )
    outside = jnp.abs(state.position) > physics.max_position
    fallen = jnp.abs(state.angle) > physics.max_angle
    return state, timestep(_observe(state), reward=1.0, terminated=outside | fallen)


@dataclass(frozen=True)
class CartPole(Environment):
    """Reward 1 a step until the pole falls over or the cart leaves its track.

    Actions: 0 pushes to the left, 1 to the right. Observation [4]: position and velocity of the
    cart, angle and angular velocity of the pole.
    """

    name: ClassVar[str] = "cartpole"

    time_limit: int = 500

    def scene(self, params: Physics, state: State) -> Scene:
        """The cart on its track, with the pole as long as it is; beyond the posts both have failed."""
        x, angle, edge = float(state.position), float(state.angle), float(params.max_position)
        length = 2 * float(params.half_length)
        failed = abs(x) > edge or abs(angle) > float(params.max_angle)
        middle = x + length / 2 * math.sin(angle), length / 2 * math.cos(angle)
        posts = [Line([(side, -0.15), (side, 0.2)], role="danger") for side in (-edge, edge)]
        return Scene(
            [
                Line([(-edge - 0.4, -0.15), (edge + 0.4, -0.15)], role="ground"),
                *posts,
                Rectangle(x, 0.0, 0.5, 0.3),
                Rectangle(*middle, 0.07, length, -angle, role="danger" if failed else "part"),
                Circle(x, 0.0, 0.05, role="ink"),
            ],
            x=(-edge - 0.4, edge + 0.4),
            y=(-0.6, length + 0.4),
            caption=f"position {x:.2f} m, pole at {math.degrees(angle):.1f} degrees",
        )

    def action_name(self, action: int) -> str:
        """Where the cart is pushed."""
        return ("push left", "push right")[action]

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        physics = Physics()
        limits = [2 * physics.max_position, np.inf, 2 * physics.max_angle, np.inf]
        high = np.asarray(limits, np.float32)
        return Env(physics, _reset, _step, num_actions=2, low=-high, high=high)
