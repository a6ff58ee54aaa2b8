"""Runs as they lie in their directories, finished or not, and runs that differ in their seeds alone."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ragjax.config import MODULES
from ragjax.config_differences import differing_fields
from ragjax.config_views import value_at
from ragjax.errors import UserError, require
from ragjax.evaluation.curves import Series, distinct_labels, read_metrics
from ragjax.evaluation.episodes import Episodes, read_episodes
from ragjax.evaluation.metrics import Outcomes, read_predictions
from ragjax.evaluation.runs import OUTCOMES, RECORDS, Run, flatten, read_outcomes
from ragjax.files import read_json_object
from ragjax.records import commit_text
from ragjax.report.blocks import Block, Folded, Section, Table, Words
from ragjax.run_dir import CONFIG, RESULT, is_run
from ragjax.text import counted
from ragjax.training.logging import METRICS

NONE = "\N{EN DASH}"  # in a cell without a figure
ABREAST = 6  # configs that are columns; more are rows

_QUESTIONS, _EPISODES = RECORDS

T = TypeVar("T")


@dataclass(frozen=True)
class FoundRun:
    """A run's directory, with whatever of it can be read.

    Attributes:
      directory: of the run, as it was named.
      config: as JSON, without its seed.
      seed: of the run; None if it has several.
      result: what result.json holds; {} of an unfinished run.
      series: what it has logged.
      records: a record a question, see `evaluation.metrics`; [] of a run that has none.
      outcomes: of its questions or episodes; None if it has no records.
      notes: what is missing or can't be read, a sentence each.
    """

    directory: Path
    config: Mapping[str, Any]
    seed: int | None
    result: Mapping[str, Any]
    series: Series
    records: Sequence[Mapping[str, Any]]
    outcomes: Outcomes | Episodes | None
    notes: Sequence[str]

    @property
    def measured(self) -> Run | None:
        """The run as tables know it; None if it has no records."""
        if self.outcomes is None:
            return None
        return Run(self.directory, self.seed or 0, self.config, self.result, self.outcomes)


@dataclass(frozen=True)
class Group:
    """Runs of one config that differ in their seeds alone.

    Attributes:
      label: tells it from others.
      runs: by ascending seed.
    """

    label: str
    runs: Sequence[FoundRun]

    @cached_property
    def measured(self) -> list[Run]:
        """The runs that have records."""
        return [run.measured for run in self.runs if run.measured is not None]

    @property
    def finished(self) -> bool:
        """Whether any run has a result."""
        return any(run.result for run in self.runs)

    @property
    def config(self) -> Mapping[str, Any]:
        """Their config without a seed."""
        return self.runs[0].config


def run_directories(path: Path) -> list[Path]:
    """Returns the directory of a run, or of each `seed_<n>` run in it.

    Raises:
      UserError: it holds neither.
    """
    seeds = [place.parent for place in path.glob(f"seed_*/{CONFIG}")]
    if seeds:
        return sorted(seeds, key=lambda place: (len(place.name), place.name))
    require(
        is_run(path),
        f"{path} is no run, sweep or experiment; name the directory of one of the former, or an "
        "experiment's Python file.",
    )
    return [path]


def read_run(directory: Path) -> FoundRun:
    """Reads what a run's directory holds.

    Raises:
      UserError: it has no config that can be read.
    """
    config = read_json_object(directory / CONFIG, "name the directory of a run.")
    config.pop(MODULES, None)
    seed = config.pop("seed", None)
    notes: list[str] = []
    result = _read(directory / RESULT, _read_result, notes) or {}
    series = _read(directory / METRICS, lambda path: read_metrics(path.parent), notes) or {}
    records, outcomes = _read_records(directory, notes)
    recorded = (
        directory / OUTCOMES
    ).exists()  # as those of experiments are, without what was logged
    if not (directory / RESULT).exists():
        notes.append(f"{directory} is not finished: it has no {RESULT}.")
    if not (directory / METRICS).exists() and not recorded:
        notes.append(f"{directory} has no {METRICS}, so it has no curves.")
    seed = seed if isinstance(seed, int) and config.get("num_seeds", 1) == 1 else None
    return FoundRun(directory, config, seed, result, series, records, outcomes, notes)


def _read(path: Path, read: Callable[[Path], T], notes: list[str]) -> T | None:
    """What a file holds; None if it isn't there, or can't be read, which is noted."""
    try:
        return read(path) if path.exists() else None
    except UserError as error:
        notes.append(str(error))
    except (LookupError, TypeError, ValueError) as error:
        notes.append(f"{path} can't be read ({error!r}).")
    return None


def _read_result(path: Path) -> dict[str, Any]:
    return read_json_object(path, "evaluate the run again.")


def _read_questions(path: Path) -> tuple[list[dict[str, Any]], Outcomes]:
    records = read_predictions(path)
    return records, Outcomes.from_records(records)


def _read_records(
    directory: Path, notes: list[str]
) -> tuple[list[dict[str, Any]], Outcomes | Episodes | None]:
    """The records of questions, if there are any, and the outcomes of questions or episodes."""
    if (directory / _QUESTIONS).exists():
        return _read(directory / _QUESTIONS, _read_questions, notes) or ([], None)
    for name, read in ((_EPISODES, read_episodes), (OUTCOMES, read_outcomes)):
        if (directory / name).exists():
            return [], _read(directory / name, read, notes)
    notes.append(f"{directory} has no records of questions or episodes.")
    return [], None


def grouped(runs: Sequence[FoundRun]) -> list[Group]:
    """Puts runs together whose configs differ in the seed alone and that were asked the same."""
    found: dict[str, list[FoundRun]] = {}
    for run in runs:
        ids = list(run.outcomes.ids) if run.outcomes is not None else []
        found.setdefault(json.dumps([run.config, ids], sort_keys=True), []).append(run)
    groups = [sorted(of, key=lambda run: run.seed or 0) for of in found.values()]
    return [Group(label, of) for label, of in zip(_labels(groups), groups, strict=True)]


def _labels(groups: Sequence[Sequence[FoundRun]]) -> list[str]:
    """Names groups by their common directory where they have one, or else by that of the first run."""
    parents = [{run.directory.parent for run in runs} for runs in groups]
    common = [
        runs[0].directory.parent if len(runs) > 1 and len(of) == 1 else runs[0].directory
        for runs, of in zip(groups, parents, strict=True)
    ]
    with contextlib.suppress(UserError):
        return distinct_labels(common)
    return distinct_labels([runs[0].directory for runs in groups])


def runs_section(groups: Sequence[Group]) -> Section:
    """Which runs there are, how they stand, what differs between them, and their configs."""
    blocks: list[Block] = [_summary(groups)]
    notes = [note for group in groups for run in group.runs for note in run.notes]
    blocks += [Words(notes, note=True)] if notes else []
    if len(groups) > 1:
        blocks.append(_differences(groups))
    configs = [(group.label, _config_table(group.config)) for group in groups]
    numbers = [(group.label, _numbers_table(group)) for group in groups if group.finished]
    blocks.append(_folded("Configs", configs))
    blocks += [_folded("All numbers of result.json", numbers)] if numbers else []
    return Section("Runs", blocks)


def _folded(title: str, tables: Sequence[tuple[str, Table]]) -> Folded:
    """Tables by their labels; a single one needs none."""
    if len(tables) == 1:
        return Folded(title, [tables[0][1]])
    return Folded(title, [Folded(label, [table]) for label, table in tables])


def _summary(groups: Sequence[Group]) -> Table:
    columns = (
        "run",
        "seed",
        "state",
        "steps",
        "train seconds",
        "parameters",
        "commit",
        "directory",
    )
    rows = []
    for group in groups:
        for run in group.runs:
            result = run.result
            last = max((step for of in run.series.values() for step in of), default=None)
            count = result.get("parameters")
            total = sum(count.values()) if isinstance(count, dict) else None
            state = "finished" if result else "not finished"
            rows.append(
                (
                    group.label,
                    NONE if run.seed is None else str(run.seed),
                    state,
                    _number(result.get("steps", last)),
                    _number(result.get("train_seconds")),
                    _number(total),
                    commit_text(result, 12) if result else NONE,
                    _from_here(run.directory),
                )
            )
    return Table(counted(len(rows), "run"), columns, rows)


def _from_here(directory: Path) -> str:
    """A directory as seen from the current one if it is in it, so that no page tells where that is."""
    inside = directory.is_relative_to(Path.cwd())
    return str(directory.relative_to(Path.cwd()) if inside else directory)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else NONE


def _differences(groups: Sequence[Group]) -> Block:
    """The fields in which the config of any group differs from that of the first, with all values."""
    first = groups[0].config
    differing = [name for group in groups[1:] for name in differing_fields(first, group.config)]
    fields = list(dict.fromkeys(differing))
    if not fields:
        return Words(["The configs differ in no field; the runs were asked other questions."])
    cells = [[value_at(group.config, name) for name in fields] for group in groups]
    title, labels = "What differs between the configs", [group.label for group in groups]
    if len(groups) <= ABREAST:
        rows = [(name, *values) for name, *values in zip(fields, *cells, strict=True)]
        return Table(title, ("field", *labels), rows)
    rows = [(label, *values) for label, values in zip(labels, cells, strict=True)]
    return Table(title, ("run", *fields), rows)


def _config_table(config: Mapping[str, Any]) -> Table:
    rows = [(name, json.dumps(value, ensure_ascii=False)) for name, value in _leaves(config)]
    return Table("", ("field", "value"), rows)


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """(dotted name, value) of every field; a list of numbers or texts is one value."""
    if isinstance(value, Mapping) and value:
        pairs = list(value.items())
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        pairs = [(str(place), part) for place, part in enumerate(value)]
    else:
        return [(name, value)]
    return [leaf for key, part in pairs for leaf in _leaves(part, f"{name}.{key}".lstrip("."))]


def _numbers_table(group: Group) -> Table:
    """Every number of result.json, a column each run."""
    found = [flatten(run.result) for run in group.runs]
    names = list(dict.fromkeys(name for of in found for name in of))
    rows = []
    for name in names:
        values = [of.get(name) for of in found]
        if any(isinstance(value, int | float) for value in values):
            rows.append((name, *(_cell(value) for value in values)))
    columns = ("number", *(f"seed {run.seed}" for run in group.runs))
    return Table("", columns, rows)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else NONE if value is None else str(value)
