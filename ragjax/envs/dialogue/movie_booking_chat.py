"""Movie booking with a person in the place of the user: lines are searched for values and questions."""

import re
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
    matching_known,
    unpacked,
    value_numbers,
)
from ragjax.envs.dialogue.movie_booking_state import answered, moved, opened
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
ANSWERS = ("any", "thanks", "no")
_WORD = re.compile(r"[\w.:']+")


class TicketConversation(Conversation):
    """A person books a ticket, in short lines of words.

    Values of the table are recognised wherever they stand, the longest first; names of slots in a line
    with a question mark are questions; "any" is for a slot that was just asked for and does not matter;
    "no" denies and "thanks" thanks.
    """

    def __init__(self, spec: Any):
        """Begins a dialogue.

        Args:
          spec: the `MovieBooking`.
        """
        self._spec, self._knowledge = spec, spec.knowledge()
        self._texts = list(value_numbers(spec.showings))
        self._numbers: dict[tuple[str, ...], int] = {}
        for number, text in enumerate(self._texts):
            self._numbers.setdefault(_words(text), number)
        self._slots = self._slots_of_phrases()
        self._longest = max(map(len, self._slots))
        slots = len(SLOTS)
        nothing, zero = jnp.zeros(slots, bool), jnp.zeros((), jnp.int32)
        values = jnp.zeros(slots, jnp.int32)
        user = User(zero, values, values, nothing, nothing, zero, jnp.zeros((), bool))
        self._state, self._begun = opened(user), False
        self._wanted: dict[int, int] = {}
        self._booked: int | None = None
        self.names = [spec.action_name(action) for action in range(len(ACTIONS))]
        row = spec.showings.rows[0]
        example = ", ".join(f"{row[slot]}" for slot in ("moviename", "city", "date") if slot in row)
        self.opening = (
            f"You want to see a film, such as: {example}, 2 people. Ask by a question mark, such as: "
            'theater? Say "any" if a slot does not matter, "no" if you were misunderstood, and "thanks".'
        )

    def _slots_of_phrases(self) -> dict[tuple[str, ...], list[int]]:
        """Words of a value -> the slots that have it, those of most rows first."""
        found: dict[tuple[str, ...], dict[int, int]] = {}
        goals = [goal.constraints for goal in self._spec.showings.goals]
        for row in (*self._spec.showings.rows, *goals):
            for slot, text in row.items():
                if words := _words(text):
                    of = found.setdefault(words, {})
                    of[SLOT[slot]] = of.get(SLOT[slot], 0) + 1
        return {words: sorted(of, key=lambda slot: -of[slot]) for words, of in found.items()}

    def hear(self, line: str) -> list[str]:
        """Searches a line for values, questions and answers."""
        informs, rest = self._informed(_words(line))
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
        unknown = [
            word for word in rest if ALIASES.get(word, word) not in SLOT and word not in ANSWERS
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
        self._state = answered(self._state, user) if self._begun else opened(user)
        self._begun = True
        return [f"Left aside: {', '.join(unknown)}."] if unknown else []

    def _informed(self, words: tuple[str, ...]) -> tuple[dict[int, int], list[str]]:
        """The values that are said, by slot, and the words that belong to none."""
        asked = np.flatnonzero(self._state.agent_requests).tolist()
        found, rest, place = {}, [], 0
        while place < len(words):
            for width in range(min(self._longest, len(words) - place), 0, -1):
                phrase = words[place : place + width]
                slots = [slot for slot in self._slots.get(phrase, []) if slot not in found]
                if slots:
                    slot = next((slot for slot in asked if slot in slots), slots[0])
                    found[slot] = self._numbers[phrase]
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
        move, self._state = moved(self._knowledge, self._state, jnp.asarray(action))
        name, slot = ACTIONS[int(action)]
        too_long = 2 * int(self._state.exchanges) > self._spec.max_turn
        if name == "request":
            said = [f"Which {_spoken(str(slot))}?"]
        elif int(move.slot) == TASKCOMPLETE and name == "inform":
            rows = self._matching()
            self._booked = rows[0] if rows else None
            others = f"; {counted(len(rows) - 1, 'other')} would do as well" if rows[1:] else ""
            said = ["I found nothing to book."]
            if rows:
                said = [f"I book: {self._spec.describe_passage(rows[0], np.zeros(0))}{others}."]
        elif name == "inform":
            said = [f"{_spoken(str(slot))}: {self._texts[int(move.value)]}"]
        else:
            said = [name.replace("_", " ")]
        if too_long or name == "thanks":
            self.ended = self._outcome(too_long)
        return said

    def _outcome(self, too_long: bool) -> str:
        """What came of it: whether the showing that was booked has all that was asked for."""
        if too_long or self._booked is None:
            return "Nothing was booked" + (", and the dialogue is too long." if too_long else ".")
        cells = np.asarray(self._knowledge.cells[self._booked])
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
        rows = matching_known(self._knowledge, self._state.known)
        return np.flatnonzero(unpacked(self._knowledge, rows)).tolist()

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


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _spoken(slot: str) -> str:
    """A slot as it is said."""
    return SPOKEN.get(slot, slot.replace("_", " "))
