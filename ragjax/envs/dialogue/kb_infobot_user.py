"""The user of `KBInfoBot`: says values of the row that is looked for, with slips, as words in no order.

An utterance is what a sentence of a template would hold: the words of the values, and the name of their
slot where it is mentioned.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from ragjax.envs.dialogue.kb_infobot_knowledge import (
    DECIMAL,
    INTEGER,
    WORD,
    Knowledge,
    Numbers,
    place_of,
)
from ragjax.types import PAD_ID, UNK_ID, Leaf, PRNGKey

SPREAD = 0.5  # deviation of a number that is misheard


@struct.dataclass
class Slips:
    """Chances of what goes wrong in a value that is said.

    Attributes:
      replaced: [] another value of the slot is said, each being as likely.
      corrupted: [] one of several words is dropped, and numbers are blurred.
      mentioned: [] the name of the slot is said, too.
    """

    replaced: Leaf
    corrupted: Leaf
    mentioned: Leaf


@struct.dataclass
class Luck:
    """What chance decides for a value of each slot.

    Attributes:
      replaced: [M] evenly from 0 up to 1, below the chance if so; the following two alike.
      corrupted: [M].
      mentioned: [M].
      value: [M] evenly from 0 up to 1: which value is said in its place.
      word: [M] evenly from 0 up to 1: which word is dropped.
      blur: [M,L] of the normal distribution.
    """

    replaced: Leaf
    corrupted: Leaf
    mentioned: Leaf
    value: Leaf
    word: Leaf
    blur: Leaf


def drawn_luck(knowledge: Knowledge, key: PRNGKey) -> Luck:
    """Draws what chance decides in an utterance."""
    even, normal = jax.random.split(key)
    slots = knowledge.names.shape[0]
    replaced, corrupted, mentioned, value, word = jax.random.uniform(even, (5, slots))
    blur = jax.random.normal(normal, (slots, knowledge.tokens.shape[1]))
    return Luck(replaced, corrupted, mentioned, value, word, blur)


def first_slots(knows: Bool[Array, "M"], most: int, key: PRNGKey) -> Bool[Array, "M"]:
    """The slots whose values a user begins with: 1 to `most` of the known ones, each count as likely."""
    count_key, order_key = jax.random.split(key)
    known = jnp.sum(knows)
    count = jax.random.randint(count_key, (), 1, jnp.minimum(most, known) + 1)
    order = jnp.where(knows, jax.random.uniform(order_key, knows.shape), jnp.inf)
    return knows & (jnp.argsort(jnp.argsort(order)) < count)


def utterance(
    knowledge: Knowledge,
    slips: Slips,
    values: Int[Array, "M"],
    said: Bool[Array, "M"],
    luck: Luck,
) -> Int[Array, "M n"]:
    """What a user says: for each slot the tokens of a value and of the slot's name, 0 for nothing.

    Args:
      knowledge: the tables.
      slips: chances.
      values: the right value of each slot.
      said: of which slots the user tells it.
      luck: what chance decides.
    """
    other = place_of(luck.value, knowledge.count)
    chosen = jnp.where(luck.replaced < slips.replaced, knowledge.first + other, values)
    tokens = knowledge.tokens[chosen]
    length = jnp.sum(tokens != PAD_ID, axis=-1)
    place = place_of(luck.word, length)
    dropped = (jnp.arange(tokens.shape[1]) == place[:, None]) & (length > 1)[:, None]
    blurred = jnp.where(dropped, PAD_ID, blur(knowledge, tokens, luck.blur))
    tokens = jnp.where((luck.corrupted < slips.corrupted)[:, None], blurred, tokens)
    mentioned = (luck.mentioned < slips.mentioned)[:, None]
    both = jnp.concatenate([tokens, jnp.where(mentioned, knowledge.names, PAD_ID)], axis=1)
    return jnp.where(said[:, None], both, PAD_ID)


def utterance_shape(knowledge: Knowledge) -> tuple[int, int]:
    """M slots, and the tokens that are said of each at the most."""
    return knowledge.names.shape[0], knowledge.tokens.shape[1] + knowledge.names.shape[1]


def blur(knowledge: Knowledge, tokens: Int[Array, "M L"], normal: Array) -> Int[Array, "M L"]:
    """Numbers with noise: a whole number n as int(N(n, ½)), one with a point as N(x, ½) in tenths.

    A number that no value has becomes `UNK_ID`.
    """
    kind = knowledge.kind[tokens]
    amount = knowledge.amount[tokens] + SPREAD * normal
    whole = _token_of(knowledge.integers, jnp.trunc(amount))
    tenths = _token_of(knowledge.decimals, jnp.round(amount * 10))
    number = jnp.where(kind == INTEGER, whole, jnp.where(kind == DECIMAL, tenths, UNK_ID))
    return jnp.where(kind == WORD, tokens, number)


def _token_of(numbers: Numbers, amount: Array) -> Array:
    """The token of each amount, `UNK_ID` if none has it."""
    amount = amount.astype(jnp.int32)
    place = jnp.searchsorted(numbers.amounts, amount)
    found = numbers.amounts[place] == amount
    return jnp.where(found, numbers.tokens[place], UNK_ID)
