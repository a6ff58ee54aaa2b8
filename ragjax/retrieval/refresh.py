"""An index that is embedded anew beside the training, which goes on with the one before."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from ragjax.precision import single_precision
from ragjax.retrieval.corpus import IndexState
from ragjax.types import Params


class BackgroundRefresh:
    """Makes an index in a thread, one refresh at a time, and swaps each in whole.

    `experiments/refresh_speed.py` measures what it costs on a CPU. A single GPU runs one program after
    the other, so that the steps behind the embedding of a corpus may wait for it there.
    """

    def __init__(self, make: Callable[[Params, Array], Any], every: int):
        """Starts nothing yet.

        Args:
          make: (params, corpus [N,P]) -> index, ready to be searched.
          every: steps from one refresh's parameters to the next's, at least.
        """
        self._make, self._every = make, every
        self._running: _Refresh | None = None
        # The age of the index is known on the host: to read the device's waits for the step before.
        self._built = -1
        self._next: int | None = None

    def between_steps(
        self, params: Params, corpus: Shaped[Array, "N P"], index: IndexState, step: int
    ) -> IndexState:
        """Swaps in an index that is ready, or begins one that is due.

        Args:
          params: before step `step`; they are copied, as the step may overwrite them.
          corpus: [N,P].
          index: what is searched; one that is built at step -1 is made by the step itself.
          step: that comes next. If it does not follow the one before, the index's age is read anew, and
            what is being made is dropped.

        Returns:
          The index to search: the old one, or one of the step in which its making began.

        Raises:
          Exception: what the thread has raised.
        """
        if step != self._next:
            self.close()
            built = int(index.built_at_step)
            self._built = step if built < 0 else built
        self._next = step + 1
        if self._running is not None and not self._running.is_alive():
            running, self._running = self._running, None
            made, self._built = running.result(), running.step
            return IndexState(made, jnp.full((), running.step, jnp.int32))
        if self._running is None and step - self._built >= self._every:
            copied = jax.tree.map(jnp.copy, params)
            self._running = _Refresh(lambda: self._make(copied, corpus), step)
        return index

    def close(self) -> None:
        """Waits for an index that is being made, and drops it.

        Raises:
          Exception: what the thread has raised.
        """
        running, self._running, self._next = self._running, None, None
        if running is not None:
            running.join()
            running.result()


class _Refresh(threading.Thread):
    """One refresh. A process that ends waits for it: no thread may be inside of XLA then."""

    def __init__(self, work: Callable[[], Any], step: int):
        super().__init__(daemon=False)
        self._work, self.step = work, step
        self._index: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            # What `single_precision` sets is of a thread, and here is another than that of the run.
            self._index = jax.block_until_ready(single_precision(self._work)())
        except BaseException as error:  # raised where the result is asked for
            self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._index
