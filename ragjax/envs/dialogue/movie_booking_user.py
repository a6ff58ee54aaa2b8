"""The user of movie booking, after the rule-based simulator of TC-Bot (Li et al., arXiv 1612.05688).

What chance decides is given, so that every rule can be checked by itself.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ragjax.envs.dialogue.movie_booking_acts import (
    ACT,
    ACTS,
    DENY,
    INFORM,
    REQUEST,
    SLOT,
    SLOTS,
    TASKCOMPLETE,
    THANKS,
    TICKET,
)
from ragjax.envs.dialogue.movie_booking_knowledge import DONT_CARE, NO_MATCH, Knowledge
from ragjax.types import Leaf

SlotNoise = Literal["value", "mixed", "slot", "deletion"]
IS_TICKET = jnp.arange(len(SLOTS)) == TICKET


@struct.dataclass
class Wanted:
    """A goal.

    Attributes:
      constraints: [J] values, 0 for none.
      folded: [J] the same without regard to case.
      requests: [J] bool, the ticket among them.
    """

    constraints: Leaf
    folded: Leaf
    requests: Leaf


@struct.dataclass
class User:
    """Where a user stands.

    Attributes:
      goal: [] number of the goal.
      history: [J] values that either side has informed, 0 for none.
      informs: [J] values informed in this turn.
      requests: [J] bool, open questions.
      rest: [J] bool, what is still to be informed or asked.
      act: [] of this turn.
      consistent: [] bool, whether the agent has completed the task by what the user wants.
    """

    goal: Leaf
    history: Leaf
    informs: Leaf
    requests: Leaf
    rest: Leaf
    act: Leaf
    consistent: Leaf


@struct.dataclass
class AgentMove:
    """What the agent says.

    Attributes:
      act: [] its act.
      slot: [] the slot that it informs or requests.
      value: [] the value that it informs.
      carried: [J] all that it knows, which taskcomplete carries along, without regard to case.
    """

    act: Leaf
    slot: Leaf
    value: Leaf
    carried: Leaf


@struct.dataclass
class Noise:
    """What chance decides about the errors of a turn, all from [0, 1).

    Attributes:
      error: [J] whether an informed slot goes wrong.
      kind: [J] in which way.
      value: [J] which value comes in its place.
      other: [J] which slot comes in its place.
      other_value: [J] and which value of that.
      act_error: [] whether the act goes wrong.
      act: [] which one comes in its place.
    """

    error: Leaf
    kind: Leaf
    value: Leaf
    other: Leaf
    other_value: Leaf
    act_error: Leaf
    act: Leaf


def draw_noise(key: Array) -> Noise:
    """What chance decides about the errors of a turn."""
    slots_key, act_key = jax.random.split(key)
    names = ("error", "kind", "value", "other", "other_value")
    of_slots = jax.random.uniform(slots_key, (len(names), len(SLOTS)))
    act_error, act = jax.random.uniform(act_key, (2,))
    return Noise(**dict(zip(names, of_slots, strict=True)), act_error=act_error, act=act)


def wanted_by(knowledge: Knowledge, goal: Int[Array, ""]) -> Wanted:
    """A goal by its number."""
    constraints = knowledge.constraints[goal]
    return Wanted(constraints, knowledge.folded[constraints], knowledge.requests[goal])


def place_of(uniform: Float[Array, "..."], count: Int[Array, "..."]) -> Int[Array, "..."]:
    """A number below `count`, 0 if that is 0, from one of [0, 1)."""
    place = jnp.floor(uniform * count.astype(uniform.dtype)).astype(jnp.int32)
    return jnp.clip(place, 0, jnp.maximum(count - 1, 0))


def one_of(mask: Bool[Array, "J"], uniform: Float[Array, ""]) -> Bool[Array, "J"]:
    """One of the slots in a mask, each as likely as any other; none if there are none."""
    rank = jnp.cumsum(mask, dtype=jnp.int32)
    return mask & (rank == 1 + place_of(uniform, rank[-1]))


def first_turn(wanted: Wanted, goal: Int[Array, ""], chance: Float[Array, "2"]) -> User:
    """A request, with the name of the movie and one constraint; all else is left for later.

    Args:
      wanted: the goal.
      goal: its number.
      chance: from [0, 1): which constraint is informed, and which slot is requested. That is the ticket
        if the goal requests nothing else.
    """
    constrained = wanted.constraints > 0
    movie = jnp.arange(len(SLOTS)) == SLOT["moviename"]
    informed = constrained & (movie | one_of(constrained, chance[0]))
    others = wanted.requests & ~IS_TICKET
    asked = jnp.where(jnp.any(others), one_of(others, chance[1]), IS_TICKET)
    return User(
        goal=goal,
        history=jnp.zeros(len(SLOTS), jnp.int32),
        informs=jnp.where(informed, wanted.constraints, 0),
        requests=asked,
        rest=(constrained & ~informed) | wanted.requests,
        act=jnp.asarray(REQUEST, jnp.int32),
        consistent=jnp.zeros((), bool),
    )


def respond(wanted: Wanted, user: User, move: AgentMove, chance: Float[Array, ""]) -> User:
    """The user's answer to what the agent says; where more than one would do, `chance` chooses.

    Acts that no rule is about change nothing, and the act stays what it was.
    """
    history = jnp.where(user.informs > 0, user.informs, user.history)
    user = dataclasses.replace(user, history=history, informs=jnp.zeros_like(user.informs))
    completes = (move.act == INFORM) & (move.slot == TASKCOMPLETE)
    cases = [
        (move.act == REQUEST, _requested(wanted, user, move)),
        (completes, _completed(wanted, user, move)),
        (move.act == INFORM, _informed(wanted, user, move, chance)),
        (move.act == ACT["confirm_answer"], _confirmed(wanted, user, chance)),
    ]
    return _first_of(cases, user)


def says(user: User, act: Int[Array, ""] | int, informs: Int[Array, "J"]) -> User:
    """The user with an act, and values informed: they are left for later no more."""
    return dataclasses.replace(
        user,
        act=jnp.asarray(act, jnp.int32),
        informs=informs.astype(jnp.int32),
        rest=user.rest & ~(informs > 0),
    )


def _requested(wanted: Wanted, user: User, move: AgentMove) -> User:
    """To a request: the value of a constraint, or of a slot that was answered; else see below."""
    slot = jnp.arange(len(SLOTS)) == move.slot
    value, known = wanted.constraints[move.slot], user.history[move.slot]
    asks, waiting = wanted.requests[move.slot], user.rest[move.slot]
    nothing = jnp.zeros_like(user.requests)
    quiet = dataclasses.replace(user, requests=nothing)
    # A question of the user's own is asked back, with all constraints that are left.
    left = jnp.where(user.rest, wanted.constraints, 0)
    back = dataclasses.replace(user, requests=user.requests | slot)
    settled = ~(jnp.any(user.requests) | jnp.any(user.rest))
    cases = [
        (value > 0, says(quiet, INFORM, jnp.where(slot, value, 0))),
        (asks & ~waiting & (known > 0), says(quiet, INFORM, jnp.where(slot, known, 0))),
        (asks & waiting, says(back, REQUEST, left)),
    ]
    indifferent = says(user, jnp.where(settled, THANKS, INFORM), jnp.where(slot, DONT_CARE, 0))
    return _first_of(cases, indifferent)


def _informed(wanted: Wanted, user: User, move: AgentMove, chance: Float[Array, ""]) -> User:
    """To a value: a wrong one is corrected; else open questions, what is left, and at last thanks."""
    slot = jnp.arange(len(SLOTS)) == move.slot
    value = wanted.constraints[move.slot]
    constrained = value > 0
    user = dataclasses.replace(
        user,
        history=jnp.where(slot, move.value, user.history),
        rest=user.rest & ~slot,
        requests=user.requests & ~(slot & ~constrained),
    )
    # A constraint that comes up after a question was answered is told together with the ticket's.
    told = _tells(wanted, user, one_of(user.rest & ~IS_TICKET, chance))
    with_ticket = ~constrained & user.rest[TICKET] & (told.act == INFORM)
    told = dataclasses.replace(
        told,
        act=jnp.where(with_ticket, REQUEST, told.act),
        requests=told.requests | (IS_TICKET & with_ticket),
    )
    wrong = constrained & (move.value != value)
    cases = [
        (wrong, says(user, INFORM, jnp.where(slot, value, 0))),
        (jnp.any(user.requests), says(user, REQUEST, user.informs)),
        (jnp.any(user.rest & ~IS_TICKET), told),
        (user.rest[TICKET], _tells(wanted, user, IS_TICKET)),
    ]
    return _first_of(cases, says(user, THANKS, user.informs))


def _completed(wanted: Wanted, user: User, move: AgentMove) -> User:
    """To a completed task: thanks, or a denial if what the agent carries isn't what is wanted."""
    unavailable = IS_TICKET & (move.value == NO_MATCH)
    denied = jnp.any((wanted.folded > 0) & (wanted.folded != move.carried))
    user = dataclasses.replace(
        user,
        history=jnp.where(unavailable, NO_MATCH, user.history),
        rest=user.rest & ~unavailable,
        requests=user.requests & ~unavailable,
        act=jnp.asarray(THANKS, jnp.int32),
        consistent=jnp.ones((), bool),
    )
    denial = dataclasses.replace(
        user,
        requests=jnp.zeros_like(user.requests),
        act=jnp.asarray(DENY, jnp.int32),
        consistent=jnp.zeros((), bool),
    )
    return _first_of([(denied, denial)], user)


