"""An index: it looks at every second number of the embeddings first, and at all of the best of those."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from ragjax.retrieval.base import Index, require_depth
from ragjax.types import TopK


@dataclass(frozen=True)
class TwoStage(Index):
    """Rescores the `shortlist` best by half of the dimensions.

    Attributes:
      shortlist: passages that are rescored.
    """

    scores_all: ClassVar[bool] = False

    shortlist: int = 12

    def build(self, embeddings):
        return {"whole": embeddings, "half": embeddings[:, ::2]}

    def search(self, index, query, k):
        index, query = jax.lax.stop_gradient((index, query))
        count = index["whole"].shape[0]
        require_depth(k, count)
        _, rows = jax.lax.top_k(query[..., ::2] @ index["half"].T, min(self.shortlist, count))
        scores = jnp.einsum("...d,...sd->...s", query, index["whole"][rows])
        best, places = jax.lax.top_k(scores, min(k, scores.shape[-1]))
        ids = jnp.take_along_axis(rows, places, axis=-1).astype(jnp.int32)
        missing = k - ids.shape[-1]
        pad = [(0, 0)] * (ids.ndim - 1) + [(0, missing)]
        ids = jnp.pad(ids, pad, constant_values=-1)
        best = jnp.pad(best, pad, constant_values=-jnp.inf)
        return TopK(ids, best, ids >= 0)
