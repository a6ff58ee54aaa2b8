"""Where in a passage what was written last stands, so that a reader knows from where it copies."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def align(passage: Int[Array, "B K P"], written: Int[Array, "B #K m n"]) -> Float[Array, "B K m P"]:
    """Where in the passage the last tokens written stand, as a distribution over positions.

    A position matches to depth j if it and the j - 1 positions before it hold the last j tokens; its
    weight is 8^j, so that a longer match wins and equal ones share. Without any match all are zero.

    Args:
      passage: [B,K,P] tokens.
      written: [B,K,m,n] the last n tokens at each of m decoding positions, newest last; [B,1,m,n]
        where all passages share them.

    Returns:
      [B,K,m,P] weights that sum to one or are all zero.
    """
    shifted, total = passage, jnp.zeros(())
    matches = jnp.ones((1, 1, 1, 1), bool)
    for depth in range(written.shape[-1]):
        token = written[..., -1 - depth]
        matches = (
            matches & (shifted[..., None, :] == token[..., None]) & (shifted > 0)[..., None, :]
        )
        total = total + jnp.where(matches, 8.0 ** (depth + 1), 0.0)
        shifted = jnp.pad(shifted[..., :-1], ((0, 0), (0, 0), (1, 0)))
    return total / jnp.maximum(jnp.sum(total, axis=-1, keepdims=True), 1.0)
