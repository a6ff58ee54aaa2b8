"""Collisions of oriented rectangles, by the theorem of separating axes."""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ragjax.envs.highway.lanes import VEHICLE_LENGTH
from ragjax.envs.highway.vehicles import VEHICLE_WIDTH, Vehicles

OBSTACLE = 2.0  # length and width, m
DIAGONAL = math.hypot(VEHICLE_LENGTH, VEHICLE_WIDTH)
OBSTACLE_DIAGONAL = math.hypot(OBSTACLE, OBSTACLE)


class Boxes(NamedTuple):
    """Rectangles of one size, that of a vehicle or of an obstacle; arrays [n]."""

    x: Array
    y: Array
    speed: Array
    cosine: Array
    sine: Array
    half_length: float
    half_width: float
    diagonal: float

    def columns(self, count: int) -> "Boxes":
        """The first ones, with arrays [count,1]."""
        return self._replace(
            x=self.x[:count, None],
            y=self.y[:count, None],
            speed=self.speed[:count, None],
            cosine=self.cosine[:count, None],
            sine=self.sine[:count, None],
        )


def collide(
    vehicles: Vehicles, obstacles: Float[Array, "M 2"] | None, dt: float, *, everyone: bool
) -> Vehicles:
    """Marks who touches another now, and gives an impact to who will within dt seconds.

    Both of a pair are moved apart by half of what they overlap by; beside an obstacle the vehicle
    takes all of it. Of several impacts the last one counts, in the order of the others.

    Args:
      vehicles: all.
      obstacles: their positions, m, or None.
      dt: s.
      everyone: whether all pairs are looked at, or only those with the ego.
    """
    count = len(vehicles.x)
    boxes = Boxes(
        x=vehicles.x,
        y=vehicles.y,
        speed=vehicles.speed,
        cosine=jnp.cos(vehicles.heading),
        sine=jnp.sin(vehicles.heading),
        half_length=VEHICLE_LENGTH / 2,
        half_width=VEHICLE_WIDTH / 2,
        diagonal=DIAGONAL,
    )
    first = count if everyone else 1
    firsts = boxes.columns(first)
    touch, will, shift_x, shift_y = overlap(firsts, boxes, dt)  # [first,V]
    pairs = jnp.arange(first)[:, None] < jnp.arange(count)
    touch, will = touch & pairs, will & pairs
    crashed = vehicles.crashed | jnp.any(touch, axis=0)
    crashed = crashed.at[:first].set(crashed[:first] | jnp.any(touch, axis=1))

    # Of each vehicle the last impact: first from those before it, then from those after it
    hit, impact_x, impact_y = _last(will, -0.5 * shift_x, -0.5 * shift_y, axis=0)
    later = _last(will, 0.5 * shift_x, 0.5 * shift_y, axis=1)
    if obstacles is not None:
        zeros = jnp.zeros_like(obstacles[:, 0])
        still = Boxes(
            x=obstacles[:, 0],
            y=obstacles[:, 1],
            speed=zeros,
            cosine=jnp.ones_like(zeros),
            sine=zeros,
            half_length=OBSTACLE / 2,
            half_width=OBSTACLE / 2,
            diagonal=OBSTACLE_DIAGONAL,
        )
        touch, will, shift_x, shift_y = overlap(firsts, still, dt)
        crashed = crashed.at[:first].set(crashed[:first] | jnp.any(touch, axis=1))
        later = _prefer(_last(will, shift_x, shift_y, axis=1), later)
    before = hit[:first], impact_x[:first], impact_y[:first]
    hit, impact_x, impact_y = (
        whole.at[:first].set(part)
        for whole, part in zip((hit, impact_x, impact_y), _prefer(later, before), strict=True)
    )
    return dataclasses.replace(
        vehicles, crashed=crashed, hit=hit, impact_x=impact_x, impact_y=impact_y
    )


