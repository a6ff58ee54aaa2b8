"""How a sweep's trials are drawn from its space.

Most need no memory: trial number n is a function of the space, the seed and n, so that any number of
workers know all trials without talking. TPE and CMA-ES learn from the trials before and remember them in
a study of Optuna (`sweep.study`). A new sampler is a frozen dataclass here or in a
user's file.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ragjax.errors import require
from ragjax.sweep.space import GRID, Space, drawn


@dataclass(frozen=True)
class Sampler:
    """Base of the samplers.

    Attributes:
      learns: whether trials depend on the results of those before.
    """

    learns: ClassVar[bool] = False

    @property
    def default_trials(self) -> int:
        """How many, unless the sweep says."""
        return 20

    def trials(self, space: Space, seed: int, numbers: range) -> list[dict[str, Any]]:
        """Field -> value of the trials with these numbers.

        Raises:
          UserError: the space doesn't suit the sampler.
        """
        raise NotImplementedError

    def optuna(self, seed: int) -> Any:
        """The sampler of Optuna, of one that learns."""
        raise NotImplementedError


@dataclass(frozen=True)
class Grid(Sampler):
    """Every combination of the values of choices and whole numbers, the last field changing first."""

    @property
    def default_trials(self) -> int:
        """All of them."""
        return GRID

    def trials(self, space: Space, seed: int, numbers: range) -> list[dict[str, Any]]:
        """See `Sampler.trials`; from the first point on, since a wider space has other ones."""
        del seed
        options = [vary.values.all() for vary in space]
        size = math.prod(map(len, options))
        require(size <= GRID, f"The grid has {size:,} points; choose random, or at most {GRID:,}.")
        points = [self._point(space, values) for values in itertools.product(*options)]
        # A field whose condition fails is left out, and several points become one.
        unlike = {repr(point): point for point in points}
        return list(unlike.values())[: numbers.stop]

    @staticmethod
    def _point(space: Space, values: Iterable[Any]) -> dict[str, Any]:
        point: dict[str, Any] = {}
        for vary, value in zip(space, values, strict=True):
            if vary.given is None or vary.given.holds(point):
                point[vary.field] = value
        return point


@dataclass(frozen=True)
class Random(Sampler):
    """Each trial by itself, uniformly."""

    def trials(self, space: Space, seed: int, numbers: range) -> list[dict[str, Any]]:
        """See `Sampler.trials`."""
        places = (np.random.default_rng([seed, number]).random(len(space)) for number in numbers)
        return [drawn(space, row.tolist()) for row in places]


@dataclass(frozen=True)
class Sobol(Sampler):
    """A scrambled Sobol sequence, which fills the space more evenly than random draws."""

    def trials(self, space: Space, seed: int, numbers: range) -> list[dict[str, Any]]:
        """See `Sampler.trials`."""
        from scipy.stats import qmc

        if not numbers:
            return []
        sequence = qmc.Sobol(len(space), scramble=True, rng=seed, bits=52)
        # In whole powers of two, as SciPy asks.
        points = sequence.random_base2(math.ceil(math.log2(max(numbers.stop, 2))))
        return [drawn(space, row.tolist()) for row in points[numbers.start : numbers.stop]]


@dataclass(frozen=True)
class TPE(Sampler):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), as Optuna has it.

    Attributes:
      startup: random trials before it learns.
    """

    startup: int = 10

    learns: ClassVar[bool] = True

    def optuna(self, seed: int) -> Any:
        """See `Sampler.optuna`; trials that run count as bad ones, so that workers spread out."""
        import optuna

        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=self.startup, constant_liar=True
        )


@dataclass(frozen=True)
class CmaEs(Sampler):
    """Covariance matrix adaptation (Hansen and Ostermeier 2001), as Optuna has it; for numbers.

    Attributes:
      startup: random trials before it learns.
    """

    startup: int = 1

    learns: ClassVar[bool] = True

    def optuna(self, seed: int) -> Any:
        """See `Sampler.optuna`."""
        import optuna

        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=self.startup)


SAMPLERS: dict[str, Sampler] = {
    "grid": Grid(),
    "random": Random(),
    "sobol": Sobol(),
    "tpe": TPE(),
    "cmaes": CmaEs(),
}
