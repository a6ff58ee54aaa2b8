"""A struct of numbers of which some may be about nothing."""

from typing import Any

import numpy as np
from flax import struct


@struct.dataclass
class Figure:
    """Numbers of which some may be about nothing, such as the mean of no episodes.

    A mask says which, and not a NaN, which would look like a computation that went wrong. On the host
    `np.asarray` and `float` give NaN there.

    Attributes:
      value: [...] 0 where there is nothing.
      known: [...] whether there is something.
    """

    value: Any
    known: Any

    @classmethod
    def of(cls, values: Any) -> "Figure":
        """Of numbers that are all about something; a `Figure` as it is."""
        if isinstance(values, Figure):
            return values
        return cls(values, np.ones(np.shape(values), bool))

    def __getitem__(self, place: Any) -> "Figure":
        """Those in one place, or in several."""
        return Figure(self.value[place], self.known[place])

    __iter__ = None  # else Python would go by places, which never end on a device

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The values as NumPy's, NaN where there is nothing."""
        del copy
        return np.asarray(np.where(self.known, self.value, np.nan), dtype)

    def __float__(self) -> float:
        """The only value, NaN if it is about nothing."""
        return float(np.asarray(self))