def _confirmed(wanted: Wanted, user: User, chance: Float[Array, ""]) -> User:
    """To a confirmation: one of what is left, the ticket among it; thanks if nothing is."""
    told = _tells(wanted, user, one_of(user.rest, chance))
    return _first_of([(jnp.any(user.rest), told)], says(user, THANKS, user.informs))


def _tells(wanted: Wanted, user: User, slot: Bool[Array, "J"]) -> User:
    """The user informs a slot of what is left, if that is a constraint, or else asks for it."""
    constrained = jnp.any(slot & (wanted.constraints > 0))
    informing = says(user, INFORM, jnp.where(slot, wanted.constraints, 0))
    asking = says(user, REQUEST, user.informs)
    asking = dataclasses.replace(asking, requests=user.requests | slot)
    return _first_of([(constrained, informing)], asking)


def _first_of(cases: list[tuple[Array, User]], otherwise: User) -> User:
    """The answer of the first case that holds."""
    for holds, case in reversed(cases):
        otherwise = jax.tree.map(
            lambda new, old, holds=holds: jnp.where(holds, new, old), case, otherwise
        )
    return otherwise


def succeeded(wanted: Wanted, user: User) -> Bool[Array, ""]:
    """Whether a dialogue that the agent ends by thanks is a success.

    Nothing but the ticket is left or asked for, nothing was without a match, all that was informed of
    the constraints is what is wanted, and so was what the agent has completed the task by.
    """
    open_ = jnp.any((user.requests | user.rest) & ~IS_TICKET)
    history = jnp.where(user.informs > 0, user.informs, user.history)
    wrong = (history > 0) & (wanted.constraints > 0) & (history != wanted.constraints)
    return ~open_ & ~jnp.any((history == NO_MATCH) | wrong) & user.consistent


