"""The corpus on the device, [N,P] tokens or [N,F] numbers, and the index that is built from it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from ragjax.retrieval.blocks import ShardedRows
from ragjax.types import Leaf

# [N,P] tokens or [N,F] numbers of the passages: one array, or on a mesh the rows of each device.
Corpus = Shaped[Array, "N P"] | ShardedRows


@struct.dataclass
class IndexState:
    """The retrieval index and its age.

    Attributes:
      embeddings: what the index searches, a tree of arrays; [N,D] passage embeddings of an `Exact` one.
      built_at_step: [] the training step whose parameters they were made with.
    """

    embeddings: Leaf
    built_at_step: Leaf


def gather_passages(corpus: Corpus, ids: Int[Array, "*batch K"]) -> Shaped[Array, "*batch K P"]:
    """Looks up passages by corpus row, [...,K,P]; row -1 is an empty passage, all zeros (padding)."""
    rows = corpus.rows if isinstance(corpus, ShardedRows) else corpus
    rows = rows[jnp.maximum(ids, 0)]
    return jnp.where((ids >= 0)[..., None], rows, jnp.zeros_like(rows))


def embed_in_chunks(
    embed: Callable[[Array], Array], corpus: Corpus, chunk: int = 256
) -> Float[Array, "N D"] | ShardedRows:
    """Embeds every passage, `chunk` at a time to bound the memory; traceable.

    Args:
      embed: [...,P] -> [...,D].
      corpus: [N,P].
      chunk: passages embedded at once, on each device.

    Returns:
      [N,D] embeddings, on the devices that hold the passages.
    """
    count, length = corpus.shape
    if isinstance(corpus, ShardedRows):
        # Of every device's own rows a chunk at a time: [m, devices, chunk, P] of [devices, n, P].
        own = corpus.rows.reshape(corpus.mesh.size, -1, length)
        each = own.shape[1]
        own = jnp.pad(own, ((0, 0), (0, -each % chunk), (0, 0)))
        chunks = jnp.moveaxis(own.reshape(len(own), -1, chunk, length), 0, 1)
        embedded = jnp.moveaxis(jax.lax.map(embed, chunks), 0, 1)
        embedded = embedded.reshape(len(own), -1, embedded.shape[-1])[:, :each]
        rows = embedded.reshape(-1, embedded.shape[-1])
        return ShardedRows(rows, corpus.count, corpus.mesh)
    if count <= chunk:
        return embed(corpus)
    padded = jnp.pad(corpus, ((0, -count % chunk), (0, 0)))
    embedded = jax.lax.map(embed, padded.reshape(-1, chunk, length))
    return embedded.reshape(-1, embedded.shape[-1])[:count]
