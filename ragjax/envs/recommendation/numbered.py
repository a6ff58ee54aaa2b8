"""Tokens of things that are numbered, such as products."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragjax.types import UNK_ID, Vocabulary

FIRST_TOKEN = UNK_ID + 1  # of what is numbered


def numbered_vocabulary(*counts: int) -> Vocabulary:
    """The vocabulary of things of several kinds that are numbered, one kind after another.

    Passages have one token of each kind, and those of a kind are taken to be in equally many.

    Args:
      counts: how many there are of each kind; of the most numerous kind each is in one passage.
    """
    passages = max(counts)
    found = np.repeat([passages / count for count in counts], counts)
    idf = np.concatenate([np.zeros(FIRST_TOKEN), np.log((passages + 1) / (found + 1))])
    size = len(idf)
    return Vocabulary(
        fold=jnp.arange(size, dtype=jnp.int32),
        idf=jnp.asarray(idf, jnp.float32),
        content=jnp.arange(size) >= FIRST_TOKEN,
    )


def numbers_of(looks: Array) -> Int[Array, "..."]:
    """[...] the numbers that passages [...,n] or [...,1] tell: one-hots, or tokens."""
    if jnp.issubdtype(looks.dtype, jnp.integer):
        return looks[..., 0] - FIRST_TOKEN
    return jnp.argmax(looks, axis=-1)


def shares_of_views(parts: Mapping[str, Array], products: int) -> Float[Array, "... P"]:
    """[...,P] the share of each product among the views that an observation tells."""
    views = parts["views"]
    if "fresh" not in parts:
        return views
    seen = views.astype(jnp.int32)[..., None] == jnp.arange(products) + FIRST_TOKEN
    return jnp.mean(seen.astype(float), axis=-2)
