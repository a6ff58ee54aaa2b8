"""Tells what JAX compiles.

The number of programs that a jitted function says it has, `_cache_size`, is that of a cache which all
functions of a process share: once other tests have filled it, it is 0.
"""

import contextlib
from collections.abc import Iterator

import jax

_COMPILED: list[str] = []  # names of functions, the newest last


def _note(event: str, seconds: float, **facts: str) -> None:
    del seconds
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(facts["fun_name"].removeprefix("jit(").removesuffix(")"))


jax.monitoring.register_event_duration_secs_listener(_note)


@contextlib.contextmanager
def compiled() -> Iterator[list[str]]:
    """Yields a list that holds, at the end of the block, the names of the functions compiled in it."""

    def noted(x):
        return x + 1

    begun, names = len(_COMPILED), []
    yield names
    names += _COMPILED[begun:]
    begun = len(_COMPILED)
    jax.jit(noted)(1)
    assert _COMPILED[begun:] == ["noted"], "JAX does not tell any more what it compiles"
