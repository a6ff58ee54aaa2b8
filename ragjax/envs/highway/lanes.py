"""Lanes: where they lie, which follow on which, and where a vehicle is on each.

All lanes lead in the direction of x, so that the way between two vehicles along any lane is the
difference of their x. Arrays of lanes and vehicles have lanes first, [L,V].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ragjax.types import Leaf

WIDTH = 4.0  # of a lane, m
VEHICLE_LENGTH = 5.0  # m
REACH = 2 * WIDTH  # lanes farther to the side are out of reach, m
END = VEHICLE_LENGTH / 2  # before the end of its lane a vehicle turns to the next one, m


class Lane(NamedTuple):
    """One lane, to make `Lanes` of.

    Attributes:
      road: the two nodes that it joins.
      start: x of its start, m.
      end: x of its end, m.
      y: of its centre line, m.
      forbidden: whether nobody changes to it.
      amplitude: A, m; the centre line is y + A cos(2π (x - start) / wavelength).
      wavelength: m.
    """

    road: str
    start: float
    end: float
    y: float
    forbidden: bool = False
    amplitude: float = 0.0
    wavelength: float = 1.0


@struct.dataclass
class Lanes:
    """L lanes; all are [L].

    Attributes:
      start: x of the start, m.
      length: m.
      y: of the centre line, m.
      amplitude: of the centre line's cosine, m; None if all lanes are straight.
      wave_number: 2π / wavelength, 1/m; None if all lanes are straight.
      road: number of the road.
      place: number within the road, from the left.
      forbidden: whether nobody changes to it.
      following: the lane that a vehicle turns to at its end; itself where the road ends.
      left: the lane beside it, itself where there is none.
      right: as `left`.
      searched: [L,L] of a lane, those on which its leaders and followers are; None for itself only.
    """

    start: Leaf
    length: Leaf
    y: Leaf
    amplitude: Leaf
    wave_number: Leaf
    road: Leaf
    place: Leaf
    forbidden: Leaf
    following: Leaf
    left: Leaf
    right: Leaf
    searched: Leaf


@struct.dataclass
class Road:
    """What vehicles drive on.

    Attributes:
      lanes: its `Lanes`.
      limit: [] of the speed, m/s.
      obstacles: [M,2] their positions, m, or None.
    """

    lanes: Lanes
    limit: Leaf
    obstacles: Leaf


def make_lanes(lanes: Sequence[Lane], *, connected: bool) -> Lanes:
    """Returns lanes in the order in which a vehicle's lane is looked for.

    At the end of its lane a vehicle turns to the nearest lane of the road that starts there.

    Args:
      lanes: by roads, and from the left within a road.
      connected: whether leaders and followers are also looked for on the lanes of the same number, or
        else number 0, of the roads before and after.
    """
    roads = list(dict.fromkeys(lane.road for lane in lanes))
    rows = range(len(lanes))
    within = {road: [row for row in rows if lanes[row].road == road] for road in roads}
    place = [within[lanes[row].road].index(row) for row in rows]

    def height(row: int, x: float) -> float:
        lane = lanes[row]
        return lane.y + lane.amplitude * math.cos(math.tau * (x - lane.start) / lane.wavelength)

    def following(row: int) -> int:
        lane, end = lanes[row], lanes[row].end
        after = [other for road in roads if road[0] == lane.road[1] for other in within[road]]
        return min(after, key=lambda other: abs(height(other, end) - height(row, end)), default=row)

    def beside(row: int, side: int) -> int:
        wanted, all_of_road = place[row] + side, within[lanes[row].road]
        return all_of_road[wanted] if 0 <= wanted < len(all_of_road) else row

    searched = np.eye(len(lanes), dtype=bool)
    for row in rows if connected else ():
        start, end = lanes[row].road
        for road in roads:
            if road[0] == end or road[1] == start:
                there = within[road]
                searched[row, there[place[row]] if place[row] < len(there) else there[0]] = True
    curved = any(lane.amplitude for lane in lanes)

    def numbers(values: Sequence[float]) -> Array:
        return jnp.asarray(values, float)  # double precision where JAX has it

    return Lanes(
        start=numbers([lane.start for lane in lanes]),
        length=numbers([lane.end - lane.start for lane in lanes]),
        y=numbers([lane.y for lane in lanes]),
        amplitude=numbers([lane.amplitude for lane in lanes]) if curved else None,
        wave_number=numbers([math.tau / lane.wavelength for lane in lanes]) if curved else None,
        road=jnp.asarray([roads.index(lane.road) for lane in lanes], jnp.int32),
        place=jnp.asarray(place, jnp.int32),
        forbidden=jnp.asarray([lane.forbidden for lane in lanes]),
        following=jnp.asarray([following(row) for row in rows], jnp.int32),
        left=jnp.asarray([beside(row, -1) for row in rows], jnp.int32),
        right=jnp.asarray([beside(row, 1) for row in rows], jnp.int32),
        searched=jnp.asarray(searched) if connected else None,
    )


def pick(table: Array, lane: Int[Array, "V"]) -> Array:
    """The entries of [L,V], or of [L], for one lane of each vehicle [V]."""
    table = table if table.ndim == 2 else table[:, None]
    chosen = jnp.arange(len(table), dtype=jnp.int32)[:, None] == lane
    if table.dtype == bool:
        return jnp.any(chosen & table, axis=0)
    zeros = jnp.zeros_like(table)
    return jnp.sum(jnp.where(chosen, table, zeros), axis=0, dtype=table.dtype)


def local_coordinates(
    lanes: Lanes, x: Float[Array, "V"], y: Float[Array, "V"]
) -> tuple[Float[Array, "L V"], Float[Array, "L V"]]:
    """The way s along each lane from its start, and the distance r to the right of its centre, m."""
    s = x - lanes.start[:, None]
    r = y - lanes.y[:, None]
    if lanes.amplitude is not None:
        r -= lanes.amplitude[:, None] * jnp.cos(lanes.wave_number[:, None] * s)
    return s, r


def headings(lanes: Lanes, s: Float[Array, "L V"]) -> Float[Array, "L V"]:
    """The directions of the lanes at s, rad."""
    if lanes.amplitude is None:
        return jnp.zeros_like(s)
    slope = -lanes.amplitude * lanes.wave_number
    return jnp.arctan(slope[:, None] * jnp.sin(lanes.wave_number[:, None] * s))


def on_lane(
    lanes: Lanes, s: Float[Array, "L V"], r: Float[Array, "L V"], margin: float
) -> Bool[Array, "L V"]:
    """Whether |r| <= 2 + margin and -5 <= s < length + 5."""
    inside = (s >= -VEHICLE_LENGTH) & (s < lanes.length[:, None] + VEHICLE_LENGTH)
    return inside & (jnp.abs(r) <= WIDTH / 2 + margin)


def reachable(lanes: Lanes, s: Float[Array, "L V"], r: Float[Array, "L V"]) -> Bool[Array, "L V"]:
    """Whether a vehicle may change to each lane: not forbidden, |r| <= 8, and 0 <= s < length + 5."""
    inside = (s >= 0) & (s < lanes.length[:, None] + VEHICLE_LENGTH)
    return inside & (jnp.abs(r) <= REACH) & ~lanes.forbidden[:, None]


def nearest_lane(
    lanes: Lanes, x: Float[Array, "V"], y: Float[Array, "V"], heading: Float[Array, "V"]
) -> Int[Array, "V"]:
    """The lane of least |r| + way past its ends + |heading - its direction|; of equals the first."""
    s, r = local_coordinates(lanes, x, y)
    outside = jnp.maximum(s - lanes.length[:, None], 0.0) + jnp.maximum(-s, 0.0)
    distance = jnp.abs(r) + outside + jnp.abs(wrap(heading - headings(lanes, s)))
    return jnp.argmin(distance, axis=0).astype(jnp.int32)


def wrap(angle: Array) -> Array:
    """The angle within -π <= z < π."""
    return angle - math.tau * jnp.floor((angle + math.pi) / math.tau)


def not_zero(number: Array) -> Array:
    """The number, or ±0.01 in place of what is smaller, to divide by."""
    least = jnp.where(number >= 0, 0.01, -0.01).astype(number.dtype)
    return jnp.where(jnp.abs(number) > 0.01, number, least)
