"""Plots as declarations: curves are recorded numbers, and a picture is drawn from nothing else.

An experiment file declares its plots, next to a table or without one:

    def get_plots() -> tuple[Plot, ...]:
        numbers = read_figures(results_of(Path(__file__)))
        return (
            Plot(
                name="returns",
                title="REINFORCE on the short corridor",
                x_label="episode",
                y_label="total reward",
                curves=(Curve("α = 1/8192", numbers["x"], numbers["y"]),),
                lines=(Line("best", -11.6, "Sutton & Barto 2018, example 13.1"),),
            ),
        )

    def measure() -> dict: ...

What `measure()` returns is recorded in `results/<name of the file>/figures.json` by
`ragjax plot FILE --run`; without `--run` the pictures are drawn anew from there. Runs or seeds are a
band about their mean. Equal numbers give equal bytes, with the same version of matplotlib.
"""

import contextlib
import io
import json
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ragjax.errors import UserError, require
from ragjax.evaluation.runs import Run
from ragjax.evaluation.statistics import interquartile_interval
from ragjax.files import load_function, read_json_object, write_atomically
from ragjax.records import commit_text

FIGURES = "figures.json"
DIGITS = 5  # significant digits of recorded numbers

DOTS_PER_INCH = 100
_INCHES = (7.0, 4.6)
_INCHES_OF_A_PANEL = (5.0, 3.4)
_COLUMNS = 3  # of panels
_CHARACTERS = 125  # of a line of the note
_FEW = 12  # curves of up to as many points show them
_LINES = {"solid": "-", "dashed": "--", "dotted": ":"}

Number = int | float


@dataclass(frozen=True)
class Curve:
    """A curve, and the band of its runs.

    Attributes:
      label: what the legend calls it.
      x: [n] positions.
      y: [n] heights; NaN leaves a gap.
      low: [n] lower edge of the band, or None.
      high: [n] upper edge, where there is a lower one.
      style: of the line.
      like: label of an earlier curve whose colour this one takes; by default it has its own.
    """

    label: str
    x: Sequence[Number]
    y: Sequence[Number]
    low: Sequence[Number] | None = None
    high: Sequence[Number] | None = None
    style: Literal["solid", "dashed", "dotted"] = "solid"
    like: str = ""

    def __post_init__(self) -> None:
        where = f"curve {self.label!r}"
        require(
            any(math.isfinite(height) for height in self.y),
            f"{where} has no data; record its runs first.",
        )
        require(
            (self.low is None) == (self.high is None),
            f"{where} has one edge of a band only; give low and high, or neither.",
        )
        lengths = [len(part) for part in (self.x, self.y, self.low, self.high) if part is not None]
        require(
            len(set(lengths)) == 1,
            f"{where} has parts of lengths {lengths}; x, y, low and high must be equally long.",
        )
        require(
            self.style in _LINES,
            f"{where} has style {self.style!r}; choose one of {', '.join(_LINES)}.",
        )


@dataclass(frozen=True)
class Line:
    """A horizontal line for reference, such as a published figure.

    Attributes:
      label: what the legend calls it.
      value: its height.
      source: where the figure is published, or what it follows from.
    """

    label: str
    value: Number
    source: str

    def __post_init__(self) -> None:
        require(bool(self.source), f"line {self.label!r} lacks a source; say where it is from.")


