"""What is known in `KBInfoBot`, as arrays: the user's table and the agent's, words, and users' goals.

All values of all slots are numbered one after another, G in all: those of a slot, then its symbol for a
missing cell. Words are numbered as tokens, 0 for none and `UNK_ID` for one that no value has.
"""

from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

from ragjax.envs.dialogue.tables import MISSING, KnowledgeTable, with_missing, words_of
from ragjax.errors import require
from ragjax.types import PAD_ID, UNK_ID, Leaf

AGREEING = 5  # rows of the full table that may agree with what a user knows
WORD, INTEGER, DECIMAL = range(3)


@struct.dataclass
class Numbers:
    """Words that are numbers, in ascending order.

    Attributes:
      amounts: [I] int32, of decimals in tenths; one that no word has follows last.
      tokens: [I] their tokens, and `UNK_ID` last.
    """

    amounts: Leaf
    tokens: Leaf


@struct.dataclass
class Goals:
    """What users may look for: each of a row's goals is as likely as any other of it.

    Attributes:
      rows: [N] chance that a goal's row is one of those up to this one.
      first: [N] place of a row's first goal.
      count: [N] how many it has.
      knows: [Q,M] slots whose values the user knows, goal after goal.
    """

    rows: Leaf
    first: Leaf
    count: Leaf
    knows: Leaf


@struct.dataclass
class Knowledge:
    """The tables of N rows and M slots, with G values in L tokens at the most, of W words.

    Attributes:
      full: [N,M] the value of each cell in the user's table.
      cells: [N,M] the same in the agent's, where more are missing.
      slot: [G,M] float32, 1 where a value is one of a slot.
      missing: [G] bool, of the symbols for missing cells.
      first: [M] the first value of each slot.
      count: [M] how many values it has, the symbol left out.
      tokens: [G,L] padded with 0.
      names: [M,L'] tokens of the slots' names, padded with 0.
      kind: [W] `WORD`, `INTEGER` or `DECIMAL`.
      amount: [W] float32, of words that are numbers.
      integers: `Numbers`.
      decimals: `Numbers`.
      prior: [G] share of a value among the known cells of its slot in the agent's table.
      rows: [G] rows of the agent's table that have it.
      unknown: [M] share of missing cells in the agent's table.
      entropy: [M] bits of the slots' prior.
      goals: `Goals`.
    """

    full: Leaf
    cells: Leaf
    slot: Leaf
    missing: Leaf
    first: Leaf
    count: Leaf
    tokens: Leaf
    names: Leaf
    kind: Leaf
    amount: Leaf
    integers: Leaf
    decimals: Leaf
    prior: Leaf
    rows: Leaf
    unknown: Leaf
    entropy: Leaf
    goals: Leaf


def encode(table: KnowledgeTable, missing: float, seed: int) -> Knowledge:
    """Turns a table into arrays.

    Args:
      table: the user's.
      missing: share of its known cells that the agent's table lacks.
      seed: by which these are chosen.

    Raises:
      UserError: users could look for no row, since more than `AGREEING` agree with all that they know.
    """
    known = with_missing(table, missing, seed)
    count = np.array([len(values) for values in table.values], np.int32)
    first = np.concatenate([[0], np.cumsum(count + 1)[:-1]]).astype(np.int32)
    slot_of = np.repeat(np.arange(len(count)), count + 1)
    symbols = np.zeros(len(slot_of), bool)
    symbols[first + count] = True

    def numbered(cells):
        return first + np.where(cells == MISSING, count, cells).astype(np.int32)

    words = [[words_of(value) for value in (*values, "")] for values in table.values]
    names = [words_of(slot) for slot in table.slots]
    token = token_numbers(table)
    kind, amount = _numbers(token)
    rows = np.bincount(numbered(known.cells).reshape(-1), minlength=len(slot_of))
    told = np.where(symbols, 0, rows)
    total = np.bincount(slot_of, weights=told)[slot_of]
    prior = told / np.maximum(total, 1)
    bits = np.bincount(slot_of, weights=-prior * np.log2(np.where(prior > 0, prior, 1.0)))
    return Knowledge(
        full=jnp.asarray(numbered(table.cells)),
        cells=jnp.asarray(numbered(known.cells)),
        slot=jax.nn.one_hot(slot_of, len(count)),
        missing=jnp.asarray(symbols),
        first=jnp.asarray(first),
        count=jnp.asarray(count),
        tokens=jnp.asarray(_padded([v for of in words for v in of], token)),
        names=jnp.asarray(_padded(names, token)),
        kind=jnp.asarray(kind),
        amount=jnp.asarray(amount),
        integers=_sorted_numbers(kind == INTEGER, amount),
        decimals=_sorted_numbers(kind == DECIMAL, amount * 10),
        prior=jnp.asarray(prior, jnp.float32),
        rows=jnp.asarray(rows, jnp.float32),
        unknown=jnp.asarray(np.mean(known.cells == MISSING, axis=0), jnp.float32),
        entropy=jnp.asarray(bits, jnp.float32),
        goals=goals_of(table.cells),
    )


