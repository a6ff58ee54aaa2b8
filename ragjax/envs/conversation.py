"""What a person needs to talk to a policy: the seam between `ragjax chat` and a dialogue environment."""

from collections.abc import Sequence

import numpy as np


class Conversation:
    """One dialogue, in which a person takes the place of the environment's user.

    The person speaks first (`hear`); then the policy decides by `observation`, and `act` makes its
    action and says it in words, until `ended`.

    Attributes:
      opening: what the person is told at first.
      names: what the policy's decisions are called, in the order of `log_acts` of its distribution.
      waits: whether it is still the person's turn, for nothing of the last line was understood.
      ended: the outcome in words; "" while the dialogue goes on.
    """

    opening: str
    names: Sequence[str]
    waits: bool = False
    ended: str = ""

    def hear(self, line: str) -> list[str]:
        """Takes a line of the person's; returns what of it was not understood, a sentence each."""
        raise NotImplementedError

    def observation(self) -> np.ndarray:
        """[O] what the policy sees now."""
        raise NotImplementedError

    def act(self, action: np.ndarray) -> list[str]:
        """Makes an action, [] or [slate]; returns what the agent says, a line each."""
        raise NotImplementedError

    def believed(self) -> list[str]:
        """What the agent makes of what was said, a line each."""
        raise NotImplementedError

    def rows(self, most: int) -> list[tuple[int, float]]:
        """The likeliest passages by the environment's own posterior, with it, best first."""
        raise NotImplementedError
