"""Items to recommend from a file of the user: JSON lines, CSV or TSV, a row an item."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ragjax.data.rows import read_rows
from ragjax.errors import UserError, require


class Column(NamedTuple):
    """What a column holds: numbers from `low` to `high`, both included, and whole or not."""

    low: float
    high: float
    whole: bool = False

    @property
    def words(self) -> str:
        """The same in words."""
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"


def read_items(path: Path, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    """Reads the columns of a file of items; others, such as an id, are passed over.

    Args:
      path: a file of JSON lines, CSV or TSV, `.gz` or not, whose rows are items in their order.
      columns: by their names, what they hold.

    Returns:
      Name of a column -> [N] int64 of whole numbers, float64 of others.

    Raises:
      UserError: names the line that can't be read, or that lacks a column or holds no such number in it;
        or there is no item.
    """
    found: dict[str, list[float]] = {name: [] for name in columns}
    for number, row in read_rows(path):
        for name, column in columns.items():
            found[name].append(_number(f"{path}, line {number}", name, column, row))
    require(any(found.values()), f"{path} holds no item; give it at least one row.")
    return {
        name: np.array(values, np.int64 if columns[name].whole else np.float64)
        for name, values in found.items()
    }


def _number(where: str, name: str, column: Column, row: Mapping[str, Any]) -> float:
    if name not in row:
        present = ", ".join(map(str, row)) or "nothing"
        raise UserError(
            f"{where} has no {name!r} (it has {present}); add it, {column.words} of each item."
        )
    value = row[name]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    require(
        column.low <= number <= column.high and (number.is_integer() or not column.whole),
        f"{where}: {name!r} is {value!r}; it must be {column.words}.",
    )
    return number
