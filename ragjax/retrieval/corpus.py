"""The tokenised corpus on the device, and the embeddings built from it."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.types import PAD_ID, Leaf, Params, RagModel


@struct.dataclass
class IndexState:
    """The retrieval index and its age.

    Attributes:
      embeddings: [N,D] passage embeddings.
      built_at_step: [] the training step whose parameters they were made with.
    """

    embeddings: Leaf
    built_at_step: Leaf


def gather_passages(corpus: Int[Array, "N P"], ids: Int[Array, "*batch K"]) -> Array:
    """Looks up passage tokens by corpus row, [...,K,P]; row -1 is an empty passage."""
    tokens = corpus[jnp.maximum(ids, 0)]
    return jnp.where((ids >= 0)[..., None], tokens, PAD_ID)


def embed_corpus(
    model: RagModel, params: Params, corpus: Int[Array, "N P"], chunk: int = 256
) -> Float[Array, "N D"]:
    """Embeds every passage, `chunk` at a time to bound the memory; traceable.

    Args:
      model: gives `embed_passage`.
      params: its parameters.
      corpus: [N,P] passage tokens.
      chunk: passages embedded at once.

    Returns:
      [N,D] embeddings.
    """
    count, length = corpus.shape
    padding = -count % chunk
    padded = jnp.pad(corpus, ((0, padding), (0, 0)))
    embedded = jax.lax.map(
        lambda tokens: model.embed_passage(params, tokens), padded.reshape(-1, chunk, length)
    )
    return embedded.reshape(-1, embedded.shape[-1])[:count]
