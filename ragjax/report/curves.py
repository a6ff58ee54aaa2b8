"""Curves of groups of runs while they train: the mean over seeds, with a band of all of them."""

import re
from collections.abc import Sequence
from dataclasses import replace

from ragjax.evaluation.curves import MAIN, mean_curve
from ragjax.evaluation.plots import Curve, Plot
from ragjax.report.blocks import Block, Chart, Folded, Grid, Line, Number, Section
from ragjax.report.runs import Group

POINTS = 400  # of a curve

_FORMULA, _POWER = re.compile(r"\$([^$]*)\$"), re.compile(r"\^\{([-0-9]+)\}")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def curves_section(groups: Sequence[Group]) -> Section:
    """The main figures that were logged, and below them all others."""
    runs = {group.label: [run.series for run in group.runs if run.series] for group in groups}
    logged = sorted({name for seeds in runs.values() for series in seeds for name in series})
    main = [name for name in MAIN if name in logged] or logged
    others = [name for name in logged if name not in main]
    charts = {name: _figure_chart(name, runs) for name in (*main, *others)}
    shown: list[Block] = [chart for name in main if (chart := charts[name])]
    folded: list[Block] = [chart for name in others if (chart := charts[name])]
    blocks: list[Block] = [Grid(shown)] if shown else []
    if folded:
        blocks.append(Folded(f"{len(folded)} other figures that were logged", [Grid(folded)]))
    return Section("Curves", blocks)


def _figure_chart(name: str, runs: dict[str, list]) -> Chart | None:
    """The curves of a figure; None if the seeds that log it share no step."""
    lines, notes = [], []
    for color, (label, seeds) in enumerate(runs.items()):
        curve = mean_curve(label, seeds, name)
        if curve is not None:
            line, note = _thinned(curve, color)
            lines.append(line)
            notes += [note] * bool(note)
    if any(line.low is not None for line in lines):
        notes.append("Mean over seeds; the band reaches from the lowest seed to the highest.")
    return Chart(name, "step", "", lines, note=" ".join(notes)) if lines else None


def _thinned(curve: Curve, color: int) -> tuple[Line, str]:
    """A curve of few enough points, always with its last one, and a sentence on what is left out."""
    every = -(-len(curve.x) // POINTS)
    places = range((len(curve.x) - 1) % every, len(curve.x), every)

    def taken(values: Sequence[Number]) -> list[Number]:
        return [values[place] for place in places]

    low, high = (None if edge is None else taken(edge) for edge in (curve.low, curve.high))
    note = f"{curve.label}: {len(places)} of {len(curve.x):,} points are drawn." * (every > 1)
    line = Line(curve.label, color, taken(curve.x), taken(curve.y), low, high, curve.style)
    return line, note


def _plain_maths(text: str) -> str:
    """A text whose formulas, between dollar signs as matplotlib has them, are plain characters."""

    def plain(formula: re.Match[str]) -> str:
        return _POWER.sub(lambda power: power[1].translate(_RAISED), formula[1])

    return _FORMULA.sub(plain, text)


def plot_chart(plot: Plot) -> Chart:
    """A declared plot as a chart."""
    colors: dict[str, int] = {}
    lines, notes = [], [_plain_maths(plot.note)] * bool(plot.note)
    for curve in plot.curves:
        colors[curve.label] = colors[curve.like] if curve.like else len(set(colors.values()))
        line, note = _thinned(curve, colors[curve.label])
        lines.append(replace(line, label=_plain_maths(line.label)))
        notes += [note] * bool(note)
    marks = [(_plain_maths(f"{line.label} ({line.source})"), line.value) for line in plot.lines]
    return Chart(
        _plain_maths(plot.title),
        _plain_maths(plot.x_label),
        _plain_maths(plot.y_label),
        lines,
        marks,
        names=list((plot.x_names or {}).items()),
        range=plot.y_range,
        note=" ".join(notes),
    )
