"""An experiment's table and plots from its recorded runs, with what it claims and the runs behind it."""

from collections.abc import Sequence
from pathlib import Path

from ragjax.errors import require
from ragjax.evaluation.claims import checked_claims
from ragjax.evaluation.pages import declared_functions, first_line
from ragjax.evaluation.plots import load_plots
from ragjax.evaluation.rendering import cell_texts, footnotes, legend, measured_lines
from ragjax.evaluation.tables import MarkdownTable, load_table, missing_runs
from ragjax.evaluation.tables import Table as DeclaredTable
from ragjax.report.blocks import Block, Folded, Grid, Section, Table, Words
from ragjax.report.curves import plot_chart
from ragjax.report.runs import NONE, Group, read_run, runs_section
from ragjax.text import counted


def experiment_sections(path: Path) -> list[Section]:
    """Returns the sections of an experiment.

    Raises:
      UserError: the file declares neither a table nor plots, or what they are made of can't be read.
    """
    names = declared_functions(path)
    require(
        bool(names),
        f"{path} has neither get_table() nor get_plots(), so it is no experiment; name one that has.",
    )
    first = first_line(path)
    sections, groups = [], []
    if "get_table" in names:
        table = load_table(path)
        if isinstance(table, MarkdownTable):
            sections.append(Section(table.title, _written(table, first)))
        else:
            section, groups = _measured(table, first)
            sections.append(section)
    if "get_plots" in names:
        charts = [plot_chart(plot) for plot in load_plots(path)]
        sections.append(Section("Plots", [Grid(charts)]))
    return [*sections, runs_section(groups)] if groups else sections


def _measured(table: DeclaredTable, first: str) -> tuple[Section, list[Group]]:
    """A table with what belongs to it, and the runs of its rows."""
    lines = measured_lines(table)
    rows = [(line.row.label, *cell_texts(table, line)) for line in lines]
    for reference in table.references:
        cells = [reference.values.get(column.label, NONE) for column in table.columns]
        rows.append((f"{reference.label} (published: {reference.source})", *cells))
    columns = ("row", *(column.label for column in table.columns))
    words = f"{table.caption} {legend(table, lines)}".strip()
    blocks: list[Block] = [Words([first]), Table(table.title, columns, rows, words)]
    missing = len(missing_runs(table))
    if missing:
        whole = len(table.rows) * len(table.seeds)
        said = f"{missing} of the {counted(whole, 'run')} that the table declares are not recorded."
        blocks.append(Words([said], note=True))
    if table.claims:
        said = [claim.sentence for claim in checked_claims(table)]
        blocks.append(Folded("What the table claims", [Words(said)]))
    blocks += _paragraphs(table.notes)
    blocks.append(Folded("Where the rows come from", [Words(footnotes(table, lines, "`"))]))
    groups = [
        Group(line.row.label, [read_run(run.directory) for run in line.runs])
        for line in lines
        if line.runs
    ]
    return Section(table.title, blocks), groups


def _written(table: MarkdownTable, first: str) -> list[Block]:
    source = Folded("Source", [Words([table.source])])
    return [Words([first]), *_paragraphs(table.body), *_paragraphs(table.notes), source]


def _paragraphs(markdown: str) -> list[Block]:
    """The paragraphs and tables of a Markdown text."""
    blocks: list[Block] = []
    for part in markdown.split("\n\n"):
        lines = [line.strip() for line in part.strip().splitlines()]
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            blocks.append(_table_of(lines))
        elif lines:
            blocks.append(Words([" ".join(lines)]))
    return blocks


def _table_of(lines: Sequence[str]) -> Table:
    """A table from its lines in Markdown, the second of which rules off the first."""
    cells = [
        [
            cell.strip().replace("\0", "|")
            for cell in line.replace("\\|", "\0").strip("|").split("|")
        ]
        for line in lines
    ]
    return Table("", cells[0], cells[2:])
