"""Booking a movie ticket: the agent asks, informs from a table of showings, and books.

After TC-Bot (Li et al., arXiv 1703.01008), whose rules it keeps: its user, its agent's 43 actions and
the 272 numbers that these are chosen by.
"""

import functools
import pathlib
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.conversation import Conversation
from ragjax.envs.dialogue.movie_booking_acts import (
    ACTIONS,
    ACTS,
    CLOSING,
    SLOTS,
    THANKS,
    described,
)
from ragjax.envs.dialogue.movie_booking_chat import TicketConversation
from ragjax.envs.dialogue.movie_booking_files import read_showings
from ragjax.envs.dialogue.movie_booking_knowledge import (
    Knowledge,
    Showings,
    encode,
    known_code,
    row_counts,
    row_passages,
)
from ragjax.envs.dialogue.movie_booking_made import make_showings
from ragjax.envs.dialogue.movie_booking_state import State, answered, moved, opened
from ragjax.envs.dialogue.movie_booking_user import (
    SlotNoise,
    corrupted,
    draw_noise,
    first_turn,
    place_of,
    respond,
    succeeded,
    wanted_by,
)
from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.types import Env, Leaf, PRNGKey, Timestep

Users = Literal["all", "train", "held_out", "split"]

SUCCESS, FAILURE, EXCHANGE = (
    2.0,
    -1.0,
    -1.0,
)  # rewards: by the most turns, by them, and of each exchange
FOLD = 5  # every fifth goal is held out
HELD_OUT = 1  # the first of them


@struct.dataclass
class Chance:
    """What chance decides in an exchange.

    Attributes:
      choice: [] from [0, 1), what the user goes on with.
      noise: `Noise`, None where the user is understood without errors.
    """

    choice: Leaf
    noise: Leaf


