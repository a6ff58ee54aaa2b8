"""Movie booking in plain Python, written from the rules in words and from nothing of the package.

Values are texts, and so are slots and acts. Where chance chooses among slots, `choose` does: given the
slots in the order of the slot file, it returns one of them.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_SLOTS = """
    actor actress city closing critic_rating date description distanceconstraints genre greeting
    implicit_value movie_series moviename mpaa_rating numberofpeople numberofkids taskcomplete other
    price seating starttime state theater theater_chain video_format zip result ticket mc_list
"""
_ACTS = """
    request inform confirm_question confirm_answer greeting closing multiple_choice thanks welcome deny
    not_sure
"""
_INFORMED = """
    moviename theater starttime date genre state city zip critic_rating mpaa_rating distanceconstraints
    video_format theater_chain price actor description other numberofkids taskcomplete ticket
"""
_REQUESTED = """
    moviename theater starttime date numberofpeople genre state city zip critic_rating mpaa_rating
    distanceconstraints video_format theater_chain price actor description other numberofkids
"""
SLOTS, ACTS = _SLOTS.split(), _ACTS.split()
INFORMED, REQUESTED = _INFORMED.split(), _REQUESTED.split()
ACTIONS = (
    [(act, None) for act in ("confirm_question", "confirm_answer", "thanks", "deny")]
    + [("inform", slot) for slot in INFORMED]
    + [("request", slot) for slot in REQUESTED]
)
NO_MATCH, DONT_CARE, AVAILABLE = "no match", "don't care", "available"


def fill(table, known, slot):
    """The value that the agent informs: the most frequent one of the rows that match."""
    ignored = ("numberofpeople", "ticket", "taskcomplete", "closing")
    constraints = {
        name: value for name, value in known.items() if name not in ignored and value != DONT_CARE
    }
    rows = [
        row
        for row in table
        if all(
            name in row and row[name].casefold() == value.casefold()
            for name, value in constraints.items()
        )
    ]
    if slot in ("ticket", "taskcomplete"):
        return AVAILABLE if rows else NO_MATCH
    counts = Counter(row[slot] for row in rows if slot in row)  # keeps the order of the first met
    return max(counts, key=counts.__getitem__) if counts else NO_MATCH


@dataclass
class Dialogue:
    """A user with a goal, and what the agent knows."""

    table: list
    constraints: dict
    asks: list
    choose: Any
    limit: int = 40
    history: dict = field(default_factory=dict)
    informs: dict = field(default_factory=dict)
    questions: set = field(default_factory=set)
    rest: set = field(default_factory=set)
    act: str = "request"
    consistent: bool = False
    known: dict = field(default_factory=dict)
    agent: tuple = (None, frozenset(), frozenset())
    exchanges: int = 0

    def start(self, constraint, question):
        """The first turn, with this constraint, and this question."""
        self.asks = [*self.asks, "ticket"]
        told = {constraint} | ({"moviename"} & set(self.constraints))
        self.informs = {slot: self.constraints[slot] for slot in told}
        self.rest = (set(self.constraints) - told) | set(self.asks)
        self.questions = {question}
        self.known = dict(self.informs)

    def step(self, act, slot):
        """One exchange: returns (reward, over, success)."""
        self.exchanges += 1
        told, carried = {}, {}
        if act == "inform":
            told = {slot: fill(self.table, self.known, slot)}
            carried = {**self.known, **told} if slot == "taskcomplete" else told
        self.agent = (act, frozenset(carried), frozenset([slot] if act == "request" else []))
        over, success = False, False
        if 2 * self.exchanges > self.limit:
            over, self.act = True, "closing"
        else:
            self.history.update(self.informs)
            self.informs = {}
            if act == "request":
                self.on_request(slot)
            elif act == "inform" and slot == "taskcomplete":
                self.on_complete(told[slot], carried)
            elif act == "inform":
                self.on_inform(slot, told[slot])
            elif act == "confirm_answer":
                self.on_confirm()
            elif act == "thanks":
                over, success = True, self.is_success()
        self.known.update(carried)
        self.known.update(self.informs)
        reward = (2 * self.limit if success else -self.limit) if over else -1
        return reward, over, success

    def on_request(self, slot):
        if slot in self.constraints:
            self.informs = {slot: self.constraints[slot]}
            self.act = "inform"
            self.rest.discard(slot)
            self.questions = set()
        elif slot in self.asks and slot in self.history and slot not in self.rest:
            self.informs = {slot: self.history[slot]}
            self.questions = set()
            self.act = "inform"
        elif slot in self.asks and slot in self.rest:
            self.act = "request"
            self.questions.add(slot)
            self.informs = {s: v for s, v in self.constraints.items() if s in self.rest}
            self.rest -= set(self.informs)
        else:
            self.act = "inform" if self.questions or self.rest else "thanks"
            self.informs = {slot: DONT_CARE}

    def on_inform(self, slot, value):
        self.history[slot] = value
        self.rest.discard(slot)
        if slot in self.constraints and value != self.constraints[slot]:
            self.act = "inform"
            self.informs = {slot: self.constraints[slot]}
            return
        if slot not in self.constraints:
            self.questions.discard(slot)
        if self.questions:
            self.act = "request"
        elif self.rest - {"ticket"}:
            self.tell(self.rest - {"ticket"})
            if slot not in self.constraints and self.act == "inform" and "ticket" in self.rest:
                self.questions.add("ticket")
                self.act = "request"
        elif self.rest:
            self.questions.add("ticket")
            self.act = "request"
        else:
            self.act = "thanks"

    def on_complete(self, value, carried):
        self.act, self.consistent = "thanks", True
        if value == NO_MATCH:
            self.history["ticket"] = NO_MATCH
            self.rest.discard("ticket")
            self.questions.discard("ticket")
        for slot, wanted in self.constraints.items():
            if slot not in carried or carried[slot].casefold() != wanted.casefold():
                self.act, self.consistent = "deny", False
                self.questions, self.informs = set(), {}

    def on_confirm(self):
        if self.rest:
            self.tell(self.rest)
        else:
            self.act = "thanks"

    def tell(self, slots):
        slot = self.choose([name for name in SLOTS if name in slots])
        if slot in self.constraints:
            self.informs = {slot: self.constraints[slot]}
            self.rest.discard(slot)
            self.act = "inform"
        else:
            self.questions.add(slot)
            self.act = "request"

    def is_success(self):
        left = (self.questions | self.rest) - {"ticket"}
        wrong = [
            slot
            for slot, value in self.history.items()
            if value == NO_MATCH or (slot in self.constraints and value != self.constraints[slot])
        ]
        return not left and not wrong and self.consistent

    def observation(self):
        """The 272 numbers that the agent sees."""

        def marks(names, among):
            return [float(name in names) for name in among]

        act, informs, requests = self.agent
        moves = 2 * self.exchanges + 1
        numbers = marks({self.act}, ACTS) + marks(self.informs, SLOTS)
        numbers += marks(self.questions, SLOTS) + marks({act}, ACTS)
        numbers += marks(informs, SLOTS) + marks(requests, SLOTS) + marks(self.known, SLOTS)
        numbers += [moves / 10] + [float(place == moves) for place in range(self.limit + 4)]
        counting = {
            slot: value
            for slot, value in self.known.items()
            if slot != "ticket" and value != DONT_CARE
        }

        def rows(constraints):
            return sum(
                all(s in row and row[s].casefold() == v.casefold() for s, v in constraints.items())
                for row in self.table
            )

        together = rows(counting)
        counts = [together] * 30
        for place, slot in enumerate(SLOTS):
            if slot in self.known:
                counts[place] = rows({slot: counting[slot]}) if slot in counting else 0
        return numbers + [float(count > 0) for count in counts] + [count / 100 for count in counts]
