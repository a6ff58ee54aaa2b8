"""How a worker makes the runs of a batch: together in one program, or one after another."""

import contextlib
import math
import shutil
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ragjax.errors import UserError, require
from ragjax.lease import leased
from ragjax.precision import single_precision
from ragjax.printing import PlainConsole
from ragjax.run_dir import CHECKPOINTS, is_run
from ragjax.run_training import Place, RunTraining
from ragjax.sweep.plan import Plan
from ragjax.sweep.spec import Sweep
from ragjax.sweep.store import Outcome, Store
from ragjax.sweep.trials import Batch, SweepRun, program_of
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.learner import Learner
from ragjax.training.loop import NonFiniteLossError
from ragjax.training.program import starting_state


class Trainer:
    """Trains batches; what one has prepared and compiled serves the next of the same program."""

    def __init__(self, console: PlainConsole):
        """Nothing is prepared yet."""
        self.console = console
        self._kept: tuple[str, Learner] | None = None

    def learner(self, config: Any) -> Learner:
        """The learner of a config, or that of one which differs in seed and traced scalars alone.

        Raises:
          UserError: its data can't be had, or doesn't suit it.
        """
        kind = program_of(config)
        if not kind or self._kept is None or self._kept[0] != kind:
            self._kept = (kind, config.create())
        return self._kept[1]

    @single_precision
    def check_metric(self, sweep: Sweep) -> None:
        """Checks that runs have the metric, before hours of training.

        Raises:
          UserError: they have none of its name.
        """
        if sweep.metric not in sweep.base.records.FIGURES:
            learner = self.learner(sweep.base)
            with learner.guard():
                state = learner.finish(starting_state(learner, (sweep.base.seed,)))
            value_of(sweep, learner.development(state))

    @single_precision
    def __call__(
        self, batch: Batch, store: Store, plan: Plan, check_lease: Callable[[], None]
    ) -> None:
        """Makes what is left to do of a batch, and records what becomes of each run.

        Args:
          batch: claimed by this worker.
          store: of the sweep.
          plan: its trials, for the values of others at a rung.
          check_lease: raises once another worker has taken the batch over.

        Raises:
          UserError: files can't be read or written.
          KeyboardInterrupt: a signal was held back; what is written is whole.
        """
        parts = [list(batch.runs)] if batch.together else [[run] for run in batch.runs]
        own = [store.run_dir(run) for run in batch.runs] if len(batch.runs) > 1 else []
        with leased(own, self.console.print) as check_runs:

            def check() -> None:
                check_lease()
                check_runs()

            parts = [_Part(self, store, batch, runs, check) for runs in parts]
            for rung, step in enumerate(parts[0].rungs):
                for part in parts:
                    part.train_to(step, rung)
                if store.going(batch, rung) is None:
                    store.decide(batch, rung, _best(batch, rung, store, plan))
                for part in parts:
                    part.keep(rung)
            for part in parts:
                part.train_to_end()
        if len(batch.runs) > 1:
            shutil.rmtree(store.place(batch) / CHECKPOINTS, ignore_errors=True)


def value_of(sweep: Sweep, figures: dict[str, Any]) -> float:
    """A run's metric among the figures of its development data; a NaN is the worst that there is.

    Raises:
      UserError: it has no such figure, or didn't measure it.
    """
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    require(
        sweep.metric in numbers,
        f"metric is {sweep.metric!r}, which these runs don't measure on development data; choose one of "
        f"{', '.join(numbers)}.",
    )
    value = float(numbers[sweep.metric])
    worst = -math.inf if sweep.direction == "maximize" else math.inf
    return worst if math.isnan(value) else value


def _best(batch: Batch, rung: int, store: Store, plan: Plan) -> list[SweepRun]:
    """The runs of a batch that go on from a rung, all of a trial or none."""
    sweep = store.sweep
    assert sweep.rungs is not None
    found = {trial.number: store.trial_at(trial, rung) for trial in plan.trials}
    known = {number: value for number, value in found.items() if value is not None}
    going = []
    for trial in batch.trials:
        alive = store.outcome(trial).status == "open" and trial.number in known
        others = list(known.values())
        if alive and sweep.rungs.goes_on(known[trial.number], others, sweep.direction):
            going += batch.runs_of(trial)
    return going


