"""Tables as declarations: rows are configs, columns are figures, cells come from recorded runs.

An experiment file declares one table and says nothing about numbers:

    def get_table() -> Table:
        return Table(
            name="world_facts",
            title="Questions about unseen entities",
            rows=(Row("RAG-Sequence", "configs/world_facts/rag_sequence.py"), ...),
            columns=(Column("EM", "em"), Column("R@5", "recall@5"), ...),
            seeds=(0, 1, 2),
            results=Path(__file__).parent / "results",
        )

The runs of a row are `<results>/<name>/<row key>/seed_<n>` (see `ragjax.evaluation.runs`). A cell
is the mean over seeds and questions ± half the width of its 95% bootstrap interval. Published
figures stand in rows of their own, marked with their source.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from ragjax.errors import UserError, require
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.runs import Run, load_runs, require_same_questions
from ragjax.evaluation.statistics import (
    LEVEL,
    RESAMPLES,
    Interval,
    bootstrap_interval,
    interquartile_interval,
)
from ragjax.files import load_function

MISSING = "\N{EN DASH}"

_BOUNDS = ("mean", "low", "high")
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\N{EN DASH}": "--", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class Row:
    """A row of runs.

    Attributes:
      label: what the table calls it.
      config: path of the config file, from the root of the repository.
      overrides: command-line arguments that change the config, as `("--k", "8")`.
      key: name of the row's directory of runs; by default the stem of the config file.
      published: column label -> figure of others, printed as given beside our own.
    """

    label: str
    config: str
    overrides: tuple[str, ...] = ()
    key: str = ""
    published: Mapping[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> str:
        """Name of the directory that holds the row's runs."""
        return self.key or Path(self.config).stem


@dataclass(frozen=True)
class Reference:
    """A row of published figures, printed as given and never mixed with runs.

    Attributes:
      label: what the table calls it.
      source: where the figures are published.
      values: column label -> figure, as printed there.
    """

    label: str
    source: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
      label: what the table calls it.
      metric: em, f1, recall@<k>, mrr or posterior_mass; or a number that `result.json` gives each
        run, such as train_seconds, whose interval is over seeds alone; or nothing, in a column of
        published figures.
      scale: what the figure is multiplied by: 100 for per cent, 1 to leave it.
      digits: digits after the decimal point.
      relation: count the questions of this relation only.
      statistic: `mean`, or `iqm`, the interquartile mean over seeds of a number of `result.json`.
      against: key of a row whose figure of the same seed is subtracted first, so that the interval is
        that of the paired difference; a row has no difference to itself.
    """

    label: str
    metric: str = ""
    scale: int | float = 100
    digits: int = 1
    relation: str | None = None
    statistic: Literal["mean", "iqm"] = "mean"
    against: str = ""


@dataclass(frozen=True)
class Table:
    """A table, as its experiment file declares it.

    Attributes:
      name: name of its directory under `results`.
      title: its heading, without a full stop.
      rows: rows of runs.
      columns: columns of figures.
      seeds: the seeds that every row is to be run with.
      results: directory of recorded runs of all tables, `experiments/results`.
      caption: sentences that follow the title.
      references: rows of published figures.
      side_by_side: whether the seeds of a row are run in one program, as policies can be.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    results: Path
    caption: str = ""
    references: tuple[Reference, ...] = ()
    side_by_side: bool = False

    def __post_init__(self) -> None:
        where = f"table {self.name!r}"
        require(
            re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is not None,
            f"{where} has a name that is no directory's; use letters, digits, _ and -.",
        )
        for what, names in (
            ("seeds", self.seeds),
            ("row keys", [row.directory for row in self.rows]),
            ("column labels", [column.label for column in self.columns]),
        ):
            require(bool(names), f"{where} has no {what}; declare at least one.")
            require(
                len(set(names)) == len(names),
                f"{where} repeats one of its {what} {list(names)}; make them differ.",
            )
        require(
            not self.side_by_side or max(self.seeds) - min(self.seeds) < len(self.seeds),
            f"{where} has seeds {list(self.seeds)}, which can't run side by side; use consecutive ones.",
        )
        keys = {row.directory for row in self.rows}
        for column in self.columns:
            require(
                not column.against or column.against in keys,
                f"{where} column {column.label!r} is against {column.against!r}, which is no row; use "
                f"one of {sorted(keys)}.",
            )
        labels = {column.label for column in self.columns}
        for row in self.rows:
            unknown = sorted(set(row.published) - labels)
            require(
                not unknown,
                f"{where} row {row.label!r} gives {unknown}, which is no column; use one of "
                f"{sorted(labels)}.",
            )
        for reference in self.references:
            unknown = sorted(set(reference.values) - {column.label for column in self.columns})
            require(bool(reference.source), f"{where} row {reference.label!r} lacks a source.")
            require(
                not unknown,
                f"{where} row {reference.label!r} gives {unknown}, which is no column; "
                f"use {[column.label for column in self.columns]}.",
            )

    def directory(self, row: Row, seed: int | None = None) -> Path:
        """Returns the directory of a row's runs, or of its run with one seed."""
        runs = self.results / self.name / row.directory
        return runs if seed is None else runs / f"seed_{seed}"