def token_numbers(table: KnowledgeTable) -> dict[str, int]:
    """The token of each word of values and of names of slots, in the order in which they are met."""
    texts = (*(value for values in table.values for value in values), *table.slots)
    met = dict.fromkeys(word for text in texts for word in words_of(text))
    return {word: UNK_ID + 1 + place for place, word in enumerate(met)}


def goals_of(cells: Int[np.ndarray, "N M"]) -> Goals:
    """All goals of users of a table.

    A row's goal is floor(0.5 c) of its c known cells, or one of them if that is 0, and as likely as any
    other of the row; those with which more than `AGREEING` rows of the table agree are drawn anew, row
    included. Here they are left out, so that a row is drawn by the share of its goals that are left.

    Raises:
      UserError: no goal is left.
    """
    known = cells != MISSING
    size = np.maximum(known.sum(1) // 2, 1)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    every = np.zeros(len(cells))
    for width in sorted(set(size[known.any(1)].tolist())):
        for chosen in combinations(range(cells.shape[1]), width):
            asked = (size == width) & known[:, chosen].all(1)
            every += asked
            _, same, agreeing = np.unique(
                cells[:, chosen], axis=0, return_inverse=True, return_counts=True
            )
            rows = np.flatnonzero(asked & (agreeing[same.reshape(-1)] <= AGREEING))
            mask = np.isin(np.arange(cells.shape[1]), chosen)
            found.append((rows, np.broadcast_to(mask, (len(rows), len(mask)))))
    targets = np.concatenate([rows for rows, _ in found]) if found else np.zeros(0, int)
    require(
        len(targets) > 0,
        f"env.table has no row that a user can look for: more than {AGREEING} rows agree with any half "
        "of its values; give it slots that tell rows apart.",
    )
    order = np.argsort(targets, kind="stable")
    knows = np.concatenate([mask for _, mask in found])[order]
    count = np.bincount(targets, minlength=len(cells))
    chance = np.cumsum(count / np.maximum(every, 1))
    return Goals(
        rows=jnp.asarray(chance / chance[-1], jnp.float32),
        first=jnp.asarray(np.cumsum(count) - count, jnp.int32),
        count=jnp.asarray(count, jnp.int32),
        knows=jnp.asarray(knows),
    )


def drawn_goal(goals: Goals, row: Array, which: Array) -> tuple[Int[Array, ""], Bool[Array, "M"]]:
    """The row that a user looks for, and which of its slots the user knows.

    Args:
      goals: of the table.
      row: [] evenly from 0 up to 1.
      which: [] the same.
    """
    # The last row that has goals, where rounding leads beyond it.
    last = jnp.sum(goals.rows < goals.rows[-1])
    target = jnp.minimum(jnp.sum(goals.rows <= row), last).astype(jnp.int32)
    place = place_of(which, goals.count[target])
    return target, goals.knows[goals.first[target] + place]


def place_of(even: Array, count: Array) -> Array:
    """The place among `count` that a number between 0 and 1 falls in."""
    return jnp.minimum((even * count.astype(even.dtype)).astype(jnp.int32), count - 1)


def _padded(texts: Sequence[Sequence[str]], token: dict[str, int]) -> Int[np.ndarray, "n L"]:
    """The tokens of texts, at least one place each."""
    made = np.full((len(texts), max(1, *map(len, texts))), PAD_ID, np.int32)
    for row, text in zip(made, texts, strict=True):
        row[: len(text)] = [token[word] for word in text]
    return made


def _numbers(token: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each word, and its amount if it is a number that float32 tells from its neighbours."""
    kind = np.zeros(UNK_ID + 1 + len(token), np.int32)
    amount = np.zeros(len(kind), np.float32)
    for word, place in token.items():
        whole, _, tenths = word.partition(".")
        if whole.isdecimal() and whole.isascii() and len(whole) <= 6:
            kind[place] = DECIMAL if tenths else INTEGER
            amount[place] = float(word)
    return kind, amount


def _sorted_numbers(chosen: np.ndarray, amount: np.ndarray) -> Numbers:
    """Those words that are chosen, by their amounts."""
    tokens = np.flatnonzero(chosen)
    amounts = np.round(amount[tokens]).astype(np.int32)
    kept = np.isclose(
        amounts, amount[tokens], atol=1e-3
    )  # more than one decimal is never said again
    order = np.argsort(amounts[kept], kind="stable")
    return Numbers(
        amounts=jnp.asarray(np.append(amounts[kept][order], np.iinfo(np.int32).max)),
        tokens=jnp.asarray(np.append(tokens[kept][order], UNK_ID).astype(np.int32)),
    )
