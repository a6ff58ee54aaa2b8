"""`ragjax` that stands still at one moment of a run, so that a test can kill it right there.

    python paused.py WHERE STEP MARKER train CONFIG ...

writes the file MARKER when it has got there. WHERE is `row` (half of the row of that step is on the
disk), `state` (of its checkpoint, but not yet the manifest), `manifest` (it too, but not yet the name),
`evaluate` (while development data is measured), `step` (while the step is computed) or `result` (the
predictions or episodes are written, the result is not).
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

from ragjax import cli, run_training
from ragjax.training import checkpoint, logging


def pause() -> None:
    MARKER.touch()
    time.sleep(SECONDS)


def before(owner, name, here):
    """Pauses before `owner.name` runs with arguments for which `here` is true."""
    function = getattr(owner, name)

    def wrapped(*arguments, **options):
        if here(*arguments):
            pause()
        return function(*arguments, **options)

    setattr(owner, name, wrapped)


def half_row(log, step, metrics):
    log._file.write(b'{"step": %d, "loss"' % step)
    return True


def is_partial(path, target=None):
    return path.name.startswith("partial-") and (target is None or Path(target).name == str(STEP))


def of_program(wrap):
    """Makes the program of a run the one that `wrap` makes of it."""
    build = run_training.training_program
    run_training.training_program = lambda *args, **options: wrap(build(*args, **options))


def pausing_evaluate(program):
    def evaluate(state, step):
        if step == STEP:
            pause()
        return program.evaluate(state, step)

    return dataclasses.replace(program, evaluate=evaluate)


def pausing_advance(program):
    def advance(state, step):
        result = program.advance(state, step)  # the state is donated: it is gone by now
        if step + 1 == STEP:
            pause()
        return result

    return dataclasses.replace(program, advance=advance)


if __name__ == "__main__":
    where, STEP, MARKER = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    SECONDS = float(os.environ.get("PAUSE_SECONDS", "600"))
    if where == "row":
        before(
            logging.MetricLog,
            "write",
            lambda log, step, row, *_: step == STEP and "loss" in row and half_row(log, step, row),
        )
    elif where == "state":
        saved = []
        before(checkpoint.Checkpoints, "save", lambda _, step, state: saved.append(step))
        before(checkpoint, "_digests", lambda path: is_partial(path) and saved[-1] == STEP)
    elif where == "manifest":
        before(Path, "rename", is_partial)
    elif where == "evaluate":
        of_program(pausing_evaluate)
    elif where == "step":
        of_program(pausing_advance)
    elif where == "result":
        before(run_training, "write_json", lambda path, value: path.name == run_training.RESULT)
    else:
        raise SystemExit(f"unknown moment {where!r}")
    sys.exit(cli.main(sys.argv[4:]))
