"""Which item of a slate a user clicks: item i with s_i / (Σ_j s_j + s_0), and none with the rest.

The choice models of RecSim (Ie et al. 2019, arXiv 1909.04847). Each makes the positive scores s_i and
s_0 of what a user feels for the items; `chosen` draws by them.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCKED = 64  # weights, from which on they are drawn in blocks


def proportional(
    affinity: Float[Array, "S"], no_click: Float[Array, ""], least: Float[Array, ""]
) -> tuple[Float[Array, "S"], Float[Array, ""]]:
    """Scores s_i = a_i - m and s_0 = c - m of affinities a_i, where m is the `least` there can be."""
    return affinity - least, no_click - least


def logit(
    affinity: Float[Array, "S"], no_click: Float[Array, ""]
) -> tuple[Float[Array, "S"], Float[Array, ""]]:
    """Scores s_i = exp(a_i) and s_0 = exp(c) of affinities a_i."""
    return jnp.exp(affinity), jnp.exp(no_click)


def chosen(
    scores: Float[Array, "S"], no_click: Float[Array, ""], uniform: Float[Array, ""]
) -> Int[Array, ""]:
    """The place of the item that is clicked, S for none.

    Args:
      scores: s_i.
      no_click: s_0.
      uniform: a number drawn from [0, 1).
    """
    return drawn_by_weight(jnp.append(scores, no_click), uniform)


def drawn_by_weight(weights: Float[Array, "n"], uniform: Float[Array, ""]) -> Int[Array, ""]:
    """One of n with w_i / Σ_j w_j, by inversion of the cumulative weights.

    Of many, first one of √n blocks is found and then one of the block: sums cost less than their
    cumulation.

    Args:
      weights: w, not negative.
      uniform: a number drawn from [0, 1).
    """
    count = len(weights)
    size = math.isqrt(count - 1) + 1 if count >= BLOCKED else count
    blocks = jnp.pad(weights, (0, -count % size)).reshape(-1, size)
    ends = jnp.cumsum(jnp.sum(blocks, axis=-1))
    target = uniform * ends[-1]
    block = jnp.sum(target >= ends[:-1], dtype=int)
    before = jnp.where(block > 0, ends[block - 1], 0.0)
    within = jnp.sum(target - before >= jnp.cumsum(blocks[block])[:-1], dtype=int)
    return jnp.minimum(block * size + within, count - 1)
