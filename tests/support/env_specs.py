"""The environments of the package, found by walking it."""

import importlib
import pkgutil

from ragjax import envs
from ragjax.envs.base import Environment


def traceable_specs() -> list[type[Environment]]:
    """Every environment of the package that can be traced."""
    for module in pkgutil.walk_packages(envs.__path__, "ragjax.envs."):
        importlib.import_module(module.name)

    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    found = {
        kind
        for kind in below(Environment) - {Environment}
        # Bases are no specs of their own, and other tests may define environments.
        if not kind.__subclasses__() and kind.__module__.startswith("ragjax.envs.")
    }
    return sorted((kind for kind in found if kind.traceable), key=lambda kind: kind.name)
