"""The render command: `ragjax render RUN`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ragjax.errors import require
from ragjax.files import check_output
from ragjax.printing import PlainConsole, print_line

# As in `ragjax.cli`, what is slow to import is imported where it is needed.

EPISODES = 1000  # which are played side by side up to the one that is shown
SEEDS = 2**32  # beyond which seeds repeat


@dataclass(frozen=True)
class Render:
    """Write a film of an episode: what a policy does, and the passages that it retrieves for it."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    output: Annotated[Path, arg(metavar="FILE", aliases=["-o", "--out"])] = Path("episode.gif")
    """The film: a GIF or, with ffmpeg, an MP4, by its name."""
    episode: int = 1
    """Which one: episode 1, 2, ... of the seed, as on a page of `ragjax report`."""
    seed: int | None = None
    """Of the episodes; the run's own if not given."""
    sampled: bool = False
    """Draw actions from the policy, instead of taking the likeliest ones."""
    fps: int | None = None
    """Frames a second; by default as many as make a film of about 12 seconds."""
    max_frames: int = 600
    """Frames that are drawn; what of the episode is left out is told."""


def render(options: Any, _: list[str], console: PlainConsole) -> int:
    """Writes the film and says where it is, how long and how large."""
    from ragjax.evaluation.films import FASTEST

    require(
        1 <= options.episode <= EPISODES,
        f"--episode is {options.episode}; choose one of 1 to {EPISODES}.",
    )
    require(options.max_frames >= 1, f"--max-frames is {options.max_frames}; draw at least 1.")
    require(
        options.fps is None or 1 <= options.fps <= FASTEST,
        f"--fps is {options.fps}; choose from 1 to {FASTEST} frames a second.",
    )
    require(
        options.seed is None or 0 <= options.seed < SEEDS,
        f"--seed is {options.seed}; choose one from 0 to {SEEDS - 1}.",
    )
    check_output("--output", options.output, {})
    from ragjax.commands import open_run
    from ragjax.report.film import film_run

    lines = film_run(
        open_run(options.run_dir, console),
        options.output,
        episode=options.episode,
        seed=options.seed,
        sampled=options.sampled,
        rate=options.fps,
        most=options.max_frames,
        console=console,
    )
    for line in lines:
        print_line(line)
    return 0
