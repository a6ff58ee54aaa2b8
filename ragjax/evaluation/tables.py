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
figures stand in rows of their own, marked with their source. `ragjax.evaluation.rendering` prints a
table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ragjax.errors import require
from ragjax.files import load_function


@dataclass(frozen=True)
class Row:
    """A row of runs.

    Attributes:
      label: what the table calls it.
      config: path of the config file, from the root of the repository.
      overrides: command-line arguments that change the config, as `("--k", "8")`.
      key: name of the row's directory of runs; by default the stem of the config file.
      published: column label -> figure of others, printed as given beside our own.
      columns: labels of the columns that its runs are figures of; () for all. Rows of one label and of
        different columns are printed as one line, as of a model that was trained for each of several
        sets of questions.
    """

    label: str
    config: str
    overrides: tuple[str, ...] = ()
    key: str = ""
    published: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """Name of the directory that holds the row's runs."""
        return self.key or Path(self.config).stem

    def measures(self, column: str) -> bool:
        """Whether its runs are figures of the column of a label."""
        return not self.columns or column in self.columns


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
      metric: em, strict_em, f1, contains, recall@<k>, mrr, posterior_mass or has_answer@<k>; or a
        number that `result.json` gives each run, such as train_seconds or dev.em, whose interval is
        over seeds alone; or nothing, in a column of published figures.
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
class Claim:
    """What a table is to show: a row is above another, or above a figure, beyond chance.

    Attributes:
      row: key of the row.
      column: label of the column.
      above: key of another row, whose paired difference is looked at; or a figure in the column's unit.
      source: where a figure is published, or what it follows from.
      below: whether the row is below instead.
    """

    row: str
    column: str
    above: str | float
    source: str = ""
    below: bool = False


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
      caption: sentences that say what the columns are.
      notes: Markdown for the page of all tables: what the table shows, and how to read it.
      references: rows of published figures.
      side_by_side: whether the seeds of a row are run in one program, as policies can be.
      claims: what the table is to show; `ragjax table FILE --check` says whether it does.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    results: Path
    caption: str = ""
    notes: str = ""
    references: tuple[Reference, ...] = ()
    side_by_side: bool = False
    claims: tuple[Claim, ...] = ()

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
        # Column label -> keys of the rows whose runs are figures of it.
        keys = {
            column.label: {row.directory for row in self.rows if row.measures(column.label)}
            for column in self.columns
        }
        for column in self.columns:
            require(
                not column.against or column.against in keys[column.label],
                f"{where} column {column.label!r} is against {column.against!r}, which is no row of it; "
                f"use one of {sorted(keys[column.label])}.",
            )
        labels = set(keys)
        for claim in self.claims:
            named = {claim.row, claim.above} if isinstance(claim.above, str) else {claim.row}
            rows = keys.get(claim.column, {row.directory for row in self.rows})
            require(
                named <= rows and claim.column in labels,
                f"{where} claims something of rows {sorted(named)} in column {claim.column!r}; use rows "
                f"of {sorted(rows)} and a column of {sorted(labels)}.",
            )
            require(
                isinstance(claim.above, str) or bool(claim.source),
                f"{where} compares row {claim.row!r} to {claim.above} without a source; say where that "
                "figure is from.",
            )
        for row in self.rows:
            unknown = sorted({*row.published, *row.columns} - labels)
            require(
                not unknown,
                f"{where} row {row.label!r} gives {unknown}, which is no column; use one of "
                f"{sorted(labels)}.",
            )
        for label in labels:
            lines = [row.label for row in self.rows if row.columns and row.measures(label)]
            require(
                len(set(lines)) == len(lines),
                f"{where} has two rows for the same cell of column {label!r}; give rows of one label "
                "different columns.",
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
class MarkdownTable:
    """A table that its experiment file writes itself, from recorded figures that are no runs.

    Attributes:
      title: its heading, without a full stop.
      body: the table in Markdown, and the sentences that say what its columns are.
      source: a sentence that says where the figures are from: the command and the git commit.
      notes: Markdown for the page of all tables, as in `Table`.
    """

    title: str
    body: str
    source: str
    notes: str = ""


def missing_runs(table: Table | MarkdownTable) -> list[tuple[Row, int, Path]]:
    """Returns (row, seed, destination) of each declared run that isn't recorded yet."""
    if isinstance(table, MarkdownTable):
        return []
    wanted = [(row, seed, table.directory(row, seed)) for row in table.rows for seed in table.seeds]
    return [run for run in wanted if not (run[2] / "result.json").exists()]


def load_table(path: Path) -> Table | MarkdownTable:
    """Returns what `get_table()` of an experiment file declares."""
    table = load_function(Path(path), "get_table", "experiment")()
    require(
        isinstance(table, Table | MarkdownTable),
        f"get_table() of {path} returns {type(table).__name__}; return a Table.",
    )
    return table
