"""A worker: takes what nobody has in hand, makes it, and goes on until nothing is left."""

import time
from collections.abc import Callable
from typing import Any

from ragjax.interrupts import stop_if_interrupted
from ragjax.printing import PlainConsole
from ragjax.sweep.plan import Plan
from ragjax.sweep.show import in_words
from ragjax.sweep.store import Store
from ragjax.sweep.study import Study
from ragjax.sweep.trials import Batch
from ragjax.text import counted

PAUSE = 0.5  # seconds between two looks at what other workers have in hand

# (batch, store, plan, check_lease): records an outcome for every run of the batch
Train = Callable[[Batch, Store, Plan, Callable[[], None]], None]


class Worker:
    """One of any number of processes that share a sweep.

    Attributes:
      plan: the sweep's trials and batches, as they are known.
    """

    def __init__(self, store: Store, console: PlainConsole):
        """Draws the trials that need no results.

        Args:
          store: begun.
          console: where it is said what is done.

        Raises:
          UserError: the space doesn't suit the sampler, or its package is missing.
        """
        self._store, self._console = store, console
        learns = any(sweep.sampler.learns for sweep, _ in store.generations)
        self._study = Study(store) if learns else None
        self.plan = Plan(
            store.generations, (lambda place: []) if self._study is None else self._study.groups
        )
        self._first = 0  # batches before this one are done

    def work(self, train: Train) -> None:
        """Makes batches until all trials are done, whoever makes the others.

        Args:
          train: makes a batch that this worker has claimed.

        Raises:
          KeyboardInterrupt: a signal was held back.
        """
        waiting = False
        while True:
            stop_if_interrupted()
            claimed, all_done = self._claim()
            if claimed is not None:
                waiting = False
                batch, lease = claimed
                self._announce(batch)
                try:
                    train(batch, self._store, self.plan, lease.check)
                finally:
                    lease.release()
                self._say(batch)
                self._learn()
            elif not self._draw():
                if all_done:
                    return
                if not waiting:
                    waiting = True
                    self._console.print("waiting for the runs that other workers have in hand")
                time.sleep(PAUSE)
                self._learn()

    def _claim(self) -> tuple[Any, bool]:
        """A batch and its lease, or None; and whether all batches are done."""
        batches, all_done = self.plan.batches, True
        for place in range(self._first, len(batches)):
            if self._store.is_done(batches[place]):
                if place == self._first:
                    self._first += 1
                continue
            lease = self._store.claim(batches[place], self._console.print)
            if lease is not None:
                return (batches[place], lease), False
            all_done = all_done and self._store.is_done(batches[place])
        return None, all_done

    def _learn(self) -> None:
        """Tells the study what became of its trials, and takes in what other workers drew."""
        if self._study is None:
            return
        for place, (sweep, _) in enumerate(self._store.generations):
            if sweep.sampler.learns:
                self._study.tell(self.plan.trials, place)
        self.plan.refresh()

    def _draw(self) -> bool:
        """Draws trials that learn from those before; whether there are new ones."""
        if self._study is None or not self._store.sweep.sampler.learns:
            return False
        self._learn()
        before = [(trial, self._store.outcome(trial)) for trial in self.plan.trials]
        drawn = self._study.ask(before)
        self.plan.refresh()
        return drawn > 0

    def _announce(self, batch: Batch) -> None:
        """A line on what is made next."""
        numbers = ", ".join(str(trial.number) for trial in batch.trials)
        how = " side by side" * batch.together
        total = sum(len(each.runs) for each in self.plan.batches)
        self._console.print(
            f"trial{'s' * (len(batch.trials) > 1)} {numbers}: {counted(len(batch.runs), 'run')}{how}; "
            f"{self._store.runs_done()} of {total} runs that are drawn are done",
            soft_wrap=True,
        )

    def _say(self, batch: Batch) -> None:
        """A line for each trial of a batch that is done."""
        for trial in batch.trials:
            outcome = self._store.outcome(trial)
            if outcome.status == "open":  # its other seeds are still to come
                continue
            values = ", ".join(f"{name} {in_words(value)}" for name, value in trial.values.items())
            figure = (
                "" if outcome.value is None else f" {self._store.sweep.metric} {outcome.value:.4f}"
            )
            why = f": {outcome.why}" if outcome.why else ""
            said = f"trial {trial.number} {outcome.status}{figure} ({values}){why}"
            self._console.print(said, soft_wrap=True)