@dataclass(frozen=True)
class MovieBooking(Environment):
    """Reward -1 for each exchange, and in the last one 2 L for a success or -L for a failure.

    A user wants a ticket for a showing that meets some constraints, and to be told the rest of it. The
    dialogue ends by the agent's thanks, or as a failure in the exchange after L / 2. Metric of an
    episode: `success`, 1 or 0.

    Actions: four acts, `inform` of 20 slots and `request` of 19, in the order of
    `movie_booking_acts.ACTIONS`; an informed value is the table's, see `movie_booking_knowledge.filled`.
    Observation [272]: the user's act as one-hot [11], the slots that it informs [29] and requests [29];
    the same of the agent's last move; the slots of which a value is known [29]; the moves of both so
    far, / 10 [1] and as one-hot [L + 4]; whether any row has what is known of each slot, and all of it
    [30]; and how many rows, / 100 [30]. Values can't be seen in it.

    With `code` C, what is known is seen as well, as a sum of vectors [C] that comes first, and the rows
    of the table are passages [N,C+29]: the same sum of what they have, and which slots they have.

    Attributes:
      table: file of the showings, see `movie_booking_files.read_showings`; "" for a made table.
      goals: file of the users' goals, where `table` names one.
      made_rows: showings of the made table.
      made_goals: goals that are made with it.
      passage_seed: seed that both are made from.
      max_turn: L.
      slot_error: chance that a slot that the user informs is mistaken.
      slot_noise: how: by another `value` of the slot; by another `slot`, with a value of its own;
        by `deletion`; or `mixed`, each of these alike.
      act_error: chance that the user's act is mistaken.
      code: C; 0 for observations as in TC-Bot, without passages.
      users: whose goals are met. `all`; those of the goals to `train` with; the `held_out` ones, every
        fifth from the second one on; or `split`, the first two in place, held out from training and
        then measured with.
    """

    name: ClassVar[str] = "movie_booking"

    time_limit: int = 21
    table: str = ""
    goals: str = ""
    made_rows: int = 991
    made_goals: int = 128
    passage_seed: int = field(default=0, metadata=SEED)
    max_turn: int = 40
    slot_error: float = 0.0
    slot_noise: SlotNoise = "value"
    act_error: float = 0.0
    code: int = 0
    users: Users = "all"

    def __post_init__(self):
        """Checks the fields, and makes paths absolute."""
        super().__post_init__()
        require(
            bool(self.table) == bool(self.goals),
            "One of env.table and env.goals names a file and the other does not; name both, or neither.",
        )
        for name in ("table", "goals"):
            if value := getattr(self, name):
                path = pathlib.Path(value).expanduser().absolute()
                object.__setattr__(self, name, str(path))
        for name, least in (("made_rows", 1), ("made_goals", 1), ("max_turn", 2)):
            value = getattr(self, name)
            require(value >= least, f"env.{name} is {value}; it must be at least {least}.")
        for name in ("passage_seed", "code"):
            value = getattr(self, name)
            require(value >= 0, f"env.{name} is {value}; it must not be negative.")
        for name in ("slot_error", "act_error"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"env.{name} is {value}; it must lie between 0 and 1.")
        for name, kind in (("slot_noise", SlotNoise), ("users", Users)):
            value, options = getattr(self, name), get_args(kind)
            require(
                value in options, f"env.{name} is {value!r}; choose one of {', '.join(options)}."
            )

    def on_split(self, split: str) -> Environment:
        """With `users` split, those of the split."""
        if self.users != "split":
            return self
        return replace(self, users="held_out" if split == "test" else "train")

    @functools.cached_property
    def showings(self) -> Showings:
        """Table and goals in words.

        Raises:
          UserError: the user's can't be read.
        """
        if self.table:
            return read_showings(pathlib.Path(self.table), pathlib.Path(self.goals))
        return make_showings(self.made_rows, self.made_goals, self.passage_seed)

    def knowledge(self) -> Knowledge:
        """Table and goals as arrays, of the users that are met.

        Raises:
          UserError: the user's can't be read, or no goal is left.
        """
        known = encode(self.showings, self.code)
        goals = np.arange(len(known.constraints))
        held_out = goals % FOLD == HELD_OUT
        if self.users in ("train", "held_out"):
            goals = goals[held_out == (self.users == "held_out")]
        require(
            len(goals) > 0,
            f"env.users is {self.users!r}, but of {len(held_out)} goals none is held out; give more, "
            "or choose env.users all.",
        )
        return replace(known, constraints=known.constraints[goals], requests=known.requests[goals])

    def action_name(self, action: int) -> str:
        """The act with its slot."""
        return described(*ACTIONS[action])

    def describe_passage(self, row: int, content: np.ndarray) -> str:
        """The values of the row."""
        del content
        return ", ".join(f"{slot} {value}" for slot, value in self.showings.rows[row].items())

    def conversation(self) -> Conversation:
        """A person takes the user's place."""
        return TicketConversation(self)

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""

        def reset(knowledge: Knowledge, key: PRNGKey) -> tuple[State, Timestep]:
            goal_key, key = jax.random.split(key)
            uniform = jax.random.uniform(goal_key, ())
            goal = place_of(uniform, jnp.asarray(len(knowledge.constraints)))
            return self.begin(knowledge, goal, jax.random.uniform(key, (2,)))

        def step(
            knowledge: Knowledge, key: PRNGKey, state: State, action: Int[Array, ""]
        ) -> tuple[State, Timestep]:
            choice_key, noise_key = jax.random.split(key)
            noise = draw_noise(noise_key) if self.slot_error or self.act_error else None
            chance = Chance(jax.random.uniform(choice_key, ()), noise)
            return self.advance(knowledge, state, action, chance)

        knowledge, parts = self.knowledge(), self._parts()
        high = [np.full(shape, self._largest(knowledge, name)) for name, shape in parts.items()]
        high = np.concatenate(high).astype(np.float32)
        low = np.where(np.isinf(high), -np.inf, 0.0).astype(np.float32)
        passages = row_passages(knowledge) if self.code else None
        return Env(knowledge, reset, step, len(ACTIONS), low, high, passages=passages, parts=parts)

    def begin(
        self, knowledge: Knowledge, goal: Int[Array, ""], chance: Float[Array, "2"]
    ) -> tuple[State, Timestep]:
        """The first turn of a user with this goal; what chance decides is given, see `first_turn`."""
        state = opened(first_turn(wanted_by(knowledge, goal), goal, chance))
        return state, self.show(knowledge, state)

    def advance(
        self, knowledge: Knowledge, state: State, action: Int[Array, ""], chance: Chance
    ) -> tuple[State, Timestep]:
        """One exchange, the agent's action and the user's answer; what chance decides is given."""
        move, state = moved(knowledge, state, action)
        wanted = wanted_by(knowledge, state.user.goal)
        user = respond(wanted, state.user, move, chance.choice)
        too_long = 2 * state.exchanges > self.max_turn
        closed = replace(state.user, act=jnp.asarray(CLOSING, jnp.int32))
        user = jax.tree.map(lambda new, old: jnp.where(too_long, new, old), closed, user)
        success = (move.act == THANKS) & ~too_long & succeeded(wanted, user)
        ended = (move.act == THANKS) | too_long
        if chance.noise is not None:
            errors = {"slot_error": self.slot_error, "act_error": self.act_error}
            user = corrupted(knowledge, user, chance.noise, slot_noise=self.slot_noise, **errors)
        state = replace(answered(state, user), success=success)
        last = self.max_turn * jnp.where(success, SUCCESS, FAILURE)
        reward = jnp.where(ended, last, EXCHANGE).astype(jnp.float32)
        made = self.show(knowledge, state)
        return state, replace(made, reward=reward, terminated=ended)

    def show(self, knowledge: Knowledge, state: State) -> Timestep:
        """What the agent sees, and whether the dialogue has been a success."""
        user, moves = state.user, 2 * state.exchanges + 1  # moves made so far
        counts = row_counts(knowledge, state.known)
        parts = [
            jnp.arange(len(ACTS)) == user.act,
            user.informs > 0,
            user.requests,
            jnp.arange(len(ACTS)) == state.agent_act,
            state.agent_informs,
            state.agent_requests,
            state.known > 0,
            moves[None].astype(float) / 10.0,
            jnp.arange(self.max_turn + 4) == moves,
            counts > 0,
            counts.astype(float) / 100.0,
        ]
        if self.code:
            parts.insert(0, known_code(knowledge, state.known))
        made = timestep(jnp.concatenate([part.astype(jnp.float32) for part in parts]))
        return replace(made, metrics={"episode_success": state.success.astype(jnp.float32)})

    def _parts(self) -> dict[str, tuple[int, ...]]:
        """What observations are joined of."""
        slots = len(SLOTS)
        sizes = {
            "code": self.code,
            **{"user_act": len(ACTS), "user_informs": slots, "user_requests": slots},
            **{"agent_act": len(ACTS), "agent_informs": slots, "agent_requests": slots},
            **{"known": slots, "moves": 1, "moves_one_hot": self.max_turn + 4},
            **{"any_row": slots + 1, "rows": slots + 1},
        }
        return {name: (size,) for name, size in sizes.items() if size}

    def _largest(self, knowledge: Knowledge, part: str) -> float:
        """The largest value of the numbers of a part of observations."""
        moves, rows = self.max_turn + 3, len(knowledge.cells)
        return {"code": np.inf, "moves": moves / 10.0, "rows": rows / 100.0}.get(part, 1.0)
