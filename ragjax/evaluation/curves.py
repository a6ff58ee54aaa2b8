"""Curves of runs while they train, from their `metrics.jsonl`: one panel for each figure.

A run is the directory that `ragjax train` leaves. A directory that holds `seed_<n>` runs is one curve:
their mean, with a band from the lowest to the highest seed.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ragjax.errors import UserError, require
from ragjax.evaluation.plots import Curve, Plot
from ragjax.files import parse_json
from ragjax.training.logging import METRICS

# What is drawn of all that is logged, unless figures are named.
MAIN = (
    *("loss", "reward", "dev/em", "dev/recall@5", "dev/has_answer@5", "recall"),
    *("episode_return", "eval/greedy_return", "eval/sampled_return"),
    *("entropy", "effective_passages"),
)

Series = Mapping[str, Mapping[int, float]]  # figure -> step -> value


def read_metrics(run_dir: Path) -> Series:
    """Returns what a run has logged: figure -> step -> value.

    A last line that a killed process left unfinished is passed over.

    Raises:
      UserError: the file is missing, empty or malformed.
    """
    path = run_dir / METRICS
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror}); name a run's directory."
        ) from error
    series: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = {str(name): float(value) for name, value in parse_json(line).items()}
            step = int(row.pop("step"))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path} has no row of metrics in line {number} ({error!r}); mend or remove that line."
            ) from error
        for name, value in row.items():
            if math.isfinite(value):
                series.setdefault(name, {})[step] = value
    require(bool(series), f"{path} holds no metrics yet; wait for the run's first ones.")
    return series


def read_seeds(directory: Path) -> list[Series]:
    """Returns the metrics of a run, or of each `seed_<n>` run in a directory.

    Raises:
      UserError: there is neither, or what is there can't be read.
    """
    require(directory.is_dir(), f"{directory} is not a directory; name a run's, or one of seeds.")
    if (directory / METRICS).exists():
        return [read_metrics(directory)]
    seeds = sorted(place.parent for place in directory.glob(f"seed_*/{METRICS}"))
    require(
        bool(seeds),
        f"{directory} holds neither {METRICS} nor runs named seed_<n>; name a run's directory.",
    )
    return [read_metrics(seed) for seed in seeds]


def run_plots(directories: Sequence[Path], figures: Sequence[str] = ()) -> tuple[Plot, ...]:
    """Returns a plot for each figure, with a curve for each directory that has logged it.

    Args:
      directories: of runs, or of several seeds.
      figures: names as in `metrics.jsonl`; by default those of `MAIN` that any run has, or else all.

    Returns:
      The plots, in the order of the figures. Raises `UserError` for a directory given twice, one that
      can't be read, or a figure that no run has.
    """
    labels = [_plain(label) for label in distinct_labels(directories)]
    runs = {label: read_seeds(place) for label, place in zip(labels, directories, strict=True)}
    logged = sorted({name for seeds in runs.values() for series in seeds for name in series})
    for name in figures:
        require(
            name in logged,
            f"--figures names {name!r}, which no run has logged; choose of {', '.join(logged)}.",
        )
    chosen = dict.fromkeys(figures) or [name for name in MAIN if name in logged] or logged
    plots = []
    for number, name in enumerate(chosen):
        curves = [curve for label in labels if (curve := mean_curve(label, runs[label], name))]
        if curves:
            plots.append(Plot(f"panel_{number}", _plain(name), "step", "", curves))
    require(
        bool(plots),
        f"The seeds share no step at which {', '.join(chosen)} is logged; name one run.",
    )
    return tuple(plots)


def mean_curve(label: str, seeds: Sequence[Series], name: str) -> Curve | None:
    """The mean of a figure at the steps where all seeds that log it have it; None if no seed does."""
    measured = [series[name] for series in seeds if name in series]
    steps = sorted(set.intersection(*map(set, measured))) if measured else []
    if not steps:
        return None
    values = np.array([[series[step] for step in steps] for series in measured])
    mean = values.mean(axis=0).tolist()
    if len(measured) == 1:
        return Curve(label, steps, mean)
    return Curve(label, steps, mean, values.min(axis=0).tolist(), values.max(axis=0).tolist())


def distinct_labels(directories: Sequence[Path]) -> list[str]:
    """Returns as many last parts of each path as tell them all apart.

    Raises:
      UserError: one is given twice.
    """
    paths = [path.resolve() for path in directories]
    for place, path in zip(directories, paths, strict=True):
        require(paths.count(path) == 1, f"{place} is given more than once; give each run once.")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _plain(name: str) -> str:
    """A name that matplotlib shows as it is: not hidden for a leading _, nor set as maths between $."""
    shown = name.encode("utf-8", "replace").decode().replace("$", r"\$")
    return f"./{shown}" if shown.startswith("_") else shown
