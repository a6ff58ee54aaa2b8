"""Figures of groups of runs as tables, with their intervals over seeds and questions."""

from collections.abc import Sequence

from ragjax.evaluation.episodes import MODES, Episodes
from ragjax.evaluation.metrics import RECALL_DEPTHS, RELATION_FIGURES, Outcomes
from ragjax.evaluation.rendering import interval_text, measured_cell
from ragjax.evaluation.runs import Run
from ragjax.evaluation.statistics import LEVEL, RESAMPLES
from ragjax.evaluation.tables import Column, Row
from ragjax.report.blocks import Bars, Block, Folded, Grid, Section, Table
from ragjax.report.runs import NONE, Group

RELATIONS = 40  # of which figures are shown
BINS = 20  # of a histogram of returns

_DEPTHS = [f"{of}@{k}" for of in ("recall", "has_answer") for k in RECALL_DEPTHS]
_FIGURES = ("em", "strict_em", "f1", "contains", *_DEPTHS, "mrr", "posterior_mass")


def questions_section(groups: Sequence[Group]) -> Section:
    """The figures of runs that answer questions, over all questions and by relation."""
    measured = [group for group in groups if _are(Outcomes, group.measured)]
    if not measured:
        return Section("Answers", [])
    names = [
        name
        for name in _FIGURES
        if any(run.figure(name) is not None for group in measured for run in group.measured)
    ]
    rows = []
    for group in measured:
        runs = group.measured
        asked = f"{len(runs[0].outcomes.ids):,}"
        rows.append((group.label, str(len(runs)), asked, *_cells(runs, names)))
    note = f"In per cent. {_intervals('seeds and questions')}."
    table = Table("All questions", ("run", "seeds", "questions", *names), rows, note)
    return Section("Answers", [table, *(_relations(group) for group in measured)])


def _intervals(over: str) -> str:
    return (
        f"Mean ± half the width of the {LEVEL:.0%} bootstrap interval over {over} "
        f"({RESAMPLES:,} resamples)"
    )


def _are(kind: type, runs: Sequence[Run]) -> bool:
    return bool(runs) and all(isinstance(run.outcomes, kind) for run in runs)


def _cells(runs: Sequence[Run], names: Sequence[str], relation: str | None = None) -> list[str]:
    """A cell for each figure; empty of one that a run lacks, for a mean is one over all of them."""
    row, cells = Row("", "", key="runs"), []
    for name in names:
        cell = None
        if all(run.figure(name, relation) is not None for run in runs):
            cell = measured_cell(Column(name, name, relation=relation), row, {"runs": runs})
        cells.append(interval_text(cell, 1) if cell else NONE)
    return cells


def _relations(group: Group) -> Block:
    runs, outcomes = group.measured, group.measured[0].outcomes
    assert isinstance(outcomes, Outcomes)
    counts = {name: outcomes.relations.count(name) for name in sorted(set(outcomes.relations))}
    often = sorted(counts, key=lambda name: (-counts[name], name))[:RELATIONS]
    names = [
        name
        for name in RELATION_FIGURES
        if any(run.figure(name, relation) is not None for run in runs for relation in often)
    ]
    rows = [(name, f"{counts[name]:,}", *_cells(runs, names, name)) for name in sorted(often)]
    left = len(counts) - len(often)
    note = f"{left} relations with fewer questions are left out." * (left > 0)
    table = Table("", ("relation", "questions", *names), rows, note)
    return Folded(f"By relation: {group.label}", [table])


def episodes_section(groups: Sequence[Group]) -> Section:
    """The figures of runs that play episodes, and how their returns are distributed."""
    blocks: list[Block] = []
    charts: list[Block] = []
    for group in groups:
        if _are(Episodes, group.measured):
            blocks.append(_episodes_table(group))
            charts.append(_returns(group))
    return Section("Episodes", [*blocks, *([Grid(charts)] if charts else [])])


def _episodes_table(group: Group) -> Table:
    """A row a figure, with likeliest actions and with drawn ones."""
    runs, first = group.measured, group.measured[0].outcomes
    assert isinstance(first, Episodes)
    names = ["return", "length", *(name for name in first.metrics.get(MODES[0], {}))]
    row, rows = Row("", "", key="runs"), []
    for name in names:
        cells = []
        for mode in MODES:
            figure, cell = f"{mode}_{name}", None
            if all(figure in run.result and run.figure(figure) is not None for run in runs):
                cell = measured_cell(Column(name, figure, scale=1), row, {"runs": runs})
            cells.append(interval_text(cell, 3) if cell else NONE)
        rows.append((name, *cells))
    note = f"Means of {len(first.returns[MODES[0]]):,} episodes a seed."
    if first.ids or len(runs) > 1:
        note += f" {_intervals('seeds and episodes' if first.ids else 'seeds')}."
    title = f"{group.label}: mean of an episode"
    if len(group.runs) > 1:
        title += f", {len(runs)} of {len(group.runs)} seeds"
    return Table(title, ("figure", *MODES), rows, note)


def _returns(group: Group) -> Bars:
    """How many episodes of all seeds had which return: each one, or in equal intervals if many."""
    found = {
        mode: [
            value
            for run in group.measured
            if isinstance(run.outcomes, Episodes)
            for value in run.outcomes.returns[mode]
        ]
        for mode in MODES
    }
    values = sorted({round(value, 4) for of in found.values() for value in of})
    if len(values) <= BINS:
        names = [f"{value:g}" for value in values]
        places = {value: place for place, value in enumerate(values)}
        bins = {mode: [places[round(value, 4)] for value in of] for mode, of in found.items()}
    else:
        low, width = values[0], (values[-1] - values[0]) / BINS
        names = [f"{low + width * place:.4g} and more" for place in range(BINS)]
        bins = {
            mode: [min(int((value - low) / width), BINS - 1) for value in of]
            for mode, of in found.items()
        }
    counts = [[of.count(place) for place in range(len(names))] for of in bins.values()]
    return Bars(f"{group.label}: episodes by their return", names, MODES, counts)
