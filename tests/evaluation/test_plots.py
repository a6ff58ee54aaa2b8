"""Plots: what is drawn, the same bytes from the same numbers, and what bad declarations get."""

import dataclasses
import json
import math
import re
import struct
import sys

import pytest

from ragjax.cli import main
from ragjax.errors import UserError
from ragjax.evaluation import plots
from ragjax.evaluation.plots import Curve, Line, Plot, draw, read_figures, record_figures

BASE = Curve("REINFORCE", (0, 1, 2), (-3.0, -2.0, -1.5))
BAND = Curve("with baseline", [0, 1, 2], [-3, -1, -1], [-4, -2, -1], [-2, 0, -1], "dashed")
PLOT = Plot("returns", "Returns", "episode", "return", (BASE, BAND))
BEST = Line("best", -1.2, "Doe 2020, table 1")


@pytest.fixture
def picture(tmp_path):
    """(plot) -> the bytes of its picture."""

    def render(plot):
        draw(plot, tmp_path / "new" / "plot.png")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["plot.png"]
        return (tmp_path / "new" / "plot.png").read_bytes()

    return render


def test_a_picture_is_png_without_a_version(picture):
    data = picture(PLOT)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width > height > 400
    assert b"matplotlib" not in data.lower()
    assert b"tIME" not in data


def test_equal_plots_give_equal_bytes(picture):
    """Lists or tuples, after other pictures, and whatever the user's matplotlibrc says."""
    import matplotlib

    first = picture(PLOT)
    picture(dataclasses.replace(PLOT, title="Another", curves=(BAND,)))
    as_lists = dataclasses.replace(BASE, x=list(BASE.x), y=list(BASE.y))
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 20, "savefig.dpi": 30}):
        assert picture(dataclasses.replace(PLOT, curves=[as_lists, BAND])) == first
        assert matplotlib.rcParams["font.size"] == 20


@pytest.mark.parametrize(
    "changed",
    [
        {"title": "Sums"},
        {"x_label": "step"},
        {"y_label": "sum"},
        {"note": "Mean over 3 runs."},
        {"lines": (BEST,)},
        {"x_names": {0: "A", 2: "B"}},
        {"y_range": (-10, 0)},
        {"curves": (BASE, dataclasses.replace(BAND, low=None, high=None))},
        {"curves": (BASE, dataclasses.replace(BAND, like="REINFORCE"))},
        {"curves": (BASE, dataclasses.replace(BAND, style="dotted"))},
        {"curves": (BASE, dataclasses.replace(BAND, label="baseline"))},
        {"curves": (BAND, BASE)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_all_of_a_declaration_is_seen(changed, picture):
    assert picture(dataclasses.replace(PLOT, **changed)) != picture(PLOT)


def axes_of(plot):
    from matplotlib.figure import Figure

    figure = Figure()
    plots._fill_figure(figure, plot)
    return figure, figure.axes[0]


def test_curves_bands_and_lines():
    dotted = dataclasses.replace(BASE, label="again", style="dotted", like="with baseline")
    _, axes = axes_of(dataclasses.replace(PLOT, curves=(BASE, BAND, dotted), lines=(BEST,)))
    first, second, third, best = axes.lines
    assert first.get_xydata().tolist() == [[0, -3], [1, -2], [2, -1.5]]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", ":", "-."]
    assert first.get_color() != second.get_color() == third.get_color()
    assert set(best.get_ydata()) == {-1.2}
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(0, -4), (1, -2), (2, -1), (0, -2), (1, 0)}
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["REINFORCE", "with baseline", "again", "best (Doe 2020, table 1)"]


def test_few_points_are_shown_and_gaps_are_left():
    many = Curve("many", range(20), [math.nan, *range(19)])
    _, axes = axes_of(dataclasses.replace(PLOT, curves=(BASE, many)))
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]


def test_words():
    named = dataclasses.replace(PLOT, note="word " * 100, x_names={0: "A", 2: "C"}, y_range=(-9, 1))
    figure, axes = axes_of(named)
    assert axes.get_title() == "Returns"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("episode", "return")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["A", "C"]
    assert axes.get_ylim() == (-9, 1)
    assert figure.get_supxlabel().count("\n") >= 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"x": [], "y": []}, "curve 'c' has no data; record its runs first."),
        ({"x": [1], "y": [math.nan]}, "curve 'c' has no data; record its runs first."),
        ({"x": [1, 2], "y": [1]}, r"lengths \[2, 1\]; x, y, low and high must be equally long"),
        ({"x": [1], "y": [1], "low": [1, 2], "high": [1]}, r"lengths \[1, 1, 2, 1\]"),
        ({"x": [1], "y": [1], "low": [1]}, "has one edge of a band only"),
    ],
)
def test_curves_are_checked(fields, said):
    with pytest.raises(UserError, match=said):
        Curve("c", **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a/b"}, "plot 'a/b' has a name that is no file's"),
        ({"curves": ()}, "plot 'returns' has no curves; declare at least one."),
        ({"curves": (BASE, BASE)}, "repeats one of its labels"),
        ({"lines": (dataclasses.replace(BEST, label="REINFORCE"),)}, "repeats one of its labels"),
        (
            {"curves": (dataclasses.replace(BASE, like="with baseline"), BAND)},
            "no curve 'with baseline' before 'REINFORCE'",
        ),
    ],
)
def test_plots_are_checked(fields, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(PLOT, **fields)


def test_a_line_has_a_source():
    with pytest.raises(UserError, match="line 'best' lacks a source"):
        Line("best", 1.0, "")


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"run `pip install 'ragjax\[plots\]'`\.$"):
        draw(PLOT, tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


# Panels


def test_panels_have_one_legend_in_which_a_label_has_one_colour():
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    only = dataclasses.replace(PLOT, title="Only", curves=(BAND,))
    plots._fill_panels(figure, (PLOT, only, only, only), 2, 3)
    assert [axes.get_title() for axes in figure.axes] == ["Returns", "Only", "Only", "Only"]
    assert all(axes.get_legend() is None for axes in figure.axes)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"REINFORCE", "with baseline"}
    first, second = (figure.axes[number].lines[-1].get_color() for number in (0, 1))
    assert first == second != figure.axes[0].lines[0].get_color()


