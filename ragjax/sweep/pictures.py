"""Pictures of a sweep: each field against the metric, and all fields of all trials side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import require
from ragjax.evaluation.plots import save_picture
from ragjax.sweep.plan import Plan
from ragjax.sweep.show import in_words
from ragjax.sweep.space import Choice, LogUniform, Vary
from ragjax.sweep.store import Store
from ragjax.sweep.trials import Trial
from ragjax.sweep.winner import finished

_PANEL = (4.0, 3.0)  # inches
_COLUMNS = 3


def draw_slices(store: Store, plan: Plan, path: Path) -> None:
    """Draws the metric of every finished trial against its value of each field.

    Raises:
      UserError: matplotlib isn't installed, or the file can't be written.
    """
    found, space = _drawable(store, plan), store.sweep.space
    columns = min(len(space), _COLUMNS)
    rows = math.ceil(len(space) / columns)

    def fill(figure: Any) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for panel, vary in zip(panels, space, strict=False):
            pairs = [
                (trial.values[vary.field], v) for trial, v in found if vary.field in trial.values
            ]
            seen = [value for value, _ in pairs]
            places, labels = _places(seen, vary, seen)
            panel.scatter(places, [value for _, value in pairs], s=18, alpha=0.7)
            panel.set_xlabel(vary.field)
            panel.set_ylabel(f"{store.sweep.metric} (development)")
            if labels:
                panel.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
            elif isinstance(vary.values, LogUniform):
                panel.set_xscale("log")
        for panel in panels:  # those that no field needs
            panel.set_axis_off()

    save_picture(path, (_PANEL[0] * columns, _PANEL[1] * rows), fill)


def draw_parallel(store: Store, plan: Plan, path: Path) -> None:
    """Draws every finished trial as a line through its values, the better the darker.

    Raises:
      UserError: matplotlib isn't installed, or the file can't be written.
    """
    found, space = _drawable(store, plan), store.sweep.space
    values = [value for _, value in found]
    heights = [
        [_height(trial.values.get(vary.field), vary, found) for vary in space] for trial, _ in found
    ]
    best, worst = values[0], values[-1]
    span = (best - worst) or 1.0

    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for row, value in reversed(list(zip(heights, values, strict=True))):
            share = (value - worst) / span
            line = [*row, 0.5 if best == worst else (value - min(best, worst)) / abs(span)]
            axes.plot(range(len(line)), line, color=(0.1, 0.2, 0.5, 0.15 + 0.75 * share))
        for place in range(len(space) + 1):
            axes.axvline(place, color="0.8", linewidth=1, zorder=0)
        axes.set_ylim(-0.15, 1.15)
        axes.spines[:].set_visible(False)
        axes.tick_params(bottom=False)
        labels = [*(vary.field for vary in space), store.sweep.metric]
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
        axes.set_yticks([])
        for place, vary in enumerate(space):
            low, high = _ends(vary, found)
            axes.text(place, -0.03, low, ha="center", va="top", fontsize="x-small")
            axes.text(place, 1.03, high, ha="center", va="bottom", fontsize="x-small")
        for height, text in ((-0.03, min(best, worst)), (1.03, max(best, worst))):
            axes.text(
                len(space),
                height,
                f"{text:.4g}",
                ha="center",
                va="top" if height < 0 else "bottom",
                fontsize="x-small",
            )

    save_picture(path, (2.0 + 1.8 * (len(space) + 1), 4.0), fill)


def _drawable(store: Store, plan: Plan) -> list[tuple[Trial, float]]:
    """The finished trials but those whose metric is the worst that there is, which no axis has."""
    found = [(trial, value) for trial, value in finished(store, plan) if math.isfinite(value)]
    require(bool(found), "No trial has a finite value, so that no picture can be drawn.")
    return found


def _places(
    values: Sequence[Any], vary: Vary, seen: Sequence[Any]
) -> tuple[list[float], list[str]]:
    """Where values stand on an axis, and its labels if it is of listed ones or `seen` ones."""
    if not isinstance(vary.values, Choice):
        return [float(value) for value in values], []
    # Those that the space had once come last.
    options = list(dict.fromkeys(map(in_words, [*vary.values.all(), *seen])))
    return [float(options.index(in_words(value))) for value in values], options


def _seen(vary: Vary, found: Sequence[tuple[Any, float]]) -> list[Any]:
    return [trial.values[vary.field] for trial, _ in found if vary.field in trial.values]


def _all_places(vary: Vary, found: Sequence[tuple[Any, float]]) -> np.ndarray:
    known = _seen(vary, found)
    places = np.array(_places(known, vary, known)[0])
    return np.log(places) if isinstance(vary.values, LogUniform) else places


def _height(value: Any, vary: Vary, found: Sequence[tuple[Any, float]]) -> float:
    """Where a value stands between the least and the largest, in [0, 1]; NaN of none."""
    if value is None:
        return math.nan
    places = _all_places(vary, found)
    place = _places([value], vary, _seen(vary, found))[0][0]
    place = math.log(place) if isinstance(vary.values, LogUniform) else place
    span = float(places.max() - places.min())
    return 0.5 if span == 0 else (place - float(places.min())) / span


def _ends(vary: Vary, found: Sequence[tuple[Any, float]]) -> tuple[str, str]:
    """The values at the two ends of a field's axis."""
    known = _seen(vary, found)
    if not known:
        return "", ""
    places = _all_places(vary, found)
    return in_words(known[int(places.argmin())]), in_words(known[int(places.argmax())])
