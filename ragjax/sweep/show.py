"""What a sweep has found, in words and tables."""

import dataclasses
import math
import warnings
from collections import Counter
from typing import Any

import numpy as np

from ragjax.errors import UserError
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.records import ReportTable
from ragjax.sweep.plan import Plan
from ragjax.sweep.store import Store
from ragjax.sweep.study import known_trials, require_optuna
from ragjax.sweep.trials import Trial
from ragjax.sweep.winner import finished

BEST = 10  # trials that are listed
FEWEST = 8  # trials of which the importance of fields is told
SEEDS = 3  # of which an interval is told: that of two is half their difference, whatever they vary


def in_words(value: Any) -> str:
    """A value of a varied field as text: a component by the name of its class and what it sets."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        default = {item.name: item.default for item in dataclasses.fields(value)}
        own = vars(value)
        given = [f"{name}={own[name]!r}" for name in default if own[name] != default[name]]
        return f"{type(value).__name__}({', '.join(given)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def progress_lines(store: Store, plan: Plan) -> list[str]:
    """How many trials there are and how they stand, and why some have failed."""
    sweep = store.sweep
    outcomes = [store.outcome(trial) for trial in plan.trials]
    counts = Counter(outcome.status for outcome in outcomes)
    told = ", ".join(f"{counts[name]} {name}" for name in ("finished", "stopped", "failed", "open"))
    each = f" of {sweep.seeds} runs each" if sweep.seeds > 1 else ""
    lines = [f"{len(plan.trials)} trials{each}: {told}"]
    alike = sum(plan.drawn) - len(plan.trials)
    if alike:
        lines.append(f"{alike} more were drawn that are like an earlier one, and not made again")
    reasons = Counter(outcome.why for outcome in outcomes if outcome.status == "failed")
    for why, number in reasons.most_common(5):
        lines.append(f"{number} failed: {why}")
    if len(reasons) > 5:
        lines.append(f"{len(reasons) - 5} more reasons stand in the runs' outcome.json")
    return lines


def _interval(store: Store, trial: Trial) -> str:
    """The mean of a trial over its seeds, with its interval where there are several."""
    values = [store.run_outcome(run).value for run in trial.runs]
    known = np.array([value for value in values if value is not None], float)
    if len(known) < SEEDS or not np.isfinite(known).all():
        return f"{known.mean():.4f}"
    found = bootstrap_interval([np.array([value]) for value in known])
    return f"{found.mean:.4f} ± {found.half_width:.4f}"


def best_table(store: Store, plan: Plan) -> ReportTable:
    """The best trials with their values, on development data."""
    space, found = store.sweep.space, finished(store, plan)[:BEST]
    rows = [
        (
            str(trial.number),
            _interval(store, trial),
            *(in_words(trial.values[v.field]) if v.field in trial.values else "–" for v in space),
        )
        for trial, _ in found
    ]
    columns = ("trial", store.sweep.metric, *(vary.field for vary in space))
    number = store.sweep.seeds
    interval = " ± half the 95 % interval" * (number >= SEEDS)
    seeds = f", mean over {number} seeds{interval}" if number > 1 else ""
    return ReportTable(f"the best on development data{seeds}", columns, rows)


def importance_table(store: Store, plan: Plan) -> tuple[ReportTable | None, str]:
    """How much of the metric each field decides, and why that isn't told if it can't be.

    By PED-ANOVA (Watanabe et al. 2023, "PED-ANOVA: efficiently quantifying hyperparameter importance in
    arbitrary subspaces") as Optuna has it, of the trials in which every field is varied.
    """
    space = store.sweep.space
    if len(space) < 2:
        return None, ""
    try:
        optuna = require_optuna()
    except UserError as error:
        return None, str(error)
    known = known_trials(space, [of for of in finished(store, plan) if math.isfinite(of[1])])
    if len(known) < FEWEST:
        return None, f"how much each field matters is told once {FEWEST} trials have finished"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its evaluator is experimental
        study = optuna.create_study(direction=store.sweep.direction)
        study.add_trials(known)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    rows = [(name, f"{share:.2f}") for name, share in shares.items()]
    return ReportTable("importance of each field", ("field", "share"), rows), ""
