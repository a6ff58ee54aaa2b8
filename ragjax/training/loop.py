"""The training loop: any state, any step function, one order of events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import UserError
from ragjax.interrupts import held_interrupts, stop_if_interrupted
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import MetricLog, NoLog, RunProgress, SeedLogs
from ragjax.training.monitor import RetrieverMonitor

Metrics = Mapping[str, Any]  # name -> [] or [seed] number or `Figure`


@dataclass(frozen=True)
class Program:
    """What a run consists of.

    Attributes:
      total: steps of the whole run.
      advance: (state, step) -> (state, metrics); one step, metrics still on the device.
      evaluate: (state, step) -> figures measured while training, keyed as they are logged.
      log_every: steps between two rows of metrics.
      checkpoint_every: steps between checkpoints.
      evaluate_every: steps between measurements, the last step being measured too; 0 for none.
      seeds: the seeds that run; of several every metric and figure has a value for each.
      finite: state -> [n] whether the parameters of each of several seeds are finite: of a run that goes
        on those of a seed that has failed before are not.
      mark_failed: (state, places) -> the state in which they are not, of the seeds in these places: a
        loss may become NaN and leave parameters finite.
      place: a state as the loop is given it -> as `advance` takes it, on the devices of a mesh.
      gather: the inverse, for what is measured, saved and returned.
      agreed: (whether this host is to stop, whether it is asked for the last time) -> whether all stop
        here, as each of them is told.
    """

    total: int
    advance: Callable[[Any, int], tuple[Any, Metrics]]
    evaluate: Callable[[Any, int], Mapping[str, Any]]
    log_every: int
    checkpoint_every: int
    evaluate_every: int
    seeds: tuple[int, ...] = (0,)
    finite: Callable[[Any], np.ndarray] = lambda state: np.array([True])
    mark_failed: Callable[[Any, Sequence[int]], Any] = lambda state, places: state
    place: Callable[[Any], Any] = lambda state: state
    gather: Callable[[Any], Any] = lambda state: state
    agreed: Callable[[bool, bool], bool] = lambda stopping, last: stopping


# Metrics whose being finite is looked at in every step: of drawn answers, and of an environment's steps.
REWARDS = ("reward", "step_reward")
WATCHED = ("loss", "grad_norm", *REWARDS)


class NonFiniteLossError(UserError):
    """The loss or its gradient became infinite or NaN."""


class Seeds:
    """The seeds of a run: which of them go on, and what became of the others."""

    def __init__(self, seeds: Sequence[int], directory: Path):
        """All seeds go on at first; `directory` holds the checkpoints."""
        self._failed: dict[int, str] = {}
        self._seeds, self._directory = tuple(seeds), directory

    def check(self, step: int, metrics: Mapping[str, np.ndarray], good: Sequence[int]) -> list[str]:
        """Finds the seeds whose loss or gradient is not finite.

        Args:
          step: whose metrics these are.
          metrics: those of `WATCHED`, of a single seed numbers, of several one for each.
          good: steps of the checkpoints.

        Returns:
          A sentence for each seed that stops here while others go on.

        Raises:
          NonFiniteLossError: none is left.
        """
        new = []
        for name in ("loss", "grad_norm"):
            values = np.atleast_1d(np.asarray(metrics.get(name, 0.0)))
            for number in np.flatnonzero(~np.isfinite(values)):
                if number not in self._failed:
                    last = self._directory / str(good[-1]) if good else "none"
                    which = f" of seed {self._seeds[number]}" if len(self._seeds) > 1 else ""
                    remedy = "lower the learning rate"
                    for reward in REWARDS:
                        given = np.broadcast_to(metrics.get(reward, 0.0), values.shape)[number]
                        if not np.isfinite(given):
                            remedy = (
                                f"its {reward} is {given}, so mend what gives the rewards, the "
                                "environment or the objective's reward,"
                            )
                    self._failed[int(number)] = (
                        f"The {name}{which} is {values[number]} at step {step} (last good checkpoint: "
                        f"{last}); {remedy} and train into another --run-dir."
                    )
                    new.append(self._failed[int(number)])
        self._require_one_left()
        return new

    def recall(self, step: int, finite: np.ndarray) -> list[str]:
        """Finds the seeds that failed before the run was interrupted.

        Args:
          step: that the run continues from.
          finite: [n] whether the parameters of each are finite.

        Returns:
          A sentence for each.

        Raises:
          NonFiniteLossError: none is left.
        """
        for number in map(int, np.flatnonzero(~finite)):
            self._failed[number] = (
                f"Seed {self._seeds[number]} has failed before step {step}, where its parameters are "
                "not finite; train it into another --run-dir with a lower learning rate, or with finite "
                "rewards if they were not."
            )
        self._require_one_left()
        return list(self._failed.values())

    def _require_one_left(self) -> None:
        if len(self._failed) == len(self._seeds):
            raise NonFiniteLossError(" ".join(self._failed.values()))

    @property
    def failed(self) -> dict[int, str]:
        """Place of each seed that stopped -> why."""
        return dict(self._failed)


def fit(
    program: Program,
    state: Any,
    start: int,
    checkpoints: Checkpoints,
    log: MetricLog | SeedLogs | NoLog,
    progress: RunProgress,
    *,
    end: int | None = None,
) -> tuple[Any, dict[int, str]]:
    """Runs `program` from step `start` to its end, or to step `end` of it.

    The loss of each step is looked at while the next one runs, so that the device never waits for the
    host; before a checkpoint is written the loss of its own step is looked at too, hence no checkpoint
    ever follows a non-finite loss. A checkpoint comes last of all that happens at a step, hence a run
    that continues from it has nothing of that step left to do or to log.

    Args:
      program: the run.
      state: a pytree of arrays; it is donated step by step.
      start: steps made before.
      checkpoints: where the state is saved.
      log: where metrics go.
      progress: the bar.
      end: where to stop, with a checkpoint, as if the run went on; None for the end of the run.

    Returns:
      The last state; and of several seeds the places of those whose loss became non-finite, with why.
      Such a seed stops alone: its rows end there and its part of the state means nothing.

    Raises:
      NonFiniteLossError: the loss of the only seed, or of all; names the step and the last good
        checkpoint.
      KeyboardInterrupt: after Ctrl-C or SIGTERM; the current step was finished and saved, unless none
        was begun.
    """
    step, pending, last = start, None, program.total if end is None else end
    seeds = Seeds(program.seeds, checkpoints.directory)
    monitors = [RetrieverMonitor() for _ in program.seeds]

    def show(number: int, row: Mapping[str, Any]) -> None:
        """Logs a row, shows it, and says what it tells of each seed's ailing retriever."""
        row = {name: np.asarray(value) for name, value in row.items()}
        log.write(number, row, seeds.failed)
        going = [place for place in range(len(monitors)) if place not in seeds.failed]
        progress.advance(
            number,
            {name: value[going] if value.ndim else value for name, value in row.items()},
        )
        for place in going:
            own = {
                name: float(value[place] if value.ndim else value) for name, value in row.items()
            }
            for symptom in monitors[place].observe(own):
                which = f"seed {program.seeds[place]}: " if len(monitors) > 1 else ""
                progress.warn(number, which + symptom)

    def settle(entry: tuple[int, Metrics] | None) -> None:
        """Fetches the metrics of a finished step, checks and logs them."""
        if entry is None:
            return
        number, metrics = entry
        watched = {name: np.asarray(metrics[name]) for name in WATCHED if name in metrics}
        for sentence in seeds.check(number, watched, checkpoints.steps()):
            progress.say(sentence)
        if number % program.log_every == 0 or number == program.total:
            show(number, metrics)

    for sentence in seeds.recall(start, program.finite(state)):
        progress.say(sentence)
    stop_if_interrupted()
    with held_interrupts(polled=False) as interrupted:
        if program.total == 0:  # nothing to learn, but a run to be loaded
            checkpoints.save(0, state)
        state = program.place(state)
        while step < last:
            state, metrics = program.advance(state, step)
            step += 1
            settle(pending)
            pending = (step, metrics)
            every = program.evaluate_every
            if every and (step % every == 0 or step == program.total):
                settle(pending)
                pending = None
                show(step, program.evaluate(program.gather(state), step))
            stopping = program.agreed(interrupted(), False)
            if stopping or step % program.checkpoint_every == 0 or step == last:
                settle(pending)
                pending = None
                if seeds.failed:
                    state = program.mark_failed(state, list(seeds.failed))
                checkpoints.save(step, program.gather(state))
            if stopping:
                raise KeyboardInterrupt
        if program.agreed(interrupted(), True):  # while the last checkpoint was written
            raise KeyboardInterrupt
    return program.gather(state), seeds.failed
