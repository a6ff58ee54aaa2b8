"""Which goals can be met at all, against all dialogues that there are, in plain Python."""

import copy

import pytest
from plain_booking import ACTIONS, Dialogue

from ragjax.envs.dialogue.movie_booking_ceiling import meetable
from ragjax.envs.dialogue.movie_booking_knowledge import Goal, Showings

ROWS = (
    {"moviename": "heat", "city": "york", "date": "friday"},
    {"moviename": "heat", "city": "bath", "date": "sunday", "theater": "odeon"},
    {"moviename": "heat", "city": "Bath", "date": "sunday"},
    {"moviename": "room", "city": "hull", "theater": "regal"},
    {"moviename": "Room", "city": "hull", "date": "monday"},
)
GOALS = (
    (Goal({"moviename": "heat", "numberofpeople": "2"}, ()), True),
    (Goal({"moviename": "heat", "numberofpeople": "2"}, ("theater",)), True),
    (Goal({"moviename": "heat", "city": "york"}, ("date",)), True),
    # The only row of york has no theater, and no row of another city would do.
    (Goal({"moviename": "heat", "city": "york"}, ("theater",)), False),
    # A theater and a date are in two rows.
    (Goal({"moviename": "room"}, ("theater", "date")), False),
    # Most rows say sunday, and so does the one of the odeon.
    (Goal({"moviename": "heat"}, ("theater", "date")), True),
    (Goal({"moviename": "cats"}, ()), False),
    (Goal({"moviename": "cats"}, ("city",)), False),
    (Goal({"city": "BATH", "moviename": "HEAT"}, ("theater",)), True),
)


def hash_of(dialogue):
    parts = (dialogue.history, dialogue.informs, dialogue.known)
    marks = (dialogue.questions, dialogue.rest)
    return (
        *(frozenset(part.items()) for part in parts),
        *(frozenset(part) for part in marks),
        dialogue.consistent,
    )


def copied(dialogue):
    made = copy.copy(dialogue)
    for name in ("history", "informs", "questions", "rest", "known"):
        setattr(made, name, getattr(dialogue, name).copy())
    return made


def successes(goal):
    """How many dialogues of any length, of all that differ, end as a success."""
    named = {*goal.constraints, *goal.requests, "ticket", "taskcomplete"}
    actions = [action for action in ACTIONS if action[1] is None or action[1] in named]
    starts = [(told, asked) for told in goal.constraints for asked in goal.requests or ("ticket",)]
    waiting, seen, found = [], set(), 0
    for told, asked in starts:
        table = [dict(row) for row in ROWS]
        dialogue = Dialogue(table, dict(goal.constraints), list(goal.requests), None, limit=10**6)
        dialogue.start(told, asked)
        waiting.append(dialogue)
    while waiting:
        dialogue = waiting.pop()
        if hash_of(dialogue) in seen:
            continue
        seen.add(hash_of(dialogue))
        for action in actions:
            for place in range(4):  # whatever chance chooses of at most so many slots
                after = copied(dialogue)
                after.choose = lambda slots, place=place: slots[place % len(slots)]
                _, over, success = after.step(*action)
                found += success
                if not over:
                    waiting.append(after)
    return found


@pytest.mark.parametrize(("goal", "expected"), GOALS, ids=range(len(GOALS)))
def test_a_goal_can_be_met_where_any_dialogue_meets_it(goal, expected):
    assert meetable(Showings(ROWS, (goal,))) == (expected,)
    assert (successes(goal) > 0) == expected
