"""Films: frames written as a GIF or an MP4, whole or not at all.

A GIF has one palette and counts its time in hundredths of a second. An MP4 is made by ffmpeg.
"""

import contextlib
import importlib.util
import io
import itertools
import os
import secrets
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from ragjax.errors import UserError, require
from ragjax.evaluation.frames import COLORS, HINT, PAPER, POSTERIOR, PRIOR, ROOM
from ragjax.files import write_atomically

SUFFIXES = (".gif", ".mp4")
FASTEST = 50  # frames a second of a GIF that players show as they are
SECONDS = 12  # that a film takes if nobody says otherwise
SLOW, FAST = 2, 25  # frames a second that are chosen then
LAST = 150  # hundredths of a second that a GIF's last frame stands at least
SHADES = 18  # of each colour against paper

Frame = UInt8[np.ndarray, "height width 3"]


def rate_of(count: int) -> int:
    """Frames a second, so that a film of `count` frames takes about 12 s."""
    return min(max(round(count / SECONDS), SLOW), FAST)


def check_film(path: Path) -> None:
    """Checks, before anything is played, that a film of this name can be made.

    Raises:
      UserError: its suffix is of no known kind, or nothing is there to make it.
    """
    require(
        path.suffix in SUFFIXES,
        f"--output is {path}; give the film a name in {' or '.join(SUFFIXES)}.",
    )
    for module, package in (("matplotlib", "matplotlib"), ("PIL", "pillow")):
        require(
            importlib.util.find_spec(module) is not None,
            f"{path} can't be drawn, for {package} isn't installed; run `pip install 'ragjax[plots]'`.",
        )
    if path.suffix == ".mp4":
        _ffmpeg(path)


def write_film(path: Path, frames: Iterable[Frame], rate: int) -> float:
    """Writes a film.

    Args:
      path: the file.
      frames: at least one, all of one size.
      rate: frames a second.

    Returns:
      Frames a second as the file has them.

    Raises:
      UserError: it can't be written, or ffmpeg fails.
    """
    if path.suffix == ".mp4":
        _write_mp4(path, frames, rate)
        return float(rate)
    hundredths = max(round(100 / rate), 1)
    write_atomically(path, _gif(frames, hundredths))
    return 100 / hundredths


def _palette() -> np.ndarray:
    """The colours of frames, and their shades against paper, of which smooth edges are."""
    shades = np.linspace(0, 1, SHADES + 1)[1:, None]
    paper, *others = (
        np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)], float)
        for color in dict.fromkeys([PAPER, *COLORS.values(), HINT, ROOM, PRIOR, POSTERIOR])
    )
    mixed = [paper + (color - paper) * share for color in others for share in shades]
    return np.rint([paper, *mixed]).astype(int)


class _Nearest:
    """[H,W,3] colours -> [H,W] the places of the nearest ones in a palette [n,3]."""

    def __init__(self, palette: np.ndarray):
        """Remembers the place of each colour that it has met, by 65536 red + 256 green + blue."""
        self._palette = palette
        self._places = np.full(1 << 24, -1, np.int16)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        codes = frame.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        places = self._places[codes]
        new = np.unique(codes[places < 0])
        if new.size:
            colors = np.stack([new >> 16, new >> 8 & 255, new & 255], axis=-1)
            distances = np.square(colors[:, None] - self._palette).sum(axis=-1)
            self._places[new] = distances.argmin(axis=-1)
            places = self._places[codes]
        return places.astype(np.uint8)


def _gif(frames: Iterable[Frame], hundredths: int) -> bytes:
    """The frames as a GIF that begins again, each for so many hundredths of a second.

    It is put together frame by frame, so that not all of them are held at once; of each the rectangle is
    written in which it differs from the one before.
    """
    palette = _palette()
    nearest = _Nearest(palette)
    table = palette.astype(np.uint8).tobytes().ljust(3 * 256, b"\0")
    written = io.BytesIO()
    frames = iter(frames)
    before = nearest(next(frames))
    height, width = before.shape
    # Of version 89a, with one table of 256 colours; and begun again for ever.
    written.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + table)
    written.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")
    # A frame is written once it is known whether another follows, for the last one stands longer.
    waiting, corner = before, (0, 0)
    for frame in frames:
        written.write(_gif_frame(waiting, corner, hundredths))
        places = nearest(frame)
        waiting, corner = _changed(places, before)
        before = places
    written.write(_gif_frame(waiting, corner, max(hundredths, LAST)) + b";")
    return written.getvalue()


def _changed(places: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The rectangle, of a pixel at least, in which a frame differs, and its upper left corner."""
    rows, columns = (np.flatnonzero((places != before).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return places[:1, :1], (0, 0)
    kept = places[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return kept, (int(columns[0]), int(rows[0]))


def _gif_frame(places: np.ndarray, corner: tuple[int, int], hundredths: int) -> bytes:
    """A frame or a rectangle of one, by its colours' places in the table and its upper left corner."""
    from PIL import GifImagePlugin, Image

    image = Image.fromarray(np.ascontiguousarray(places), "P")
    return b"".join(GifImagePlugin.getdata(image, corner, duration=10 * hundredths))


def _ffmpeg(path: Path) -> str:
    """The program that makes MP4: that of the machine, or that of the package imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # pyright: ignore[reportMissingImports]

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"{path} can't be made, for there is no ffmpeg here; run `pip install 'ragjax[video]'`, or "
            "give the film a name in .gif."
        ) from error


def _write_mp4(path: Path, frames: Iterable[Frame], rate: int) -> None:
    """Hands the frames to ffmpeg, one after another."""
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.mp4")
    frames = iter(frames)
    first = next(frames)
    height, width, _ = first.shape
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate)]
    # One thread and no word of who made it, so that equal frames give equal bytes.
    made = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-threads", "1", "-movflags", "+faststart"]
    exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
    words = [_ffmpeg(path), "-loglevel", "error", *given, "-i", "-", *made, *exact, str(temporary)]
    try:
        with tempfile.TemporaryFile() as said:
            code = _feed(words, itertools.chain([first], frames), said)
            said.seek(0)
            reason = " ".join(said.read().decode(errors="replace").split())
        require(
            code == 0,
            f"{path} can't be made, for ffmpeg ended with exit code {code} ({reason}); mend it, or give "
            "the film a name in .gif.",
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _feed(words: list[str], frames: Iterable[Frame], said: IO[bytes]) -> int:
    """Starts a program that reads frames, and returns its exit code; what it prints goes to `said`."""
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=said, stderr=said)
    assert process.stdin is not None  # it is a pipe
    try:
        with (
            contextlib.suppress(BrokenPipeError),
            process.stdin as pipe,
        ):  # it ended: its code tells
            for frame in frames:
                pipe.write(frame.tobytes())
        return process.wait()
    finally:
        process.kill()  # does nothing to one that has ended
        process.wait()
