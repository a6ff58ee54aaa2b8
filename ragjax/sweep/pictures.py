"""Pictures of a sweep: each field against the metric, and all fields of all trials side by side."""

import math
from pathlib import Path
from typing import Any, NamedTuple

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


class Axis(NamedTuple):
    """A varied field, and where trials stand on it.

    Attributes:
      label: the field's name.
      places: of each trial, NaN where the field is not varied.
      texts: the values in words, "" where there is none.
      names: what stands at 0, 1, 2 ... where values are listed; else nothing.
      log: whether equal factors are equal stretches.
    """

    label: str
    places: list[float]
    texts: list[str]
    names: list[str]
    log: bool

    def heights(self) -> list[float]:
        """The places between the least and the largest, in [0, 1]; NaN stays."""
        places = np.array(self.places)
        places = np.log(places) if self.log else places
        known = places[~np.isnan(places)]
        span = float(np.ptp(known)) if known.size else 0.0
        least = float(known.min()) if known.size else 0.0
        middle = np.where(np.isnan(places), np.nan, 0.5)
        return (middle if span == 0 else (places - least) / span).tolist()

    def ends(self) -> tuple[str, str]:
        """The values at the two ends, in words; "" where no trial has one."""
        known = [place for place, value in enumerate(self.places) if not math.isnan(value)]
        if not known:
            return "", ""
        low, high = (end(known, key=lambda place: self.places[place]) for end in (min, max))
        return self.texts[low], self.texts[high]


def trial_axes(store: Store, plan: Plan) -> tuple[list[Axis], list[float]]:
    """An axis for each varied field, and the metric of each finished trial, the best first.

    Trials whose metric is not finite, which no axis has, are left out.

    Raises:
      UserError: none is left.
    """
    found = [(trial, value) for trial, value in finished(store, plan) if math.isfinite(value)]
    require(bool(found), "No trial has a finite value, so that no picture can be drawn.")
    trials = [trial for trial, _ in found]
    return [_axis(vary, trials) for vary in store.sweep.space], [value for _, value in found]


def _axis(vary: Vary, trials: list[Trial]) -> Axis:
    name = vary.field
    texts = [in_words(of.values[name]) if name in of.values else "" for of in trials]
    if isinstance(vary.values, Choice):
        # Those that the space had once come last.
        names = list(dict.fromkeys([*map(in_words, vary.values.all()), *filter(None, texts)]))
        places = [float(names.index(text)) if text else math.nan for text in texts]
        return Axis(name, places, texts, names, log=False)
    places = [float(of.values.get(name, math.nan)) for of in trials]
    return Axis(name, places, texts, [], log=isinstance(vary.values, LogUniform))


def draw_slices(store: Store, plan: Plan, path: Path) -> None:
    """Draws the metric of every finished trial against its value of each field.

    Raises:
      UserError: matplotlib isn't installed, or the file can't be written.
    """
    axes, values = trial_axes(store, plan)
    columns = min(len(axes), _COLUMNS)
    rows = math.ceil(len(axes) / columns)

    def fill(figure: Any) -> None:
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for panel, axis in zip(panels, axes, strict=False):
            panel.scatter(axis.places, values, s=18, alpha=0.7)
            panel.set_xlabel(axis.label)
            panel.set_ylabel(f"{store.sweep.metric} (development)")
            if axis.names:
                panel.set_xticks(range(len(axis.names)), axis.names, rotation=30, ha="right")
            elif axis.log:
                panel.set_xscale("log")
        for panel in panels:  # those that no field needs
            panel.set_axis_off()

    save_picture(path, (_PANEL[0] * columns, _PANEL[1] * rows), fill)


def draw_parallel(store: Store, plan: Plan, path: Path) -> None:
    """Draws every finished trial as a line through its values, the better the darker.

    Raises:
      UserError: matplotlib isn't installed, or the file can't be written.
    """
    axes, values = trial_axes(store, plan)
    metric = Axis(store.sweep.metric, values, [f"{value:.4g}" for value in values], [], log=False)
    lines = list(zip(*(axis.heights() for axis in [*axes, metric]), strict=True))
    best, worst = values[0], values[-1]
    span = (best - worst) or 1.0

    def fill(figure: Any) -> None:
        panel = figure.subplots()
        for place in reversed(range(len(values))):
            share = (values[place] - worst) / span
            color = (0.1, 0.2, 0.5, 0.15 + 0.75 * share)
            panel.plot(range(len(lines[place])), lines[place], color=color)
        for place, axis in enumerate([*axes, metric]):
            panel.axvline(place, color="0.8", linewidth=1, zorder=0)
            low, high = axis.ends()
            panel.text(place, -0.03, low, ha="center", va="top", fontsize="x-small")
            panel.text(place, 1.03, high, ha="center", va="bottom", fontsize="x-small")
        panel.set_ylim(-0.15, 1.15)
        panel.spines[:].set_visible(False)
        panel.tick_params(bottom=False)
        labels = [*(axis.label for axis in axes), metric.label]
        panel.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
        panel.set_yticks([])

    save_picture(path, (2.0 + 1.8 * (len(axes) + 1), 4.0), fill)
