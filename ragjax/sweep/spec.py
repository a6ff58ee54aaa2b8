"""What a sweep is: a frozen dataclass, as a sweep file's `get_sweep()` returns it."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ragjax.config import Config
from ragjax.errors import require
from ragjax.files import load_function
from ragjax.ranges import SEED, require_ranges
from ragjax.sweep.samplers import Random, Sampler
from ragjax.sweep.space import Space, require_space

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Rungs:
    """When trials that do badly are stopped: asynchronous successive halving (Li et al. 2020).

    At each rung a trial goes on if it is among the best 1/`reduction` of those that have reached it so
    far, the first being the best of one.

    Attributes:
      at: shares of a trial's steps, ascending, each below 1.
      reduction: η.
    """

    at: tuple[float, ...] = (1 / 9, 1 / 3)
    reduction: int = 3

    def __post_init__(self):
        """Checks the fields."""
        ascending = all(
            low < high for low, high in zip((0.0, *self.at), (*self.at, 1.0), strict=True)
        )
        require(
            len(self.at) > 0 and ascending,
            f"rungs.at is {self.at}; give ascending shares of a trial, above 0 and below 1.",
        )
        require(self.reduction >= 2, f"rungs.reduction is {self.reduction}; it must be at least 2.")

    def steps(self, total: int) -> list[int]:
        """The steps of a trial of `total` steps at which it is measured; those before its end."""
        found = sorted({max(1, math.ceil(share * total)) for share in self.at})
        return [step for step in found if step < total]

    def goes_on(self, value: float, others: list[float], direction: Direction) -> bool:
        """Whether a trial with a value at a rung goes on.

        Args:
          value: its own.
          others: of all trials at this rung, its own included.
          direction: what is better.
        """
        ordered = sorted(others, reverse=direction == "maximize")
        last = ordered[max(1, len(ordered) // self.reduction) - 1]
        return value >= last if direction == "maximize" else value <= last


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Many runs of one config with other values, the best of which is chosen on development data.

    Attributes:
      base: the config, of a single seed.
      space: the fields that are varied; see `sweep.space`.
      sampler: how trials are drawn.
      trials: how many, of a grid at most; None for all of a grid, and else for 20.
      seeds: runs of each trial, with the base's seed and those after it; a trial's value is their mean.
      metric: one of the figures that a run has of its development split, such as em or greedy_return.
      direction: whether more is better.
      rungs: when bad trials are stopped; None for never.
      side_by_side: runs that are trained in one program where they differ in seeds and traced numbers
        alone, such as learning rates; 1 for each by itself.
      sampler_seed: of what is drawn.
      storage: where a sampler that learns remembers its trials: a database of Optuna's, such as
        postgresql://host/name; "" for a file in the sweep's directory.
    """

    base: Config
    space: Space
    sampler: Sampler = field(default_factory=Random)
    trials: int | None = None
    seeds: int = 1
    metric: str
    direction: Direction = "maximize"
    rungs: Rungs | None = None
    side_by_side: int = 8
    sampler_seed: int = field(default=0, metadata=SEED)
    storage: str = ""

    def __post_init__(self):
        """Checks the fields."""
        require_ranges(self)
        for name in ("trials", "seeds", "side_by_side"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} is {value}; it must be at least 1.")
        require(
            self.direction in get_args(Direction),
            f"direction is {self.direction!r}; choose maximize or minimize.",
        )
        require(
            self.base.num_seeds == 1,
            f"The base's num_seeds is {self.base.num_seeds}; leave it at 1, and give the sweep seeds.",
        )
        require(
            "test" not in self.metric.replace("/", ".").split("."),
            f"metric is {self.metric!r}, of the test split, by which nothing may be chosen; name a "
            "figure of the development split, such as em.",
        )
        require(
            not self.storage.startswith("sqlite"),
            f"storage is {self.storage!r}, but SQLite breaks where several machines share it; leave "
            "it out for a file that doesn't, or name a server, as in postgresql://host/name.",
        )
        require(
            not self.storage or self.sampler.learns,
            f"storage is {self.storage!r}, but {type(self.sampler).__name__} has nothing to remember; "
            "leave it out.",
        )
        require_space(self.base, self.space)
        varied = [vary.field for vary in self.space]
        require(
            not {"seed", "num_seeds"} & set(varied),
            "The space varies seed or num_seeds; give the sweep seeds instead, over which a trial's "
            "value is a mean.",
        )

    @property
    def count(self) -> int:
        """Trials that are drawn, of a grid at most."""
        return self.sampler.default_trials if self.trials is None else self.trials

    def better(self, one: float, other: float) -> bool:
        """Whether the first of two values is better."""
        return one > other if self.direction == "maximize" else one < other


def load_sweep(path: Path) -> Sweep:
    """Runs a sweep file's `get_sweep`.

    Raises:
      UserError: the file is missing, fails, or has no `get_sweep`.
    """
    sweep = load_function(path, "get_sweep", "config")()
    require(
        isinstance(sweep, Sweep),
        f"get_sweep() of {path} returned a {type(sweep).__name__}; it must return a Sweep.",
    )
    return sweep
