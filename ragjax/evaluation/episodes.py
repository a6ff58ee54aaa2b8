"""Episodes that a policy played: their records and the figures made of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ragjax.errors import UserError
from ragjax.files import write_atomically
from ragjax.training.learner import Records, ReportTable

MODES = ("greedy", "sampled")  # likeliest actions, and actions drawn from the policy


@dataclass(frozen=True)
class Episodes(Records):
    """Whole episodes in figures, in the order in which they were played.

    Attributes:
      returns: mode -> undiscounted sums of rewards.
      lengths: mode -> steps.
      metrics: mode -> name -> what else the environment reported, None of episodes that it is not about.
    """

    FILE: ClassVar[str] = "episodes.jsonl"

    returns: Mapping[str, Sequence[float]]
    lengths: Mapping[str, Sequence[int]]
    metrics: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)

    @classmethod
    def from_played(cls, played: Mapping[str, Mapping[str, Any]]) -> "Episodes":
        """From mode -> name -> [n] values, of which `return` and `length` are of every environment."""
        columns = {
            mode: {
                name: [None if value != value else value for value in np.asarray(values).tolist()]
                for name, values in played[mode].items()
            }
            for mode in MODES
        }
        return cls._from_columns(columns)

    @classmethod
    def _from_columns(cls, columns: Mapping[str, dict[str, list[Any]]]) -> "Episodes":
        returns = {mode: [float(value) for value in columns[mode].pop("return")] for mode in MODES}
        lengths = {mode: [int(value) for value in columns[mode].pop("length")] for mode in MODES}
        return cls(returns, lengths, {mode: columns[mode] for mode in MODES if columns[mode]})

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each episode: mode, return, length, and what else there is."""
        for mode in MODES:
            metrics = self.metrics.get(mode, {})
            names = ("mode", "return", "length", *metrics)
            columns = (self.returns[mode], self.lengths[mode], *metrics.values())
            for values in zip(*columns, strict=True):
                yield dict(zip(names, (mode, *values), strict=True))

    def summary(self) -> dict[str, Any]:
        """Means of each mode, the deviation of returns, and the episodes' number.

        The mean of a metric is that of the episodes that it is about, None if there are none.
        """
        figures: dict[str, Any] = {"episodes": len(self.returns[MODES[0]])}
        for mode in MODES:
            figures[f"{mode}_return"] = float(np.mean(self.returns[mode]))
            figures[f"{mode}_deviation"] = float(np.std(self.returns[mode]))
            figures[f"{mode}_length"] = float(np.mean(self.lengths[mode]))
            for name, values in self.metrics.get(mode, {}).items():
                known = [value for value in values if value is not None]
                figures[f"{mode}_{name}"] = float(np.mean(known)) if known else None
        return figures

    def write(self, path: Path) -> None:
        """Writes one JSON line an episode."""
        text = "".join(json.dumps(row) + "\n" for row in self.rows())
        write_atomically(path, text.encode())

    @staticmethod
    def report(results: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
        """Mean returns of one or several seeds, and of one what else its episodes report."""
        first = results[0]
        asked = f" of {first['split']} questions" if "split" in first else ""
        title = f"{first['environment']}: mean return of {first['episodes']} episodes{asked} ± deviation"
        rows = [
            (
                str(result.get("seed", "")),
                *(
                    f"{result[f'{mode}_return']:.4g} ± {result[f'{mode}_deviation']:.3g}"
                    for mode in MODES
                ),
            )
            for result in results
        ]
        tables = [ReportTable(title, ("seed", *MODES), rows)]
        names = [name.removeprefix("sampled_") for name in first if name.startswith("sampled_")]
        others = [name for name in names if name not in ("return", "deviation", "length")]
        if len(results) == 1 and others:
            values = {name: [first[f"{mode}_{name}"] for mode in MODES] for name in others}
            rows = [
                (name, *("–" if value is None else f"{value:.3f}" for value in of))
                for name, of in values.items()
            ]
            tables.append(ReportTable("", ("mean of an episode", *MODES), rows))
        return tables


def read_episodes(path: Path) -> Episodes:
    """Reads what `write_episodes` wrote.

    Raises:
      UserError: the file is missing or malformed.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        names = [name for name in rows[0] if name != "mode"] if rows else ["return", "length"]
        columns = {
            mode: {name: [row[name] for row in rows if row["mode"] == mode] for name in names}
            for mode in MODES
        }
        return Episodes._from_columns(columns)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}); evaluate the run again.") from error
