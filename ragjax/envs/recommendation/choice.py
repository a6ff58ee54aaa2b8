"""Which item of a slate a user clicks: item i with s_i / (Σ_j s_j + s_0), and none with the rest.

The choice models of RecSim (Ie et al. 2019, arXiv 1909.04847). Each makes the positive scores s_i and
s_0 of what a user feels for the items; `chosen` draws by them.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


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
    """The place of the item that is clicked, S for none, by inversion of the cumulative scores.

    Args:
      scores: s_i.
      no_click: s_0.
      uniform: a number drawn from [0, 1).
    """
    ends = jnp.cumsum(jnp.append(scores, no_click))
    place = jnp.sum(uniform * ends[-1] >= ends[:-1])
    return place.astype(jnp.int32)
