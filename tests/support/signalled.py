"""`ragjax` that gets a signal at one moment.

    python signalled.py SIGNAL MODULE train CONFIG ...

MODULE is what is being imported then.
"""

import signal
import sys

NUMBER, MODULE = int(sys.argv[1]), sys.argv[2]


class Finder:
    """Finds nothing, but hears of every import."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == MODULE:
            signal.raise_signal(NUMBER)


sys.meta_path.insert(0, Finder())
sys.argv[:] = ["ragjax", *sys.argv[3:]]

if __name__ == "__main__":
    from ragjax.__main__ import main

    sys.exit(main())
