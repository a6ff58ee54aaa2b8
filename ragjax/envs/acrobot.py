"""Acrobot: two links hang from a pivot, and a motor at the joint between them swings the tip up.

The task of Sutton (1996), "Generalization in reinforcement learning: successful examples using sparse
coarse coding", with the dynamics of Sutton & Barto (1st ed., section 11.3) as in Gymnasium's
`Acrobot-v1`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.scene import Circle, Line, Rectangle, Scene
from ragjax.types import Env, Leaf, PRNGKey, Timestep


@struct.dataclass
class Physics:
    """The constants of the dynamics, in SI units; all are [].

    Attributes:
      gravity: g.
      mass_1: m_1, of the upper link.
      mass_2: m_2, of the lower link.
      length: l, of the upper link; that of the lower one plays no part.
      centre_1: c_1, from the pivot to the upper link's centre of mass.
      centre_2: c_2, from the joint to the lower link's centre of mass.
      inertia: I, of either link about its centre of mass.
      torque: of the motor, in either direction.
      dt: seconds between two steps.
      max_velocity_1: bound of the first angular velocity.
      max_velocity_2: bound of the second.
      height: above the pivot, in links, that the tip has to reach.
      start: bound of the four uniform numbers that an episode starts from.
    """

    gravity: Leaf = 9.8
    mass_1: Leaf = 1.0
    mass_2: Leaf = 1.0
    length: Leaf = 1.0
    centre_1: Leaf = 0.5
    centre_2: Leaf = 0.5
    inertia: Leaf = 1.0
    torque: Leaf = 1.0
    dt: Leaf = 0.2
    max_velocity_1: Leaf = 4 * math.pi
    max_velocity_2: Leaf = 9 * math.pi
    height: Leaf = 1.0
    start: Leaf = 0.1


@struct.dataclass
class State:
    """Angles θ_1, against straight down, and θ_2, against the upper link; their velocities; all []."""

    angle_1: Leaf
    angle_2: Leaf
    velocity_1: Leaf
    velocity_2: Leaf


def _observe(state: State) -> Array:
    angles = [state.angle_1, state.angle_2]
    waves = [wave(angle) for angle in angles for wave in (jnp.cos, jnp.sin)]
    return jnp.stack([*waves, state.velocity_1, state.velocity_2])


def _reset(physics: Physics, key: PRNGKey) -> tuple[State, Timestep]:
    start = jax.random.uniform(key, (4,), minval=-physics.start, maxval=physics.start)
    state = State(*start)
    return state, timestep(_observe(state))


def _derivative(physics: Physics, state: State, torque: Float[Array, ""]) -> State:
    """Velocities ω of the angles and their accelerations α, which solve the equations of motion.

        d_1 α_1 + d_2 α_2 + φ_1 = 0
        d_2 α_1 + (m_2 c_2² + I) α_2 + φ_2 + m_2 l c_2 ω_1² sin θ_2 = τ

    Returns:
      The derivative by time of each field of the state.
    """
    coupling = physics.mass_2 * physics.length * physics.centre_2
    cosine, sine = coupling * jnp.cos(state.angle_2), coupling * jnp.sin(state.angle_2)
    swing_1, swing_2 = state.velocity_1, state.velocity_2

    own_2 = physics.mass_2 * physics.centre_2**2 + physics.inertia
    own_1 = physics.mass_1 * physics.centre_1**2 + physics.mass_2 * physics.length**2
    d_2 = own_2 + cosine
    d_1 = own_1 + physics.inertia + own_2 + 2.0 * cosine

    weight_1 = physics.mass_1 * physics.centre_1 + physics.mass_2 * physics.length
    weight_2 = physics.mass_2 * physics.centre_2
    phi_2 = weight_2 * physics.gravity * jnp.sin(state.angle_1 + state.angle_2)
    phi_1 = weight_1 * physics.gravity * jnp.sin(state.angle_1) + phi_2
    phi_1 -= sine * swing_2 * (swing_2 + 2.0 * swing_1)

    ratio = d_2 / d_1
    acceleration_2 = torque + ratio * phi_1 - sine * swing_1**2 - phi_2
    acceleration_2 /= own_2 - ratio * d_2
    acceleration_1 = -ratio * acceleration_2 - phi_1 / d_1
    return State(swing_1, swing_2, acceleration_1, acceleration_2)


def _wrap(angle: Float[Array, ""]) -> Float[Array, ""]:
    """The same angle between -π and π."""
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))


def _step(
    physics: Physics, key: PRNGKey, state: State, action: Int[Array, ""]
) -> tuple[State, Timestep]:
    """One step of the classical Runge-Kutta method."""
    del key
    torque = (jnp.asarray(action, jnp.float32) - 1.0) * physics.torque

    def slope(time, before=None):
        """The derivative `time` seconds onwards, along an earlier one."""
        if before is None:
            return _derivative(physics, state, torque)
        ahead = jax.tree.map(lambda x, dx: x + time * dx, state, before)
        return _derivative(physics, ahead, torque)

    k_1 = slope(0.0)
    k_2 = slope(physics.dt / 2.0, k_1)
    k_3 = slope(physics.dt / 2.0, k_2)
    k_4 = slope(physics.dt, k_3)
    new = jax.tree.map(
        lambda x, a, b, c, d: x + physics.dt / 6.0 * (a + 2.0 * (b + c) + d),
        *(state, k_1, k_2, k_3, k_4),
    )
    state = State(
        angle_1=_wrap(new.angle_1),
        angle_2=_wrap(new.angle_2),
        velocity_1=jnp.clip(new.velocity_1, -physics.max_velocity_1, physics.max_velocity_1),
        velocity_2=jnp.clip(new.velocity_2, -physics.max_velocity_2, physics.max_velocity_2),
    )
    tip = -jnp.cos(state.angle_1) - jnp.cos(state.angle_1 + state.angle_2)
    terminated = tip > physics.height
    return state, timestep(
        _observe(state), reward=jnp.where(terminated, 0.0, -1.0), terminated=terminated
    )


@dataclass(frozen=True)
class Acrobot(Environment):
    """Reward -1 a step until the tip is one link above the pivot; that step's reward is 0.

    Actions: a torque of -1, 0 or 1. Observation [6]: cosine and sine of the first angle, the same of
    the second, and both angular velocities.
    """

    name: ClassVar[str] = "acrobot"

    time_limit: int = 500

    def scene(self, params: Physics, state: State) -> Scene:
        """Both links, the joints, and the line that the tip has to reach."""
        length, goal = float(params.length), float(params.length * params.height)
        upper = float(state.angle_1) - math.pi / 2
        lower = upper + float(state.angle_2)
        joint = length * math.cos(upper), length * math.sin(upper)
        tip = joint[0] + length * math.cos(lower), joint[1] + length * math.sin(lower)
        reach, thick = 2.3 * length, 0.16 * length
        return Scene(
            [
                Line([(-reach, goal), (reach, goal)], dashed=True, role="goal"),
                Rectangle(joint[0] / 2, joint[1] / 2, length, thick, upper),
                Rectangle(
                    (joint[0] + tip[0]) / 2, (joint[1] + tip[1]) / 2, length, thick, lower, "part"
                ),
                *(Circle(*place, 0.09 * length, role="ink") for place in ((0.0, 0.0), joint)),
            ],
            x=(-reach, reach),
            y=(-reach, reach),
            caption=f"height of the tip {tip[1]:.2f}, which has to exceed {goal:g}",
        )

    def action_name(self, action: int) -> str:
        """The torque."""
        return f"torque {action - 1:+d}" if action != 1 else "torque 0"

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        physics = Physics()
        limits = [1.0, 1.0, 1.0, 1.0, physics.max_velocity_1, physics.max_velocity_2]
        high = np.asarray(limits, np.float32)
        return Env(physics, _reset, _step, num_actions=3, low=-high, high=high)
