"""Trials and their runs: who they are, and which of them can be trained in one program."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ragjax.config import Config, to_json
from ragjax.config_differences import without_place
from ragjax.errors import UserError
from ragjax.sweep.space import with_values

DIGITS = 16  # of an identity


def identity(config: Config) -> str:
    """The name of a run: a hash of its config, wherever and by whomever it is made."""
    return _digest(without_place(to_json(config)))


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class SweepRun:
    """One run of a trial: a config of a single seed, and its identity."""

    config: Config
    name: str


@dataclass(frozen=True)
class Trial:
    """Values of the varied fields, and the runs that are made with them.

    Attributes:
      number: in the order in which trials are drawn.
      values: field -> value; a field whose condition fails is left out.
      runs: one for each seed; none if the config refuses the values.
      refused: why it does, or "".
    """

    number: int
    values: Mapping[str, Any]
    runs: tuple[SweepRun, ...]
    refused: str = ""

    @classmethod
    def of(cls, base: Config, number: int, values: Mapping[str, Any], seeds: int) -> "Trial":
        """The trial with these values."""
        try:
            config = with_values(base, values)
        except UserError as error:
            return cls(number, values, (), str(error))
        configs = (dataclasses.replace(config, seed=config.seed + n) for n in range(seeds))
        return cls(number, values, tuple(SweepRun(each, identity(each)) for each in configs))

    @property
    def config(self) -> Config:
        """The config of its first run."""
        return self.runs[0].config


@dataclass(frozen=True)
class Batch:
    """Runs that one worker makes at a time.

    Attributes:
      trials: whose runs they are, none of which is refused.
      runs: in the order of the trials; of a trial that got more seeds, the new ones alone.
      together: whether they are one program, in which seeds and traced scalars differ.
    """

    trials: tuple[Trial, ...]
    runs: tuple[SweepRun, ...]
    together: bool

    @property
    def name(self) -> str:
        """Its identity; that of its run if it has a single one."""
        return (
            self.runs[0].name if len(self.runs) == 1 else _digest([run.name for run in self.runs])
        )

    def runs_of(self, trial: Trial) -> list[SweepRun]:
        """Its runs of a trial."""
        own = {run.name for run in self.runs}
        return [run for run in trial.runs if run.name in own]


def batches(trials: Sequence[Trial], side_by_side: int, before: int = 0) -> list[Batch]:
    """Deals the runs of trials to batches.

    Args:
      trials: in order; those that are refused are left out.
      side_by_side: how many runs one program may have at most.
      before: seeds of these trials that other batches have.

    Returns:
      Batches in the order of their first trials, each of one trial alone, or of several whose configs
      differ in traced scalars.
    """
    open_trials: dict[str, list[Trial]] = {}
    dealt: list[list[Trial]] = []
    for trial in trials:
        if len(trial.runs) <= before:
            continue
        kind = program_of(trial.config) if side_by_side > 1 else ""
        group = open_trials.get(kind)
        full = group is not None and (len(group) + 1) * (len(trial.runs) - before) > side_by_side
        if not kind or group is None or full:
            group = open_trials[kind] = []
            dealt.append(group)
        group.append(trial)
    return [_batch(group, side_by_side, before) for group in dealt]


def _batch(trials: list[Trial], side_by_side: int, before: int) -> Batch:
    runs = tuple(run for trial in trials for run in trial.runs[before:])
    together = 1 < len(runs) <= side_by_side and bool(program_of(trials[0].config))
    return Batch(tuple(trials), runs, together)


def program_of(config: Config) -> str:
    """What all runs of one program have in common; "" if a run can't share one."""
    try:
        dataclasses.replace(config, num_seeds=2)
    except UserError:
        return ""
    value = to_json(config)
    value["seed"] = None
    for name in traced_fields(config):
        field, _, own = name.partition(".")
        value[field][own] = "traced"
    return _digest(value)


def traced_fields(config: Config) -> set[str]:
    """Dotted names of the fields in which runs of one program may differ, beside the seed."""
    return {
        f"{field}.{name}"
        for field, part in config.tracing.items()
        for name in part.hyper().keys() & {item.name for item in dataclasses.fields(part)}
    }
