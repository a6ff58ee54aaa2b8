"""What a simulation of RecSim is made of: users, documents, and what comes of showing a slate."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import struct
from jaxtyping import Array

from ragjax.data.items import Column
from ragjax.types import Leaf

Range = tuple[np.ndarray, np.ndarray]  # smallest and largest value of each of some numbers


@struct.dataclass
class Reaction:
    """What comes of showing a slate.

    Attributes:
      user: as it is afterwards.
      responses: [S,R] what is seen of each place.
      reward: [].
      terminated: [] bool.
      figures: name -> [] of this step, of which episodes report the means.
    """

    user: Leaf
    responses: Leaf
    reward: Leaf
    terminated: Leaf
    figures: Leaf


class Ranges(NamedTuple):
    """The values of a user [U], of each place [R], of what is hidden [H] and of a document [F]."""

    user: Range
    place: Range
    hidden: Range
    document: Range


class Simulation(NamedTuple):
    """Users and documents, as pure functions of `rules`.

    Attributes:
      rules: constants, a tree of arrays.
      documents: (rules, key, count) -> a tree of [count,...].
      document: the class of such a tree.
      columns: what a file of items says of each, for every field of that class.
      looks: (documents) -> [...,F] what is seen of them.
      user: (rules, key) -> the user of an episode.
      another: (rules, key, user) -> another user in the same world, should a user hold some of it.
      observed: (user) -> [U] what is seen of it.
      hidden: (rules, user) -> [H] what is not.
      chance: (rules, key) -> all that chance decides in a step, the next candidates apart.
      respond: (rules, user, shown documents [S,...], chance) -> `Reaction`.
      figures: names of the figures of a step.
      ranges: of all that is seen.
      success: (rules, name -> [] sum of a figure so far) -> [] whether an episode is a success; None
        where none is.
    """

    rules: Any
    documents: Callable[..., Any]
    document: type[Any]
    columns: Mapping[str, Column]
    looks: Callable[..., Array]
    user: Callable[..., Any]
    another: Callable[..., Any]
    observed: Callable[..., Array]
    hidden: Callable[..., Array]
    chance: Callable[..., Any]
    respond: Callable[..., Reaction]
    figures: tuple[str, ...]
    ranges: Ranges
    success: Callable[..., Array] | None = None


def between(low: float, high: float, count: int = 1) -> Range:
    """The range of `count` numbers alike."""
    return np.full(count, low), np.full(count, high)


def beside(*ranges: Range) -> Range:
    """The range of several numbers, one after another."""
    low, high = zip(*ranges, strict=True)
    return np.concatenate(low), np.concatenate(high)