class _Part:
    """Runs of a batch that are one program, or one run."""

    def __init__(
        self,
        trainer: Trainer,
        store: Store,
        batch: Batch,
        runs: list[SweepRun],
        check_lease: Callable[[], None],
    ):
        """Nothing is done yet.

        Args:
          trainer: for its learners.
          store: of the sweep.
          batch: whose part it is.
          runs: see above.
          check_lease: raises once another worker has taken them over.
        """
        self._trainer, self._store, self._batch = trainer, store, batch
        self._runs, self._check_lease = runs, check_lease
        self._training: RunTraining | None = None
        rungs = store.sweep.rungs
        self.rungs = [] if rungs is None else rungs.steps(runs[0].config.steps)

    def _open(self) -> RunTraining | None:
        """What trains the runs that have something left to do; None if there are none."""
        store = self._store
        if self._training is not None:
            return self._training
        if all(store.run_outcome(run).status != "open" for run in self._runs):
            return None
        alone = len(self._runs) == 1
        place = store.run_dir(self._runs[0]) if alone else store.place(self._batch)
        checkpoints = Checkpoints(place / CHECKPOINTS)
        whole = [step for step in checkpoints.steps() if checkpoints.is_whole(step)]
        for rung, step in enumerate(self.rungs):
            # The checkpoint at a rung has all runs that came there, a later one those that went on.
            if whole and step < whole[-1]:
                self._runs = self._going(rung)
        resume = all(is_run(store.run_dir(run)) for run in self._runs)
        configs = [run.config for run in self._runs]
        hyper = {
            name: jnp.asarray([config.hyper()[name] for config in configs], jnp.float32)
            for name in configs[0].hyper()
        }
        try:
            if (mesh := configs[0].mesh.build()) is not None:
                configs[0].check_mesh(mesh)
            learner = None if resume else self._trainer.learner(configs[0])
        except UserError as error:
            self._fail(dict.fromkeys(range(len(self._runs)), str(error)))
            return None
        self._training = RunTraining(
            configs[0],
            place,
            [Place(run.config, store.run_dir(run)) for run in self._runs],
            console=self._trainer.console,
            check_lease=self._check_lease,
            hyper=hyper,
        )
        self._training.begin(resume, learner=learner)
        return self._training

    def _going(self, rung: int) -> list[SweepRun]:
        names = self._store.going(self._batch, rung) or []
        return [run for run in self._runs if run.name in names]

    def _fail(self, failed: dict[int, str]) -> None:
        """Records the runs in these places as failed."""
        for place, why in failed.items():
            if self._store.run_outcome(self._runs[place]).status == "open":
                self._store.record(self._runs[place], Outcome("failed", why=why))

    def _advance(self, training: RunTraining, step: int | None) -> bool:
        """Trains up to a step or the end; whether any run has not failed."""
        try:
            with contextlib.closing(training.learner):
                training.advance(step)
        except NonFiniteLossError as error:
            self._fail(dict.fromkeys(range(len(self._runs)), str(error)))
            return False
        self._fail(training.failed)
        return True

    def train_to(self, step: int, rung: int) -> None:
        """Trains up to a rung, and measures there."""
        training = self._open()
        if training is None or training.step > step:
            return
        if training.step < step and not self._advance(training, step):
            return
        for place, run in enumerate(self._runs):
            if place not in training.failed and self._store.rung_value(run, rung) is None:
                figures = training.development(place)
                value = value_of(self._store.sweep, figures)
                self._store.record_rung(run, rung, value, {"step": step, "dev": figures})

    def keep(self, rung: int) -> None:
        """Stops the runs that don't go on from a rung."""
        training, going = self._training, self._going(rung)
        if training is None or len(going) == len(self._runs):
            return
        for run in self._runs:
            if run not in going and self._store.run_outcome(run).status == "open":
                value = self._store.rung_value(run, rung)
                self._store.record(run, Outcome("stopped", value))
        if going:
            training.keep([self._runs.index(run) for run in going])
        else:
            self._training = None
        self._runs = going

    def train_to_end(self) -> None:
        """Trains up to the end, and measures there."""
        training = self._open() if self._runs else None
        if training is None or not self._advance(training, None):
            return
        training.finish()
        for place, run in enumerate(self._runs):
            if self._store.run_outcome(run).status == "open":
                figures = training.development(place)
                value = value_of(self._store.sweep, figures)
                facts = {"dev": figures} | training.facts(place)
                self._store.record(run, Outcome("finished", value, facts=facts))
        self._training = None