@dataclass(frozen=True)
class Written:
    """A table that its experiment file writes itself, from figures that are no runs: a benchmark's.

    Attributes:
      markdown: the whole table, ending in a newline.
    """

    markdown: str


def missing_runs(table: Table | Written) -> list[tuple[Row, int, Path]]:
    """Returns (row, seed, destination) of each declared run that isn't recorded yet."""
    if isinstance(table, Written):
        return []
    wanted = [(row, seed, table.directory(row, seed)) for row in table.rows for seed in table.seeds]
    return [run for run in wanted if not (run[2] / "result.json").exists()]


def load_table(path: Path) -> Table | Written:
    """Returns what `get_table()` of an experiment file declares."""
    table = load_function(Path(path), "get_table", "experiment")()
    require(
        isinstance(table, Table | Written),
        f"get_table() of {path} returns {type(table).__name__}; return a Table.",
    )
    return table


@dataclass(frozen=True)
class _Line:
    """A row of the table with its runs, and an interval (or None) for each column."""

    row: Row
    runs: tuple[Run, ...]
    cells: tuple[Interval | None, ...]


def render(table: Table | Written, format: str = "markdown") -> str:
    """Returns the table as text that ends in a newline.

    Args:
      table: what to print.
      format: "markdown", "latex" or "csv". Below a Markdown table, in comments below a LaTeX one
        and in columns of a CSV one stand the runs behind each row. CSV leaves missing cells empty.

    Returns:
      The text. Raises `UserError` where runs aren't comparable, see `load_runs`.
    """
    formats: Mapping[str, Callable[[Table, Sequence[_Line]], str]]
    formats = {"markdown": _markdown, "latex": _latex, "csv": _csv}
    require(format in formats, f"format is {format!r}; choose one of {', '.join(formats)}.")
    if isinstance(table, Written):
        require(format == "markdown", f"This table is written as markdown only, not as {format}.")
        return table.markdown
    loaded = {row.directory: load_runs(table.directory(row), table.seeds) for row in table.rows}
    require_same_questions([run for runs in loaded.values() for run in runs])
    lines = [
        _Line(
            row,
            tuple(loaded[row.directory]),
            tuple(_cell(column, row, loaded) for column in table.columns),
        )
        for row in table.rows
    ]
    return formats[format](table, lines)


def _cell(column: Column, row: Row, loaded: Mapping[str, Sequence[Run]]) -> Interval | None:
    """Returns the interval of a column over the runs of a row, None where there is nothing to show."""
    runs = loaded[row.directory]
    scaled = _outcomes(column, runs)
    if column.against:
        others = loaded[column.against]
        subtracted = _outcomes(column, others)
        same = [run.seed for run in runs] == [run.seed for run in others]
        if column.against == row.directory or not same:
            return None
        scaled = [own - other for own, other in zip(scaled, subtracted, strict=True)]
    if not scaled:
        return None
    if sum(values.size for values in scaled) == 1:
        only = float(scaled[0][0])
        return Interval(only, only, only, single=True)
    if column.statistic == "iqm":
        require(
            all(values.size == 1 for values in scaled),
            f"column {column.label!r} asks for the interquartile mean of {column.metric!r}, which is "
            "no single number of a run; use the mean.",
        )
        return interquartile_interval([np.concatenate(scaled)])
    return bootstrap_interval(scaled, strata=runs[0].strata(column.metric))


def _outcomes(column: Column, runs: Sequence[Run]) -> list[np.ndarray]:
    """Returns the scaled figures of a column, an array for each run, or none if none measured them."""
    if not column.metric:
        return []
    outcomes = []
    for run in runs:
        try:
            outcomes.append(run.figure(column.metric, column.relation))
        except KeyError as error:
            raise UserError(
                f"column {column.label!r} asks for {column.metric!r}, which {run.directory} "
                "lacks; use em, f1, recall@<k>, mrr, posterior_mass or a number of its result.json."
            ) from error
    measured = [values for values in outcomes if values is not None]
    if not measured:
        return []
    require(
        len(measured) == len(runs),
        f"column {column.label!r} is measured by some runs of {runs[0].directory.parent} only; "
        "record them again.",
    )
    return [column.scale * values for values in measured]


def _number(value: float, digits: int) -> str:
    """Formats a number; rounding twice keeps the last bits of a sum from showing in a tie."""
    return f"{round(value, 9):.{digits}f}"


def _interval_text(cell: Interval, digits: int) -> str:
    """The mean ± half-width; the mean alone of a single number, which has no interval."""
    mean = _number(cell.mean, digits)
    return mean if cell.single else f"{mean} ± {_number(cell.half_width, digits)}"


