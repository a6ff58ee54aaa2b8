"""Tables as text: the cells of a declared table from its recorded runs, in Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragjax.errors import UserError, require
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.metrics import Outcomes, is_of_gold
from ragjax.evaluation.runs import Run, load_runs, require_same_questions
from ragjax.evaluation.statistics import (
    LEVEL,
    RESAMPLES,
    Interval,
    bootstrap_interval,
    interquartile_interval,
)
from ragjax.evaluation.tables import Column, MarkdownTable, Row, Table
from ragjax.records import commit_text

MISSING = "\N{EN DASH}"

_COMMIT = 12  # characters of a git commit, enough to tell it from all others
_BOUNDS = ("mean", "low", "high")
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\N{EN DASH}": "--", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"\\": r"\textbackslash{}"}
)


@dataclass(frozen=True)
class Line:
    """A row of the table with its runs, and an interval (or None) for each column."""

    row: Row
    runs: tuple[Run, ...]
    cells: tuple[Interval | None, ...]


def render(table: Table | MarkdownTable, format: str = "markdown") -> str:
    """Returns the table as text that ends in a newline.

    Args:
      table: what to print.
      format: "markdown", "latex" or "csv". The runs behind each row are folded below a Markdown
        table, and stand in comments below a LaTeX one and in columns of a CSV one. CSV leaves missing
        cells empty.

    Returns:
      The text. Raises `UserError` where runs aren't comparable, see `load_runs`.
    """
    formats: Mapping[str, Callable[[Table, Sequence[Line]], str]]
    formats = {"markdown": _markdown, "latex": _latex, "csv": _csv}
    require(format in formats, f"format is {format!r}; choose one of {', '.join(formats)}.")
    if isinstance(table, MarkdownTable):
        require(format == "markdown", f"This table is written as markdown only, not as {format}.")
        source = _folded("Source", [table.source])
        return "\n".join([f"**{table.title}.**", "", table.body.strip(), "", *source, ""])
    return formats[format](table, measured_lines(table))


def measured_lines(table: Table) -> list[Line]:
    """Returns the rows of a table, measured from their recorded runs.

    Raises:
      UserError: the runs aren't comparable, see `load_runs`, or lack a figure.
    """
    loaded = recorded_runs(table)
    return [
        Line(
            row,
            tuple(loaded[row.directory]),
            tuple(measured_cell(column, row, loaded) for column in table.columns),
        )
        for row in table.rows
    ]


def recorded_runs(table: Table) -> dict[str, list[Run]]:
    """Key of a row -> its recorded runs.

    Raises:
      UserError: the runs aren't comparable, see `load_runs`.
    """
    loaded = {row.directory: load_runs(table.directory(row), table.seeds) for row in table.rows}
    # The cells of a column are about the same questions.
    of_columns = {
        tuple(row.directory for row in table.rows if row.measures(column.label))
        for column in table.columns
    }
    for keys in of_columns:
        require_same_questions([run for key in keys for run in loaded[key]])
    return loaded


def measured_cell(column: Column, row: Row, loaded: Mapping[str, Sequence[Run]]) -> Interval | None:
    """Returns the interval of a column over the runs of a row, None where there is nothing to show."""
    runs = loaded[row.directory]
    scaled = _outcomes(column, runs) if row.measures(column.label) else []
    if column.against:
        others = loaded[column.against]
        subtracted = _outcomes(column, others)
        same = [run.seed for run in runs] == [run.seed for run in others]
        if column.against == row.directory or not same or not (scaled and subtracted):
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
                "lacks; use em, strict_em, f1, contains, recall@<k>, mrr, posterior_mass, "
                "has_answer@<k> or a number of its result.json."
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


def interval_text(cell: Interval, digits: int) -> str:
    """The mean ± half-width; the mean alone of a single number, which has no interval."""
    mean = _number(cell.mean, digits)
    return mean if cell.single else f"{mean} ± {_number(cell.half_width, digits)}"


def cell_texts(table: Table, line: Line) -> list[str]:
    """Returns the cells of a row as "mean ± half-width", with a mark where seeds are missing."""
    found = len(line.runs)
    mark = "" if found == len(table.seeds) else f" ({found} seed{'s' * (found != 1)})"
    return [
        interval_text(cell, column.digits) + mark
        if cell
        else line.row.published.get(column.label, MISSING)
        for column, cell in zip(table.columns, line.cells, strict=True)
    ]


def _printed(table: Table, lines: Sequence[Line]) -> list[list[str]]:
    """Returns the cells of each printed line, its label first; rows of one label are a line."""
    printed: dict[Any, list[str]] = {}
    for number, line in enumerate(lines):
        name = line.row.label if line.row.columns else number
        cells = cell_texts(table, line)
        if name in printed:
            others = zip(table.columns, printed[name][1:], cells, strict=True)
            cells = [new if line.row.measures(of.label) else old for of, old, new in others]
        printed[name] = [line.row.label, *cells]
    return list(printed.values())


def legend(table: Table, lines: Sequence[Line]) -> str:
    """Returns the sentence that says what a cell is."""
    runs = [run for line in lines for run in line.runs]
    if not runs:
        return "No run is recorded yet."
    outcomes, exceptions = runs[0].outcomes, _exceptions(table, runs[0])
    if all(cell is None or cell.single for line in lines for cell in line.cells):
        return "Cells: the figures of one run a row."
    if isinstance(outcomes, Episodes) and not outcomes.ids:
        iqm = any(column.statistic == "iqm" for column in table.columns)
        return (
            f"Cells: {'interquartile ' * iqm}mean ± half the width of the {LEVEL:.0%} stratified "
            f"bootstrap interval over seeds {', '.join(map(str, sorted(table.seeds)))}, each the mean "
            f"of {runs[0].result['episodes']} episodes ({RESAMPLES:,} resamples){exceptions}."
        )
    seeds = ", ".join(map(str, sorted(table.seeds)))
    return (
        f"Cells: mean ± half the width of the {LEVEL:.0%} bootstrap interval over "
        f"seed{'s' * (len(table.seeds) > 1)} {seeds} and {_questions(lines)} "
        f"({RESAMPLES:,} resamples){exceptions}."
    )


def _questions(lines: Sequence[Line]) -> str:
    """Returns how many questions were asked, of the columns that have their own."""
    counts = {line.row.columns: len(line.runs[0].outcomes.ids) for line in lines if line.runs}
    return ", ".join(
        f"{count:,} questions" + f" ({', '.join(columns)})" * bool(columns)
        for columns, count in counts.items()
    )


def _exceptions(table: Table, run: Run) -> str:
    """Returns what the intervals of some columns are over instead, as the end of a sentence."""

    def labels(chosen: Callable[[str], bool]) -> str:
        return ", ".join(f'"{c.label}"' for c in table.columns if c.metric and chosen(c.metric))

    text, single = "", labels(run.is_single)
    if single:
        alone = len(table.seeds) > 1
        text += f", of {single} over the seeds alone" if alone else f", none of {single}"
    if isinstance(run.outcomes, Outcomes) and 0 < run.outcomes.gold.sum() < len(run.outcomes.ids):
        found = labels(is_of_gold)
        count = f"{run.outcomes.gold.sum():,}"
        text += f", of {found} over the {count} questions that name a gold passage" if found else ""
    return text


def _provenance(table: Table, line: Line) -> dict[str, str]:
    """Returns the config, runs, seeds and commits behind a row; paths start at the root."""
    directory = table.directory(line.row).relative_to(table.results.parent.parent).as_posix()
    seeds = [str(run.seed) for run in line.runs]
    braced = f"{{{','.join(seeds)}}}" if len(seeds) > 1 else "".join(seeds)
    commits = dict.fromkeys(commit_text(run.result, _COMMIT) for run in line.runs)
    return {
        "config": " ".join((line.row.config, *line.row.overrides)),
        "runs": f"{directory}/seed_{braced}" if seeds else "",
        "seeds": ", ".join(seeds),
        "commit": ", ".join(commits),
    }


def footnotes(table: Table, lines: Sequence[Line], quote: str = "") -> list[str]:
    """Returns a line of provenance for each row, with config and runs between quotes."""
    notes = []
    for line in lines:
        facts = _provenance(table, line)
        found = f"runs {quote}{facts['runs']}{quote}; git commit {facts['commit']}"
        config = f"config {quote}{facts['config']}{quote}"
        label = ", ".join((line.row.label, *line.row.columns))
        notes.append(f"{label}: {config}; {found if line.runs else 'no finished run'}")
    return notes


def _folded(summary: str, lines: Sequence[str]) -> list[str]:
    """Returns lines of Markdown that a page shows when its reader asks for them."""
    return [f"<details><summary>{summary}</summary>", "", *lines, "", "</details>"]


def _markdown(table: Table, lines: Sequence[Line]) -> str:
    rows = [["", *(column.label for column in table.columns)]]
    rows += _printed(table, lines)
    for published in table.references:
        figures = [published.values.get(column.label, MISSING) for column in table.columns]
        rows.append([f"{published.label} (published: {published.source})", *figures])
    grid = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    grid.insert(1, "| --- |" + " ---: |" * len(table.columns))
    words = f"{table.caption} {legend(table, lines)}".strip()
    runs = _folded("Runs", [f"- {note}" for note in footnotes(table, lines, "`")])
    return "\n".join([f"**{table.title}.**", "", *grid, "", words, "", *runs, ""])


def _latex(table: Table, lines: Sequence[Line]) -> str:
    def row(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    references = []
    for published in table.references:
        figures = [published.values.get(column.label, MISSING) for column in table.columns]
        references.append(row([f"{published.label} (published: {published.source})", *figures]))
    caption = f"{table.title}. {table.caption}".rstrip().translate(_LATEX)
    words = legend(table, lines).translate(_LATEX)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption} {words}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            row(["", *(column.label for column in table.columns)]),
            r"\midrule",
            *(row(cells) for cells in _printed(table, lines)),
            *([r"\midrule", *references] if references else []),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            *(f"% {note}" for note in footnotes(table, lines)),
            "",
        ]
    )


def _csv(table: Table, lines: Sequence[Line]) -> str:
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
