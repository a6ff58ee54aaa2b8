"""Frames of an episode: its scene, and beside it what the policy decided and which passages it read.

A scene that is much wider than high, such as a road, stands above the rest. Every frame of a film has
one size, in pixels, and equal moments give equal pixels with the same version of matplotlib.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ragjax.envs.scene import Circle, Label, Line, Polygon, Rectangle, Role, Scene, Shape
from ragjax.evaluation.plots import DOTS_PER_INCH, Number, empty_figure
from ragjax.evaluation.replay import Decision, Found
from ragjax.printing import visible
from ragjax.text import counted

COLORS: dict[Role, str] = {
    "ink": "#1d232b",
    "muted": "#d5dae1",
    "ground": "#a99f92",
    "road": "#6b7480",
    "marking": "#f4f5f7",
    "agent": "#2f6fce",
    "part": "#8fb4ea",
    "other": "#e29a3b",
    "goal": "#3c9d5d",
    "danger": "#cf4a3c",
}
PAPER, HINT, ROOM, PRIOR, POSTERIOR = "#ffffff", "#68717d", "#eef1f5", "#8fb4ea", "#1b4f9c"

WIDTH = 960  # of a frame
MARGIN = 20
HEAD = 52  # height of the lines above the scene
CAPTION = 26
PANEL = 396  # width of what stands beside the scene
LOW, HIGH = 90, 520  # heights of a scene
FLAT = 2.2  # a scene this much wider than high stands above the rest
ROW, PASSAGE, TITLE = 21, 49, 26  # heights of an action, a passage and a heading
ACTIONS, PASSAGES = 6, 8  # of which as many are shown
TEXT, SMALL = 12.5, 11.0  # heights of letters
LETTER = 0.56  # their mean width over their height
CORNERS = 40  # of a circle

Place = tuple[Number, Number, Number]  # left, upper and width


@dataclass(frozen=True)
class Moment:
    """What one frame shows.

    Attributes:
      scene: of the state.
      steps: of the episode so far.
      total: the rewards so far.
      decision: what the policy does in this state; None at the end.
      ended: how the episode has ended, in a word or two; "" while it goes on.
    """

    scene: Scene
    steps: int
    total: float
    decision: Decision | None
    ended: str = ""


@dataclass(frozen=True)
class Layout:
    """Where things stand in a frame, in pixels from its upper left corner.

    Attributes:
      height: of the frame, even as video formats want it.
      scene: left, upper, width and height of the scene.
      actions: left, upper and width of the actions.
      passages: the same of the passages.
    """

    height: int
    scene: tuple[Number, Number, Number, Number]
    actions: Place
    passages: Place


def layout_of(moments: Sequence[Moment]) -> Layout:
    """Returns the layout that serves all moments of a film: it goes by the first scene's view."""
    scene = moments[0].scene
    width, height = (abs(float(high) - float(low)) for low, high in (scene.x, scene.y))
    decisions = [moment.decision for moment in moments if moment.decision is not None]
    actions = max((_shown(len(each.actions), ACTIONS) for each in decisions), default=0)
    passages = max((_shown(len(each.passages), PASSAGES) for each in decisions), default=0)
    first, second = TITLE + ROW * actions, (TITLE + PASSAGE * passages) * (passages > 0)
    inner = WIDTH - 2 * MARGIN
    flat = width > FLAT * height
    across = inner if flat else inner - PANEL - MARGIN
    high = min(max(across * height / width, LOW), HIGH)
    below = HEAD + high + CAPTION
    if flat:
        beside = (inner - MARGIN) / 2
        total = below + MARGIN + max(first, second)
        left, upper = MARGIN, below + MARGIN
        places = (left, upper, beside), (left + beside + MARGIN, upper, beside)
    else:
        total = max(below, HEAD + first + MARGIN + second)
        left = WIDTH - MARGIN - PANEL
        places = (left, HEAD, PANEL), (left, HEAD + first + MARGIN, PANEL)
    size = 2 * math.ceil((total + MARGIN) / 2)
    return Layout(size, (MARGIN, HEAD, across, high), *places)


