"""Episodes that a policy played: their records and the figures made of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ragjax.errors import UserError
from ragjax.evaluation.statistics import pass_hat
from ragjax.files import parse_json, write_atomically
from ragjax.records import Records, ReportTable

MODES = ("greedy", "sampled")  # likeliest actions, and actions drawn from the policy
SUCCESS = "success"  # the metric, 1 or 0, of an environment whose episodes can be said to succeed
PASSES = (2, 4, 8)  # k of pass^k


@dataclass(frozen=True)
class Episodes(Records):
    """Whole episodes in figures, in the order in which they were played.

    Where an environment lists its episodes, each mode plays each of them once, in one order. A mean over
    them is one over kinds of the mean of each kind.

    Attributes:
      returns: mode -> undiscounted sums of rewards.
      lengths: mode -> steps.
      metrics: mode -> name -> what else the environment reported, None of episodes that it is not about.
      ids: names of the episodes where they were listed, such as those of their questions; else none.
      kinds: the kind of each.
    """

    FILE: ClassVar[str] = "episodes.jsonl"
    FIGURES: ClassVar[tuple[str, ...]] = ("greedy_return", "sampled_return")

    returns: Mapping[str, Sequence[float]]
    lengths: Mapping[str, Sequence[int]]
    metrics: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)
    ids: Sequence[str] = ()
    kinds: Sequence[str] = ()

    @classmethod
    def from_played(
        cls,
        played: Mapping[str, Mapping[str, Any]],
        ids: Sequence[str] = (),
        kinds: Sequence[str] = (),
    ) -> "Episodes":
        """From mode -> name -> [n] values, of which `return` and `length` are of every environment."""
        columns = {
            mode: {
                name: [None if value != value else value for value in np.asarray(values).tolist()]
                for name, values in played[mode].items()
            }
            for mode in MODES
        }
        return cls._from_columns(columns, ids, kinds)

    @classmethod
    def _from_columns(
        cls,
        columns: Mapping[str, dict[str, list[Any]]],
        ids: Sequence[str],
        kinds: Sequence[str],
    ) -> "Episodes":
        returns = {mode: [float(value) for value in columns[mode].pop("return")] for mode in MODES}
        lengths = {mode: [int(value) for value in columns[mode].pop("length")] for mode in MODES}
        metrics = {mode: columns[mode] for mode in MODES if columns[mode]}
        return cls(returns, lengths, metrics, tuple(ids), tuple(kinds))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each episode: mode, name and kind if it has them, return, length, and what else there is."""
        named = {"id": self.ids, "kind": self.kinds} if self.ids else {}
        for mode in MODES:
            columns = {"return": self.returns[mode], "length": self.lengths[mode]}
            columns = named | columns | dict(self.metrics.get(mode, {}))
            for values in zip(*columns.values(), strict=True):
                yield {"mode": mode} | dict(zip(columns, values, strict=True))

    def figure(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The values [n] behind a mean of `summary`, such as `sampled_return`, and their kinds [n].

        They are those of the listed episodes that the figure is about.

        Raises:
          KeyError: it is no mean of values, or these episodes have no names that could pair them with
            those of another run.
        """
        mode, _, name = name.partition("_")
        if not self.ids or mode not in MODES:
            raise KeyError(name)
        columns = {"return": self.returns[mode], "length": self.lengths[mode]}
        values = (columns | dict(self.metrics.get(mode, {})))[name]
        known = np.array([value is not None for value in values])
        return np.array(values, float)[known], np.array(self.kinds)[known]

    def summary(self) -> dict[str, Any]:
        """Means of each mode, the deviation of returns, and the episodes' number.

        The mean of a metric is that of the episodes that it is about, None if there are none. Of an
        environment that says whether an episode was a `success`, also `pass^k`, see `pass_hat`.
        """
        figures: dict[str, Any] = {"episodes": len(self.returns[MODES[0]])}
        for mode in MODES:
            returns = np.array(self.returns[mode], float)
            mean = self._mean(returns)
            figures[f"{mode}_return"] = mean
            figures[f"{mode}_deviation"] = float(np.sqrt(self._mean(np.square(returns - mean))))
            figures[f"{mode}_length"] = self._mean(np.array(self.lengths[mode], float))
            for name, values in self.metrics.get(mode, {}).items():
                known = np.array(values, float)  # None becomes NaN
                figures[f"{mode}_{name}"] = self._mean(known) if any(known == known) else None
                if name == SUCCESS:
                    counts = int(np.nansum(known)), int(np.sum(known == known))
                    figures |= {f"{mode}_pass^{k}": pass_hat(*counts, k) for k in PASSES}
        return figures

    def _mean(self, values: np.ndarray) -> float:
        """The mean over kinds, or over episodes that have none, of what is known."""
        known = ~np.isnan(values)
        if not self.kinds:
            return float(np.mean(values[known]))
        kinds = np.array(self.kinds)
        found = [values[known & (kinds == kind)] for kind in sorted(set(self.kinds))]
        return float(np.mean([of_kind.mean() for of_kind in found if of_kind.size]))

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
        rows = [parse_json(line) for line in path.read_bytes().splitlines()]
        names = [name for name in rows[0] if name != "mode"] if rows else ["return", "length"]
        columns = {
            mode: {name: [row[name] for row in rows if row["mode"] == mode] for name in names}
            for mode in MODES
        }
        named = [[columns[mode].pop(name, []) for name in ("id", "kind")] for mode in MODES]
        if named[0] != named[1]:
            raise ValueError("the modes played different episodes")
        return Episodes._from_columns(columns, *named[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}); evaluate the run again.") from error
