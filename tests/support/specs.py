"""The specs of the package, found by walking it."""

import importlib
import pkgutil
from typing import Any

import ragjax


def specs_of(base: type) -> list[type[Any]]:
    """Every subclass of `base` in the package that is no base itself, by name."""
    for module in pkgutil.walk_packages(ragjax.__path__, "ragjax."):
        importlib.import_module(module.name)

    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    found = {
        kind
        for kind in below(base) - {base}
        # Other tests may define some, too.
        if kind.__module__.startswith("ragjax.")
        and not any(child.__module__.startswith("ragjax.") for child in kind.__subclasses__())
    }
    return sorted(found, key=lambda kind: kind.__name__)
