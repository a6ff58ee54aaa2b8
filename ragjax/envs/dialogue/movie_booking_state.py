"""A dialogue of movie booking, and what either side's turn makes of it."""

from dataclasses import replace

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.dialogue.movie_booking_acts import (
    ACTION_ACT,
    ACTION_SLOT,
    INFORM,
    REQUEST,
    SLOTS,
    TASKCOMPLETE,
)
from ragjax.envs.dialogue.movie_booking_knowledge import Knowledge, filled
from ragjax.envs.dialogue.movie_booking_user import AgentMove, User
from ragjax.types import Leaf


@struct.dataclass
class State:
    """A dialogue.

    Attributes:
      user: `User`.
      known: [J] values that the agent knows, 0 for none.
      agent_act: [] of the agent's last move, -1 before the first.
      agent_informs: [J] bool, slots that it informed.
      agent_requests: [J] bool, slots that it requested.
      exchanges: [] so far.
      success: [] bool.
    """

    user: Leaf
    known: Leaf
    agent_act: Leaf
    agent_informs: Leaf
    agent_requests: Leaf
    exchanges: Leaf
    success: Leaf


def opened(user: User) -> State:
    """A dialogue that a user has begun."""
    nothing, zero = jnp.zeros(len(SLOTS), bool), jnp.zeros((), jnp.int32)
    none = jnp.asarray(-1, jnp.int32)
    return State(user, user.informs, none, nothing, nothing, zero, jnp.zeros((), bool))


def moved(knowledge: Knowledge, state: State, action: Int[Array, ""]) -> tuple[AgentMove, State]:
    """The agent's turn: what it says, and the dialogue after it."""
    act, slot = jnp.asarray(ACTION_ACT)[action], jnp.asarray(ACTION_SLOT)[action]
    named = jnp.arange(len(SLOTS)) == slot
    value = filled(knowledge, state.known, slot)
    carried = jnp.where(slot == TASKCOMPLETE, state.known > 0, False)
    after = replace(
        state,
        known=jnp.where((act == INFORM) & named, value, state.known),
        agent_act=act,
        agent_informs=(act == INFORM) & (named | carried),
        agent_requests=(act == REQUEST) & named,
        exchanges=state.exchanges + 1,
    )
    return AgentMove(act, slot, value, knowledge.folded[state.known]), after


def answered(state: State, user: User) -> State:
    """After the user's turn: what it informs is known."""
    return replace(state, user=user, known=jnp.where(user.informs > 0, user.informs, state.known))