def _shown(count: int, most: int) -> int:
    """Rows of a list of which `most` are shown, with one for those that are not."""
    return min(count, most + 1)


def frames(
    title: str, moments: Sequence[Moment], path: Path
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Draws each moment.

    Args:
      title: of the film.
      moments: at least one.
      path: of the film, for messages.

    Raises:
      UserError: matplotlib isn't installed.
    """
    layout = layout_of(moments)
    inches = WIDTH / DOTS_PER_INCH, layout.height / DOTS_PER_INCH
    with empty_figure(path, inches, layout=None) as figure:
        for moment in moments:
            figure.clear()
            sheet = _sheet(figure, layout)
            _write_head(sheet, title, moment)
            _draw_scene(figure, sheet, layout, moment.scene)
            if moment.decision is not None:
                _draw_actions(sheet, layout.actions, moment.decision)
                if moment.decision.passages:
                    _draw_passages(sheet, layout.passages, moment.decision.passages)
            figure.canvas.draw()
            yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _sheet(figure: Any, layout: Layout) -> Any:
    """Axes over the whole frame, in pixels from its upper left corner."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(layout.height, 0)
    return axes


def _write(
    axes: Any, x: Number, y: Number, text: str, size: Number = TEXT, color: str = "", **options: Any
) -> None:
    """Writes a text as it is, of letters `size` pixels high; `y` is its middle."""
    axes.text(
        x,
        y,
        visible(text),
        fontsize=size * 72 / DOTS_PER_INCH,
        color=color or COLORS["ink"],
        verticalalignment="center",
        parse_math=False,
        clip_on=True,
        **options,
    )


def _cut(text: str, width: Number, size: Number) -> str:
    """A text on one line, or its beginning if there is not enough room for it."""
    text, letters = " ".join(text.split()), max(int(width / (LETTER * size)), 4)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _write_head(sheet: Any, title: str, moment: Moment) -> None:
    right = WIDTH - MARGIN
    _write(sheet, MARGIN, 18, _cut(title, right / 2, 14.5), 14.5, weight="bold")
    told = f"{counted(moment.steps, 'step')}, reward {moment.total:.6g}"
    _write(sheet, right, 18, told, 14.5, horizontalalignment="right")
    if moment.ended:
        _write(sheet, right, 38, moment.ended, SMALL, HINT, horizontalalignment="right")


def _draw_scene(figure: Any, sheet: Any, layout: Layout, scene: Scene) -> None:
    left, upper, width, height = layout.scene
    below = 1 - (upper + height) / layout.height
    axes = figure.add_axes((left / WIDTH, below, width / WIDTH, height / layout.height))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(*map(float, scene.x))
    axes.set_ylim(*map(float, scene.y))
    spans = [abs(float(high) - float(low)) for low, high in (scene.x, scene.y)]
    scale = min(width / spans[0], height / spans[1])
    for order, shape in enumerate(scene.shapes):
        _draw_shape(axes, shape, scale, order)
    if scene.caption:
        text = _cut(scene.caption, width, SMALL)
        _write(sheet, left, upper + height + CAPTION / 2, text, SMALL, HINT)


def _draw_shape(axes: Any, shape: Shape, scale: Number, order: int) -> None:
    """Draws a shape; `scale` is pixels in a unit of the scene."""
    color = COLORS[shape.role]
    if isinstance(shape, Label):
        where = float(shape.x), float(shape.y)
        size = float(shape.height) * scale * 0.8  # a line of text is higher than its letters
        _write(axes, *where, shape.text, size, color, horizontalalignment=shape.align, zorder=order)
    elif isinstance(shape, Line):
        x, y = zip(*[(float(x), float(y)) for x, y in shape.points], strict=True)
        style = (0, (6, 6)) if shape.dashed else "-"
        width = float(shape.width) * 72 / DOTS_PER_INCH
        axes.plot(x, y, color=color, linewidth=width, linestyle=style, zorder=order)
    else:
        x, y = np.asarray(outline(shape)).T
        axes.fill(x, y, color=color, linewidth=0, zorder=order)


def outline(shape: Rectangle | Circle | Polygon) -> list[tuple[float, float]]:
    """The corners of a filled shape; a circle has many."""
    if isinstance(shape, Polygon):
        return [(float(x), float(y)) for x, y in shape.points]
    x, y = float(shape.x), float(shape.y)
    if isinstance(shape, Circle):
        turns = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
        radius = float(shape.radius)
        return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
    sine, cosine = math.sin(float(shape.angle)), math.cos(float(shape.angle))
    half = float(shape.width) / 2, float(shape.height) / 2
    corners = [(a * half[0], b * half[1]) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in corners]


def _draw_actions(sheet: Any, place: Place, decision: Decision) -> None:
    """The likeliest actions with their probabilities, in their own order, and the one that is taken."""
    left, upper, width = place
    _write(sheet, left, upper + 8, "action", weight="bold")
    taken = _cut(decision.taken, width - 60, TEXT)
    _write(sheet, left + 58, upper + 8, taken, color=POSTERIOR, weight="bold")
    kept = sorted(decision.actions, key=lambda each: (each[0] != decision.taken, -each[1]))
    kept = kept[:ACTIONS]
    shown = [each for each in decision.actions if each in kept]
    names = 0.34 * width
    for line, (name, share) in enumerate(shown):
        y = upper + TITLE + ROW * (line + 0.5)
        color = POSTERIOR if name == decision.taken else HINT
        _write(sheet, left, y, _cut(name, names, SMALL), SMALL, color)
        _bar(sheet, (left + names, y, width - names), share, PRIOR if color == HINT else POSTERIOR)
    if more := len(decision.actions) - len(shown):
        rest = sum(share for _, share in decision.actions) - sum(share for _, share in shown)
        y = upper + TITLE + ROW * (len(shown) + 0.5)
        _write(sheet, left, y, f"{counted(more, 'more action')}, {rest:.3f} in all", SMALL, HINT)


def _bar(sheet: Any, place: Place, share: float, color: str) -> None:
    """A bar of a probability in the room from `left` about the height `y`, and its number."""
    left, y, width = place
    room = width - 44
    for length, shade in ((room, ROOM), (room * min(max(share, 0.0), 1.0), color)):
        sheet.fill(
            [left, left + length, left + length, left],
            [y - 4, y - 4, y + 4, y + 4],
            color=shade,
            linewidth=0,
        )
    number = f"{share:.3f}"
    _write(sheet, left + width, y, number, SMALL, HINT, horizontalalignment="right")


def _draw_passages(sheet: Any, place: Place, passages: Sequence[Found]) -> None:
    """The retrieved passages, each with its weight before and after the action."""
    left, upper, width = place
    weighed = passages[0].prior is not None
    _write(sheet, left, upper + 8, counted(len(passages), "retrieved passage"), weight="bold")
    for name, color, end in (("p(d|s)", PRIOR, 110), ("p(d|s,a)", POSTERIOR, 0)):
        if weighed:
            x = left + width - end
            _write(sheet, x, upper + 8, f"■ {name}", SMALL, color, horizontalalignment="right")
    if not weighed:
        _write(sheet, left + width, upper + 8, "without weights", SMALL, HINT, ha="right")
    shown = passages[:PASSAGES]
    for line, passage in enumerate(shown):
        y = upper + TITLE + PASSAGE * line
        words = f"{passage.title}: {passage.text}" if passage.text else passage.title
        _write(sheet, left, y + 8, _cut(words, width, SMALL), SMALL)
        for down, weight, color in (
            (23, passage.prior, PRIOR),
            (35, passage.posterior, POSTERIOR),
        ):
            if weight is not None:
                _bar(sheet, (left, y + down, width), weight, color)
    if more := len(passages) - len(shown):
        words = counted(more, "more passage")
        if weighed:
            rest = sum(passage.prior or 0.0 for passage in passages[PASSAGES:])
            words += f", p(d|s) {rest:.3f} in all"
        _write(sheet, left, upper + TITLE + PASSAGE * len(shown) + 8, words, SMALL, HINT)
