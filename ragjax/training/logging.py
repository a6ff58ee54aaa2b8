"""Metrics to JSONL and TensorBoard, and the progress bar."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ragjax.errors import UserError
from ragjax.files import parse_json, write_atomically
from ragjax.printing import PlainConsole, visible

METRICS = "metrics.jsonl"
LINES = 10  # of progress, into a file or a pipe
# What the progress bar shows, and how it calls it.
SHOWN = {
    "loss": "loss",
    "recall": "recall",
    "dev/em": "em",
    "reward": "reward",
    "episode_return": "return",
    "eval/greedy_return": "greedy",
}


class MetricLog:
    """Appends rows of metrics to `metrics.jsonl` and, if it is installed, to TensorBoard.

    A resumed run first drops the rows that lie beyond its checkpoint, so that the file is the one an
    uninterrupted run writes.
    """

    def __init__(self, run_dir: Path, step: int):
        """Opens the log of a run that continues at `step`."""
        self._path = run_dir / METRICS
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        kept = [line + b"\n" for line in lines if _step_of(line) <= step]
        write_atomically(self._path, b"".join(kept))
        self._file = self._path.open("ab", buffering=0)
        self._board = _tensorboard(run_dir / "tensorboard", step)

    def write(self, step: int, metrics: Mapping[str, Any], failed: Collection[int] = ()) -> None:
        """Adds one row of scalars; what could not be measured, NaN, is left out.

        Args:
          step: of the run.
          metrics: numbers by name.
          failed: empty, since a run whose only seed failed has ended.

        Raises:
          UserError: the file can't be written.
        """
        del failed
        values = {name: float(value) for name, value in metrics.items()}
        row = {name: value for name, value in values.items() if not math.isnan(value)}
        try:
            self._file.write(json.dumps({"step": step} | row).encode() + b"\n")
        except OSError as error:
            raise UserError(
                f"{self._path} can't be written ({error.strerror}); free space and go on with --resume."
            ) from error
        if self._board is not None:
            for name, value in row.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class SeedLogs:
    """The logs of several seeds that run side by side: each metric is an array with one value a seed."""

    def __init__(self, directories: Sequence[Path], step: int):
        """Opens one log in each directory."""
        self._logs = [MetricLog(directory, step) for directory in directories]

    def write(self, step: int, metrics: Mapping[str, Any], failed: Collection[int] = ()) -> None:
        """Adds one row to each log.

        Args:
          step: of the run.
          metrics: [n] numbers by name, or one that all seeds have in common.
          failed: places of seeds that have stopped, whose logs get no more rows.
        """
        for place, log in enumerate(self._logs):
            if place not in failed:
                log.write(
                    step,
                    {
                        name: value[place] if np.ndim(value) else value
                        for name, value in metrics.items()
                    },
                )

    def close(self) -> None:
        """Closes the files."""
        for log in self._logs:
            log.close()


class NoLog:
    """The log of a host that is not the first of several: nothing."""

    def write(self, step: int, metrics: Mapping[str, Any], failed: Collection[int] = ()) -> None:
        """Keeps nothing."""

    def close(self) -> None:
        """Does nothing."""


def _step_of(line: bytes) -> float:
    """The step of a row; infinity for what a killed process left of one."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _tensorboard(directory: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:  # the `tensorboard` extra is not installed
        return None
    return SummaryWriter(str(directory), purge_step=step + 1)


class RunProgress:
    """The progress bar of a run: step, rate, time left, and the last figures."""

    def __init__(self, console: PlainConsole, total: int, done: int, unit: str = "step"):
        """Shows a bar at `done` of `total` steps, or of what `unit` says, once entered as a context."""
        self._progress = Progress(
            BarColumn(bar_width=6),  # short: the line has to fit 80 columns
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=total == 0,
        )
        self._task = self._progress.add_task("", total=total, completed=done, rate="", figures="")
        self._figures: dict[str, float] = {}
        self._console, self._total, self._said, self._unit = console, total, done, unit

    def __enter__(self) -> "RunProgress":
        """Starts drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        """Stops drawing and leaves the last state on the screen."""
        self._progress.stop()

    def warn(self, step: int, symptom: str) -> None:
        """Says a symptom of an ailing retriever."""
        self._print(f"retriever warning at step {step}: {symptom}", "yellow")

    def say(self, sentence: str) -> None:
        """Prints what went wrong with a part of the run that goes on."""
        self._print(sentence, "red")

    def _print(self, sentence: str, style: str) -> None:
        self._console.print(Text(visible(sentence, self._console.encoding), style))

    def advance(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Moves the bar to `step` and shows the newest figures of `SHOWN`, means over seeds with one."""
        for name, label in SHOWN.items():
            values = np.asarray(metrics.get(name, np.nan), float)
            if np.isfinite(values).any():
                self._figures[label] = float(values[np.isfinite(values)].mean())
        task = self._progress.tasks[0]
        rate = f"{task.speed:.1f} {self._unit}s/s" if task.speed else ""
        figures = " ".join(f"{name} {value:.3f}" for name, value in self._figures.items())
        self._progress.update(self._task, completed=step, rate=rate, figures=figures)
        # Where no bar can be drawn, a line now and then shows that the run is alive.
        if not self._console.is_terminal and step - self._said >= self._total / LINES:
            self._said = step
            self._console.print(f"{self._unit} {step}/{self._total} {rate} {figures}")
