"""The ranges of a config's integers: one check for every seed, count and step that it holds."""

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any, Union, get_args, get_origin, get_type_hints

from ragjax.errors import require

# What a step or a size on the device stays below, unless its field says otherwise.
BELOW = 2**31
_KEY = "ragjax.below"


def below(limit: int) -> Mapping[str, int]:
    """The `metadata` of a field whose integers may be as large as `limit` - 1."""
    return {_KEY: limit}


SEED = below(2**32)  # seeds n and n + 2^32 would give one random key
BATCH = below(2**20)  # rows at once, far beyond what a device holds
HOST = below(2**63)  # counts that never reach the device


def require_ranges(spec: Any, where: str = "") -> None:
    """Checks the integers of a spec and of the specs that it holds, whoever wrote these.

    A field that takes an integer holds one, not a truth value or a fraction, and of a size that the
    device can count to. How small it may be is for its own class to say.

    Args:
      spec: a dataclass.
      where: its dotted name with a dot after it, for messages.

    Raises:
      UserError: names the field.
    """
    hints = hints_of(type(spec))
    for item in dataclasses.fields(spec):
        if not item.init:
            continue
        kinds = list(leaves_of(hints.get(item.name)))
        others = tuple(kind for kind in kinds if kind is not int and isinstance(kind, type))
        limit = item.metadata.get(_KEY, BELOW)
        for name, value in _parts(getattr(spec, item.name), f"{where}{item.name}"):
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                require_ranges(value, f"{name}.")
            elif int in kinds and float not in kinds and not isinstance(value, others):
                whole = isinstance(value, Integral) and not isinstance(value, bool)
                require(whole, f"{name} is {value!r}; give a whole number.")
                number: Any = value
                require(
                    -limit <= int(number) < limit,
                    f"{name} is {value}, which is out of range; give a whole number below {limit}.",
                )


def require_few_updates(name: str, updates: int) -> None:
    """Checks the number of a run's updates, which the optimiser counts on the device.

    Args:
      name: of the field that says how long a run is, with its value.
      updates: that it comes to.

    Raises:
      UserError: they are too many.
    """
    require(
        updates < BELOW,
        f"{name}, which comes to {updates} updates of the parameters; make less than {BELOW}.",
    )


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """The type hints of a class; none where they name what can't be found."""
    try:
        return get_type_hints(kind)
    except Exception:  # they name what is imported for type checkers only, or something worse
        return {}


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A value with its name; of a tuple or list every item, by its place."""
    if isinstance(value, tuple | list):
        for place, item in enumerate(value):
            yield from _parts(item, f"{name}.{place}")
    else:
        yield name, value


def leaves_of(hint: Any) -> Iterator[Any]:
    """The classes that a type hint is made of."""
    parts = get_args(hint)
    for part in parts:
        yield from leaves_of(part)
    if not parts:
        yield hint


def without_none(hint: Any) -> Any:
    """X of the type hint `X | None`, and any other hint as it is."""
    if get_origin(hint) in (Union, types.UnionType):
        others = [part for part in get_args(hint) if part is not type(None)]
        return others[0] if len(others) == 1 else hint
    return hint


def item_hint(hint: Any, place: int) -> Any:
    """The type hint of an item of a tuple or list that has the hint `hint`."""
    parts = get_args(without_none(hint))
    if len(parts) == 1 or Ellipsis in parts:
        return parts[0]
    return parts[place] if place < len(parts) else None
