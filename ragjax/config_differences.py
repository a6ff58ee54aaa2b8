"""Where two configs differ, as specs or as JSON values."""

import dataclasses
from typing import Any


def first_difference(one: Any, other: Any, where: str = "") -> str | None:
    """Dotted name of the first field in which two values differ, a list being as good as a tuple."""
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        parts = [(item.name, getattr(one, item.name)) for item in dataclasses.fields(one)]
        pairs = [(name, part, getattr(other, name)) for name, part in parts]
    elif isinstance(one, tuple | list) and isinstance(other, tuple | list):
        if len(one) != len(other):
            return where
        pairs = [(str(place), *pair) for place, pair in enumerate(zip(one, other, strict=True))]
    else:
        alike = isinstance(one, float) and isinstance(other, float)
        alike = alike or type(one) is type(other)
        both_nan = one != one and other != other
        return None if alike and (one == other or both_nan) else where
    found = (first_difference(part, like, f"{where}.{name}") for name, part, like in pairs)
    return next((name for name in found if name is not None), None)


def without_place(config: dict[str, Any]) -> dict[str, Any]:
    """A config as JSON without its mesh: on which devices a run computes doesn't make it another."""
    return {name: value for name, value in config.items() if name != "mesh"}


def differing_fields(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configs, as JSON values, differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        names = list(left) + [name for name in right if name not in left]
        return [
            found
            for name in names
            for found in differing_fields(left.get(name), right.get(name), f"{prefix}{name}.")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [
            found
            for number, (one, other) in pairs
            for found in differing_fields(one, other, f"{prefix}{number}.")
        ]
    return [] if left == right else [prefix.rstrip(".")]
