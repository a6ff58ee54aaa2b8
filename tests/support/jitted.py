"""Functions compiled whole: called one operation at a time, each operation is a program of its own."""

from typing import Any

import jax


def jitted(functions: Any) -> Any:
    """A `PolicyModel` or an `Env` with each of its functions jitted."""
    whole = {name: jax.jit(field) for name, field in functions._asdict().items() if callable(field)}
    return functions._replace(**whole)
