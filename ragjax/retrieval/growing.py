"""A memory that grows while an episode runs: a ring of fixed capacity, written to inside jit.

It is one struct of arrays, so that it lives in the state of an environment, is batched by `vmap`, and
starts empty with each episode. When it is full, the oldest rows make room.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float

from ragjax.types import Leaf, TopK


@struct.dataclass
class GrowingMemory:
    """Rows in the order of a ring.

    Attributes:
      rows: [M,W], zeros where nothing is written yet.
      written: [] rows written so far, those that have been overwritten included.
    """

    rows: Leaf
    written: Leaf

    @classmethod
    def empty(cls, capacity: int, width: int) -> "GrowingMemory":
        """A memory of `capacity` rows without any."""
        return cls(jnp.zeros((capacity, width)), jnp.zeros((), jnp.int32))

    @property
    def known(self) -> Bool[Array, "M"]:
        """[M] which rows are written."""
        return jnp.arange(self.rows.shape[0]) < self.written

    def add(self, rows: Float[Array, "n W"], where: Bool[Array, "n"]) -> "GrowingMemory":
        """Writes those of n rows, at most M, that are to be kept, one after another.

        Args:
          rows: [n,W].
          where: [n] which of them to keep.
        """
        capacity = self.rows.shape[0]
        assert rows.shape[0] <= capacity, "more rows at once than it has would overwrite each other"
        order = jnp.cumsum(where.astype(jnp.int32)) - 1
        places = jnp.where(where, (self.written + order) % capacity, capacity)
        written = self.written + jnp.sum(where.astype(jnp.int32))
        return GrowingMemory(self.rows.at[places].set(rows, mode="drop"), written)


def recall(
    query: Float[Array, "... D"], keys: Float[Array, "... M D"], known: Bool[Array, "... M"], k: int
) -> TopK:
    """The k rows of the largest inner product with the query among those known, without gradient.

    Args:
      query: [...,D].
      keys: [...,M,D] embeddings of a memory's rows.
      known: [...,M] which rows are written.
      k: how many, at most M.
    """
    scores = jax.lax.stop_gradient(jnp.einsum("...d,...md->...m", query, keys))
    scores, ids = jax.lax.top_k(jnp.where(known, scores, -jnp.inf), k)
    valid = ~jnp.isneginf(scores)
    return TopK(jnp.where(valid, ids, -1).astype(jnp.int32), scores, valid)
