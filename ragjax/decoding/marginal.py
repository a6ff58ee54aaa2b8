"""The decoders of RAG-Sequence and RAG-Token, each with the posterior over passages."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.decoding.greedy import greedy_by_passage, greedy_marginal
from ragjax.ops.marginal import (
    log_posterior,
    marginal,
    rag_sequence,
    rag_token,
    sequence_logprobs,
)
from ragjax.types import PAD_ID, Leaf, Params, RagModel


@struct.dataclass
class Decoded:
    """Answers to B questions.

    Attributes:
      tokens: [B,T], padding after the end of sequence.
      log_prob: [B] log p(y|x) under the marginal, all K passages counted.
      log_posterior: [B,K] log p(d_k|x,y).
    """

    tokens: Leaf
    log_prob: Leaf
    log_posterior: Leaf


def decode_rag_sequence(
    model: RagModel,
    params: Params,
    question: Int[Array, "B Q"],
    *,
    passages: Int[Array, "B K P"],
    log_prior: Float[Array, "B K"],
    length: int,
    rescore_all: bool = False,
) -> Decoded:
    """Decodes under RAG-Sequence (Lewis et al., arXiv 2005.11401, section 2.5).

    Each passage proposes its greedy answer. Fast decoding scores a proposal by the passages that
    propose the same answer, `rescore_all` scores every proposal under every passage ("thorough" in the
    paper). Either way the winner's probability and posterior count all K passages.

    Args:
      model: the model.
      params: its parameters.
      question: [B,Q].
      passages: [B,K,P].
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      length: T.
      rescore_all: K times the decoder's scoring work, for a better choice among proposals.

    Returns:
      The answers.
    """
    memory = model.encode(params, question, passages)
    batch, count = log_prior.shape
    proposals, likelihood = greedy_by_passage(model, params, memory, (batch, count), length)
    if rescore_all:

        def score(proposal):
            logprobs = model.token_logprobs(params, memory, proposal)
            return rag_sequence(log_prior, logprobs, proposal != PAD_ID)

        scores = jnp.moveaxis(jax.lax.map(score, jnp.moveaxis(proposals, 1, 0)), 0, 1)
        scores = jnp.where(jnp.isneginf(log_prior), -jnp.inf, scores)
    else:
        same = jnp.all(proposals[:, :, None] == proposals[:, None, :], axis=-1)
        votes = jnp.where(same, log_prior[:, None, :], -jnp.inf)
        scores = marginal(votes, jnp.broadcast_to(likelihood[:, None, :], votes.shape))
    best = jnp.argmax(scores, axis=-1)
    tokens = jnp.take_along_axis(proposals, best[:, None, None], axis=1)[:, 0]
    per_passage = sequence_logprobs(model.token_logprobs(params, memory, tokens), tokens != PAD_ID)
    return Decoded(tokens, marginal(log_prior, per_passage), log_posterior(log_prior, per_passage))


def decode_rag_token(
    model: RagModel,
    params: Params,
    question: Int[Array, "B Q"],
    *,
    passages: Int[Array, "B K P"],
    log_prior: Float[Array, "B K"],
    length: int,
) -> Decoded:
    """Decodes greedily under RAG-Token: each token maximises the marginal (section 2.5 of the same).

    The passage is a latent of each token; the posterior returned is its mean over the answer's tokens.

    Args:
      model: the model.
      params: its parameters.
      question: [B,Q].
      passages: [B,K,P].
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      length: T.

    Returns:
      The answers.
    """
    memory = model.encode(params, question, passages)
    tokens = greedy_marginal(model, params, memory, log_prior, length)
    mask = tokens != PAD_ID
    logprobs = model.token_logprobs(params, memory, tokens)
    per_token = log_posterior(log_prior[:, None, :], jnp.swapaxes(logprobs, 1, 2))  # [B,T,K]
    weight = jnp.where(mask[..., None], jnp.exp(per_token), 0.0)
    count = jnp.sum(mask.astype(jnp.float32), axis=1, keepdims=True)
    mean = jnp.sum(weight, axis=1) / jnp.maximum(count, 1.0)
    return Decoded(tokens, rag_token(log_prior, logprobs, mask), jnp.log(mean))
