"""What a RAG model says of an answer: by the formulas as published, or as transformers computes it.

Both take the generator's logits, so that they differ in nothing else:

    paper    RAG-Sequence  log p(y|x) = log Σ_k p(d_k|x) Π_t p(y_t|x,d_k,y_<t)
             RAG-Token     log p(y|x) = Σ_t log Σ_k p(d_k|x) p(y_t|x,d_k,y_<t)
    hf       the same sums, with the peculiarities that the README beside this file lists
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragjax.ops.marginal import (
    log_posterior,
    marginal,
    rag_sequence,
    rag_token,
    sequence_logprobs,
)
from ragjax.ops.masking import masked_log_softmax

RagKind = Literal["sequence", "token"]
Semantics = Literal["paper", "hf"]


def log_prior(doc_scores: Float[Array, "B K"]) -> Float[Array, "B K"]:
    """Computes log p(d_k|x), the log-softmax of the scores over the K passages; -inf is a miss."""
    return masked_log_softmax(doc_scores, ~jnp.isneginf(doc_scores))


def next_token_logprobs(
    kind: RagKind,
    prior: Float[Array, "B K"],
    logprobs: Float[Array, "B K T V"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T V"]:
    """Computes log p(v|x,y_<t) = log Σ_k w_kt p(v|x,d_k,y_<t) for every token v.

    The weight w_kt is p(d_k|x) in RAG-Token, and p(d_k|x,y_<t) in RAG-Sequence, where the tokens before
    tell which passage the answer is from. The sum over t of the targets' entries is log p(y|x).

    Args:
      kind: of the model.
      prior: [B,K] log p(d_k|x).
      logprobs: [B,K,T,V] log p(· | x,d_k,y_<t).
      targets: [B,T] y.
      mask: [B,T] True on the tokens of y that count.

    Returns:
      [B,T,V].
    """
    weight = prior[:, None, :]
    if kind == "sequence":
        own = jnp.where(mask[:, None], _of(logprobs, targets), 0.0)
        before = jnp.cumsum(own, axis=-1) - own
        weight = log_posterior(weight, jnp.swapaxes(before, 1, 2))
    return marginal(weight[:, :, None, :], jnp.moveaxis(logprobs, 1, -1))


def paper_losses(
    kind: RagKind,
    logits: Float[Array, "B K T V"],
    doc_scores: Float[Array, "B K"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    label_smoothing: float,
) -> Float[Array, "B"]:
    """Computes -log p(y|x), every token of y counted.

    With label smoothing ε it is the cross-entropy of the smoothed targets to `next_token_logprobs`:

        -(1-ε) log p(y|x) - ε/V Σ_t Σ_v log p(v|x,y_<t)

    Args:
      kind: of the model.
      logits: [B,K,T,V] scores before each token of y.
      doc_scores: [B,K].
      targets: [B,T] y.
      mask: [B,T] True on the tokens of y that count.
      label_smoothing: ε.

    Returns:
      [B].
    """
    prior, logprobs = log_prior(doc_scores), jax.nn.log_softmax(logits, axis=-1)
    summed = rag_sequence if kind == "sequence" else rag_token
    likelihood = summed(prior, _of(logprobs, targets), mask)
    if label_smoothing == 0:
        return -likelihood
    spread = jnp.mean(next_token_logprobs(kind, prior, logprobs, targets, mask), axis=-1)
    spread = jnp.sum(jnp.where(mask, spread, 0.0), axis=-1)
    return -(1 - label_smoothing) * likelihood - label_smoothing * spread


def hf_losses(
    kind: RagKind,
    logits: Float[Array, "B K T V"],
    doc_scores: Float[Array, "B K"],
    targets: Int[Array, "B T"],
    *,
    pad: int,
    exclude_first: Bool[Array, "#B"],
    label_smoothing: float,
) -> Float[Array, "B"]:
    """Computes the losses of transformers, of targets that are already shifted.

        RAG-Sequence  -(1-ε) log Σ_k exp Σ_t l_kt(y_t) - ε/V log Σ_k exp Σ_t Σ_v l_kt(v)
        RAG-Token     -(1-ε) Σ_t l_t(y_t) - ε/V Σ_t Σ_v l_t(v)

    with l_t = log Σ_k p(d_k|x) p(· | x,d_k,y_<t), and l_kt = log p(· | x,d_k,y_<t), to which log
    p(d_k|x) is added at the second token alone. Sums over t leave padding out.

    Args:
      kind: of the model.
      logits: [B,K,T,V] scores before each target.
      doc_scores: [B,K].
      targets: [B,T], padded with `pad`.
      pad: the generator's token of padding.
      exclude_first: whether log p of the first target is left out; RAG-Token never does.
      label_smoothing: ε.

    Returns:
      [B].
    """
    prior, logprobs = log_prior(doc_scores), jax.nn.log_softmax(logits, axis=-1)
    mask, vocab = targets != pad, logits.shape[-1]
    if kind == "token":
        logprobs = marginal(prior[:, None, None, :], jnp.moveaxis(logprobs, 1, -1))[:, None]
    else:
        second = (jnp.arange(targets.shape[-1]) == 1)[:, None]
        logprobs = logprobs + jnp.where(second, prior[:, :, None, None], 0.0)
    counted = mask
    if kind == "sequence":
        counted = mask & ~(exclude_first[:, None] & (jnp.arange(targets.shape[-1]) == 0))
    likelihood = sequence_logprobs(_of(logprobs, targets), counted)
    spread = sequence_logprobs(jnp.sum(logprobs, axis=-1), mask)
    # Over a single entry, which RAG-Token has left, this is that entry.
    likelihood, spread = (marginal(jnp.zeros_like(one), one) for one in (likelihood, spread))
    loss = -(1 - label_smoothing) * likelihood
    return loss - label_smoothing / vocab * spread if label_smoothing else loss


def _of(logprobs: Float[Array, "B k T V"], targets: Int[Array, "B T"]) -> Float[Array, "B k T"]:
    """The entries of the targets."""
    own = jnp.broadcast_to(targets[:, None, :, None], (*logprobs.shape[:-1], 1))
    return jnp.take_along_axis(logprobs, own, axis=-1)[..., 0]
