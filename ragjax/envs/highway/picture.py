"""What is seen of a road: its lanes, and the vehicles around the ego."""

import numpy as np

from ragjax.envs.highway.lanes import VEHICLE_LENGTH, WIDTH, Lanes, Road
from ragjax.envs.highway.vehicles import VEHICLE_WIDTH, Vehicles
from ragjax.envs.scene import Line, Polygon, Rectangle, Role, Scene, Shape

BEHIND, AHEAD = 30.0, 110.0  # of the ego that is seen, m
VERGE = 2.0  # beside the outermost lanes, m
PIECE = 5.0  # by which lanes are drawn where one is curved, m


def picture(road: Road, vehicles: Vehicles, caption: str) -> Scene:
    """The road from 30 m behind the ego to 110 m ahead; y points down, as right is to a driver.

    Args:
      road: as NumPy arrays, like the vehicles.
      vehicles: of which number 0 is the ego. Who has crashed is drawn as danger.
      caption: see `Scene`.
    """
    left = float(vehicles.x[0]) - BEHIND
    right = left + BEHIND + AHEAD
    lanes = [_centre(road.lanes, row, left, right) for row in range(len(road.lanes.y))]
    seen = [centre for centre in lanes if len(centre)]
    shapes: list[Shape] = [Polygon(_edges(centre), role="road") for centre in seen]
    for centre in seen:
        for side in (-WIDTH / 2, WIDTH / 2):
            line = [(x, y + side) for x, y in centre]
            shapes.append(Line(line, width=1.0, dashed=True, role="marking"))
    if road.obstacles is not None:
        shapes += [Rectangle(x, y, 2.0, 2.0, role="danger") for x, y in road.obstacles]
    for number in reversed(range(len(vehicles.x))):
        if left <= float(vehicles.x[number]) <= right:
            role: Role = "other" if number else "agent"
            shapes.append(
                Rectangle(
                    vehicles.x[number],
                    vehicles.y[number],
                    VEHICLE_LENGTH,
                    VEHICLE_WIDTH,
                    vehicles.heading[number],
                    role="danger" if bool(vehicles.crashed[number]) else role,
                )
            )
    heights = np.concatenate([road.lanes.y - _swing(road.lanes), road.lanes.y + _swing(road.lanes)])
    room = WIDTH / 2 + VERGE
    y = float(heights.max()) + room, float(heights.min()) - room
    return Scene(shapes, (left, right), y, caption)


def _swing(lanes: Lanes) -> np.ndarray:
    """How far the centre line of each lane goes to either side [L], m."""
    zero = np.zeros_like(lanes.y)
    return zero if lanes.amplitude is None else np.abs(lanes.amplitude)


def _centre(lanes: Lanes, row: int, left: float, right: float) -> list[tuple[float, float]]:
    """Points of a lane's centre line between two x; none if it isn't there."""
    start = float(lanes.start[row])
    low, high = max(start, left), min(start + float(lanes.length[row]), right)
    if low >= high:
        return []
    count = 2 if lanes.amplitude is None else 2 + int((high - low) / PIECE)
    x = np.linspace(low, high, count)
    y = np.full(count, lanes.y[row], float)
    if lanes.amplitude is not None:
        y = y + lanes.amplitude[row] * np.cos(lanes.wave_number[row] * (x - start))
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _edges(centre: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The outline of a lane about its centre line."""
    there = [(x, y - WIDTH / 2) for x, y in centre]
    return there + [(x, y + WIDTH / 2) for x, y in reversed(centre)]
