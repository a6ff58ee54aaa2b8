"""Movie booking with a person in the place of the user: lines are searched for values and questions."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ragjax.envs.conversation import Conversation
from ragjax.envs.dialogue.movie_booking_acts import (
    ACT,
    ACTIONS,
    INFORM,
    REQUEST,
    SLOT,
    SLOTS,
    TASKCOMPLETE,
    THANKS,
)
from ragjax.envs.dialogue.movie_booking_knowledge import (
    DONT_CARE,
    UNCONSTRAINING,
    matching,
    value_numbers,
)
from ragjax.envs.dialogue.movie_booking_user import User
from ragjax.text import counted

ALIASES = {
    "movie": "moviename",
    "film": "moviename",
    "time": "starttime",
    "when": "starttime",
    "where": "theater",
    "day": "date",
    "people": "numberofpeople",
    "tickets": "ticket",
}
SPOKEN = {"moviename": "movie", "starttime": "time", "numberofpeople": "number of people"}
_WORD = re.compile(r"[\w.:']+")


class TicketConversation(Conversation):
    """A person books a ticket, in short lines of words.

    Values of the table are recognised wherever they stand, the longest first; names of slots in a line
    with a question mark are questions; "any" is for a slot that was just asked for and does not matter;
    "no" denies and "thanks" thanks.
    """

    def __init__(
        self,
        spec: Any,
        opened: Callable[..., Any],
        moved: Callable[..., Any],
        answered: Callable[..., Any],
    ):
        """Begins a dialogue.

        Args:
          spec: the `MovieBooking`.
          opened: makes the state of a dialogue that a user begins.
          moved: makes the agent's turn.
          answered: makes the user's turn.
        """
        self._spec, self._opened, self._moved, self._answered = spec, opened, moved, answered
        self._knowledge = spec.knowledge()
        self._texts = list(value_numbers(spec.showings))
        self._values = self._phrases()
        slots = len(SLOTS)
        nothing, zero = jnp.zeros(slots, bool), jnp.zeros((), jnp.int32)
        values = jnp.zeros(slots, jnp.int32)
        user = User(zero, values, values, nothing, nothing, zero, jnp.zeros((), bool))
        self._state, self._begun = self._opened(user), False
        self._wanted: dict[int, int] = {}
        self._booked = False
        self.names = [spec.action_name(action) for action in range(len(ACTIONS))]
        row = spec.showings.rows[0]
        example = ", ".join(f"{row[slot]}" for slot in ("moviename", "city", "date") if slot in row)
        self.opening = (
            f"You want to see a film, such as: {example}, 2 people. Ask by a question mark, such as: "
            'theater? Say "any" if a slot does not matter, "no" if you were misunderstood, and "thanks".'
        )

    def _phrases(self) -> dict[tuple[str, ...], list[int]]:
        """Words of a value -> the slots that have it, those of most rows first."""
        found: dict[tuple[str, ...], dict[int, int]] = {}
        goals = [goal.constraints for goal in self._spec.showings.goals]
        for row in (*self._spec.showings.rows, *goals):
            for slot, text in row.items():
                words = tuple(_WORD.findall(text.casefold()))
                if words:
                    of = found.setdefault(words, {})
                    of[SLOT[slot]] = of.get(SLOT[slot], 0) + 1
        return {words: sorted(of, key=lambda slot: -of[slot]) for words, of in found.items()}

    def hear(self, line: str) -> list[str]:
        """Searches a line for values, questions and answers."""
        words = _WORD.findall(line.casefold())
        informs, rest = self._informed(words)
        asked = int(jnp.argmax(self._state.agent_requests))
        open_request = bool(jnp.any(self._state.agent_requests))
        if "any" in rest and open_request:
            informs[asked] = DONT_CARE
            rest.remove("any")
        named = [SLOT.get(ALIASES.get(word, word)) for word in rest]
        requests = {slot for slot in named if slot is not None} if "?" in line else set()
        if requests:
            act = REQUEST
        elif informs:
            act = INFORM
        elif "thanks" in rest:
            act = THANKS
        elif "no" in rest:
            act = ACT["deny"]
        else:
            self.waits = True
            return [
                "Nothing of this is in the table; name a value, or a slot with a question mark."
            ]
        known = ("?", "any", "thanks", "no")
        unknown = [
            word for word in rest if ALIASES.get(word, word) not in SLOT and word not in known
        ]
        self.waits = False
        self._wanted |= informs
        values, questions = np.zeros(len(SLOTS), np.int32), np.zeros(len(SLOTS), bool)
        values[list(informs)] = list(informs.values())
        questions[list(requests)] = True
        user = replace(
            self._state.user,
            act=jnp.asarray(act),
            informs=jnp.asarray(values),
            requests=jnp.asarray(questions),
        )
        self._state = self._answered(self._state, user) if self._begun else self._opened(user)
        self._begun = True
        return [f"Left aside: {', '.join(unknown)}."] if unknown else []

    def _informed(self, words: list[str]) -> tuple[dict[int, int], list[str]]:
        """The values that are said, by slot, and the words that belong to none."""
        numbers, lowered = value_numbers(self._spec.showings), {}
        for text, number in numbers.items():
            lowered.setdefault(tuple(_WORD.findall(text.casefold())), number)
        asked = np.flatnonzero(self._state.agent_requests).tolist()
        found, rest, place = {}, [], 0
        longest = max(map(len, self._values))
        while place < len(words):
            for width in range(min(longest, len(words) - place), 0, -1):
                phrase = tuple(words[place : place + width])
                slots = [slot for slot in self._values.get(phrase, []) if slot not in found]
                if slots:
                    slot = next((slot for slot in asked if slot in slots), slots[0])
                    found[slot] = lowered[phrase]
                    place += width
                    break
            else:
                rest.append(words[place])
                place += 1
        return found, rest

    def observation(self) -> np.ndarray:
        """[O] as `MovieBooking` shows it."""
        return np.asarray(self._spec.show(self._knowledge, self._state).observation)

    def act(self, action: np.ndarray) -> list[str]:
        """Makes an exchange's first half, and says it."""
        move, self._state = self._moved(self._knowledge, self._state, jnp.asarray(action))
        name, slot = ACTIONS[int(action)]
        too_long = 2 * int(self._state.exchanges) > self._spec.max_turn
        if name == "request":
            said = [f"Which {_spoken(str(slot))}?"]
        elif int(move.slot) == TASKCOMPLETE and name == "inform":
            self._booked = True
            rows = self._matching()
            others = f"; {counted(len(rows) - 1, 'other')} would do as well" if rows[1:] else ""
            said = ["I found nothing to book."]
            if rows:
                said = [f"I book: {self._describe(rows[0])}{others}."]
        elif name == "inform":
            said = [f"{_spoken(str(slot))}: {self._texts[int(move.value)]}"]
        else:
            said = [name.replace("_", " ")]
        if too_long or name == "thanks":
            self.ended = self._outcome(too_long)
        return said

    def _outcome(self, too_long: bool) -> str:
        """What came of it: whether the showing that was booked has all that was asked for."""
        if too_long or not self._booked:
            return "Nothing was booked" + (", and the dialogue is too long." if too_long else ".")
        rows = self._matching()
        if not rows:
            return "Nothing was booked: no showing has all that is known."
        cells = np.asarray(self._knowledge.cells[rows[0]])
        folded = np.asarray(self._knowledge.folded)
        missed = [
            f"{SLOTS[slot]} {self._texts[value]}"
            for slot, value in self._wanted.items()
            if not UNCONSTRAINING[slot]
            and value != DONT_CARE
            and folded[cells[slot]] != folded[value]
        ]
        if missed:
            return f"Booked, but without what you asked for: {', '.join(missed)}."
        return "Booked, with all that you asked for."

    def _matching(self) -> list[int]:
        """The rows that have all that is known."""
        known = self._state.known
        constrained = (known > 0) & (known != DONT_CARE) & ~UNCONSTRAINING
        bits = np.asarray(matching(self._knowledge, known, constrained))
        count = len(self._knowledge.cells)
        has = (bits[:, None] >> np.arange(32, dtype=np.uint32)) & 1
        return np.flatnonzero(has.reshape(-1)[:count]).tolist()

    def _describe(self, row: int) -> str:
        return self._spec.describe_passage(row, np.zeros(0))

    def believed(self) -> list[str]:
        """What is known of each slot."""
        known = np.asarray(self._state.known)
        lines = [f"{SLOTS[slot]}: {self._texts[known[slot]]}" for slot in np.flatnonzero(known)]
        asked = np.flatnonzero(self._state.user.requests)
        lines += [f"you ask: {SLOTS[slot]}" for slot in asked]
        rows = counted(len(self._matching()), "showing")
        return [*lines, f"{rows} of the table have all of this" if lines else "nothing yet"]

    def rows(self, most: int) -> list[tuple[int, float]]:
        """The first rows that have all that is known, each as likely as any other."""
        rows = self._matching()
        return [(row, 1.0 / len(rows)) for row in rows[:most]]


def _spoken(slot: str) -> str:
    """A slot as it is said."""
    return SPOKEN.get(slot, slot.replace("_", " "))
