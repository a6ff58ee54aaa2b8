"""The contrastive loss of dense retrieval, and which passages it may hold against a question."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragjax.ops.masking import masked_logsumexp


def contrastive(
    positive: Float[Array, "B"], scores: Float[Array, "B C"], negatives: Bool[Array, "B C"]
) -> Float[Array, "B"]:
    """Computes -log (exp s⁺ / (exp s⁺ + Σ_c exp s_c)), DPR's loss (arXiv 2004.04906, equation 2).

    Args:
      positive: [B] s⁺, the score of a question with its gold passage.
      scores: [B,C] its scores with the passages of the batch.
      negatives: [B,C] which of them are held against it.

    Returns:
      [B]; 0 where there are no negatives.
    """
    all_scores = jnp.concatenate([positive[:, None], scores], axis=1)
    counted = jnp.concatenate([jnp.ones_like(negatives[:, :1]), negatives], axis=1)
    return masked_logsumexp(all_scores, counted) - positive


def negatives_of_batch(
    ids: Int[Array, "B M"], valid: Bool[Array, "B M"], positives: Int[Array, "B R"]
) -> Bool[Array, "B C"]:
    """Which of the batch's passages are negatives of each question.

    Those of its own as well as those of other questions are, except its gold passages and passages that
    came before: each passage counts once.

    Args:
      ids: [B,M] corpus rows of the passages that each question brings.
      valid: [B,M] False where there is none.
      positives: [B,R] corpus rows of each question's gold passages, padded with -1.

    Returns:
      [B,C], C = B·M, in the order of `ids.reshape(-1)`.
    """
    flat, there = ids.reshape(-1), valid.reshape(-1)
    same = (flat[:, None] == flat[None, :]) & there[None, :]
    distinct = there & ~jnp.any(jnp.tril(same, k=-1), axis=1)
    gold = jnp.any(flat[None, :, None] == positives[:, None, :], axis=-1)
    return distinct[None, :] & ~gold
