"""KB-InfoBot with a person in the place of the user: words are heard by the same belief tracker."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ragjax.envs.conversation import Conversation
from ragjax.envs.dialogue import kb_infobot_belief as beliefs
from ragjax.envs.dialogue.kb_infobot_knowledge import token_numbers
from ragjax.envs.dialogue.kb_infobot_reward import FAILURE, REQUEST, rank_reward
from ragjax.envs.dialogue.kb_infobot_seen import LIST
from ragjax.envs.dialogue.kb_infobot_user import utterance_shape
from ragjax.envs.dialogue.tables import KnowledgeTable, words_of
from ragjax.types import PAD_ID

SURE = 0.05  # above which a belief in a value is shown
# Words that say nothing of a row, though some value has them.
IDLE = (
    *("a", "an", "and", "are", "at", "by", "for", "from", "in", "is"),
    *("it", "its", "of", "on", "or", "that", "the", "this", "to", "with"),
)
_UNKNOWING = re.compile(r"\b(i\s+)?(do\s?n[o']t know|no idea)\b", re.IGNORECASE)


class TableConversation(Conversation):
    """A person looks for a row of the table, and answers in words.

    Every word that the table knows counts as in `KBInfoBot`, but for words such as "the", which a person
    says about anything. As a simulated user says nothing but values, two things differ from it: what is
    said of another slot than the one that was asked for counts, and the question stands; and a line of
    which nothing is known is asked for again.
    """

    def __init__(self, spec: Any, table: KnowledgeTable):
        """Begins a dialogue.

        Args:
          spec: the `KBInfoBot`, by whose functions turns are made.
          table: its table in words.
        """
        env = spec.build()
        self._spec, self._table, self._params = spec, table, env.params
        self._numbers = token_numbers(table)
        slots = len(table.slots)
        self._state = spec.unheard(env.params)
        self._named: list[int] = []
        self._reward = 0.0
        self.opening = (
            f"You look for one of {len(table.names)} rows, such as {table.names[0]}. Say something of "
            f"its {', '.join(table.slots)}; answer with an empty line what you don't know."
        )
        self.names = [spec.action_name(slot) for slot in range(slots)] + ["inform"]

    def hear(self, line: str) -> list[str]:
        """Takes the words of a line, or the place of the row among those that were named."""
        self.waits = False
        if self._named:
            return self._judged(line)
        words = words_of(_UNKNOWING.sub(" ", line))
        idle = [word for word in words if word in IDLE]
        unknown = [word for word in words if word not in self._numbers and word not in IDLE]
        known = [
            self._numbers[word] for word in words if word in self._numbers and word not in IDLE
        ]
        notes = []
        if unknown:
            notes.append(f"No value of the table has {_quoted(unknown)}.")
        if idle:
            notes.append(f"Left aside: {_quoted(idle)}.")
        requested = self._state.history.last
        asked = bool(jnp.any(requested))
        if words and not known:
            self.waits = True
            return [*notes, "Say it in other words, or an empty line if you don't know."]
        slots, width = utterance_shape(self._params.knowledge)
        room = width if asked else slots * width
        if len(known) > room:
            notes.append(f"Of {len(known)} words the last {len(known) - room} are left out.")
        said = np.zeros((slots, width), np.int32)
        # An answer stands where those about its slot do; else in any order.
        place = int(jnp.argmax(requested))
        said.reshape(-1)[place * width :][: len(known[:room])] = known[:room]
        heard = self._spec.told(self._params, self._state, jnp.asarray(said))
        if asked and known and bool(heard.belief.dropped[place]):
            self._volunteered(said, known[:room])
            self.waits = True
            slot = self._table.slots[place]
            return [
                *notes,
                f"That is no {slot}, but is kept; what {slot}? Empty if you don't know.",
            ]
        self._state = heard
        return notes

    def _volunteered(self, said: np.ndarray, tokens: list[int]) -> None:
        """Keeps words that answer no request, among those that the dialogue began with."""
        history = self._state.history
        nothing = replace(history, last=history.last & False)  # asked for: no slot is given up
        told = self._spec.told(
            self._params, replace(self._state, history=nothing), jnp.asarray(said)
        )
        words = np.array(history.words)
        began = words[0].reshape(-1)
        free = np.flatnonzero(began == PAD_ID)[: len(tokens)]
        began[free] = tokens[: len(free)]
        self._state = replace(
            self._state, belief=told.belief, history=replace(history, words=jnp.asarray(words))
        )

    def _judged(self, line: str) -> list[str]:
        """The end: which of the rows that were named is the right one."""
        count = len(self._named)
        place = line.strip()
        if not place.isdecimal() or int(place) > count:
            self.waits = True
            return [f"{place!r} is none of 1 to {count}, and not 0 for none of them."]
        rank = int(place) - 1 if int(place) else LIST
        self._close(float(rank_reward(jnp.asarray(rank))))
        return []

    def _close(self, reward: float) -> None:
        self._reward += reward
        found = "Found" if reward > 0 else "Not found"
        self.ended = f"{found}: {reward:.1f} for the list, {self._reward:.1f} in all."

    def observation(self) -> np.ndarray:
        """[O] as `KBInfoBot` shows it."""
        return np.asarray(self._spec.observe(self._params, self._state))

    def act(self, action: np.ndarray) -> list[str]:
        """Asks for a slot, or names rows."""
        first, slots = int(np.ravel(action)[0]), len(self._table.slots)
        self._state = self._spec.asked(self._state, jnp.asarray(first))
        late = int(self._state.turns) >= self._spec.max_turns
        if first < slots:
            self._reward += 0.0 if late else REQUEST
            if late:
                self._close(FAILURE)
            return [f"What {self._table.slots[first]}?"]
        listed = [int(row) - slots for row in np.ravel(action)] if np.ndim(action) else []
        listed = listed or [row for row, _ in self.rows(LIST)]
        said = [
            f"{place}. {self._spec.describe_passage(row, np.zeros(0))}"
            for place, row in enumerate(listed, 1)
        ]
        if late:
            self._close(FAILURE)
            return said
        self._named = listed
        return [*said, "Which one is it? Its number, or 0 for none."]

    def believed(self) -> list[str]:
        """The likeliest values of each slot, and which slots are left out."""
        knowledge, belief = self._params.knowledge, self._state.belief
        p = np.asarray(beliefs.probabilities(knowledge, belief.counts))
        lines = []
        for place, (slot, values) in enumerate(
            zip(self._table.slots, self._table.values, strict=True)
        ):
            if bool(belief.dropped[place]):
                lines.append(f"{slot}: left out, for you don't know it")
                continue
            own = p[int(knowledge.first[place]) :][: len(values)]
            best = np.argsort(-own, kind="stable")[:3]
            shown = [f"{values[v]} {own[v]:.2f}" for v in best if own[v] > SURE]
            heard = "" if bool(belief.detected[place]) else " (nothing heard)"
            lines.append(f"{slot}: {', '.join(shown) or 'anything'}{heard}")
        return lines

    def rows(self, most: int) -> list[tuple[int, float]]:
        """The likeliest rows by q, with it."""
        q = np.exp(np.asarray(self._spec.log_posterior(self._params, self._state.belief)))
        best = np.argsort(-q, kind="stable")[:most]
        return [(int(row), float(q[row])) for row in best]


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(map(repr, words))
