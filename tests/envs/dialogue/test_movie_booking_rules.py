"""The rules of movie booking against plain Python that was written from the rules in words.

From each of 20 goals all that can happen within six exchanges is followed, level by level: every action
but those that name one of the slots that the goal doesn't, of which one stands for all. Where a level
has more than `WIDTH` states, as many of them are gone on with, evenly chosen.
"""

import copy
import functools

import jax
import numpy as np
import plain_booking
import pytest
from plain_booking import ACTIONS, ACTS, SLOTS, Dialogue

from ragjax.envs.dialogue import movie_booking_acts
from ragjax.envs.dialogue.movie_booking import Chance, MovieBooking, State
from ragjax.envs.dialogue.movie_booking_knowledge import value_numbers
from ragjax.envs.dialogue.movie_booking_user import User

ROWS, GOALS, DEPTH, WIDTH = 60, 20, 6, 25
CHUNK = 4096  # pairs that are stepped at once
OBSERVED = (
    16  # of so many pairs the observation of one is compared: plain Python counts rows slowly
)

SPEC = MovieBooking(made_rows=ROWS, made_goals=GOALS)
SHOWINGS = SPEC.showings()
NUMBER = value_numbers(SHOWINGS)
KNOWLEDGE = SPEC.knowledge()


class Choice:
    """Chooses by a number from [0, 1), as the environment does."""

    def __init__(self):
        self.uniform = 0.0

    def __call__(self, slots):
        return slots[int(self.uniform * len(slots))]


@pytest.fixture(autouse=True)
def remembered(monkeypatch):
    """Lets plain Python look up the same rows once only."""
    table = [dict(row) for row in SHOWINGS.rows]

    @functools.cache
    def fill(known, slot):
        return plain_fill(table, dict(known), slot)

    plain_fill = plain_booking.fill
    monkeypatch.setattr(
        plain_booking, "fill", lambda table, known, slot: fill(tuple(sorted(known.items())), slot)
    )


def values(named):
    return [NUMBER[named[slot]] if slot in named else 0 for slot in SLOTS]


def marks(names):
    return [slot in names for slot in SLOTS]


def as_arrays(goal, dialogue, success=False):
    """The state of the environment that a dialogue in plain Python is."""
    act, informs, requests = dialogue.agent
    user = User(
        goal=goal,
        history=values(dialogue.history),
        informs=values(dialogue.informs),
        requests=marks(dialogue.questions),
        rest=marks(dialogue.rest),
        act=ACTS.index(dialogue.act),
        consistent=dialogue.consistent,
    )
    return State(
        user=user,
        known=values(dialogue.known),
        agent_act=ACTS.index(act) if act else -1,
        agent_informs=marks(informs),
        agent_requests=marks(requests),
        exchanges=dialogue.exchanges,
        success=success,
    )


def stacked(states):
    def stack(*leaves):
        made = np.array(leaves)
        return made if made.dtype == bool else made.astype(np.int32)

    # The lists are the leaves.
    return jax.tree.map(stack, *states, is_leaf=lambda leaf: isinstance(leaf, list))


@jax.jit
def advance(knowledge, states, actions, uniforms):
    def one(state, action, uniform):
        return SPEC.advance(knowledge, state, action, Chance(uniform, None))

    return jax.vmap(one)(states, actions, uniforms)


def copied(dialogue):
    made = copy.copy(dialogue)
    for name in ("history", "informs", "questions", "rest", "known"):
        setattr(made, name, getattr(dialogue, name).copy())
    return made


def identity(dialogue):
    parts = (dialogue.history, dialogue.informs, dialogue.known)
    return (
        *(frozenset(part.items()) for part in parts),
        frozenset(dialogue.questions),
        frozenset(dialogue.rest),
        dialogue.act,
        dialogue.consistent,
    )


