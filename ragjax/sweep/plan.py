"""What a sweep consists of: the trials that are drawn so far, and the batches that workers make of them.

Every worker comes to the same plan from the sweep's directory alone. Where a sweep was extended, it has
several generations: what was drawn stays, and a trial that an extension draws again is not made twice.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ragjax.sweep.spec import Sweep
from ragjax.sweep.trials import Batch, Trial, batches


class Generation(NamedTuple):
    """A sweep as it was asked for once; `begun` trials were drawn before."""

    sweep: Sweep
    begun: int


# (place of a generation) -> groups of trials, each field -> value, that its sampler drew by learning
Learned = Callable[[int], list[list[Mapping[str, Any]]]]


class Plan:
    """Trials and batches.

    Attributes:
      trials: those drawn, without those whose config an earlier one has; with all their runs.
      batches: all runs of these trials, in the order in which they are made.
      drawn: trials drawn in each generation, like ones included.
    """

    trials: list[Trial]
    batches: list[Batch]
    drawn: list[int]

    def __init__(self, generations: list[Generation], learned: Learned = lambda place: []):
        """Draws what needs no results."""
        self._generations, self._learned = generations, learned
        self._made: dict[tuple[int, int], Trial] = {}
        self._points = [
            [] if sweep.sampler.learns else self._drawn(sweep, begun)
            for sweep, begun in generations
        ]
        self.refresh()

    @staticmethod
    def _drawn(sweep: Sweep, begun: int) -> list[Mapping[str, Any]]:
        numbers = range(begun, max(sweep.count, begun))
        return list(sweep.sampler.trials(sweep.space, sweep.sampler_seed, numbers))

    def refresh(self) -> None:
        """Takes in what has been drawn by learning since."""
        known: dict[str, Trial] = {}  # by the name of the first run
        refused: list[Trial] = []
        self.batches, self.drawn, seeds = [], [], 0
        for place, (sweep, _) in enumerate(self._generations):
            width = sweep.side_by_side
            if seeds and sweep.seeds > seeds:
                known = {name: self._with_seeds(trial, sweep) for name, trial in known.items()}
                self.batches += batches(list(known.values()), width, before=seeds)
            seeds = sweep.seeds
            groups = self._learned(place) if sweep.sampler.learns else [self._points[place]]
            self.drawn.append(sum(map(len, groups)))
            number = 0
            for group in groups:
                new = []
                for values in group:
                    trial = self._trial(place, number, values, len(known) + len(refused))
                    number += 1
                    if not trial.runs:
                        refused.append(trial)
                    elif trial.runs[0].name not in known:
                        known[trial.runs[0].name] = trial
                        new.append(trial)
                self.batches += batches(new, width)
        self.trials = sorted([*known.values(), *refused], key=lambda trial: trial.number)

    def _trial(self, place: int, number: int, values: Mapping[str, Any], name: int) -> Trial:
        if (place, number) not in self._made:
            sweep = self._generations[place].sweep
            self._made[place, number] = Trial.of(sweep.base, name, values, sweep.seeds)
        return self._made[place, number]

    @staticmethod
    def _with_seeds(trial: Trial, sweep: Sweep) -> Trial:
        return Trial.of(sweep.base, trial.number, trial.values, sweep.seeds)
