"""An index that is embedded anew beside the training, which goes on with the one before."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from ragjax.retrieval.corpus import IndexState
from ragjax.types import Params


class BackgroundRefresh:
    """Embeds the corpus in a thread, one refresh at a time, and swaps each index in whole."""

    def __init__(self, embed: Callable[[Params, Array], Any], every: int):
        """Starts nothing yet.

        Args:
          embed: (params, corpus [N,P]) -> index, compiled.
          every: steps from one refresh's parameters to the next's, at least.
        """
        self._embed, self._every = embed, every
        self._running: _Embedding | None = None

    def between_steps(
        self, params: Params, corpus: Shaped[Array, "N P"], index: IndexState, step: int
    ) -> IndexState:
        """Swaps in an index that is ready, or begins one that is due.

        Args:
          params: before step `step`; they are copied, as the step may overwrite them.
          corpus: [N,P].
          index: what is searched.
          step: that comes next.

        Returns:
          The index to search: the old one, or one of the step in which its embedding began.

        Raises:
          Exception: what the thread has raised.
        """
        if self._running is not None and not self._running.is_alive():
            running, self._running = self._running, None
            return IndexState(running.result(), jnp.full((), running.step, jnp.int32))
        built = int(index.built_at_step)
        if self._running is None and built >= 0 and step - built >= self._every:
            copied = jax.tree.map(jnp.copy, params)
            self._running = _Embedding(lambda: self._embed(copied, corpus), step)
        return index


class _Embedding(threading.Thread):
    """One refresh; it does not keep a process alive that has an end of its own."""

    def __init__(self, work: Callable[[], Any], step: int):
        super().__init__(daemon=True)
        self._work, self.step = work, step
        self._index: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._index = jax.block_until_ready(self._work())
        except BaseException as error:  # raised where the result is asked for
            self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._index
