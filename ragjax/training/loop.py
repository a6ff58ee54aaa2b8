"""The training loop: any state, any step function, one order of events."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array

from ragjax.errors import UserError
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import MetricLog, RunProgress

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
    evaluate: Callable[[Any, int], Mapping[str, float]]
    log_every: int
    checkpoint_every: int
    evaluate_every: int


class NonFiniteLossError(UserError):
    """The loss became infinite or NaN."""


def fit(
    program: Program,
    state: Any,
    start: int,
    checkpoints: Checkpoints,
    log: MetricLog,
    progress: RunProgress,
) -> Any:
    """Runs `program` from step `start` to its end.

    The loss of each step is looked at while the next one runs, so that the device never waits for the
    host; before a checkpoint is written the loss of its own step is looked at too, hence no checkpoint
    ever follows a non-finite loss.

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
      KeyboardInterrupt: after the current step, its state saved.
    """
    step, pending = start, None

    def settle(entry: tuple[int, Metrics] | None) -> None:
        """Fetches the metrics of a finished step, checks and logs them."""
        if entry is None:
            return
        number, metrics = entry
        loss = float(metrics["loss"])
        if not math.isfinite(loss):
            good = checkpoints.steps()
            last = checkpoints.directory / str(good[-1]) if good else "none"
            raise NonFiniteLossError(
                f"The loss is {loss} at step {number}; lower the learning rate and continue from the "
                f"last good checkpoint ({last})."
            )
        if number % program.log_every == 0 or number == program.total:
            row = {name: float(value) for name, value in metrics.items()}
            log.write(number, row)
            progress.advance(number, row)

    try:
        while step < program.total:
            state, metrics = program.advance(state, step)
            step += 1
            settle(pending)
            pending = (step, metrics)
            saving = step % program.checkpoint_every == 0 or step == program.total
            evaluating = program.evaluate_every and step % program.evaluate_every == 0
            if saving or evaluating:
                settle(pending)
                pending = None
            if saving:
                checkpoints.save(step, state)
            if evaluating and step < program.total:
                figures = program.evaluate(state, step)
                log.write(step, figures)
                progress.advance(step, figures)
    except KeyboardInterrupt:
        settle(pending)
        checkpoints.save(step, state)
        raise
    return state