def corrupted(
    knowledge: Knowledge,
    user: User,
    noise: Noise,
    *,
    slot_error: float,
    slot_noise: SlotNoise,
    act_error: float,
) -> User:
    """The user's turn as it is understood: values or slots are mistaken or lost, and acts mistaken.

    Where another slot comes in a slot's place, it comes after all others are gone, and of several that
    fall on one slot the last one counts.
    """
    slots = jnp.arange(len(SLOTS))
    wrong = (user.informs > 0) & (noise.error < slot_error)
    kind = {"value": 0, "slot": 1, "deletion": 2}.get(slot_noise)
    kinds = place_of(noise.kind, jnp.asarray(3)) if kind is None else jnp.full(slots.shape, kind)

    def spoken(slot: Array, uniform: Array) -> Array:
        values = knowledge.spoken[slot, place_of(uniform, knowledge.spoken_count[slot])]
        return jnp.where(knowledge.spoken_count[slot] > 0, values, 0)

    mistaken = spoken(slots, noise.value)
    mistaken = jnp.where(mistaken > 0, mistaken, user.informs)
    informs = jnp.where(wrong, jnp.where(kinds == 0, mistaken, 0), user.informs)
    # Another slot with a value of its own: [J,J] from -> to.
    choices = jnp.nonzero(knowledge.spoken_count > 0, size=len(SLOTS), fill_value=0)[0]
    others = choices[place_of(noise.other, jnp.sum(knowledge.spoken_count > 0))]
    moved = (wrong & (kinds == 1))[:, None] & (others[:, None] == slots)
    last = len(SLOTS) - 1 - jnp.argmax(moved[::-1], axis=0)
    informs = jnp.where(jnp.any(moved, axis=0), spoken(others, noise.other_value)[last], informs)
    act = jnp.where(
        noise.act_error < act_error, place_of(noise.act, jnp.asarray(len(ACTS))), user.act
    )
    return dataclasses.replace(user, informs=informs.astype(jnp.int32), act=act.astype(jnp.int32))
