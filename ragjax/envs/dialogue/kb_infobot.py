"""KB-InfoBot (Dhingra et al. 2017, arXiv 1609.00777): asks a user, and names rows of a table.

The user looks for a row and knows some of its values; the agent asks for slots, and informs of rows, of
a table in which cells are missing. A belief tracker made by hand turns what is said into a posterior
over rows. Users and rewards follow the original's rules, over any table: figures compare the arms here,
not with those of the original's movies.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.conversation import Conversation
from ragjax.envs.dialogue import kb_infobot_belief as beliefs
from ragjax.envs.dialogue.kb_infobot_chat import TableConversation
from ragjax.envs.dialogue.kb_infobot_knowledge import Knowledge, drawn_goal, encode
from ragjax.envs.dialogue.kb_infobot_reward import REQUEST, rank_reward
from ragjax.envs.dialogue.kb_infobot_seen import (
    LIST,
    NAMES_ROWS,
    History,
    Sees,
    largest,
    observed,
    row_tokens,
    vocabulary,
)
from ragjax.envs.dialogue.kb_infobot_user import (
    Luck,
    Slips,
    drawn_luck,
    first_slots,
    utterance,
    utterance_shape,
)
from ragjax.envs.dialogue.tables import MISSING, Generated, KnowledgeTable, TableSource
from ragjax.envs.scene import Label, Scene, Shape
from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.types import Env, Leaf, PRNGKey, Timestep

FIRST_SLOTS = 5  # of which a user tells at first, at the most


@struct.dataclass
class Params:
    """What the environment is made of.

    Attributes:
      knowledge: the tables.
      slips: chances of what users say.
      evidence: [] C, by which what is heard counts.
    """

    knowledge: Knowledge
    slips: Slips
    evidence: Leaf


@struct.dataclass
class State:
    """A dialogue.

    Attributes:
      target: [] the row that is looked for.
      knows: [M] bool, slots whose value the user knows.
      belief: what the agent believes.
      history: what was asked and said.
      turns: [] of the agent so far.
    """

    target: Leaf
    knows: Leaf
    belief: beliefs.Belief
    history: History
    turns: Leaf


@dataclass(frozen=True)
class KBInfoBot(Environment):
    """M slots to ask for (reward -0.1 each), and the row to inform of: 2 (1 - ρ/5) at place ρ < 5 of 5.

    A list without the row gives -1, and so does the agent's turn number `max_turns`, whatever it is;
    both are the end. The metric `success` says whether the last reward was positive, `rank` is ρ, 5 if
    the row was not named, and `gold` the row that is looked for.

    Observation: which slot was asked for `last` [M]; how often each was `asked` [M]; and by `sees`
      none: the `entropies` [M] of slots in bits, of the belief, and which slots are `dropped` [M], since
        the user does not care;
      hard: as none, and how many rows agree with all that was detected, `matches` [6] as one-hot, the
        last for more;
      soft: as none, with entropies under the posterior, and the `posterior_entropy` [1];
      rows: as soft, the `belief` [G] in each value, 0 of dropped slots, and `log_prior` [N], log q;
      words: which slots were asked for in vain, `silent` [M], and the `words` that the user began with
        and last answered about each slot, as tokens; nothing of a belief or of q.
    Actions: M requests and, as the last, to inform of the best five rows of q. With `rows` and `words`
    they are slates of five of M + N: one that begins with a request is that request, whatever follows;
    another informs of its rows, M + i for row i. Passages are then the agent's rows, as tokens of their
    values [N,M], or of their words.

    Attributes:
      table: that the user knows.
      missing: share of its known cells that the agent's table lacks.
      passage_seed: seed by which these are chosen.
      sees: what the policy is told.
      max_turns: of the agent.
      evidence: C, by which what is heard counts against the prior.
      replaced: chance that the user says another value of the slot.
      corrupted: chance that a word of several is dropped, and numbers are blurred.
      mentioned: chance that the user says the slot's name with a value.
      counts_asked: whether observations hold `asked`, which the original's recurrent policy remembers.
    """

    name: ClassVar[str] = "kb_infobot"

    time_limit: int = 10
    table: TableSource = field(default_factory=Generated)
    missing: float = 0.2
    passage_seed: int = field(default=0, metadata=SEED)
    sees: Sees = "soft"
    max_turns: int = 10
    evidence: float = 5.0
    replaced: float = 0.05
    corrupted: float = 0.5
    mentioned: float = 0.5
    counts_asked: bool = True

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("missing", "replaced", "corrupted", "mentioned"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"env.{name} is {value}; it is a share, 0 to 1.")
        require(
            self.sees in get_args(Sees),
            f"env.sees is {self.sees!r}; choose one of {', '.join(get_args(Sees))}.",
        )
        require(self.evidence > 0, f"env.evidence is {self.evidence}; it must be positive.")
        require(
            self.passage_seed >= 0,
            f"env.passage_seed is {self.passage_seed}; it must not be negative.",
        )
        require(
            1 <= self.max_turns <= self.time_limit,
            f"env.max_turns is {self.max_turns}; it must be at least 1 and at most env.time_limit "
            f"{self.time_limit}, for a dialogue has to end by itself.",
        )

    def action_name(self, action: int) -> str:
        """The slot that is asked for, or what is informed of."""
        table = made_table(self.table)
        if action < len(table.slots):
            return f"ask for {table.slots[action]}"
        if self.sees not in NAMES_ROWS:
            return "inform"
        return f"name {table.names[action - len(table.slots)]}"

    def describe_passage(self, row: int, content: np.ndarray) -> str:
        """The row's name and its cells in the agent's table."""
        del content
        table = made_table(self.table)
        cells = np.asarray(encoded(self.table, self.missing, self.passage_seed).cells[row])
        counts = np.array([len(values) for values in table.values])
        places = cells - np.cumsum(counts + 1) + counts + 1
        agent = table._replace(cells=np.where(places == counts, MISSING, places)[None])
        return f"{table.names[row]}: {agent.describe(0)}"

    def scene(self, params: Params, state: State) -> Scene:
        """The row that is looked for, what of it the user knows, and the belief in its values."""
        table, target = made_table(self.table), int(state.target)
        p = np.asarray(beliefs.probabilities(params.knowledge, jnp.asarray(state.belief.counts)))
        shapes: list[Shape] = [Label(0.0, -1.0, table.names[target], height=0.4)]
        for place, slot in enumerate(table.slots):
            cell = int(table.cells[target, place])
            value = "nothing" if cell == MISSING else table.values[place][cell]
            known = "" if state.knows[place] else "doesn't know "
            believed = (
                "" if cell == MISSING else f", p {p[params.knowledge.full[target, place]]:.2f}"
            )
            shapes.append(Label(0.0, 0.6 * place, f"{known}{slot} {value}{believed}", height=0.3))
        return Scene(shapes, x=(-4.0, 4.0), y=(0.6 * len(table.slots), -1.6))

    def describe_action(self, action: np.ndarray) -> str:
        """The request, or the rows that are named."""
        listed = [int(of) for of in np.ravel(action)]
        if listed[0] < len(made_table(self.table).slots):
            listed = listed[:1]
        return ", ".join(map(self.action_name, listed))

    def conversation(self) -> Conversation:
        """A person takes the user's place."""
        return TableConversation(self, made_table(self.table))

    def build(self) -> Env:
        """Returns one dialogue's functions, without a time limit and without resets."""
        knowledge = encoded(self.table, self.missing, self.passage_seed)
        rows, slots = knowledge.cells.shape
        named = self.sees in NAMES_ROWS
        require(rows >= 2, "env.table has 1 row; there is nothing to find among less than 2.")

        def reset(params: Params, key: PRNGKey) -> tuple[State, Timestep]:
            goal_key, slot_key, luck_key = jax.random.split(key, 3)
            goal = drawn_goal(params.knowledge.goals, *jax.random.uniform(goal_key, (2,)))
            said = first_slots(goal[1], FIRST_SLOTS, slot_key)
            return self.begin(params, *goal, said, drawn_luck(params.knowledge, luck_key))

        def step(
            params: Params, key: PRNGKey, state: State, action: Array
        ) -> tuple[State, Timestep]:
            return self.advance(params, state, action, drawn_luck(params.knowledge, key))

        high = largest(knowledge, self.sees, self.counts_asked, self.max_turns)
        parts = {name: part.shape for name, part in high.items()}
        low = [
            np.full(shape, -np.inf if name == "log_prior" else 0.0) for name, shape in parts.items()
        ]
        slips = (
            jnp.float32(getattr(self, name)) for name in ("replaced", "corrupted", "mentioned")
        )
        with jax.ensure_compile_time_eval():
            passages = row_tokens(knowledge, self.sees) if named else None
            known = vocabulary(knowledge, self.sees) if named else None
        return Env(
            Params(knowledge, Slips(*slips), jnp.float32(self.evidence)),
            reset,
            step,
            num_actions=slots + (rows if named else 1),
            low=np.concatenate(low).astype(np.float32),
            high=np.concatenate(list(high.values())).astype(np.float32),
            passages=passages,
            vocabulary=known,
            slate=min(LIST, rows) if named else 0,
            parts=parts,
        )

    def unheard(self, params: Params) -> State:
        """A dialogue in which nothing was said, of a user who knows nothing."""
        none = jnp.zeros(params.knowledge.first.shape, bool)
        words = jnp.zeros((2, *utterance_shape(params.knowledge)), jnp.int32)
        history = History(none.astype(jnp.int32), none, words)
        zero = jnp.zeros((), jnp.int32)
        belief = beliefs.first_belief(params.knowledge)
        return State(zero, none, belief, history, turns=zero)

    def asked(self, state: State, act: Int[Array, ""]) -> State:
        """After the agent's turn: a request of the slot `act`, or none."""
        requested = jnp.arange(state.knows.shape[0]) == act
        history = replace(
            state.history, asked=state.history.asked + requested.astype(jnp.int32), last=requested
        )
        return replace(state, history=history, turns=state.turns + 1)

    def told(self, params: Params, state: State, words: Int[Array, "M n"]) -> State:
        """After the user's turn, of tokens that were said of each slot."""
        history = state.history
        first = jnp.where(state.turns == 0, words, history.words[0])
        answers = jnp.where(history.last[:, None], words, history.words[1])
        belief = beliefs.heard(params.knowledge, state.belief, words, history.last, params.evidence)
        history = replace(history, words=jnp.stack([first, answers]))
        return replace(state, belief=belief, history=history)

    def begin(
        self, params: Params, target: Array, knows: Array, said: Array, luck: Luck
    ) -> tuple[State, Timestep]:
        """The user's first turn, of a given goal, of slots that are told."""
        knowledge = params.knowledge
        words = utterance(knowledge, params.slips, knowledge.full[target], said, luck)
        state = replace(self.unheard(params), target=target, knows=knows)
        state = self.told(params, state, words)
        return state, self._show(params, state, state.turns + LIST)

    def advance(
        self, params: Params, state: State, action: Int[Array, "..."], luck: Luck
    ) -> tuple[State, Timestep]:
        """One turn of the agent and the user's answer, in which all that chance decides is given."""
        knowledge = params.knowledge
        slots = state.knows.shape[0]
        act = action[0] if self.sees in NAMES_ROWS else action
        informs = act >= slots
        if self.sees in NAMES_ROWS:
            rank = place_in(action - slots, state.target)
        else:
            rank = rank_of(self.log_posterior(params, state.belief), state.target)
        state = self.asked(state, act)
        said = state.history.last & state.knows
        words = utterance(knowledge, params.slips, knowledge.full[state.target], said, luck)
        state = self.told(params, state, words)
        late = state.turns >= self.max_turns
        rank = jnp.where(informs & ~late, jnp.minimum(rank, LIST), LIST)
        return state, replace(
            self._show(params, state, rank),
            reward=jnp.where(informs | late, rank_reward(rank), REQUEST),
            terminated=informs | late,
        )

    def log_posterior(self, params: Params, belief: beliefs.Belief) -> Array:
        """[N] log q of the belief tracker."""
        p = beliefs.probabilities(params.knowledge, belief.counts)
        return beliefs.log_posterior(params.knowledge, p, belief.dropped)

    def observe(self, params: Params, state: State) -> Array:
        """[O] what the policy sees."""
        log_q = self.log_posterior(params, state.belief)
        parts = observed(
            params.knowledge, state.belief, state.history, log_q, self.sees, self.counts_asked
        )
        return jnp.concatenate(list(parts.values()))

    def _show(self, params: Params, state: State, rank: Array) -> Timestep:
        """What is seen after a turn."""
        metrics = {
            "episode_success": (rank < LIST).astype(jnp.float32),
            "episode_rank": rank.astype(jnp.float32),
            "gold": state.target,
        }
        return replace(timestep(self.observe(params, state)), metrics=metrics)


@cache
def made_table(source: TableSource) -> KnowledgeTable:
    """The table of a spec, made once."""
    return source.build()


@cache
def encoded(source: TableSource, missing: float, seed: int) -> Knowledge:
    """The arrays of a table, made once."""
    with jax.ensure_compile_time_eval():
        return encode(made_table(source), missing, seed)


def rank_of(log_q: Array, row: Array) -> Int[Array, ""]:
    """[] the place of a row in the order of q, equal ones by their number."""
    own, number = log_q[row], jnp.arange(log_q.shape[0])
    before = (log_q > own) | ((log_q == own) & (number < row))
    return jnp.sum(before).astype(jnp.int32)


def place_in(listed: Int[Array, "P"], row: Array) -> Int[Array, ""]:
    """[] the place of a row in a list, `LIST` if it isn't there."""
    found = listed == row
    return jnp.where(jnp.any(found), jnp.argmax(found), LIST).astype(jnp.int32)
