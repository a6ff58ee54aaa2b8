"""Frames: what stands where, and what is seen of it."""

import math
from pathlib import Path

import numpy as np
import pytest

from ragjax.envs.scene import Circle, Label, Line, Polygon, Rectangle, Scene
from ragjax.evaluation import frames as module
from ragjax.evaluation.frames import COLORS, WIDTH, Moment, frames, layout_of, outline
from ragjax.evaluation.replay import Decision, Found

FILM = Path("film.gif")
SQUARE = Scene([Rectangle(0.0, 0.0, 1.0, 0.5)], (-1.0, 1.0), (-1.0, 1.0), "a caption")


def moment(scene=SQUARE, decision=None, **fields):
    return Moment(scene, **({"steps": 1, "total": 2.5} | fields), decision=decision)


def decision(actions=3, passages=0, weighed=True):
    shares = np.full(actions, 1 / actions).tolist()
    names = [f"action {number}" for number in range(actions)]
    weights = np.full(passages, 1 / max(passages, 1)).tolist()
    found = [
        Found(row, f"says {row}", *((share, share) if weighed else (None, None)))
        for row, share in enumerate(weights)
    ]
    return Decision(names[-1], list(zip(names, shares, strict=True)), found)


def drawn(*moments):
    return list(frames("a film", moments, FILM))


@pytest.fixture
def written(monkeypatch):
    """The texts that frames hold, in order."""
    said, write = [], module._write

    def note(axes, x, y, text, *rest, **options):
        said.append(text)
        write(axes, x, y, text, *rest, **options)

    monkeypatch.setattr(module, "_write", note)
    return said


def has_color(frame, color):
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return bool(np.any(np.all(frame == wanted, axis=-1)))


def test_a_rectangle_is_turned_about_its_centre():
    corners = outline(Rectangle(1.0, 2.0, 4.0, 2.0, math.pi / 2))
    assert sorted((round(x, 6), round(y, 6)) for x, y in corners) == [
        (0, 0),
        (0, 4),
        (2, 0),
        (2, 4),
    ]
    tilted = outline(Rectangle(0.0, 0.0, 2.0, 0.0, math.pi / 6))
    assert tilted[1] == pytest.approx((math.cos(math.pi / 6), 0.5))  # from the x to the y axis


def test_a_circle_is_round():
    distances = {round(math.hypot(x - 3, y + 1), 9) for x, y in outline(Circle(3.0, -1.0, 0.5))}
    assert distances == {0.5}


def test_pixels_are_where_the_scene_says():
    """One scale for both axes, and each shape over the earlier ones."""
    shapes = [
        Polygon([(-1.0, -1.0), (1.0, -1.0), (1.0, 0.0), (-1.0, 0.0)], role="ground"),
        Rectangle(0.5, 0.5, 0.5, 0.5, role="goal"),
        Circle(0.5, 0.5, 0.1, role="danger"),
        Line([(-0.9, 0.5), (-0.1, 0.5)], 4.0, role="other"),
    ]
    scene = Scene(shapes, (-1.0, 1.0), (-1.0, 1.0))
    (frame,) = drawn(moment(scene))
    left, upper, width, height = layout_of([moment(scene)]).scene
    side = min(width, height)

    def at(x, y):
        across = left + width / 2 + x * side / 2
        down = upper + height / 2 - y * side / 2
        red, green, blue = frame[int(down), int(across)].tolist()
        return f"#{red:02x}{green:02x}{blue:02x}"

    assert at(-0.5, -0.5) == COLORS["ground"]
    assert at(0.35, 0.65) == COLORS["goal"]
    assert at(0.5, 0.5) == COLORS["danger"]
    assert at(-0.5, 0.5) == COLORS["other"]
    assert at(-0.5, 0.8) == "#ffffff"


def test_an_axis_may_point_down():
    dot = [Circle(0.5, 0.2, 0.1, role="danger")]
    up, down = (drawn(moment(Scene(dot, (0.0, 1.0), y)))[0] for y in ((0.0, 1.0), (1.0, 0.0)))
    red = [frame[..., 0].astype(int) - frame[..., 2] > 80 for frame in (up, down)]
    rows = [np.flatnonzero(np.any(found, axis=1)) for found in red]
    assert rows[0].mean() > rows[1].mean()


