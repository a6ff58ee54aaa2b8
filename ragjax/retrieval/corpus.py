"""The corpus on the device, [N,P] tokens or [N,F] numbers, and the index that is built from it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from ragjax.types import Leaf


@struct.dataclass
class IndexState:
    """The retrieval index and its age.

    Attributes:
      embeddings: what the index searches, a tree of arrays; [N,D] passage embeddings of an `Exact` one.
      built_at_step: [] the training step whose parameters they were made with.
    """

    embeddings: Leaf
    built_at_step: Leaf


def gather_passages(
    corpus: Shaped[Array, "N P"], ids: Int[Array, "*batch K"]
) -> Shaped[Array, "*batch K P"]:
    """Looks up passages by corpus row, [...,K,P]; row -1 is an empty passage, all zeros (padding)."""
    rows = corpus[jnp.maximum(ids, 0)]
    return jnp.where((ids >= 0)[..., None], rows, jnp.zeros_like(rows))


def embed_in_chunks(
    embed: Callable[[Array], Array], corpus: Shaped[Array, "N P"], chunk: int = 256
) -> Float[Array, "N D"]:
    """Embeds every passage, `chunk` at a time to bound the memory; traceable.

    Args:
      embed: [n,P] -> [n,D].
      corpus: [N,P].
      chunk: passages embedded at once.

    Returns:
      [N,D] embeddings.
    """
    count, length = corpus.shape
    if count <= chunk:
        return embed(corpus)
    padded = jnp.pad(corpus, ((0, -count % chunk), (0, 0)))
    embedded = jax.lax.map(embed, padded.reshape(-1, chunk, length))
    return embedded.reshape(-1, embedded.shape[-1])[:count]
