"""Vehicles as arrays, and how they move: a bicycle model of one axle in the middle."""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ragjax.envs.highway.lanes import VEHICLE_LENGTH, Lanes, nearest_lane
from ragjax.types import Leaf

VEHICLE_WIDTH = 2.0  # m
MAX_SPEED = 40.0  # m/s, forwards and backwards


@struct.dataclass
class Vehicles:
    """V vehicles, of which number 0 is the ego; all are [V].

    Attributes:
      x: position, m.
      y: position to the right, m.
      heading: rad, to the right of x.
      speed: m/s along the heading, negative backwards.
      steering: the last command, rad.
      acceleration: the last command, m/s².
      crashed: whether it has crashed.
      hit: whether an impact waits to be carried out.
      impact_x: of the impact, m.
      impact_y: of the impact, m.
      lane: the nearest lane.
      target_lane: the lane that it steers to.
      target_speed: m/s.
      exponent: δ of its driver, see `drivers.acceleration`.
      timer: seconds since its driver last thought of changing lanes.
    """

    x: Leaf
    y: Leaf
    heading: Leaf
    speed: Leaf
    steering: Leaf
    acceleration: Leaf
    crashed: Leaf
    hit: Leaf
    impact_x: Leaf
    impact_y: Leaf
    lane: Leaf
    target_lane: Leaf
    target_speed: Leaf
    exponent: Leaf
    timer: Leaf


def place_vehicles(
    lanes: Lanes,
    x: Float[Array, "V"],
    y: Float[Array, "V"],
    speed: Float[Array, "V"],
    target_speed: Float[Array, "V"],
    exponent: Float[Array, "V"],
) -> Vehicles:
    """Vehicles that go straight on; timers begin at ((x + y) π) modulo 1."""
    zero, no = jnp.zeros_like(x), jnp.zeros(x.shape, bool)
    lane = nearest_lane(lanes, x, y, zero)
    turns = (x + y) * jnp.pi
    return Vehicles(
        x=x,
        y=y,
        heading=zero,
        speed=speed,
        steering=zero,
        acceleration=zero,
        crashed=no,
        hit=no,
        impact_x=zero,
        impact_y=zero,
        lane=lane,
        target_lane=lane,
        target_speed=target_speed,
        exponent=exponent,
        timer=turns - jnp.floor(turns),
    )


def velocity(vehicles: Vehicles) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
    """V (cos ψ, sin ψ), m/s."""
    return (
        vehicles.speed * jnp.cos(vehicles.heading),
        vehicles.speed * jnp.sin(vehicles.heading),
    )


def move(lanes: Lanes, vehicles: Vehicles, dt: float) -> Vehicles:
    """Carries out the commands for dt seconds, and impacts at once.

        tan β = ½ tan δ,  (x, y) += v (cos(ψ + β), sin(ψ + β)) dt
        ψ += v sin β / (length / 2) dt,  v += a dt

    A crashed vehicle goes straight on and brakes by a = -v; nobody accelerates beyond ±40 m/s.
    """
    speed, heading = vehicles.speed, vehicles.heading
    steering = jnp.where(vehicles.crashed, 0.0, vehicles.steering)
    acceleration = jnp.where(vehicles.crashed, -speed, vehicles.acceleration)
    faster, slower = speed > MAX_SPEED, speed < -MAX_SPEED
    acceleration = jnp.where(faster, jnp.minimum(acceleration, MAX_SPEED - speed), acceleration)
    acceleration = jnp.where(slower, jnp.maximum(acceleration, -MAX_SPEED - speed), acceleration)
    slip = jnp.arctan(0.5 * jnp.tan(steering))
    x = vehicles.x + speed * jnp.cos(heading + slip) * dt
    y = vehicles.y + speed * jnp.sin(heading + slip) * dt
    x += jnp.where(vehicles.hit, vehicles.impact_x, 0.0)
    y += jnp.where(vehicles.hit, vehicles.impact_y, 0.0)
    heading += speed * jnp.sin(slip) / (VEHICLE_LENGTH / 2) * dt
    return dataclasses.replace(
        vehicles,
        x=x,
        y=y,
        heading=heading,
        speed=speed + acceleration * dt,
        steering=steering,
        acceleration=acceleration,
        crashed=vehicles.crashed | vehicles.hit,
        hit=jnp.zeros_like(vehicles.hit),
        lane=nearest_lane(lanes, x, y, heading),
        timer=vehicles.timer + dt,
    )
