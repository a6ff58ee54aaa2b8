"""A worker of a sweep whose runs take a millisecond: python toy_sweep.py DIRECTORY."""

import os
import sys
import time
from pathlib import Path

import numpy as np
from plain_run import PlainConfig

from ragjax.printing import PlainConsole
from ragjax.sweep.plan import Plan
from ragjax.sweep.samplers import Random, Sampler
from ragjax.sweep.space import Integer, LogUniform, Vary
from ragjax.sweep.spec import Sweep
from ragjax.sweep.store import Outcome, Store
from ragjax.sweep.worker import Worker

MADE = "made.log"


def toy_sweep(trials: int, sampler: Sampler | None = None, **fields) -> Sweep:
    return Sweep(
        base=PlainConfig(),
        space=(
            Vary("optimizer.learning_rate", LogUniform(1e-4, 1e-1)),
            Vary("number", Integer(1, 1000)),
        ),
        sampler=sampler or Random(),
        trials=trials,
        metric="em",
        **fields,
    )


def planned(store: Store) -> Plan:
    """The plan of a sweep as it stands."""
    return Worker(store, PlainConsole(quiet=True)).plan


def value_of(config: PlainConfig) -> float:
    """What a trial is worth: the best rate is 1e-2."""
    return float(-abs(np.log10(config.optimizer.learning_rate) + 2) - config.number / 1e4)


def toy(batch, store, plan, check_lease):
    """Makes a batch: each run leaves a line in a log once its outcome is there."""
    for run in batch.runs:
        if store.run_outcome(run).status == "open":
            time.sleep(0.001)
            check_lease()
            store.record(run, Outcome("finished", value_of(run.config)))
            log = os.open(store.directory / MADE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, f"{run.name}\n".encode())
            os.close(log)


if __name__ == "__main__":
    store = Store(Path(sys.argv[1]))
    store.open()
    lease = store.join()
    Worker(store, PlainConsole(quiet=True)).work(toy)
    lease.release()