def test_all_frames_have_one_size():
    """Whatever stands beside a scene, and an even one for video."""
    several = [moment(decision=decision(2, 3)), moment(decision=decision(5, 1)), moment()]
    shapes = {frame.shape for frame in drawn(*several)}
    assert len(shapes) == 1
    ((height, width, channels),) = shapes
    assert (width, channels, height % 2) == (WIDTH, 3, 0)


@pytest.mark.parametrize("high", [0.01, 2.0, 500.0])
@pytest.mark.parametrize("passages", [0, 1, 8, 30])
@pytest.mark.parametrize("actions", [0, 2, 50])
def test_nothing_overlaps(high, passages, actions):
    scene = Scene([], (0.0, 4.0), (0.0, high))
    layout = layout_of([moment(scene, decision(max(actions, 1), passages))])
    left, upper, width, height = layout.scene
    flat = layout.actions[0] == left
    assert left + width <= WIDTH
    assert upper + height < layout.height < 1100
    for place in (layout.actions, layout.passages):
        assert place[0] + place[2] <= WIDTH
        assert place[1] >= upper + height if flat else place[0] >= left + width
    assert (
        layout.passages[0] > layout.actions[0] if flat else layout.passages[1] > layout.actions[1]
    )


def test_a_road_stands_above_the_rest():
    road = Scene([Rectangle(50.0, 4.0, 100.0, 12.0, role="road")], (0.0, 100.0), (14.0, -2.0))
    assert layout_of([moment(road)]).scene[2] == WIDTH - 2 * module.MARGIN
    assert layout_of([moment()]).scene[2] < WIDTH / 2 + 50


def test_what_is_written(written):
    drawn(moment(decision=decision(2, 2), ended="the end"))
    assert written == [
        *("a film", "1 step, reward 2.5", "the end", "a caption"),
        *("action", "action 1", "action 0", "0.500", "action 1", "0.500"),
        *("2 retrieved passages", "■ p(d|s)", "■ p(d|s,a)"),
        *("passage 0: says 0", "0.500", "0.500", "passage 1: says 1", "0.500", "0.500"),
    ]


def test_what_is_not_shown_is_counted(written):
    drawn(moment(decision=decision(50, 30)))
    assert "44 more actions, 0.880 in all" in written
    assert "action 49" in written  # the one that is taken
    assert "30 retrieved passages" in written
    assert "22 more passages, p(d|s) 0.733 in all" in written


def test_passages_without_weights(written):
    drawn(moment(decision=decision(1, 2, weighed=False)))
    assert "without weights" in written
    assert "■ p(d|s)" not in written
    assert "passage 1: says 1" in written


def test_a_slate_has_no_probabilities(written):
    drawn(moment(decision=Decision("item 3, item 8", [], [])))
    assert "item 3, item 8" in written


def test_long_texts_are_cut_with_a_mark(written):
    long = Decision("a", [("a", 1.0)], [Found(0, "word\n" * 99, 1.0, 1.0)])
    drawn(moment(decision=long))
    (text,) = [text for text in written if text.startswith("passage 0: word word")]
    assert text.endswith("…")


def test_texts_are_shown_as_they_are():
    """No mathematics, no warning of a letter that the font lacks, and nothing that steers."""
    hostile = "$\\frac{1}{0}$ \x1b[31m \ud800 日本語 {x} \\n _^"
    label = Scene([Label(0.0, 0.0, hostile, 0.2)], (-1.0, 1.0), (-1.0, 1.0), hostile)
    said = Decision(hostile, [(hostile, 1.0)], [Found(-2, hostile, 1.0, 1.0)])
    (frame,) = list(frames(hostile, [moment(label, said, ended=hostile)], FILM))
    assert has_color(frame, COLORS["ink"])


def test_equal_moments_give_equal_frames_and_others_others():
    one, again, other = drawn(moment(steps=1), moment(steps=1), moment(steps=2))
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other)


def test_bars_are_as_long_as_the_weights():
    """Of the dark colour of posteriors alone, there being no other."""
    lengths = []
    for weight in (0.25, 0.75):
        found = [Found(0, "", 0.0, weight)]
        (frame,) = drawn(moment(decision=Decision("", [], found)))
        dark = np.all(frame == [0x1B, 0x4F, 0x9C], axis=-1)
        lengths.append(int(dark.sum(axis=1).max()))
    room = module.PANEL - 44
    assert lengths == pytest.approx([0.25 * room, 0.75 * room], abs=2)
