"""What JAX compiles, kept from one process to the next."""

import os
import sys
import warnings
from typing import Any

import jax

from ragjax.files import data_dir
from ragjax.printing import print_text


def keep_compiled() -> None:
    """Lets JAX keep what it compiles beside the prepared data, so that a like run starts sooner.

    `RAGJAX_COMPILATION_CACHE=off` switches it off; a directory that JAX was given by its own variable is
    left as it is.
    """
    if (
        os.environ.get("RAGJAX_COMPILATION_CACHE") == "off"
        or "JAX_COMPILATION_CACHE_DIR" in os.environ
    ):
        return
    directory = data_dir() / "compiled"
    shown = warnings.showwarning

    def show(message: Any, *facts: Any, **options: Any) -> None:
        # JAX compiles anew what it can't read, but leaves the file there.
        if "reading persistent compilation cache entry" not in str(message):
            return shown(message, *facts, **options)
        return print_text(f"{message}; delete {directory}, and it is made anew", sys.stderr)

    warnings.showwarning = show
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