@dataclass(frozen=True)
class Plot:
    """A plot, as its experiment file declares it.

    Attributes:
      name: of the picture, without its suffix.
      title: its heading, without a full stop.
      x_label: what the horizontal axis shows.
      y_label: what the vertical axis shows.
      curves: what is drawn.
      lines: horizontal lines for reference.
      note: sentences below the axes: what a band is, what was cut.
      x_names: position -> name, instead of numbers below the horizontal axis.
      y_range: lowest and highest height shown; by default all of them.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    lines: Sequence[Line] = ()
    note: str = ""
    x_names: Mapping[Number, str] | None = None
    y_range: tuple[Number, Number] | None = None

    def __post_init__(self) -> None:
        where = f"plot {self.name!r}"
        require(
            re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is not None,
            f"{where} has a name that is no file's; use letters, digits, _ and -.",
        )
        require(bool(self.curves), f"{where} has no curves; declare at least one.")
        labels = [part.label for part in (*self.curves, *self.lines)]
        require(
            len(set(labels)) == len(labels),
            f"{where} repeats one of its labels {labels}; make them differ.",
        )
        for place, curve in enumerate(self.curves):
            require(
                not curve.like or curve.like in labels[:place],
                f"{where} has no curve {curve.like!r} before {curve.label!r}, which is to be like "
                "it; name an earlier one.",
            )


def learning_curves(
    runs: Mapping[str, Sequence[Run]], mode: Literal["greedy", "sampled"] = "sampled"
) -> tuple[Curve, ...]:
    """Curves of recorded policies: mean returns while training, by the seeds' interquartile mean.

    Args:
      runs: label -> the runs of several seeds, measured at the same steps.
      mode: returns with likeliest or with drawn actions.

    Returns:
      A curve for each label that has runs; its band reaches from the lowest to the highest seed.
    """
    curves = []
    for label, seeds in runs.items():
        if seeds:
            returns = np.array([run.result["curve"][mode] for run in seeds])
            middle = [interquartile_interval([column], 1).mean for column in returns.T]
            steps = seeds[0].result["curve"]["env_steps"]
            low, high = returns.min(axis=0).tolist(), returns.max(axis=0).tolist()
            curves.append(Curve(label, steps, middle, low, high))
    return tuple(curves)


def results_of(experiment: Path) -> Path:
    """The directory where an experiment file's numbers and pictures are recorded."""
    return Path(experiment).parent / "results" / Path(experiment).stem


def record_figures(results: Path, numbers: Mapping[str, Any]) -> Path:
    """Writes numbers, rounded to five significant digits and one list a line.

    Args:
      results: the directory; made if missing.
      numbers: dictionaries and lists of numbers, text and None.

    Returns:
      The file.
    """

    def rounded(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: rounded(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(part) for part in value]
        return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value

    text = json.dumps(rounded(numbers), indent=1)
    text = re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text)
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / FIGURES, (text + "\n").encode())
    return results / FIGURES


def read_figures(results: Path) -> dict[str, Any]:
    """Returns the numbers that `record_figures` wrote.

    Raises:
      UserError: there are none, or they can't be read.
    """
    path = results / FIGURES
    experiment = results.parent.parent / f"{results.name}.py"
    require(
        path.is_file(),
        f"{path} is missing; `ragjax plot {experiment} --run` measures and records it.",
    )
    return read_json_object(path, "record it again with --run.")


def recorded_by(numbers: Mapping[str, Any], command: str) -> str:
    """Returns the sentence that says where recorded numbers are from."""
    return f"Recorded at git commit {commit_text(numbers)} by `{command}`."


def measure(experiment: Path) -> dict[str, Any]:
    """Returns what `measure()` of an experiment file does."""
    numbers = load_function(Path(experiment), "measure", "experiment")()
    require(
        isinstance(numbers, dict),
        f"measure() of {experiment} returns {type(numbers).__name__}; return a dict of numbers.",
    )
    return numbers


def load_plots(experiment: Path) -> tuple[Plot, ...]:
    """Returns what `get_plots()` of an experiment file declares."""
    plots = load_function(Path(experiment), "get_plots", "experiment")()
    require(
        isinstance(plots, tuple) and all(isinstance(plot, Plot) for plot in plots),
        f"get_plots() of {experiment} returns {type(plots).__name__}; return a tuple of Plots.",
    )
    names = [plot.name for plot in plots]
    require(
        len(set(names)) == len(names),
        f"get_plots() of {experiment} repeats one of the names {names}; make them differ.",
    )
    return plots


def draw(plot: Plot, path: Path) -> None:
    """Draws a plot as PNG, whole or not at all.

    Args:
      plot: what to draw.
      path: the file; its directory is made if missing.

    Raises:
      UserError: matplotlib isn't installed, or the file can't be written.
    """
    save_picture(path, _INCHES, lambda figure: _fill_figure(figure, plot))


