"""What a worker's process does, from the store to the winner."""

from pathlib import Path

from ragjax.printing import PlainConsole
from ragjax.sweep.store import Store
from ragjax.sweep.training import Trainer
from ragjax.sweep.winner import measure_winner
from ragjax.sweep.worker import Worker


def work_on(directory: Path, console: PlainConsole) -> None:
    """Works on a sweep that was begun until it is done, whoever else does; the winner included.

    Raises:
      UserError: there is no sweep, or its runs can't be made.
      KeyboardInterrupt: a signal was held back; what is written is whole, and can be gone on with.
    """
    store = Store(directory)
    store.open()
    lease = store.join()
    try:
        worker = Worker(store, console)
        worker.work(Trainer(console))
        measure_winner(store, worker.plan, console)
    finally:
        lease.release()