def begun(goal, chance):
    """The dialogue after the first turn, which chance decides: two numbers from [0, 1)."""
    dialogue = Dialogue(
        [dict(row) for row in SHOWINGS.rows], dict(goal.constraints), list(goal.requests), Choice()
    )
    constraint, question = Choice(), Choice()
    constraint.uniform, question.uniform = chance
    asked = [slot for slot in SLOTS if slot in goal.requests] or ["ticket"]
    dialogue.start(
        constraint([slot for slot in SLOTS if slot in goal.constraints]), question(asked)
    )
    return dialogue


def compare(pairs):
    """(goal, before, action, uniform, after, result) -> what differs raises."""
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        padded = chunk + [chunk[0]] * (CHUNK - len(chunk))
        before = stacked([as_arrays(goal, state) for goal, state, *_ in padded])
        actions = np.array([action for _, _, action, *_ in padded], np.int32)
        uniforms = np.array([uniform for _, _, _, uniform, *_ in padded], np.float32)
        state, made = jax.device_get(advance(KNOWLEDGE, before, actions, uniforms))
        expected = stacked(
            [as_arrays(goal, after, result[2]) for goal, *_, after, result in padded]
        )
        jax.tree.map(np.testing.assert_array_equal, state, expected)
        rewards, over, success = zip(*(result for *_, result in padded), strict=True)
        np.testing.assert_array_equal(made.reward, rewards)
        np.testing.assert_array_equal(made.terminated, over)
        np.testing.assert_array_equal(made.metrics["episode_success"], success)
        for place in range(0, len(chunk), OBSERVED):
            np.testing.assert_allclose(
                made.observation[place], chunk[place][-2].observation(), rtol=1e-6
            )


def test_constants_are_those_of_the_words():
    assert list(movie_booking_acts.SLOTS) == SLOTS
    assert list(movie_booking_acts.ACTS) == ACTS
    assert list(movie_booking_acts.ACTIONS) == ACTIONS
    assert (len(SLOTS), len(ACTS), len(ACTIONS)) == (29, 11, 43)


@pytest.mark.parametrize("number", range(GOALS))
def test_all_that_can_happen_within_six_exchanges(number):
    random = np.random.default_rng(number)
    goal = SHOWINGS.goals[number]
    named = {*goal.constraints, *goal.requests, "ticket", "taskcomplete"}
    other = next(slot for slot in ("genre", "price") if slot not in named)
    actions = [
        place for place, (_, slot) in enumerate(ACTIONS) if slot is None or slot in {*named, other}
    ]
    level = [begun(goal, random.random(2))]
    seen, pairs = {identity(level[0])}, []
    for _ in range(DEPTH):
        following = []
        for dialogue in level:
            for action in actions:
                uniform = float(np.float32(random.random()))
                after = copied(dialogue)
                after.choose.uniform = uniform
                result = after.step(*ACTIONS[action])
                pairs.append((number, dialogue, action, uniform, after, result))
                if not result[1] and identity(after) not in seen:
                    seen.add(identity(after))
                    following.append(after)
        chosen = np.unique(np.linspace(0, len(following) - 1, WIDTH).astype(int))
        level = [following[place] for place in chosen] if len(following) > WIDTH else following
    compare(pairs)


def test_first_turns():
    number = np.repeat(np.arange(GOALS), 5).astype(np.int32)
    chance = np.random.default_rng(0).random((len(number), 2)).astype(np.float32)
    begin = jax.jit(jax.vmap(SPEC.begin, (None, 0, 0)))
    state, made = jax.device_get(begin(KNOWLEDGE, number, chance))
    dialogues = [
        begun(SHOWINGS.goals[goal], drawn)
        for goal, drawn in zip(number, chance.tolist(), strict=True)
    ]
    expected = stacked([as_arrays(goal, d) for goal, d in zip(number, dialogues, strict=True)])
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    np.testing.assert_allclose(made.observation, [d.observation() for d in dialogues], rtol=1e-6)