def draw_panels(plots: Sequence[Plot], path: Path) -> None:
    """Draws plots side by side in one PNG, with one legend: a label has one colour in all of them.

    Args:
      plots: one a panel; their notes are left out.
      path: the file; its directory is made if missing.

    Raises:
      UserError: matplotlib isn't installed, or the file can't be written.
    """
    columns = min(len(plots), _COLUMNS)
    rows = math.ceil(len(plots) / columns)
    width, height = _INCHES_OF_A_PANEL
    inches = width * columns, height * rows
    save_picture(path, inches, lambda figure: _fill_panels(figure, plots, rows, columns))


@contextlib.contextmanager
def empty_figure(
    path: Path, inches: tuple[float, float], layout: Literal["constrained"] | None
) -> Iterator[Any]:
    """Yields an empty figure of matplotlib, whatever a matplotlibrc says, with a canvas of pixels.

    Args:
      path: of the file that it is drawn for, for messages.
      inches: its width and height.
      layout: by which matplotlib makes room for axes and legends, if it does.

    Raises:
      UserError: matplotlib isn't installed.
    """
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"{path} can't be drawn, for matplotlib isn't installed; "
            "run `pip install 'ragjax[plots]'`."
        ) from error
    with style.context("default", after_reset=True), warnings.catch_warnings():
        # A letter that the font lacks is a box, and no message.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def save_picture(path: Path, inches: tuple[float, float], fill: Callable[[Any], None]) -> None:
    """Writes the picture that `fill` makes of an empty figure of this size, whole or not at all.

    Raises:
      UserError: matplotlib isn't installed, or the file can't be written.
    """
    picture = io.BytesIO()
    with empty_figure(path, inches, layout="constrained") as figure:
        fill(figure)
        figure.savefig(picture, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture.getvalue())


def _fill_figure(figure: Any, plot: Plot) -> None:
    """Puts one plot, its legend and its note into an empty figure."""
    axes = figure.subplots()
    _fill(axes, plot, {})
    axes.legend(fontsize="small")
    if plot.note:
        words = textwrap.fill(plot.note, _CHARACTERS)
        figure.supxlabel(words, fontsize="x-small", x=0.01, horizontalalignment="left")


def _fill_panels(figure: Any, plots: Sequence[Plot], rows: int, columns: int) -> None:
    """Puts plots and one legend into an empty figure."""
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    colors: dict[str, str] = {}
    lines: dict[str, Any] = {}
    for axes, plot in zip(panels, plots, strict=False):
        _fill(axes, plot, colors)
        handles, labels = axes.get_legend_handles_labels()
        lines = dict(zip(labels, handles, strict=True)) | lines
    for axes in panels[len(plots) :]:
        axes.remove()
    place = {"loc": "outside lower center", "ncols": columns, "fontsize": "small"}
    figure.legend(list(lines.values()), list(lines), **place)


def _fill(axes: Any, plot: Plot, colors: dict[str, str]) -> None:
    """Puts curves, lines and words into empty axes; `colors` holds those of the labels so far."""
    for curve in plot.curves:
        new = f"C{len(set(colors.values()))}"
        color = colors.get(curve.like) or colors.get(curve.label, new)
        colors[curve.label] = color
        axes.plot(
            curve.x,
            curve.y,
            label=curve.label,
            color=color,
            linestyle=_LINES[curve.style],
            marker="o" if len(curve.x) <= _FEW else None,
            linewidth=1.5,
        )
        if curve.low is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    for line in plot.lines:
        label = f"{line.label} ({line.source})"
        axes.axhline(line.value, color="0.35", linestyle="-.", linewidth=1, label=label)
    if plot.x_names is not None:
        axes.set_xticks(list(plot.x_names), list(plot.x_names.values()))
    if plot.y_range is not None:
        axes.set_ylim(*plot.y_range)
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.grid(alpha=0.3)
