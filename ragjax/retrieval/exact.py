"""Exact maximum-inner-product search inside jit."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from ragjax.ops.scoring import FULL_PRECISION
from ragjax.retrieval.base import Index
from ragjax.retrieval.blocks import ShardedRows, all_rows, best_in_blocks, best_in_shards
from ragjax.types import TopK


@dataclass(frozen=True)
class Exact(Index):
    """All passage embeddings [N,D], searched exhaustively, in blocks where they are many.

    On a mesh of devices they may be `blocks.ShardedRows`, of which each device searches its own.
    """

    scores_all: ClassVar[bool] = True
    on_mesh: ClassVar[bool] = True

    def search(self, index: Any, query: Float[Array, "*batch D"], k: int) -> TopK:
        """See `Index.search`; ties by the lower row."""
        if isinstance(index, ShardedRows):
            return best_in_shards(index, query, k)
        return best_in_blocks(index, query, k)

    def scores(self, index: Any, query: Float[Array, "*batch D"]) -> Float[Array, "*batch N"]:
        """See `Index.scores`."""
        return jnp.matmul(query, all_rows(index).T, precision=FULL_PRECISION)
