"""The training loop: any state, any step function, one order of events."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array

from ragjax.errors import UserError
from ragjax.training.alarm import Alarm
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import MetricLog, RunProgress, SeedLogs

Metrics = Mapping[str, Array]


@dataclass(frozen=True)
class Program:
    """What a run consists of.

    Attributes:
      total: steps of the whole run.
      advance: (state, step) -> (state, metrics); one update, metrics still on the device.
      evaluate: (state, step) -> figures measured while training, keyed as they are logged.
      log_every: steps between two rows of metrics.
      checkpoint_every: steps between checkpoints.
      evaluate_every: steps between measurements; 0 for none.
    """

    total: int
    advance: Callable[[Any, int], tuple[Any, Metrics]]
    evaluate: Callable[[Any, int], Mapping[str, Any]]
    log_every: int
    checkpoint_every: int
    evaluate_every: int


class NonFiniteLossError(UserError):
    """The loss or its gradient became infinite or NaN."""


@contextlib.contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C and SIGTERM back; yields a function that tells whether one has come.

    A step donates the state, so that an exception in the middle of it would leave no state to save.
    A second signal is raised at once. Only the main thread gets signals; in others nothing is held.
    """
    come = []

    def handle(number, frame):
        if come:
            raise KeyboardInterrupt
        come.append(number)

    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        signals = ()
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield lambda: bool(come)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(
    program: Program,
    state: Any,
    start: int,
    checkpoints: Checkpoints,
    log: MetricLog | SeedLogs,
    progress: RunProgress,
) -> Any:
    """Runs `program` from step `start` to its end.

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

    Returns:
      The last state.

    Raises:
      NonFiniteLossError: names the step and the last good checkpoint.
      KeyboardInterrupt: after Ctrl-C or SIGTERM; the current step was finished and saved.
    """
    step, pending, alarm = start, None, Alarm()

    def show(number: int, row: Mapping[str, Any]) -> None:
        """Logs a row, shows it, and says what it tells of an ailing retriever."""
        log.write(number, row)
        progress.advance(number, row)
        for symptom in alarm.hear({name: float(np.mean(value)) for name, value in row.items()}):
            progress.warn(number, symptom)

    def settle(entry: tuple[int, Metrics] | None) -> None:
        """Fetches the metrics of a finished step, checks and logs them."""
        if entry is None:
            return
        number, metrics = entry
        for name in ("loss", "grad_norm"):
            value = np.asarray(metrics.get(name, 0.0))
            if not np.isfinite(value).all():
                good = checkpoints.steps()
                last = checkpoints.directory / str(good[-1]) if good else "none"
                raise NonFiniteLossError(
                    f"The {name} is {value} at step {number} (last good checkpoint: {last}); lower the "
                    "learning rate and train into another --run-dir."
                )
        if number % program.log_every == 0 or number == program.total:
            show(number, {name: np.asarray(value) for name, value in metrics.items()})

    with held_interrupts() as interrupted:
        if program.total == 0:  # nothing to learn, but a run to be loaded
            checkpoints.save(0, state)
        while step < program.total:
            state, metrics = program.advance(state, step)
            step += 1
            settle(pending)
            pending = (step, metrics)
            every = program.evaluate_every
            if every and step % every == 0 and step < program.total:
                settle(pending)
                pending = None
                show(step, program.evaluate(state, step))
            stopping = interrupted()
            if stopping or step % program.checkpoint_every == 0 or step == program.total:
                settle(pending)
                pending = None
                checkpoints.save(step, state)
            if stopping:
                raise KeyboardInterrupt
        if interrupted():  # while the last checkpoint was written
            raise KeyboardInterrupt
    return state
