"""Which goals an agent can meet at all: the ceiling of every policy of movie booking."""

from collections import defaultdict
from collections.abc import Mapping

from ragjax.envs.dialogue.movie_booking_acts import SLOT
from ragjax.envs.dialogue.movie_booking_knowledge import UNCONSTRAINING, Goal, Showings

Rows = Mapping[str, Mapping[str, int]]  # slot -> value -> the rows that have it, as bits


def meetable(showings: Showings) -> tuple[bool, ...]:
    """Whether each goal can be met in some order in which its slots come up.

    What is told narrows the rows that match; so does an answer, which is the most frequent value among
    the rows that match by then. A goal is met if there is an answer to each of its questions and a row
    is left in the end.
    """
    folded: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    spelled: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for place, row in enumerate(showings.rows):
        for slot, value in row.items():
            folded[slot][value.casefold()] |= 1 << place
            spelled[slot][value] |= 1 << place
    every = (1 << len(showings.rows)) - 1
    return tuple(_is_met(goal, folded, spelled, every) for goal in showings.goals)


def _is_met(goal: Goal, folded: Rows, spelled: Rows, every: int) -> bool:
    """Whether a goal can be met, by a search of all orders."""
    told = frozenset(slot for slot in goal.constraints if not UNCONSTRAINING[SLOT[slot]])
    # Rows that match, and slots that are still to be told and to be answered.
    waiting, seen = [(every, told, frozenset(goal.requests))], set()
    while waiting:
        state = rows, told, asked = waiting.pop()
        if not rows or state in seen:
            continue
        seen.add(state)
        if not told and not asked:
            return True
        for slot in told:
            narrowed = rows & folded[slot].get(goal.constraints[slot].casefold(), 0)
            waiting.append((narrowed, told - {slot}, asked))
        for slot in asked:
            narrowed = rows & _answered(rows, slot, folded, spelled)
            waiting.append((narrowed, told, asked - {slot}))
    return False


def _answered(rows: int, slot: str, folded: Rows, spelled: Rows) -> int:
    """The rows that have the value that the agent informs of a slot; none if there is no such value."""
    found = [(rows & having, value) for value, having in spelled[slot].items() if rows & having]
    if not found:
        return 0
    # The most frequent value; of equally frequent ones that of the first row.
    _, value = max(found, key=lambda pair: (pair[0].bit_count(), -(pair[0] & -pair[0])))
    return folded[slot][value.casefold()]
