"""p(d|x) from scores: three distributions that differ in what they normalise over.

With s(x,d) the scaled score and top-K the retrieved passages, the numerators are always those of the
top-K; the denominators sum exp s over

    retrieved  the K passages themselves. A model of its own, the one of the RAG paper: Σ_K p(d|x) = 1,
               so p(y|x) is a proper distribution, and neither an upper nor a lower bound of the sum
               over the corpus.
    in_batch   the distinct passages retrieved for any question of the batch. Its p(y|x) is at most
               that of `retrieved` and at least that of `index`, of which it is an upper bound that
               tightens as the batch grows.
    index      every passage of the corpus. Its p(y|x) is a lower bound of the full marginal
               Σ_{d in corpus} p(d|x) p(y|x,d), tight when the missing passages explain nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragjax.ops.masking import masked_log_softmax, masked_logsumexp

# Of scores. Left to themselves, GPUs and TPUs round the factors of a float32 product to 10 or 7 bits,
# which is more than the distance of neighbours in a ranking.
FULL_PRECISION = jax.lax.Precision.HIGHEST


def inner_products(
    query: Float[Array, "... D"], passages: Float[Array, "... K D"]
) -> Float[Array, "... K"]:
    """[...,K] the inner products of queries [...,D] with their passages [...,K,D], at full precision."""
    return jnp.einsum("...d,...kd->...k", query, passages, precision=FULL_PRECISION)


def log_prior_retrieved(
    scores: Float[Array, "B K"], valid: Bool[Array, "B K"]
) -> Float[Array, "B K"]:
    """Computes s_k - log Σ_j exp s_j over the K retrieved passages; -inf at a miss."""
    return masked_log_softmax(scores, valid)


def log_prior_in_batch(
    scores: Float[Array, "B B K"], ids: Int[Array, "B K"], valid: Bool[Array, "B K"]
) -> Float[Array, "B K"]:
    """Computes s_bbk - log Σ_{d in batch} exp s_bd, every distinct passage counted once.

    Args:
      scores: [B,B,K] score of question b with the k-th passage of question c.
      ids: [B,K] corpus rows, by which repeated passages are told.
      valid: [B,K] False at a miss.

    Returns:
      [B,K] log p(d_k|x); -inf at a miss.
    """
    size = scores.shape[0]
    flat = jnp.where(valid, ids, -2).reshape(-1)  # -1 can be valid: the empty passage
    earlier = jnp.tril(flat[:, None] == flat[None, :], k=-1)
    distinct = valid.reshape(-1) & ~jnp.any(earlier, axis=1)
    total = masked_logsumexp(scores.reshape(size, -1), distinct[None, :])
    own = scores[jnp.arange(size), jnp.arange(size)]
    return jnp.where(valid, jnp.where(valid, own, 0.0) - total[:, None], -jnp.inf)


def log_prior_index(
    all_scores: Float[Array, "B N"], ids: Int[Array, "B K"], valid: Bool[Array, "B K"]
) -> Float[Array, "B K"]:
    """Computes s_k - log Σ_{n=1..N} exp s_n over the whole corpus; -inf at a miss.

    Args:
      all_scores: [B,N] scores of every passage of the corpus.
      ids: [B,K] corpus rows of the retrieved passages.
      valid: [B,K] False at a miss.

    Returns:
      [B,K] log p(d_k|x).
    """
    total = jax.nn.logsumexp(all_scores, axis=-1, keepdims=True)
    own = jnp.take_along_axis(all_scores, jnp.maximum(ids, 0), axis=-1)
    own = jnp.where(ids >= 0, own, 0.0)  # the empty passage (row -1) has the zero embedding
    return jnp.where(valid, own - total, -jnp.inf)
