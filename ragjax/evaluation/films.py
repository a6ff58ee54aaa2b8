"""Films: frames written as a GIF or an MP4, whole or not at all.

A GIF has one palette and counts its time in hundredths of a second. An MP4 is made by ffmpeg.
"""

import contextlib
import io
import itertools
import os
import secrets
import shutil
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
    """Checks that a film of this name can be written.

    Raises:
      UserError: its suffix is of no known kind, or nothing is there to make it.
    """
    require(
        path.suffix in SUFFIXES,
        f"--output is {path}; give the film a name in {' or '.join(SUFFIXES)}.",
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
    """The frames as a GIF that begins again, each for so many hundredths of a second."""
    from PIL import Image

    palette = _palette()
    nearest, images = _Nearest(palette), []
    table = palette.astype(np.uint8).tobytes()
    for frame in frames:
        image = Image.fromarray(nearest(frame), "P")
        image.putpalette(table)
        images.append(image)
    durations = [10 * hundredths] * len(images)
    durations[-1] = 10 * max(hundredths, LAST)
    written = io.BytesIO()
    images[0].save(
        written,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        palette=table,
        optimize=False,
    )
    return written.getvalue()


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
