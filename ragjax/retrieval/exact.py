"""Exact maximum-inner-product search inside jit."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from ragjax.ops.scoring import FULL_PRECISION
from ragjax.retrieval.base import Index
from ragjax.retrieval.blocks import best_in_blocks
from ragjax.types import TopK


@dataclass(frozen=True)
class Exact(Index):
    """All passage embeddings [N,D], searched exhaustively, in blocks where they are many."""

    scores_all: ClassVar[bool] = True

    def search(self, index: Float[Array, "N D"], query: Float[Array, "*batch D"], k: int) -> TopK:
        """See `Index.search`; ties by the lower row."""
        return best_in_blocks(index, query, k)

    def scores(
        self, index: Float[Array, "N D"], query: Float[Array, "*batch D"]
    ) -> Float[Array, "*batch N"]:
        """See `Index.scores`."""
        return jnp.matmul(query, index.T, precision=FULL_PRECISION)
