"""Retrieval-augmented generation and reinforcement learning as one marginal over passages, in JAX.

import ragjax
run = ragjax.load_run("runs/quickstart")
run.answer("What is the capital of France?")["answer"]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragjax.config import load_config
    from ragjax.run_dir import Run, load_run

__all__ = ["Run", "__version__", "load_config", "load_run"]

# Imported when they are asked for, so that `ragjax --help` does not wait for JAX.
_HOMES = {"load_config": "ragjax.config", "Run": "ragjax.run_dir", "load_run": "ragjax.run_dir"}


def __getattr__(name: str) -> Any:
    import importlib
    from importlib import metadata

    if name == "__version__":
        return metadata.version("ragjax")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ragjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
