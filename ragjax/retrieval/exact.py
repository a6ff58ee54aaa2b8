"""Exact maximum-inner-product search inside jit."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from ragjax.types import Leaf, TopK


@struct.dataclass
class ExactIndex:
    """All passage embeddings, searched exhaustively.

    Attributes:
      embeddings: [N,D].
    """

    embeddings: Leaf

    def search(self, query: Float[Array, "*batch D"], k: int) -> TopK:
        """Returns the k passages with the highest inner product, ties by the lower row.

        Args:
          query: [...,D].
          k: static; at most N.

        Returns:
          `TopK` of [...,k]; without gradient.

        Raises:
          ValueError: k exceeds the corpus.
        """
        count = self.embeddings.shape[0]
        if not 1 <= k <= count:
            raise ValueError(f"k is {k}, but the index holds {count} passages")
        scores = jax.lax.stop_gradient(query @ self.embeddings.T)
        best, ids = jax.lax.top_k(scores, k)
        return TopK(ids.astype(jnp.int32), best, jnp.ones(ids.shape, bool))