def _text(table: Table, line: _Line) -> list[str]:
    """Returns the cells of a row as "mean ± half-width", with a mark where seeds are missing."""
    found = len(line.runs)
    mark = "" if found == len(table.seeds) else f" ({found} seed{'s' * (found != 1)})"
    return [
        _interval_text(cell, column.digits) + mark
        if cell
        else line.row.published.get(column.label, MISSING)
        for column, cell in zip(table.columns, line.cells, strict=True)
    ]


def _legend(table: Table, lines: Sequence[_Line]) -> str:
    """Returns the sentence that says what a cell is."""
    runs = [run for line in lines for run in line.runs]
    if not runs:
        return "No run is recorded yet."
    outcomes = runs[0].outcomes
    if isinstance(outcomes, Episodes) and not outcomes.ids:
        iqm = any(column.statistic == "iqm" for column in table.columns)
        return (
            f"Cells: {'interquartile ' * iqm}mean ± half the width of the {LEVEL:.0%} stratified "
            f"bootstrap interval over seeds {', '.join(map(str, sorted(table.seeds)))}, each the mean "
            f"of {runs[0].result['episodes']} episodes ({RESAMPLES:,} resamples)."
        )
    questions = len(outcomes.ids)
    return (
        f"Cells: mean ± half the width of the {LEVEL:.0%} bootstrap interval over seeds "
        f"{', '.join(map(str, sorted(table.seeds)))} and {questions:,} questions "
        f"({RESAMPLES:,} resamples)."
    )


def _provenance(table: Table, line: _Line, quote: str = "") -> dict[str, str]:
    """Returns the runs, seeds, config and commits behind a row; paths start at the root."""
    root = table.results.parent.parent
    paths = [run.directory.relative_to(root).as_posix() for run in line.runs]
    commits = dict.fromkeys(run.commit or "none recorded" for run in line.runs)
    return {
        "runs": ", ".join(f"{quote}{path}{quote}" for path in paths),
        "seeds": ", ".join(str(run.seed) for run in line.runs),
        "config": quote + " ".join((line.row.config, *line.row.overrides)) + quote,
        "commit": ", ".join(commits),
    }


def _footnotes(table: Table, lines: Sequence[_Line], quote: str) -> list[str]:
    """Returns a line of provenance for each row."""
    notes = []
    for line in lines:
        facts = _provenance(table, line, quote)
        runs = f"{facts['runs']}; seeds {facts['seeds']}; git commit {facts['commit']}"
        found = runs if line.runs else "no finished run"
        notes.append(f"{line.row.label}: config {facts['config']}; {found}")
    return notes


def _heading(table: Table, title: str) -> str:
    return f"{title} {table.caption}".rstrip()


def _markdown(table: Table, lines: Sequence[_Line]) -> str:
    rows = [["", *(column.label for column in table.columns)]]
    rows += [[line.row.label, *_text(table, line)] for line in lines]
    for published in table.references:
        figures = [published.values.get(column.label, MISSING) for column in table.columns]
        rows.append([f"{published.label} (published: {published.source})", *figures])
    grid = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    grid.insert(1, "| --- |" + " ---: |" * len(table.columns))
    notes = [f"- {note}" for note in _footnotes(table, lines, "`")]
    heading = _heading(table, f"**{table.title}.**")
    return "\n".join([heading, "", *grid, "", _legend(table, lines), "", "Runs:", "", *notes, ""])


def _latex(table: Table, lines: Sequence[_Line]) -> str:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    references = []
    for published in table.references:
        figures = [published.values.get(column.label, MISSING) for column in table.columns]
        references.append(row([f"{published.label} (published: {published.source})", *figures]))
    caption = _heading(table, f"{table.title}.").translate(_LATEX)
    legend = _legend(table, lines).translate(_LATEX)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption} {legend}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            row(["", *(column.label for column in table.columns)]),
            r"\midrule",
            *(row([line.row.label, *_text(table, line)]) for line in lines),
            *([r"\midrule", *references] if references else []),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            *(f"% {note}" for note in _footnotes(table, lines, "")),
            "",
        ]
    )


def _csv(table: Table, lines: Sequence[_Line]) -> str:
    facts = ("seeds", "runs", "config", "commit")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    bounds = [f"{column.label} {part}" for column in table.columns for part in _BOUNDS]
    writer.writerow(["row", *bounds, *facts, "source"])
    for line in lines:
        numbers = []
        for column, cell in zip(table.columns, line.cells, strict=True):
            values = (cell.mean, cell.low, cell.high) if cell else ()
            numbers += [_number(value, column.digits + 2) for value in values] or [""] * 3
        provenance = _provenance(table, line)
        writer.writerow([line.row.label, *numbers, *(provenance[fact] for fact in facts), "runs"])
    for reference in table.references:
        published = [reference.values.get(column.label, "") for column in table.columns]
        cells = [cell for value in published for cell in (value, "", "")]
        writer.writerow([reference.label, *cells, *[""] * len(facts), reference.source])
    return text.getvalue()
