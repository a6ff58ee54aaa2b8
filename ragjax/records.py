"""What an evaluation leaves, whatever was learned: records, figures, and tables to print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple


class ReportTable(NamedTuple):
    """A table to print: title, column labels, and rows of cells."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Records:
    """What an evaluation leaves: one record a question or an episode, from which figures are made.

    Attributes:
      FILE: name of their file in a run's directory.
      FIGURES: names of some figures that every summary has.
    """

    FILE: ClassVar[str]
    FIGURES: ClassVar[tuple[str, ...]] = ()

    def summary(self) -> dict[str, Any]:
        """The figures, for result.json."""
        raise NotImplementedError

    def write(self, path: Path) -> None:
        """Writes one JSON line a record, whole or not at all."""
        raise NotImplementedError

    @staticmethod
    def report(results: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
        """Summaries of one or several seeds as tables to print."""
        raise NotImplementedError


def commit_text(result: Mapping[str, Any], length: int | None = None) -> str:
    """A result's git commit in words, and whether the package differed from it.

    Args:
      result: what holds `origin.provenance`.
      length: characters of the commit; None for all.
    """
    commit = result.get("git_commit")
    if not commit:
        return "none recorded"
    return commit[:length] + " with uncommitted changes" * bool(result.get("uncommitted"))
