"""Films: frames come back from the files as they went in."""

import io
import os
import stat
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ragjax.errors import UserError
from ragjax.evaluation import films
from ragjax.evaluation.films import check_film, rate_of, write_film
from ragjax.evaluation.frames import COLORS

FFMPEG = """#!{python}
import pathlib, sys
given = sys.stdin.buffer.read()
pathlib.Path(sys.argv[-1]).write_bytes(" ".join(sys.argv[1:-1]).encode() + b"|" + given)
"""
FAILING = """#!{python}
import sys
print("Unknown encoder 'libx264'", file=sys.stderr)
sys.exit(8)
"""


def rgb(color):
    return [int(color[place : place + 2], 16) for place in (1, 3, 5)]


def plain(color, height=6, width=8):
    return np.full((height, width, 3), rgb(color), np.uint8)


ROLES = [plain(COLORS[role]) for role in ("ink", "agent", "agent", "goal")]


def read(path):
    with Image.open(path) as image:
        return [
            (np.asarray(frame.convert("RGB")), frame.info["duration"])
            for frame in ImageSequence.Iterator(image)
        ]


@pytest.fixture
def program(tmp_path, monkeypatch):
    """(text) -> an `ffmpeg` that is this program of Python's, the only one there is."""
    directory = tmp_path / "bin"
    directory.mkdir()

    def make(text):
        path = directory / "ffmpeg"
        path.write_text(text.format(python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    return make


def test_a_gif_holds_the_frames(tmp_path):
    """Colours of frames come back exactly."""
    path = tmp_path / "film.gif"
    moving = plain(COLORS["goal"])
    moving[2:4, 1:7] = rgb(COLORS["danger"])
    shown = [plain("#ffffff"), *ROLES, moving]  # of which two are alike
    assert write_film(path, iter(shown), 10) == 10
    found = read(path)
    assert len(found) == len(shown)
    for (frame, _), wanted in zip(found, shown, strict=True):
        np.testing.assert_array_equal(frame, wanted)
    assert [duration for _, duration in found] == [100] * 5 + [1500]
    with Image.open(path) as image:
        assert image.info["loop"] == 0  # for ever


@pytest.mark.parametrize(("rate", "made"), [(1, 1), (25, 25), (30, 100 / 3), (50, 50)])
def test_a_gif_counts_hundredths_of_a_second(rate, made, tmp_path):
    path = tmp_path / "film.gif"
    assert write_film(path, ROLES[:2], rate) == pytest.approx(made)
    assert read(path)[0][1] == round(1000 / made / 10) * 10


def test_other_colours_become_the_nearest(tmp_path):
    path = tmp_path / "film.gif"
    near = plain(COLORS["danger"]) + np.array([2, -2, 1]).astype(np.uint8)  # none leaves 0 to 255
    write_film(path, [near], 5)
    with Image.open(path) as image:
        assert np.asarray(image.convert("RGB"))[0, 0].tolist() == rgb(COLORS["danger"])
    palette = films._palette()
    assert len(palette) <= 256
    random = np.random.default_rng(0).integers(256, size=(5, 7, 3)).astype(np.uint8)
    places = films._Nearest(palette)(random)
    distances = np.square(random[..., None, :].astype(int) - palette).sum(-1)
    np.testing.assert_array_equal(places, distances.argmin(-1))


def test_equal_frames_give_equal_bytes(tmp_path):
    for name in ("a.gif", "b.gif"):
        write_film(tmp_path / name, ROLES, 10)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


@pytest.mark.parametrize(("count", "rate"), [(2, 2), (120, 10), (501, 25), (31, 3)])
def test_a_film_takes_about_twelve_seconds(count, rate):
    assert rate_of(count) == rate


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_nothing_is_left_of_a_film_that_fails(name, program, tmp_path):
    program(FFMPEG)

    def broken():
        yield ROLES[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_film(tmp_path / name, broken(), 5)
    assert os.listdir(tmp_path) == ["bin"]


# MP4


def test_ffmpeg_is_given_every_frame(program, tmp_path):
    program(FFMPEG)
    path = tmp_path / "film.mp4"
    check_film(path)
    assert write_film(path, iter(ROLES), 30) == 30
    words, _, given = path.read_bytes().partition(b"|")
    assert b"-s 8x6 -r 30 -i -" in words
    assert given == b"".join(frame.tobytes() for frame in ROLES)
    assert sorted(os.listdir(tmp_path)) == ["bin", "film.mp4"]


def test_the_package_s_ffmpeg_is_found(program, tmp_path, monkeypatch):
    program(FFMPEG)

    class Package:
        @staticmethod
        def get_ffmpeg_exe():
            return str(tmp_path / "bin" / "ffmpeg")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", Package)
    write_film(tmp_path / "film.mp4", ROLES, 5)
    assert (tmp_path / "film.mp4").is_file()


def test_an_ffmpeg_that_fails_is_quoted(program, tmp_path):
    """It reads none of the frames, which are more than a pipe holds."""
    program(FAILING)
    large = [np.zeros((400, 400, 3), np.uint8)] * 3
    with pytest.raises(UserError) as told:
        write_film(tmp_path / "film.mp4", large, 5)
    assert str(told.value) == (
        f"{tmp_path / 'film.mp4'} can't be made, for ffmpeg ended with exit code 8 (Unknown encoder "
        "'libx264'); mend it, or give the film a name in .gif."
    )
    assert os.listdir(tmp_path) == ["bin"]


def test_without_ffmpeg(program, tmp_path):
    with pytest.raises(
        UserError, match=r"there is no ffmpeg here; run `pip install 'ragjax\[video\]'`"
    ):
        check_film(tmp_path / "film.mp4")
    check_film(tmp_path / "film.gif")


@pytest.mark.parametrize(("module", "name"), [("matplotlib", "matplotlib"), ("PIL", "pillow")])
@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_without_what_draws(module, name, kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as told:
        check_film(tmp_path / f"film.{kind}")
    assert str(told.value) == (
        f"{tmp_path / f'film.{kind}'} can't be drawn, for {name} isn't installed; "
        "run `pip install 'ragjax[plots]'`."
    )


@pytest.mark.parametrize("name", ["film", "film.png", "film.GIF"])
def test_a_name_says_what_is_made(name, tmp_path):
    with pytest.raises(
        UserError, match=f"--output is .*{name}; give the film a name in .gif or .mp4"
    ):
        check_film(tmp_path / name)


def test_a_gif_is_no_larger_than_it_must(tmp_path):
    """What stays from frame to frame is not written again."""
    still = np.random.default_rng(0).choice([0, 255], size=(100, 100, 1)).astype(np.uint8)
    still = np.repeat(still, 3, axis=-1)
    moving = [still.copy() for _ in range(10)]
    for place, frame in enumerate(moving):
        frame[place, :5] = rgb(COLORS["danger"])
    write_film(tmp_path / "one.gif", moving[:1], 5)
    write_film(tmp_path / "ten.gif", moving, 5)
    one, ten = (len((tmp_path / f"{name}.gif").read_bytes()) for name in ("one", "ten"))
    assert ten < one + 9 * 60
    assert io.BytesIO((tmp_path / "ten.gif").read_bytes()).read(6) == b"GIF89a"
