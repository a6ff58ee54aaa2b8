"""What a policy of `KBInfoBot` is told of a dialogue, and of the rows that it may name.

By `sees`, besides which slots were asked for:
  none: entropies of the belief alone.
  hard: and how many rows agree with all that was detected.
  soft: entropies of the posterior over rows, and of the slots under it.
  rows: as soft, the belief in each value, and the posterior itself; rows are tokens of their values.
  words: what the user said, not what a belief tracker made of it; rows are tokens of their words.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.dialogue import kb_infobot_belief as beliefs
from ragjax.envs.dialogue.kb_infobot_knowledge import Knowledge
from ragjax.types import PAD_ID, UNK_ID, Leaf, Vocabulary

LIST = 5  # rows that an agent informs of, at the most
FIRST_TOKEN = UNK_ID + 1  # of values, where rows are tokens of values

Sees = Literal["none", "hard", "soft", "rows", "words"]
NAMES_ROWS = ("rows", "words")  # where the policy itself says which rows it informs of


@struct.dataclass
class History:
    """What was asked and said in a dialogue.

    Attributes:
      asked: [M] how often each slot was asked for.
      last: [M] bool, the slot that was asked for last.
      words: [2,M,n] tokens that the user began with, and of the last answer about each slot.
    """

    asked: Leaf
    last: Leaf
    words: Leaf


def observed(
    knowledge: Knowledge,
    belief: beliefs.Belief,
    history: History,
    log_q: Array,
    sees: str,
    counts_asked: bool,
) -> dict[str, Array]:
    """The parts of an observation, each [n].

    Args:
      knowledge: the tables.
      belief: that of the tracker.
      history: what was asked and said.
      log_q: [N] the posterior over rows, the logarithm.
      sees: see above.
      counts_asked: whether `asked` is one of them.
    """
    asked = {"asked": history.asked} if counts_asked else {}
    if sees == "words":
        silent = (history.asked > 0) & jnp.all(history.words[1] == PAD_ID, axis=-1)
        parts = {
            "silent": silent,
            "last": history.last,
            **asked,
            "words": history.words.reshape(-1),
        }
        return {name: jnp.asarray(part, jnp.float32) for name, part in parts.items()}
    p = believed = beliefs.probabilities(knowledge, belief.counts)
    if sees in ("soft", "rows"):
        p = beliefs.value_masses(knowledge, jnp.exp(log_q))
    parts = {
        "entropies": beliefs.slot_entropies(knowledge, p),
        "dropped": belief.dropped,
        "last": history.last,
        **asked,
    }
    if sees == "hard":
        detected = belief.detected & ~belief.dropped
        matches = beliefs.agreeing_rows(knowledge, believed, detected)
        parts["matches"] = jnp.arange(LIST + 1) == jnp.minimum(matches, LIST)
    if sees in ("soft", "rows"):
        parts["posterior_entropy"] = beliefs.entropy(log_q)[None]
    if sees == "rows":
        kept = knowledge.slot @ (1.0 - belief.dropped.astype(jnp.float32))
        parts |= {"belief": believed * kept, "log_prior": log_q}
    return {name: jnp.asarray(part, jnp.float32) for name, part in parts.items()}


def largest(
    knowledge: Knowledge, sees: str, counts_asked: bool, max_turns: int
) -> dict[str, np.ndarray]:
    """The largest value of each number of `observed`, by part."""
    rows, slots = knowledge.cells.shape
    one = np.ones(slots)
    asked = {"asked": np.full(slots, max_turns)} if counts_asked else {}
    if sees == "words":
        said = slots * (knowledge.tokens.shape[1] + knowledge.names.shape[1])
        words = np.full(2 * said, knowledge.kind.shape[0] - 1)
        return {"silent": one, "last": one, **asked, "words": words}
    bits = np.log2(np.asarray(knowledge.count))
    found = {"entropies": bits + 1e-3, "dropped": one, "last": one, **asked}
    if sees == "hard":
        found["matches"] = np.ones(LIST + 1)
    if sees in ("soft", "rows"):
        found["posterior_entropy"] = np.log2([rows]) + 1e-3
    if sees == "rows":
        found |= {
            "belief": np.ones(knowledge.prior.shape[0]) + 1e-6,
            "log_prior": np.full(rows, 1e-3),
        }
    return found


def row_tokens(knowledge: Knowledge, sees: str) -> Int[Array, "N P"]:
    """The agent's rows as tokens, 0 where a cell is missing.

    [N,M] of one token a value, `FIRST_TOKEN` + its number; or [N,M*L] of the words of the values, by the
    numbers of the user's words, where the policy sees `words`.
    """
    cells = knowledge.cells
    if sees == "words":
        return knowledge.tokens[cells].reshape(cells.shape[0], -1).astype(jnp.int32)
    return jnp.where(knowledge.missing[cells], PAD_ID, FIRST_TOKEN + cells).astype(jnp.int32)


def vocabulary(knowledge: Knowledge, sees: str) -> Vocabulary:
    """What is known of the tokens of `row_tokens`: idf = log (N + 1) / (rows that hold it + 1)."""
    rows = np.asarray(row_tokens(knowledge, sees))
    size = knowledge.kind.shape[0] if sees == "words" else FIRST_TOKEN + len(knowledge.prior)
    each = [np.unique(row) for row in rows]
    found = np.bincount(np.concatenate(each), minlength=size)
    content = np.arange(size) >= FIRST_TOKEN
    idf = np.where(content, np.log((len(rows) + 1.0) / (found + 1.0)), 0.0)
    fold = np.arange(size, dtype=np.int32)
    return Vocabulary(jnp.asarray(fold), jnp.asarray(idf, jnp.float32), jnp.asarray(content))
