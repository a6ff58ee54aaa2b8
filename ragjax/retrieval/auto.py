"""Which index is fastest and good enough, measured on queries of one's own."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from ragjax.errors import require
from ragjax.types import TopK

EXACT = "exact"


@runtime_checkable
class Searchable(Protocol):
    """An index with what it searches."""

    def search(self, queries: Any, k: int) -> TopK:
        """Finds k passages [Q,k] of Q queries [Q,D], best first."""
        ...


class Measured(NamedTuple):
    """What was measured of an index.

    Attributes:
      name: that it was given.
      recall: share of the k passages that exact search finds, over all queries.
      queries_per_second: by the median of the repetitions, all queries searched as one batch.
    """

    name: str
    recall: float
    queries_per_second: float


class IndexChoice(NamedTuple):
    """The index that was chosen.

    Attributes:
      name: of the index.
      reason: why, in a sentence.
      table: what was measured, exact search first and then the candidates in their order.
    """

    name: str
    reason: str
    table: tuple[Measured, ...]


def choose_index(
    candidates: Mapping[str, Searchable],
    exact: Searchable,
    queries: Any,
    k: int,
    *,
    target: float = 0.95,
    repetitions: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> IndexChoice:
    """Chooses the fastest index whose recall reaches a target; exact search is always one of them.

    The recall of an index is |found ∩ exact| / |exact| of the k passages of each query, averaged; of
    passages with equal scores it counts those that exact search takes. Every index searches once
    unmeasured, so that compiling counts for nothing. The repetitions go round the indexes, so that a
    slow moment of the machine meets all of them, and the median of each is taken. Of equally fast ones
    the first wins, exact search before all.

    Args:
      candidates: indexes by name, over the same passages as `exact`.
      exact: exact search.
      queries: [Q,D] a sample of the queries that the index will be asked.
      k: passages wanted for each.
      target: the recall that is good enough, above 0 and at most 1.
      repetitions: measurements of each index.
      clock: seconds since any moment.

    Raises:
      UserError: an argument is out of its range, the queries hold what is no number, or an index gives
        something else than k passages a query.
    """
    _check(candidates, queries, k, target, repetitions)
    indexes = {EXACT: exact, **candidates}
    found = {
        name: _rows(name, index.search(queries, k), len(queries), k)
        for name, index in indexes.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in indexes}
    for _ in range(repetitions):
        for name, index in indexes.items():
            begun = clock()
            jax.block_until_ready(index.search(queries, k))
            seconds[name].append(clock() - begun)
    table = tuple(
        Measured(
            name,
            recall_of(found[name], found[EXACT]),
            len(queries) / max(statistics.median(seconds[name]), 1e-9),
        )
        for name in indexes
    )
    return _chosen(table, k, target)


def _check(
    candidates: Mapping[str, Searchable], queries: Any, k: int, target: float, repetitions: int
) -> None:
    require(
        EXACT not in candidates,
        f"A candidate is called {EXACT!r}, as the exact search is; give it another name.",
    )
    shape = np.shape(queries)
    require(
        len(shape) == 2 and shape[0] > 0,
        f"queries have shape {shape}; give at least one, as rows of a matrix.",
    )
    require(
        bool(np.all(np.isfinite(np.asarray(queries, np.float32)))),
        "queries hold a number that is infinite or NaN; look at what made them.",
    )
    require(k >= 1, f"k is {k}; it must be at least 1.")
    require(0 < target <= 1, f"target is {target}; a recall lies above 0 and is at most 1.")
    require(repetitions >= 1, f"repetitions is {repetitions}; it must be at least 1.")


def _rows(name: str, topk: TopK, queries: int, k: int) -> list[set[int]]:
    """The rows that were found for each query, without misses."""
    ids, valid = jax.device_get((topk.ids, topk.valid))
    require(
        np.shape(ids) == (queries, k),
        f"The index {name!r} gives rows of shape {np.shape(ids)}; it must give {k} for each of the "
        f"{queries} queries, misses included.",
    )
    hit = valid & (ids >= 0)
    return [set(row[kept].tolist()) for row, kept in zip(ids, hit, strict=True)]


def recall_of(found: Sequence[set[int]], expected: Sequence[set[int]]) -> float:
    """Share of what is expected that is found; 1 of a query for which nothing is."""
    pairs = zip(found, expected, strict=True)
    shares = [len(have & want) / len(want) if want else 1.0 for have, want in pairs]
    return float(np.mean(shares))


def _chosen(table: tuple[Measured, ...], k: int, target: float) -> IndexChoice:
    exact, *others = table
    good = [row for row in others if row.recall >= target]
    if not good:
        best = max(others, key=lambda row: row.recall, default=None)
        said = (
            "there are no others"
            if best is None
            else f"the best is {best.name} with {best.recall:.4f}"
        )
        reason = f"No other index reaches recall@{k} {target:g} ({said}), so search is exact."
        return IndexChoice(EXACT, reason, table)
    fastest = max([exact, *good], key=lambda row: row.queries_per_second)
    if fastest is exact:
        reason = (
            f"Exact search is the fastest of the {1 + len(good)} that reach recall@{k} {target:g}."
        )
        return IndexChoice(EXACT, reason, table)
    reason = (
        f"{fastest.name} is the fastest of the {1 + len(good)} that reach recall@{k} {target:g}: "
        f"{fastest.queries_per_second / exact.queries_per_second:.2f} times as many queries a second as "
        f"exact search, at recall {fastest.recall:.4f}."
    )
    return IndexChoice(fastest.name, reason, table)
