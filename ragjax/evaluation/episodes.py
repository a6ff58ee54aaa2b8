"""Episodes that a policy played: their records and the figures made of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import UserError
from ragjax.files import write_atomically

MODES = ("greedy", "sampled")  # likeliest actions, and actions drawn from the policy


@dataclass(frozen=True)
class Episodes:
    """Returns and lengths of whole episodes, in the order in which they were played.

    Attributes:
      returns: mode -> undiscounted sums of rewards.
      lengths: mode -> steps.
    """

    returns: Mapping[str, Sequence[float]]
    lengths: Mapping[str, Sequence[int]]

    @classmethod
    def from_played(cls, played: Mapping[str, Any]) -> "Episodes":
        """From mode -> ([n] returns, [n] lengths)."""
        return cls(
            {mode: [float(value) for value in np.asarray(played[mode][0])] for mode in MODES},
            {mode: [int(value) for value in np.asarray(played[mode][1])] for mode in MODES},
        )

    def summary(self) -> dict[str, Any]:
        """Mean return and length of each mode, the deviation of returns, and the episodes' number."""
        figures: dict[str, Any] = {"episodes": len(self.returns[MODES[0]])}
        for mode in MODES:
            figures[f"{mode}_return"] = float(np.mean(self.returns[mode]))
            figures[f"{mode}_deviation"] = float(np.std(self.returns[mode]))
            figures[f"{mode}_length"] = float(np.mean(self.lengths[mode]))
        return figures


def write_episodes(path: Path, episodes: Episodes) -> None:
    """Writes one JSON line an episode: mode, return, length."""
    lines = [
        json.dumps({"mode": mode, "return": total, "length": length})
        for mode in MODES
        for total, length in zip(episodes.returns[mode], episodes.lengths[mode], strict=True)
    ]
    write_atomically(path, "".join(line + "\n" for line in lines).encode())


def read_episodes(path: Path) -> Episodes:
    """Reads what `write_episodes` wrote.

    Raises:
      UserError: the file is missing or malformed.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return Episodes(
            {mode: [float(row["return"]) for row in rows if row["mode"] == mode] for mode in MODES},
            {mode: [int(row["length"]) for row in rows if row["mode"] == mode] for mode in MODES},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}); evaluate the run again.") from error
