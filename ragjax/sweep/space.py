"""What a sweep varies: dotted fields of a config, and the values that each may take.

A new kind of values is a frozen dataclass that is derived from `Values`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ragjax.config import Config, to_json
from ragjax.errors import UserError, require
from ragjax.overrides import leaf_fields, require_field, value_of
from ragjax.ranges import leaves_of

TRIED = 200  # combinations with other values, before a value counts as refused
GRID = 10_000  # values of one field, or points of a space, that a grid may have


@dataclass(frozen=True)
class Values:
    """Base of what a field may be."""

    def at(self, u: float) -> Any:
        """The value at a place in [0, 1), so that equal stretches of it are equally likely."""
        raise NotImplementedError

    def all(self) -> Sequence[Any]:
        """Every value, for a grid.

        Raises:
          UserError: there are too many.
        """
        raise UserError(
            f"A grid can't list every value of {self}; give the values by commas (in a file Choice), or "
            "choose another sampler."
        )

    def listed(self) -> Sequence[Any]:
        """Values that are looked at before a sweep begins: all where they are few, none of a range."""
        return ()

    def suggested(self, trial: Any, name: str) -> Any:
        """The value that an Optuna trial suggests."""
        raise NotImplementedError

    def parameter(self, value: Any) -> Any:
        """What Optuna remembers of a value."""
        return value

    def holds(self, value: Any) -> bool:
        """Whether it is one of the values."""
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Values):
    """A number between `low` and `high`."""

    low: float
    high: float

    def __post_init__(self):
        """Checks the bounds."""
        _require_bounds(self.low, self.high, float)

    def at(self, u: float) -> float:
        """See `Values.at`."""
        return self.low + u * (self.high - self.low)

    def suggested(self, trial: Any, name: str) -> float:
        """See `Values.suggested`."""
        return trial.suggest_float(name, self.low, self.high)

    def holds(self, value: Any) -> bool:
        """See `Values.holds`."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class LogUniform(Uniform):
    """A number between `low` and `high` whose logarithm is uniform."""

    def __post_init__(self):
        """Checks the bounds."""
        super().__post_init__()
        require(
            self.low > 0,
            f"A log-uniform field's low end is {self.low}; give one above 0, or use uniform.",
        )

    def at(self, u: float) -> float:
        """See `Values.at`."""
        low, high = math.log(self.low), math.log(self.high)
        return min(max(math.exp(low + u * (high - low)), self.low), self.high)

    def suggested(self, trial: Any, name: str) -> float:
        """See `Values.suggested`."""
        return trial.suggest_float(name, self.low, self.high, log=True)


@dataclass(frozen=True)
class Integer(Values):
    """A whole number from `low` to `high`, both included; with `log` the small ones are likelier."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self):
        """Checks the bounds."""
        _require_bounds(self.low, self.high, int)
        require(
            self.low > 0 or not self.log,
            f"A logarithmic whole number's low end is {self.low}; give one above 0.",
        )

    def at(self, u: float) -> int:
        """See `Values.at`."""
        if not self.log:
            return self.low + int(u * (self.high - self.low + 1))
        low, high = math.log(self.low), math.log(self.high + 1)
        return min(max(int(math.exp(low + u * (high - low))), self.low), self.high)

    def all(self) -> Sequence[int]:
        """See `Values.all`."""
        return range(self.low, self.high + 1) if self.high - self.low < GRID else super().all()

    def listed(self) -> Sequence[int]:
        """See `Values.listed`; of many the first and the last."""
        few = self.high - self.low < TRIED
        return range(self.low, self.high + 1) if few else (self.low, self.high)

    def suggested(self, trial: Any, name: str) -> int:
        """See `Values.suggested`."""
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """See `Values.holds`."""
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice(Values):
    """One of some values, which may be components of a config: an objective, an encoder."""

    options: tuple[Any, ...]

    def __post_init__(self):
        """Checks that there are options, and no two alike."""
        require(
            isinstance(self.options, tuple) and len(self.options) > 0,
            f"The options of a choice are {self.options!r}; give a tuple of at least one.",
        )
        unlike = {repr(to_json(option)) for option in self.options}
        require(
            len(unlike) == len(self.options),
            f"The options of a choice are {self.options!r}, of which two are alike; name each once.",
        )

    def at(self, u: float) -> Any:
        """See `Values.at`."""
        return self.options[int(u * len(self.options))]

    def all(self) -> Sequence[Any]:
        """See `Values.all`."""
        return self.options

    def listed(self) -> Sequence[Any]:
        """See `Values.listed`."""
        return self.options

    def suggested(self, trial: Any, name: str) -> Any:
        """See `Values.suggested`; Optuna knows components by their number only."""
        return self.options[trial.suggest_categorical(name, tuple(range(len(self.options))))]

    def parameter(self, value: Any) -> int:
        """See `Values.parameter`."""
        return [to_json(option) for option in self.options].index(to_json(value))

    def holds(self, value: Any) -> bool:
        """See `Values.holds`."""
        return any(to_json(value) == to_json(option) for option in self.options)


def _require_bounds(low: Any, high: Any, kind: type) -> None:
    numbers = int if kind is int else int | float
    for name, value in (("low", low), ("high", high)):
        plain = isinstance(value, numbers) and not isinstance(value, bool)
        what = "a whole number" if kind is int else "a finite number"
        require(
            plain and math.isfinite(value),
            f"The {name} end of a field's values is {value!r}; give {what}.",
        )
    require(low < high, f"A field's values go from {low} to {high}; give a higher end above it.")


@dataclass(frozen=True)
class Given:
    """A condition: the varied field `field` has one of the values `options`."""

    field: str
    options: tuple[Any, ...]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is so."""
        return self.field in values and Choice(self.options).holds(values[self.field])


