"""Rewards of `KBInfoBot`."""

import jax.numpy as jnp
from jaxtyping import Array

from ragjax.envs.dialogue.kb_infobot_seen import LIST

REQUEST = -0.1  # of asking for a slot
FAILURE = -1.0  # of a list without the row, or of too many turns


def rank_reward(rank: Array) -> Array:
    """2 (1 - ρ/5) of place ρ < 5, else -1."""
    return jnp.where(rank < LIST, 2.0 * (1.0 - rank.astype(jnp.float32) / LIST), FAILURE)
