"""What an agent believes in `KBInfoBot`: counts of values, and the posterior over rows that follows.

    p_j(v) = c_j(v) / Σ c_j        q(i) ∝ Π_j p̃_j(v_ij) / n_j(v_ij)

with p̃_j(v) = p_j(v) (1 - μ_j), p̃_j(missing) = μ_j, the share of missing cells, and n_j(v) the rows that
have v (Dhingra et al. 2017, arXiv 1609.00777). Products of many slots are sums of logarithms here.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ragjax.envs.dialogue.kb_infobot_knowledge import Knowledge
from ragjax.types import PAD_ID, Leaf

TINY = 1e-30  # in place of a probability of 0, whose logarithm no row asks for


@struct.dataclass
class Belief:
    """What is believed.

    Attributes:
      counts: [G] c_j(v).
      dropped: [M] bool, slots that the user doesn't care about, left out of the table.
      detected: [M] bool, slots of which a value was heard.
    """

    counts: Leaf
    dropped: Leaf
    detected: Leaf


def first_belief(knowledge: Knowledge) -> Belief:
    """The prior: how frequent values are in the agent's table."""
    none = jnp.zeros(knowledge.first.shape, bool)
    return Belief(knowledge.prior, none, none)


def heard(
    knowledge: Knowledge,
    belief: Belief,
    tokens: Int[Array, "*n"],
    requested: Bool[Array, "M"],
    evidence: Array,
) -> Belief:
    """The belief after an utterance.

    A value of which a share m > 0 of its words was said gains C (m + [its slot was requested] + share of
    the slot's name that was said). A requested slot of which no value was heard is dropped.

    Args:
      knowledge: the tables.
      belief: before.
      tokens: that were said, in no order.
      requested: the slot that was asked for just before, if any.
      evidence: [] C.
    """
    present = jnp.zeros(knowledge.kind.shape, bool).at[tokens.reshape(-1)].set(True)
    present = present.at[PAD_ID].set(False)
    match = _share(present, knowledge.tokens)
    bonus = _share(present, knowledge.names) + requested.astype(jnp.float32)
    gain = jnp.where(match > 0, evidence * (match + knowledge.slot @ bonus), 0.0)
    matched = (match > 0).astype(jnp.float32) @ knowledge.slot > 0
    return Belief(
        counts=belief.counts + gain,
        dropped=belief.dropped | (requested & ~matched),
        detected=belief.detected | matched,
    )


def _share(present: Bool[Array, "W"], tokens: Int[Array, "n L"]) -> Float[Array, "n"]:
    """[n] the share of each text's tokens that are present."""
    said = jnp.sum(present[tokens], axis=-1).astype(jnp.float32)
    return said / jnp.maximum(jnp.sum(tokens != PAD_ID, axis=-1), 1).astype(jnp.float32)


def probabilities(knowledge: Knowledge, counts: Float[Array, "G"]) -> Float[Array, "G"]:
    """[G] p_j(v), 0 of the symbols for missing cells."""
    total = jnp.maximum(knowledge.slot @ (counts @ knowledge.slot), TINY)
    return counts / total


def log_posterior(
    knowledge: Knowledge, p: Float[Array, "G"], dropped: Bool[Array, "M"]
) -> Float[Array, "N"]:
    """[N] log q, normalised; slots that are dropped say nothing.

    Args:
      knowledge: the tables.
      p: p_j(v).
      dropped: which slots are.
    """
    unknown = knowledge.slot @ knowledge.unknown
    smoothed = jnp.where(knowledge.missing, unknown, p * (1.0 - unknown))
    factor = jnp.log(jnp.maximum(smoothed, TINY)) - jnp.log(jnp.maximum(knowledge.rows, 1.0))
    factor = jnp.where(knowledge.slot @ dropped.astype(jnp.float32) > 0, 0.0, factor)
    return jax.nn.log_softmax(jnp.sum(factor[knowledge.cells], axis=-1))


def value_masses(knowledge: Knowledge, q: Float[Array, "N"]) -> Float[Array, "G"]:
    """[G] what the posterior over rows says of each value: w_j(v), normalised in its slot.

    w_j(v) = Σ_{rows with v} q + prior_j(v) Σ_{rows that miss j} q
    """
    rows, slots = knowledge.cells.shape
    shares = jnp.broadcast_to(q[:, None], (rows, slots))
    mass = jnp.zeros(knowledge.prior.shape).at[knowledge.cells].add(shares)
    missed = jnp.where(knowledge.missing, mass, 0.0) @ knowledge.slot
    mass = jnp.where(knowledge.missing, 0.0, mass) + knowledge.prior * (knowledge.slot @ missed)
    return probabilities(knowledge, mass)


def slot_entropies(knowledge: Knowledge, p: Float[Array, "G"]) -> Float[Array, "M"]:
    """[M] entropy of each slot's distribution, in bits."""
    return _bits(p) @ knowledge.slot


def entropy(log_q: Float[Array, "N"]) -> Float[Array, ""]:
    """[] entropy of the posterior over rows, in bits."""
    return jnp.sum(_bits(jnp.exp(log_q)))


def _bits(p: Array) -> Array:
    """-p log2 p, 0 where p is."""
    return -p * jnp.log2(jnp.where(p > 0, p, 1.0))


def agreeing_rows(
    knowledge: Knowledge, p: Float[Array, "G"], detected: Bool[Array, "M"]
) -> Int[Array, ""]:
    """[] rows of the agent's table that have the likeliest value of every slot that was detected."""
    best = jnp.argmax(jnp.where(knowledge.slot > 0, p[:, None], -1.0), axis=0)
    return jnp.sum(jnp.all((knowledge.cells == best) | ~detected, axis=-1))