@dataclass(frozen=True)
class Vary:
    """A field that is varied.

    Attributes:
      field: its dotted name, as on the command line: optimizer.retriever_rate, phases.0.k.
      values: what it may be.
      given: when it is varied; elsewhere it is as the base config has it. None for always.
    """

    field: str
    values: Values
    given: Given | None = None


Space = tuple[Vary, ...]


def require_space(base: Config, space: Space) -> None:
    """Checks that a space is one of fields that the base has, in an order in which they can be drawn.

    Raises:
      UserError: it isn't.
    """
    require(len(space) > 0, "The space is empty, so that all trials are one; name a field to vary.")
    fields = _all_fields(base)
    known: set[str] = set()
    for vary in space:
        require_field(vary.field, fields)
        require(vary.field not in known, f"{vary.field} is varied twice; name it once.")
        inside = next((name for name in known if _within(vary.field, name)), None)
        require(
            inside is None, f"{vary.field} is a part of {inside}, which is varied, too; vary one."
        )
        condition = vary.given
        require(
            condition is None or condition.field in known,
            f"{vary.field} is varied given {condition and condition.field}, which is not varied before "
            "it; put that first.",
        )
        known.add(vary.field)
        kinds = set(leaves_of(fields[vary.field]))
        fraction, whole = isinstance(vary.values, Uniform), isinstance(vary.values, Integer)
        require(
            not (fraction and kinds.isdisjoint({float, Any, object})),
            f"{vary.field} is varied over {vary.values}, but it is no number with a fraction; give int: "
            "or values by commas.",
        )
        require(
            not (whole and kinds.isdisjoint({int, float, Any, object})),
            f"{vary.field} is varied over {vary.values}, but it is no number; give values by commas.",
        )


def _within(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def _all_fields(config: Config) -> dict[str, Any]:
    """Dotted name -> type of every field, those that hold components (whose type is None) included."""
    fields = dict(leaf_fields(config))
    for name in list(fields):
        while "." in name:
            name = name.rpartition(".")[0]
            fields.setdefault(name, None)
    return fields


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """A config with other values in some dotted fields, all of which are put in at once.

    Raises:
      UserError: the config refuses them.
    """
    own = {name: value for name, value in values.items() if "." not in name}
    below: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = value
    if isinstance(config, tuple):
        items = list(config)
        for place, value in own.items():
            items[int(place)] = value
        for place, rest in below.items():
            items[int(place)] = with_values(items[int(place)], rest)
        return tuple(items)
    own |= {name: with_values(getattr(config, name), rest) for name, rest in below.items()}
    return dataclasses.replace(config, **own)


def drawn(space: Space, places: Sequence[float]) -> dict[str, Any]:
    """Field -> value at a point of the unit cube; fields whose condition fails are left out."""
    values: dict[str, Any] = {}
    for vary, u in zip(space, places, strict=True):
        if vary.given is None or vary.given.holds(values):
            values[vary.field] = vary.values.at(u)
    return values


def require_values(base: Config, space: Space) -> None:
    """Checks that the config takes each listed value, alone or with values of the other fields.

    Raises:
      UserError: it refuses one with all that were tried.
    """
    for place, vary in enumerate(space):
        for value in vary.values.listed():
            only = dataclasses.replace(vary, values=Choice((value,)))
            why = _refusal(base, (*space[:place], only, *space[place + 1 :]), only)
            require(not why, f"The space has {vary.field}={value}, which the config refuses: {why}")


def _refusal(base: Config, space: Space, vary: Vary) -> str:
    """Why a config refuses the one value of a field; "" if it takes it somewhere in a space."""
    rng, why = np.random.default_rng(0), ""
    for number in range(TRIED):
        values = drawn(space, rng.random(len(space)).tolist())
        if vary.field not in values:
            continue
        try:
            with_values(base, values if number or vary.given else {vary.field: values[vary.field]})
        except UserError as error:
            why = why or str(error)
        else:
            return ""
    return why


_KINDS: dict[str, Any] = {"log": LogUniform, "uniform": Uniform, "int": Integer}


def parse_vary(base: Config, text: str) -> Vary:
    """What `--vary FIELD=VALUES` means.

    Args:
      base: the config, whose fields give the types.
      text: `optimizer.retriever_rate=log:1e-3..3e-2`, `seed=int:1..9`, `x=uniform:0..1`,
        `phases.0.k=2,4,8`.

    Raises:
      UserError: it can't be read.
    """
    name, equals, given = text.partition("=")
    name = name.replace("-", "_").strip()
    require(
        bool(equals and given),
        f"--vary is {text!r}; write FIELD=log:1e-4..1e-2, FIELD=uniform:0..1, FIELD=int:1..8 or "
        "FIELD=a,b,c.",
    )
    require(
        not any(known.startswith(f"{name}.") for known in leaf_fields(base)),
        f"--vary is {text!r}, but {name} is a component; vary it in a sweep file, by Choice.",
    )
    require_field(name, leaf_fields(base))
    kind, colon, ends = given.partition(":")
    if colon and kind in _KINDS:
        number = int if kind == "int" else float
        try:
            low, high = (number(end) for end in ends.split("..") if "..." not in ends)
        except ValueError as error:
            what = "two whole numbers" if number is int else "two numbers"
            raise UserError(f"--vary is {text!r}; give {what} as in {kind}:1..8.") from error
        return Vary(name, _KINDS[kind](low, high))
    options = []
    for word in given.split(","):
        require(bool(word.strip()), f"--vary is {text!r}, which has an empty value; leave it out.")
        options.append(value_of(base, name, word.strip()))
    return Vary(name, Choice(tuple(options)))