def _last(will: Bool[Array, "I J"], x: Array, y: Array, axis: int) -> tuple[Array, Array, Array]:
    """Along an axis: whether there is an impact, and the last one."""
    rows = jnp.arange(will.shape[axis])
    rows = rows[:, None] if axis == 0 else rows
    last = jnp.max(jnp.where(will, rows, -1), axis=axis, keepdims=True)
    chosen = will & (rows == last)
    return (
        jnp.any(will, axis=axis),
        jnp.sum(jnp.where(chosen, x, 0.0), axis=axis),
        jnp.sum(jnp.where(chosen, y, 0.0), axis=axis),
    )


def _prefer(
    later: tuple[Array, Array, Array], earlier: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """The later impact where there is one."""
    hit = later[0]
    return (
        hit | earlier[0],
        jnp.where(hit, later[1], earlier[1]),
        jnp.where(hit, later[2], earlier[2]),
    )


def overlap(
    first: Boxes, second: Boxes, dt: float
) -> tuple[Bool[Array, "I J"], Bool[Array, "I J"], Float[Array, "I J"], Float[Array, "I J"]]:
    """How rectangles [I,1] lie to rectangles [J].

    Centres farther apart than the mean diagonal and what the first one drives in dt are passed over.

    Returns:
      Whether they touch; whether they will, on the first one's way by the difference of velocities for
      dt; and the shortest way that the first would have to be moved, together with that way, m.
    """
    away_x, away_y = first.x - second.x, first.y - second.y
    reach = (first.diagonal + second.diagonal) / 2 + first.speed * dt
    near = jnp.hypot(away_x, away_y) <= reach
    move_x = (first.speed * first.cosine - second.speed * second.cosine) * dt
    move_y = (first.speed * first.sine - second.speed * second.sine) * dt
    touch = will = near
    least, shift_x, shift_y = jnp.full_like(away_x, jnp.inf), away_x, away_y
    for box in (first, second):
        # The order of a rectangle's edges: across it before along it.
        for axis_x, axis_y in ((box.cosine, box.sine), (-box.sine, box.cosine)):
            half = _half_width(first, axis_x, axis_y), _half_width(second, axis_x, axis_y)
            centre = away_x * axis_x + away_y * axis_y
            touch &= _gap(centre, *half) <= 0
            gap = _gap(centre, *half, move_x * axis_x + move_y * axis_y)
            will &= gap <= 0
            smaller = jnp.abs(gap) < least
            size = jnp.where(centre > 0, jnp.abs(gap), -jnp.abs(gap))
            least = jnp.where(smaller, jnp.abs(gap), least)
            shift_x = jnp.where(smaller, size * axis_x, shift_x)
            shift_y = jnp.where(smaller, size * axis_y, shift_y)
    return touch, will, shift_x, shift_y


def _half_width(box: Boxes, axis_x: Array, axis_y: Array) -> Array:
    """Half the width of a rectangle's shadow on an axis."""
    along = box.cosine * axis_x + box.sine * axis_y
    across = box.cosine * axis_y - box.sine * axis_x
    return box.half_length * jnp.abs(along) + box.half_width * jnp.abs(across)


def _gap(centre: Array, first: Array, second: Array, move: float | Array = 0.0) -> Array:
    """Between two shadows, of which the first also covers its way; negative where they overlap.

    Where one lies within the other, it is minus the shorter of the two ways out.

    Args:
      centre: of the first, from that of the second.
      first: half the width of the first.
      second: half the width of the second.
      move: the way of the first.
    """
    low, high = centre - first + jnp.minimum(move, 0.0), centre + first + jnp.maximum(move, 0.0)
    before, after = (
        -second - high,
        low - second,
    )  # where the first comes before the second, and after it
    outer = jnp.where(low < -second, before, after)
    nested = (low < -second) == (high > second)
    return jnp.where(nested, jnp.maximum(before, after), outer)
