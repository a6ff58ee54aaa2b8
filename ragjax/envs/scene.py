"""Scenes: what an environment looks like, as plain shapes in its own units. Nothing is drawn here.

`ragjax render` draws them. One scale holds for both axes, so a circle is round whatever its unit is.
Numbers may be NumPy's, also arrays [].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, SupportsFloat, get_args

import numpy as np

from ragjax.errors import require

Role = Literal[
    "ink",  # text, and outlines that matter
    "muted",  # what is there and says little
    "ground",  # earth, floors, walls
    "road",
    "marking",  # lines on a road or the ground
    "agent",  # what the policy moves
    "part",  # a second part of that
    "other",  # what moves by itself
    "goal",  # where to go, what is right
    "danger",  # what has failed, or ends the episode
]
Align = Literal["left", "center", "right"]
Number = SupportsFloat
LIKELIEST = 10


@dataclass(frozen=True)
class Rectangle:
    """A filled rectangle.

    Attributes:
      x: of its centre.
      y: of its centre.
      width: along x, before it is turned.
      height: along y, likewise.
      angle: by which it is turned from the x towards the y axis, in radians.
      role: what it stands for, which gives it a colour.
    """

    x: Number
    y: Number
    width: Number
    height: Number
    angle: Number = 0.0
    role: Role = "agent"


@dataclass(frozen=True)
class Circle:
    """A filled circle.

    Attributes:
      x: of its centre.
      y: of its centre.
      radius: its radius.
      role: what it stands for.
    """

    x: Number
    y: Number
    radius: Number
    role: Role = "agent"


@dataclass(frozen=True)
class Polygon:
    """A filled area.

    Attributes:
      points: its corners (x, y), in order.
      role: what it stands for.
    """

    points: Sequence[tuple[Number, Number]]
    role: Role = "ground"


@dataclass(frozen=True)
class Line:
    """A line from point to point.

    Attributes:
      points: (x, y) of each.
      width: in pixels.
      dashed: whether it is.
      role: what it stands for.
    """

    points: Sequence[tuple[Number, Number]]
    width: Number = 2.0
    dashed: bool = False
    role: Role = "ink"


@dataclass(frozen=True)
class Label:
    """A line of text.

    Attributes:
      x: where it is aligned.
      y: of its middle.
      text: what it says.
      height: of the letters' line.
      align: which of its ends, or its centre, is at x.
      role: what it stands for.
    """

    x: Number
    y: Number
    text: str
    height: Number
    align: Align = "center"
    role: Role = "ink"


Shape = Rectangle | Circle | Polygon | Line | Label


@dataclass(frozen=True)
class Scene:
    """What is seen at one time.

    Attributes:
      shapes: the later ones before the earlier ones.
      x: the left and the right edge of the view, which may follow what moves; its size should stay.
      y: the lower and the upper edge; of an axis that points down, the lower one is the larger.
      caption: a few words below it, such as a speed.
    """

    shapes: Sequence[Shape]
    x: tuple[Number, Number]
    y: tuple[Number, Number]
    caption: str = ""

    def __post_init__(self):
        """Checks that there is something to see, and that every role has a colour."""
        for name in ("x", "y"):
            low, high = map(float, getattr(self, name))
            require(
                -float("inf") < low != high < float("inf"),
                f"a scene's {name} is ({low:g}, {high:g}); give two edges that differ.",
            )
        for shape in self.shapes:
            require(
                shape.role in get_args(Role),
                f"a {type(shape).__name__} of a scene has role {shape.role!r}; choose one of "
                f"{', '.join(get_args(Role))}.",
            )


def bars(
    rows: Sequence[tuple[str, Number, Role]], low: Number, high: Number, caption: str = ""
) -> Scene:
    """A list of named numbers, each with a bar from 0, such as the items that are shown to a user.

    Args:
      rows: name, number and role of each, from top to bottom; there is at least one.
      low: the least number that a bar has room for, at most 0.
      high: the largest one, above `low` and at least 0.
      caption: see `Scene`.
    """
    low, high = float(low), float(high)
    require(
        bool(rows) and low <= 0 <= high and low < high,
        f"bars of {len(rows)} rows from {low:g} to {high:g}; give a row, and a range around 0.",
    )
    names, width = 6.0, 8.0  # in rows' heights
    scale = width / (high - low)
    zero = names - low * scale
    shapes: list[Shape] = []
    for place, (name, number, role) in enumerate(rows):
        number = float(number)
        length = min(max(number, low), high) * scale
        shapes += [
            Label(names - 0.3, place, name, height=0.55, align="right"),
            Rectangle(zero + length / 2, place, abs(length), 0.62, role=role),
            Label(names + width + 0.3, place, f"{number:.3g}", height=0.5, align="left"),
        ]
    shapes.append(Line([(zero, -0.5), (zero, len(rows) - 0.5)], width=1.0, role="ink"))
    return Scene(shapes, (0.0, names + width + 2.0), (len(rows) - 0.3, -0.7), caption)


def likeliest(
    noun: str, chances: np.ndarray, marked: int, high: Number, caption: str = ""
) -> Scene:
    """The ten largest of many chances, as bars.

    Args:
      noun: what has them; the name of number 3 is this and "3".
      chances: [n], none of them negative.
      marked: the number of the one that is drawn as the agent; the others are goals.
      high: the largest chance that a bar has room for.
      caption: see `Scene`.
    """
    rows: list[tuple[str, Number, Role]] = [
        (f"{noun} {row}", float(chances[row]), "agent" if row == marked else "goal")
        for row in np.argsort(-chances, kind="stable")[:LIKELIEST]
    ]
    return bars(rows, 0.0, high, caption)
