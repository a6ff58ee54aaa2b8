"""The best trial of a sweep, and its runs on test data, which is looked at for no other."""

from typing import Any

from ragjax import commands
from ragjax.errors import UserError
from ragjax.files import read_json_object, write_json
from ragjax.printing import PlainConsole
from ragjax.run_dir import RESULT
from ragjax.sweep.plan import Plan
from ragjax.sweep.store import WINNER, Store
from ragjax.sweep.trials import Trial
from ragjax.text import counted


def finished(store: Store, plan: Plan) -> list[tuple[Trial, float]]:
    """The trials that have ended with their values, the best first, and of equals the earlier."""
    found = []
    for trial in plan.trials:
        outcome = store.outcome(trial)
        if outcome.status == "finished" and outcome.value is not None:
            found.append((trial, outcome.value))
    sign = -1 if store.sweep.direction == "maximize" else 1
    return sorted(found, key=lambda of: (sign * of[1], of[0].number))


def best_trial(store: Store, plan: Plan) -> tuple[Trial, float]:
    """The best trial and its value.

    Raises:
      UserError: none has finished.
    """
    found = finished(store, plan)
    if not found:
        why = next(
            (of.why for of in map(store.outcome, plan.trials) if of.why), "none has ended yet"
        )
        raise UserError(
            f"No trial of the sweep in {store.directory} has finished ({why.rstrip('.')}); mend that, "
            "or widen its space."
        )
    return found[0]


def winners(store: Store) -> list[dict[str, Any]]:
    """What winner.json says of each trial whose runs were measured on test data, in order."""
    path = store.directory / WINNER
    remedy = "delete it; the test figures stand in each run's result.json."
    return read_json_object(path, remedy)["winners"] if path.exists() else []


def measure_winner(store: Store, plan: Plan, console: PlainConsole) -> None:
    """Measures the runs of the best trial on test data, once: of a sweep that is whole.

    Raises:
      UserError: no trial has finished, or a run can't be measured.
    """
    with store.exclusive("winner"):
        trial, value = best_trial(store, plan)
        before, names = winners(store), [run.name for run in trial.runs]
        others = [of for of in before if of["runs"] != names]
        unmeasured = [run for run in trial.runs if not (store.run_dir(run) / RESULT).exists()]
        if unmeasured:
            looked = f" (as was that of {counted(len(others), 'earlier winner')})" if others else ""
            console.print(f"measuring the best, trial {trial.number}, on test data{looked}")
        for run in unmeasured:
            commands.train(run.config, store.run_dir(run), resume=True, console=console)
        new = {"trial": trial.number, "value": value, "runs": names}
        if unmeasured or new not in before:
            write_json(store.directory / WINNER, {"winners": [*others, new]})
