"""What is known in movie booking, as arrays: the table of showings, and the users' goals.

A value is a number: 0 for none, then `NO_MATCH`, `DONT_CARE` and `AVAILABLE`, then the texts of table
and goals, each spelling its own. Rows are compared with what is known without regard to case.
The rows that have a value in a slot are kept as bits of 32 to a word, so that the rows that have all of
several values take a few words each.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt32

from ragjax.envs.dialogue.movie_booking_acts import SLOT, SLOTS, TASKCOMPLETE, TICKET
from ragjax.types import Leaf

NO_MATCH, DONT_CARE, AVAILABLE = 1, 2, 3
SPECIAL = ("", "no match", "don't care", "available")  # the first values, in words
BITS = 32  # of a word

UNCONSTRAINING = np.zeros(len(SLOTS), bool)  # slots by which the agent does not look up showings
UNCONSTRAINING[[SLOT[slot] for slot in ("numberofpeople", "ticket", "taskcomplete", "closing")]] = (
    True
)


class Goal(NamedTuple):
    """What a user wants, in words.

    Attributes:
      constraints: slot -> value that the showing must have.
      requests: slots that the user wants to be told, the ticket apart.
    """

    constraints: Mapping[str, str]
    requests: tuple[str, ...]


class Showings(NamedTuple):
    """A table and goals, in words.

    Attributes:
      rows: slot -> value of each showing; slots may be missing.
      goals: of the users.
    """

    rows: tuple[Mapping[str, str], ...]
    goals: tuple[Goal, ...]


@struct.dataclass
class Knowledge:
    """A table of N showings in 29 slots (J), and G goals, of V values.

    Attributes:
      cells: [N,J] value of each cell, 0 where it is missing.
      folded: [V] one value of all that differ in case alone.
      pair: [J,V] number of a slot with a value, of any case; 0 of those that no row has.
      rows: [P,W] uint32, the rows that have a pair, as bits; none have pair 0.
      count: [P] how many have it.
      every: [W] uint32, all N rows.
      codes: [P,C] a vector by which pairs can be told apart, zeros of pair 0.
      constraints: [G,J] values, 0 where a goal has none.
      requests: [G,J] bool, the ticket among them.
      spoken: [J,D] values that a slot has in the table or in a goal, in the order in which they are met.
      spoken_count: [J] how many.
    """

    cells: Leaf
    folded: Leaf
    pair: Leaf
    rows: Leaf
    count: Leaf
    every: Leaf
    codes: Leaf
    constraints: Leaf
    requests: Leaf
    spoken: Leaf
    spoken_count: Leaf


def value_numbers(showings: Showings) -> dict[str, int]:
    """The number of each text of a table and its goals, by the order in which they are met."""
    met = dict.fromkeys(SPECIAL)
    for row in (*showings.rows, *(goal.constraints for goal in showings.goals)):
        met |= dict.fromkeys(row.values())
    return {text: number for number, text in enumerate(met)}


def encode(showings: Showings, code: int) -> Knowledge:
    """Turns a table and goals into arrays.

    Args:
      showings: in words.
      code: C, numbers of the vectors of pairs: of length 1 in the mean, and all but orthogonal.
    """
    number = value_numbers(showings)
    same: dict[str, int] = {}
    folded = np.array([same.setdefault(text.casefold(), n) for text, n in number.items()], np.int32)
    cells = _value_array(showings.rows, number)
    constraints = _value_array([goal.constraints for goal in showings.goals], number)
    requests = np.zeros(constraints.shape, bool)
    requests[:, TICKET] = True
    for place, goal in enumerate(showings.goals):
        requests[place, [SLOT[slot] for slot in goal.requests]] = True

    # Pairs of a slot and a value, and the rows that have them
    count, slots = cells.shape
    first: dict[tuple[int, int], int] = {}
    members: list[np.ndarray] = [np.zeros(count, bool)]
    pair = np.zeros((slots, len(number)), np.int32)
    for slot in range(slots):
        column = folded[cells[:, slot]]
        for value in dict.fromkeys(column[cells[:, slot] > 0].tolist()):
            first[slot, value] = len(members)
            members.append(column == value)
        pair[slot] = [first.get((slot, value), 0) for value in folded.tolist()]
    has = np.stack(members)
    codes = np.random.default_rng(0).normal(size=(len(has), code)) / np.sqrt(max(code, 1))
    codes[0] = 0.0
    spoken = [_met(cells[:, slot], constraints[:, slot]) for slot in range(slots)]
    width = max(1, *(len(values) for values in spoken))
    return Knowledge(
        cells=jnp.asarray(cells),
        folded=jnp.asarray(folded),
        pair=jnp.asarray(pair),
        rows=jnp.asarray(_packed(has)),
        count=jnp.asarray(has.sum(1), jnp.int32),
        every=jnp.asarray(_packed(np.ones((1, count), bool))[0]),
        codes=jnp.asarray(codes, jnp.float32),
        constraints=jnp.asarray(constraints),
        requests=jnp.asarray(requests),
        spoken=jnp.asarray([np.pad(values, (0, width - len(values))) for values in spoken]),
        spoken_count=jnp.asarray([len(values) for values in spoken], jnp.int32),
    )


def _value_array(rows: Iterable[Mapping[str, str]], number: Mapping[str, int]) -> np.ndarray:
    """[n,J] the values of rows in words, 0 where they are missing."""
    return np.array(
        [[number[row[slot]] if slot in row else 0 for slot in SLOTS] for row in rows], np.int32
    )


def _met(*columns: np.ndarray) -> np.ndarray:
    """The distinct values of columns, in the order in which they are met; without 0."""
    return np.array([v for v in dict.fromkeys(np.concatenate(columns).tolist()) if v], np.int32)


def _packed(has: np.ndarray) -> np.ndarray:
    """[P,N] bool -> [P,W] uint32, row n as bit n modulo 32 of word n // 32."""
    words = -(-has.shape[1] // BITS)
    bits = np.pad(has, ((0, 0), (0, words * BITS - has.shape[1]))).reshape(len(has), words, BITS)
    return (bits.astype(np.uint32) << np.arange(BITS, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def pairs_of(knowledge: Knowledge, known: Int[Array, "J"]) -> Int[Array, "J"]:
    """The pair of each slot with the value that is known of it."""
    return jnp.take_along_axis(knowledge.pair, known[:, None], axis=1)[:, 0]


def matching(
    knowledge: Knowledge, known: Int[Array, "J"], constrained: Bool[Array, "J"]
) -> UInt32[Array, "W"]:
    """The rows, as bits, that have the known value in every constrained slot."""
    having = knowledge.rows[pairs_of(knowledge, known)]
    free = jnp.where(constrained[:, None], having, knowledge.every)
    return jnp.bitwise_and.reduce(free, axis=0)


def matching_known(knowledge: Knowledge, known: Int[Array, "J"]) -> UInt32[Array, "W"]:
    """The rows, as bits, that have all by which the agent looks up showings, see `filled`."""
    constrained = (known > 0) & (known != DONT_CARE) & ~UNCONSTRAINING
    return matching(knowledge, known, constrained)


def unpacked(knowledge: Knowledge, rows: UInt32[Array, "W"]) -> Bool[Array, "N"]:
    """[N] which rows the bits say."""
    bits = (rows[:, None] >> jnp.arange(BITS, dtype=jnp.uint32)) & 1
    return bits.reshape(-1)[: knowledge.cells.shape[0]] > 0


def number_of(rows: UInt32[Array, "W"]) -> Int[Array, ""]:
    """How many rows the bits say."""
    return jnp.sum(jax.lax.population_count(rows).astype(jnp.int32))


def filled(knowledge: Knowledge, known: Int[Array, "J"], slot: Int[Array, ""]) -> Int[Array, ""]:
    """The value that the agent informs of a slot: the most frequent one among matching rows.

    A row matches if it has all that is known, from the user or informed before, but the number of
    people, ticket and taskcomplete, and but what the user doesn't care about. Of equally frequent values
    it is the one that the table has first; `NO_MATCH` if there is none. Of ticket and taskcomplete the
    value is `AVAILABLE` if any row matches.
    """
    rows = matching_known(knowledge, known)
    column = jnp.take(knowledge.cells, slot, axis=1)
    having = unpacked(knowledge, rows) & (column > 0)
    frequency = (
        jnp.zeros(knowledge.folded.shape, jnp.int32).at[column].add(having.astype(jnp.int32))
    )
    best = jnp.argmax(jnp.where(having, frequency[column], 0))  # the first row of the largest
    value = jnp.where(jnp.any(having), column[best], NO_MATCH)
    offer = jnp.where(number_of(rows) > 0, AVAILABLE, NO_MATCH)
    return jnp.where((slot == TICKET) | (slot == TASKCOMPLETE), offer, value).astype(jnp.int32)


def row_counts(knowledge: Knowledge, known: Int[Array, "J"]) -> Int[Array, "J+1"]:
    """Rows that have what is known of each slot, and last those that have all of it together.

    In a slot of which nothing is known it is the last number, too. All that is known counts here, the
    number of people as well, but the ticket and what the user doesn't care about.
    """
    constrained = (known > 0) & (known != DONT_CARE)
    together = number_of(matching(knowledge, known, constrained.at[TICKET].set(False)))
    alone = jnp.where(constrained, knowledge.count[pairs_of(knowledge, known)], 0).at[TICKET].set(0)
    return jnp.append(jnp.where(known > 0, alone, together), together)


def known_code(knowledge: Knowledge, known: Int[Array, "J"]) -> Float[Array, "C"]:
    """The sum of the vectors of all that is known and that a row has."""
    return jnp.sum(knowledge.codes[pairs_of(knowledge, known)], axis=0)


def row_passages(knowledge: Knowledge) -> Float[Array, "N F"]:
    """The rows as passages: the code of what each has, and which slots it has."""
    codes = jax.vmap(known_code, (None, 0))(knowledge, knowledge.cells)
    return jnp.concatenate([codes, (knowledge.cells > 0).astype(jnp.float32)], axis=-1)