def test_panels_are_one_picture(tmp_path):
    """Names that matplotlib would hide, take for maths, or has no letters for."""
    odd = [Curve(label, (0, 1), (0.0, 1.0)) for label in ("./_a", r"b\$c\$", "寿司")]
    plots.draw_panels((PLOT, dataclasses.replace(PLOT, curves=odd)), tmp_path / "panels.png")
    width, height = struct.unpack(">II", (tmp_path / "panels.png").read_bytes()[16:24])
    assert (width, height) == (1000, 340)


# Recorded numbers


def test_numbers_are_rounded_and_come_back(tmp_path):
    numbers = {"seed": 0, "name": "a, b", "curves": {"x": [0, 1], "y": (1 / 3, 123456.7)}}
    path = record_figures(tmp_path / "results", numbers | {"commit": None, "none": []})
    assert path == tmp_path / "results" / "figures.json"
    assert '"y": [ 0.33333, 123460.0 ]' in path.read_text()
    rounded = {"x": [0, 1], "y": [0.33333, 123460.0]}
    expected = {"seed": 0, "name": "a, b", "curves": rounded, "commit": None, "none": []}
    assert read_figures(tmp_path / "results") == expected


def test_missing_numbers(tmp_path):
    results = tmp_path / "results" / "book"
    command = f"`ragjax plot {tmp_path / 'book.py'} --run`"
    with pytest.raises(UserError) as caught:
        read_figures(results)
    said = str(caught.value)
    assert said == f"{results / 'figures.json'} is missing; {command} measures and records it."


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_damaged_numbers(text, tmp_path):
    (tmp_path / "figures.json").write_text(text)
    with pytest.raises(UserError, match=r"figures\.json is no.* JSON.*record it again with --run"):
        read_figures(tmp_path)


# The command

EXPERIMENT = """
from pathlib import Path
from ragjax.evaluation.plots import Curve, Plot, read_figures, results_of

def measure():
    return {"x": [0, 1], "y": [0.0, 2 / 3]}

def get_plots():
    numbers = read_figures(results_of(Path(__file__)))
    return (Plot("slope", "Slope", "x", "y", (Curve("c", numbers["x"], numbers["y"]),)),)
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(EXPERIMENT)
    return path


def test_plot_measures_draws_and_draws_again(experiment, tmp_path, capsys):
    results = tmp_path / "results" / "tiny"
    assert main(["plot", str(experiment)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ragjax: {results / 'figures.json'} is missing; ")

    assert main(["plot", str(experiment), "--run"]) == 0
    assert capsys.readouterr().out == f"{results / 'slope.png'}\n"
    recorded = json.loads((results / "figures.json").read_text())
    assert recorded["y"] == [0.0, 0.66667]
    assert recorded.keys() == {"x", "y", "versions", "git_commit", "uncommitted", "code", "devices"}

    assert main(["plot", str(experiment), "--output", str(tmp_path / "elsewhere")]) == 0
    elsewhere = tmp_path / "elsewhere" / "slope.png"
    assert elsewhere.read_bytes() == (results / "slope.png").read_bytes()


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("def get_plots():\n    return 1", (), r"get_plots\(\) of .* returns int"),
        ("def get_plots():\n    return (1,)", (), r"get_plots\(\) of .* returns tuple"),
        ("def get_table():\n    return 1", (), r"has no get_plots\(\)"),
        (EXPERIMENT.replace("def measure", "def other"), ("--run",), r"has no measure\(\)"),
        ("def measure():\n    return 1", ("--run",), r"measure\(\) of .* returns int"),
    ],
)
def test_bad_experiments(text, words, said, experiment, capsys):
    experiment.write_text(text)
    assert main(["plot", str(experiment), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(said, err.splitlines()[-1])


def test_names_of_plots_differ(experiment, capsys):
    once = '(Curve("c", [0], [1]),)'
    experiment.write_text(
        "from ragjax.evaluation.plots import Curve, Plot\n"
        f"def get_plots():\n    return (Plot('a', 'A', 'x', 'y', {once}),) * 2\n"
    )
    assert main(["plot", str(experiment)]) == 2
    assert "repeats one of the names ['a', 'a']; make them differ." in capsys.readouterr().err
