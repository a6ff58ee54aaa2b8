"""Configs as text: all fields of one, and those in which two differ."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ragjax.config import (
    MODULES,
    config_json,
    load_config,
    read_json,
    to_json,
)
from ragjax.config_differences import differing_fields
from ragjax.files import read_json_object
from ragjax.overrides import override
from ragjax.run_dir import CONFIG

ABSENT = "(absent)"


def show_config(place: Path, overrides: Sequence[str] = (), *, as_json: bool = False) -> str:
    """Returns all fields of a config, or of a run's, after command-line overrides.

    Args:
      place: a config file or a run's directory.
      overrides: as typed, `--field.sub value`.
      as_json: JSON as in a run's `config.json`, instead of a tree with a field a line.

    Raises:
      UserError: there is no config there, or an override doesn't fit.
    """
    config = read_json(place / CONFIG) if place.is_dir() else load_config(place)
    changed = override(config, overrides, f"ragjax config show {place}")
    if as_json:
        return json.dumps(config_json(changed), indent=2)
    return "\n".join(_tree("", to_json(changed), 0))


def _tree(name: str, value: Any, depth: int) -> Iterator[str]:
    """Lines `name: value  (type)`, those of a component's own fields indented below its class."""
    indent, label = "  " * depth, f"{name}: " * bool(name)
    if isinstance(value, dict):
        module, _, kind = value["type"].rpartition(".")
        yield f"{indent}{label}{kind}  ({module})"
        for field, part in value.items():
            if field != "type":
                yield from _tree(field, part, depth + 1)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        yield f"{indent}{name}:"
        for number, part in enumerate(value):
            yield from _tree(str(number), part, depth + 1)
    else:
        yield f"{indent}{label}{json.dumps(value)}  ({type(value).__name__})"


def diff_configs(first: Path, second: Path) -> str:
    """Returns a line `field: one value | the other` for each field in which two configs differ.

    Args:
      first: a config file or a run's directory, also one that an older version wrote.
      second: likewise.

    Raises:
      UserError: there is no config at one of them.
    """
    left, right = _as_json(first), _as_json(second)
    lines = [
        f"{name}: {value_at(left, name)} | {value_at(right, name)}"
        for name in differing_fields(left, right)
    ]
    return "\n".join(lines) or "no difference"


def _as_json(place: Path) -> Any:
    """A config as JSON; a run's is not rebuilt, for its classes may have changed since."""
    if not place.is_dir():
        return to_json(load_config(place))
    value = read_json_object(place / CONFIG, "name a config file or the directory of a run.")
    value.pop(MODULES, None)
    return value


def value_at(value: Any, name: str) -> str:
    """The value of a dotted field as JSON, a component by the name of its class."""
    for part in name.split("."):
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return ABSENT
    return value["type"] if isinstance(value, dict) and "type" in value else json.dumps(value)
