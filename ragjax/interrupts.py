"""Ctrl-C and SIGTERM as a flag that is looked at where a run can stop.

An exception in the middle of something can tear it: a step has given its state away by then, and what is
raised in a callback of JAX or within a package's own clean-up may never arrive.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED = 130  # the exit code that shells report of a process that was ended by Ctrl-C

# Signals reach a process, not an object, so that their state is the module's.
_come: list[int] = []  # since the outermost block of `held_interrupts` began
_holding = False
_polled = True  # whether `stop_if_interrupted` may stop anything


def _handle(number: int, frame: object) -> None:
    del frame
    _come.append(number)
    if len(_come) > 1:
        raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def held_interrupts(*, polled: bool = True) -> Iterator[Callable[[], bool]]:
    """Holds Ctrl-C and SIGTERM back; yields a function that tells whether one has come.

    A second signal is raised at once. A block within another shares its flag. Only the main thread gets
    signals; in others nothing is held.

    Args:
      polled: whether `stop_if_interrupted` stops what the block runs; off where the block itself looks
        at the flag, at moments that it chooses.
    """
    global _holding, _polled
    if not _in_main_thread():
        yield lambda: False
        return
    outermost, before = not _holding, (_holding, _polled)
    handlers = {}
    if outermost:
        _come.clear()
        handlers = {number: signal.signal(number, _handle) for number in SIGNALS}
    _holding, _polled = True, polled
    try:
        yield lambda: bool(_come)
    finally:
        _holding, _polled = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stop_if_interrupted() -> None:
    """Ends here what a held signal has asked to end: for moments between two parts of something long.

    Raises:
      KeyboardInterrupt: a signal has come.
    """
    if _holding and _polled and _come:
        raise KeyboardInterrupt


def interrupted_twice() -> bool:
    """Whether a second signal was raised, whatever has become of that exception since."""
    return _holding and len(_come) > 1


@contextlib.contextmanager
def raised_interrupts() -> Iterator[None]:
    """Within `held_interrupts`, lets signals have their usual effect again.

    Raises:
      KeyboardInterrupt: one has come before.
    """
    global _holding
    stop_if_interrupted()
    if not (_holding and _in_main_thread()):
        yield
        return
    _holding = False
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        _holding = True
        for number in SIGNALS:
            signal.signal(number, _handle)
