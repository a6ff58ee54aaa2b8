"""What a sweep has found: its best trials, what each field does to the metric, and all trials."""

import math
from pathlib import Path

from ragjax.records import ReportTable
from ragjax.report.blocks import (
    Bars,
    Block,
    Chart,
    Folded,
    Grid,
    Line,
    Parallel,
    Section,
    Table,
    Words,
)
from ragjax.report.runs import NONE, Group, read_run
from ragjax.run_dir import is_run
from ragjax.sweep.pictures import Axis, trial_axes
from ragjax.sweep.plan import Plan
from ragjax.sweep.show import best_table, importance_table, in_words, progress_lines
from ragjax.sweep.store import Store
from ragjax.sweep.study import plan_of
from ragjax.sweep.winner import finished, winners

TRIALS = 2000  # that are listed or drawn


def sweep_report(directory: Path) -> tuple[list[Section], list[Group]]:
    """Returns the sections of a sweep, and the runs of the trials that were measured on test data.

    Raises:
      UserError: the sweep can't be read.
    """
    store = Store(directory)
    store.open()
    plan = plan_of(store)
    sections = [_summary(directory.name, store, plan), _fields(store, plan), _trials(store, plan)]
    return sections, _winners(store)


def _shown(table: ReportTable) -> Table:
    return Table(table.title, table.columns, table.rows)


def _summary(name: str, store: Store, plan: Plan) -> Section:
    sweep = store.sweep
    chosen = f"Sweep `{name}`: {sweep.metric} on development data, to {sweep.direction}."
    blocks: list[Block] = [Words([chosen, *progress_lines(store, plan)])]
    if not finished(store, plan):
        return Section(f"Sweep {name}", blocks)
    blocks.append(_shown(best_table(store, plan)))
    table, why = importance_table(store, plan)
    if table is not None:
        names, shares = zip(*table.rows, strict=True)
        blocks.append(Bars(table.title, names, ("share",), [[float(of) for of in shares]]))
    blocks += [Words([f"Importance of the fields: {why}."], note=True)] if why else []
    return Section(f"Sweep {name}", blocks)


def _fields(store: Store, plan: Plan) -> Section:
    """Each field against the metric, and all of them side by side."""
    if not any(math.isfinite(value) for _, value in finished(store, plan)):
        return Section("Fields", [])
    axes, values = trial_axes(store, plan)
    left = len(values) - TRIALS
    note = f"The best {TRIALS:,} trials; {left:,} more are not drawn." * (left > 0)
    metric = store.sweep.metric
    slices = [_slice(axis, values[:TRIALS], metric, note) for axis in axes]
    own = Axis(metric, values, [f"{value:.4g}" for value in values], [], log=False)
    heights = list(zip(*(axis.heights() for axis in [*axes, own]), strict=True))[:TRIALS]
    texts = zip(*(axis.texts for axis in [*axes, own]), strict=True)
    labels = [", ".join(filter(None, of)) for of in texts]
    parallel = Parallel(
        "All fields of all trials, the better the stronger",
        [(axis.label, *axis.ends()) for axis in [*axes, own]],
        heights,
        labels[:TRIALS],
        note,
    )
    return Section("Fields", [Grid(slices), parallel])


def _slice(axis: Axis, values: list[float], metric: str, note: str) -> Chart:
    known = [place for place, of in enumerate(axis.places[: len(values)]) if not math.isnan(of)]
    line = Line("trial", 0, [axis.places[k] for k in known], [values[k] for k in known])
    names = list(enumerate(axis.names))
    label = f"{metric} (development)"
    return Chart(
        axis.label, axis.label, label, [line], points=True, log=axis.log, names=names, note=note
    )


def _trials(store: Store, plan: Plan) -> Section:
    space = store.sweep.space
    rows = []
    for trial in plan.trials[:TRIALS]:
        outcome = store.outcome(trial)
        values = [
            in_words(trial.values[v.field]) if v.field in trial.values else NONE for v in space
        ]
        value = NONE if outcome.value is None else f"{outcome.value:.6g}"
        rows.append((str(trial.number), outcome.status, value, *values))
    left = len(plan.trials) - len(rows)
    note = f"{left:,} more trials are not listed." * (left > 0)
    columns = ("trial", "state", store.sweep.metric, *(vary.field for vary in space))
    return Section("Trials", [Folded("All trials", [Table("", columns, rows, note)])])


def _winners(store: Store) -> list[Group]:
    """The runs of each measured trial that are still there."""
    found = []
    for winner in winners(store):
        places = [store.directory / "runs" / name for name in winner["runs"]]
        runs = [read_run(place) for place in places if is_run(place)]
        found += [Group(f"trial {winner['trial']}", runs)] if runs else []
    return found
