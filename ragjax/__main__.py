"""The command `ragjax`, also as `python -m ragjax`: holds signals back before anything slow."""

import signal
import sys
import traceback

from ragjax.interrupts import SIGNALS, held_interrupts


def main() -> int:
    """Runs the command that the process was called with, and returns its exit code."""
    with held_interrupts():
        from ragjax import cli

        try:
            code = cli.main()
        except (
            Exception
        ):  # of the code itself: shown as Python does, but no other host is kept waiting
            traceback.print_exc()
            code = 1
    # All is written and said: nothing of what Python does on its way out can be stopped.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if "ragjax.hosts" in sys.modules:
        from ragjax import hosts

        hosts.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
