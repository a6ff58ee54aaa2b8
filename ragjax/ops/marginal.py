"""The sum over retrieved passages that the whole project is about.

    p(y|x) = Σ_k p(d_k|x) p(y|x,d_k)

Every objective, decoder and diagnostic calls this file; no other place adds passages up.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ragjax.ops.masking import masked_log_softmax, masked_logsumexp


def marginal(
    log_prior: Float[Array, "*#batch K"], log_likelihood: Float[Array, "*#batch K"]
) -> Float[Array, "*batch"]:
    """Computes log Σ_k exp(log p(d_k|x) + log p(y|x,d_k)).

    A passage whose prior is -inf (a miss) has zero weight and zero gradient.

    Args:
      log_prior: [...,K] log p(d_k|x).
      log_likelihood: [...,K] log p(y|x,d_k).

    Returns:
      [...] log p(y|x).
    """
    valid = ~jnp.isneginf(log_prior)
    return masked_logsumexp(jnp.where(valid, log_prior, 0.0) + log_likelihood, valid)


def log_posterior(
    log_prior: Float[Array, "*#batch K"], log_likelihood: Float[Array, "*#batch K"]
) -> Float[Array, "*batch K"]:
    """Computes log p(d_k|x,y) = log p(d_k|x) + log p(y|x,d_k) - log p(y|x).

    It is the weight of each passage in the gradient of `marginal`.

    Args:
      log_prior: [...,K] log p(d_k|x); it need not sum to one.
      log_likelihood: [...,K] log p(y|x,d_k).

    Returns:
      [...,K], normalised over the K passages; -inf at a miss.
    """
    valid = ~jnp.isneginf(log_prior)
    return masked_log_softmax(jnp.where(valid, log_prior, 0.0) + log_likelihood, valid)


def sequence_logprobs(
    token_logprobs: Float[Array, "B K T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B K"]:
    """Computes log p(y|x,d_k) = Σ_t mask_t log p(y_t|x,d_k,y_<t).

    Args:
      token_logprobs: [B,K,T].
      mask: [B,T] True on the target's tokens, its end-of-sequence token included.

    Returns:
      [B,K].
    """
    return jnp.sum(jnp.where(mask[:, None, :], token_logprobs, 0.0), axis=-1)


def rag_sequence(
    log_prior: Float[Array, "B K"],
    token_logprobs: Float[Array, "B K T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B"]:
    """RAG-Sequence: one passage for the whole answer (Lewis et al., arXiv 2005.11401, section 2.1).

        log p(y|x) = log Σ_k p(d_k|x) Π_t p(y_t|x,d_k,y_<t)

    Args:
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      token_logprobs: [B,K,T] log p(y_t|x,d_k,y_<t).
      mask: [B,T] True on the target's tokens.

    Returns:
      [B] log p(y|x).
    """
    return marginal(log_prior, sequence_logprobs(token_logprobs, mask))


def rag_token(
    log_prior: Float[Array, "B K"],
    token_logprobs: Float[Array, "B K T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B"]:
    """RAG-Token: a passage for each token (Lewis et al., arXiv 2005.11401, section 2.1).

        log p(y|x) = Σ_t log Σ_k p(d_k|x) p(y_t|x,d_k,y_<t)

    Args:
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      token_logprobs: [B,K,T] log p(y_t|x,d_k,y_<t).
      mask: [B,T] True on the target's tokens.

    Returns:
      [B] log p(y|x).
    """
    per_token = marginal(log_prior[:, None, :], jnp.swapaxes(token_logprobs, 1, 2))
    return jnp.sum(jnp.where(mask, per_token, 0.0), axis=-1)
