"""Fields of a config whose text makes something be imported when it is used."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_KEY = "ragjax.modules"


def naming(modules: Callable[[Any], Iterable[str]]) -> Mapping[str, Any]:
    """The `metadata` of a field that names modules, given what tells those that its value names.

    A run's config.json lists them, and nothing else is imported when the run is loaded.
    """
    return {_KEY: modules}


def named_modules(spec: Any) -> dict[str, str]:
    """The modules that the fields of a dataclass name, those of specs within it aside.

    Returns:
      Module -> name of the field.
    """
    return {
        module: item.name
        for item in dataclasses.fields(spec)
        if _KEY in item.metadata
        for module in item.metadata[_KEY](getattr(spec, item.name))
    }
