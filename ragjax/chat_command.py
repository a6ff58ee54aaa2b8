"""The chat command: `ragjax chat RUN`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ragjax.errors import require
from ragjax.printing import PlainConsole, print_line, typed_lines

# As in `ragjax.cli`, what is slow to import is imported where it is needed.

SHOWN = 5  # rows of the posterior
DECISIONS = 3
LEAVE = ("quit", "exit")


@dataclass(frozen=True)
class Chat:
    """Talk to a trained dialogue policy, and see what it believes, finds and decides at each turn."""

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """The run's directory."""
    sampled: bool = False
    """Draw decisions from the policy, instead of taking the likeliest ones."""
    seed: int = 0
    """Of these draws."""


def chat(options: Any, _: list[str], console: PlainConsole) -> int:
    """Talks until the dialogue ends, or the input does."""
    require(options.seed >= 0, f"--seed is {options.seed}; it must not be negative.")
    from ragjax import compiled
    from ragjax.commands import open_run
    from ragjax.evaluation.talk import Talk

    compiled.keep_compiled()
    talk = Talk(open_run(options.run_dir, console), options.sampled, options.seed)
    print_line(f"{talk.conversation.opening} Leave by {' or '.join(LEAVE)}.")
    for line in typed_lines("you> "):
        if line.strip().casefold() in LEAVE:
            break
        for note in talk.conversation.hear(line):
            print_line(f"  ({note})")
        if not talk.conversation.waits and not talk.conversation.ended:
            for said in talk.turn(SHOWN, DECISIONS):
                print_line(said)
        if talk.conversation.ended:
            print_line(talk.conversation.ended)
            return 0
    print_line("The dialogue is left open.")
    return 0
