"""The decoders of RAG-Sequence and RAG-Token, each with the posterior over passages."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.decoding.beam import Beam, beam_by_passage, beam_marginal
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
    """Answers to B questions: the best of each, or its n best, best first, along a second axis.

    Attributes:
      tokens: [B,T] or [B,n,T], padding after the end of sequence; nothing else where a beam search has
        found no answer.
      log_prob: [B] or [B,n] log p(y|x) under the marginal, all K passages counted; -inf likewise.
      log_posterior: [B,K] or [B,n,K] log p(d_k|x,y).
      query: [B,T] what a reader that searches by itself has searched for last, padding if nothing; None
        of other readers.
    """

    tokens: Leaf
    log_prob: Leaf
    log_posterior: Leaf
    query: Leaf | None = None


def decode_rag_sequence(
    model: RagModel,
    params: Params,
    question: Int[Array, "B Q"],
    *,
    passages: Int[Array, "B K P"],
    log_prior: Float[Array, "B K"],
    length: int,
    rescore_all: bool = False,
    beam: Beam | None = None,
) -> Decoded:
    """Decodes under RAG-Sequence (Lewis et al., arXiv 2005.11401, section 2.5).

    Each passage proposes its greedy answer, or those of a beam search. Fast decoding scores a proposal
    by the passages that propose the same answer, `rescore_all` scores every proposal under every passage
    ("thorough" in the paper). Either way the winner's probability and posterior count all K passages.

    Args:
      model: the model.
      params: its parameters.
      question: [B,Q].
      passages: [B,K,P].
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      length: T.
      rescore_all: K times the decoder's scoring work, for a better choice among proposals.
      beam: how each passage's proposals are searched; greedily where it is None.

    Returns:
      The answers.
    """
    if beam is not None:
        found = nbest_rag_sequence(
            model,
            params,
            question,
            passages=passages,
            log_prior=log_prior,
            length=length,
            beam=replace(beam, returned=1),
            rescore_all=rescore_all,
        )
        return jax.tree.map(lambda leaf: leaf[:, 0], found)
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


def nbest_rag_sequence(
    model: RagModel,
    params: Params,
    question: Int[Array, "B Q"],
    *,
    passages: Int[Array, "B K P"],
    log_prior: Float[Array, "B K"],
    length: int,
    beam: Beam,
    rescore_all: bool = False,
) -> Decoded:
    """The n best answers under RAG-Sequence among all that the passages' beam searches propose.

    Each passage proposes up to `beam.beams` answers. Equal ones are one candidate, and a miss proposes
    nothing. Candidates are ranked by

        Σ_k p(d_k|x) p(y|x,d_k)

    over all passages with `rescore_all`, else ("fast") over those that propose y, where others count as
    zero. Either way lengths are no part of it, and the answers' probability counts all K passages.

    Args:
      model: the model.
      params: its parameters.
      question: [B,Q].
      passages: [B,K,P], encoded once.
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      length: T.
      beam: how proposals are searched, and n.
      rescore_all: whether all passages score every candidate.

    Returns:
      The answers [B,n,T], by what ranks them.
    """
    memory = model.encode(params, question, passages)
    batch, count = log_prior.shape
    proposals = beam_by_passage(
        model,
        params,
        memory,
        (batch, count),
        length=length,
        beam=replace(beam, returned=beam.beams),
    )
    candidates = proposals.tokens.reshape(batch, -1, length)  # [B,C,T], C = K beams
    prior = jnp.repeat(log_prior, beam.beams, axis=1)  # of the passage that proposes each
    exists = ~jnp.isneginf(prior) & ~jnp.isneginf(proposals.score.reshape(batch, -1))
    same = jnp.all(candidates[:, :, None] == candidates[:, None, :], axis=-1)
    same &= exists[:, :, None] & exists[:, None, :]
    again = jnp.any(jnp.tril(same, -1), axis=-1)
    if rescore_all:
        per_passage = answer_logprobs(model, params, memory, candidates)
        scores = marginal(log_prior[:, None, :], per_passage)
    else:
        votes = jnp.where(same, prior[:, None, :], -jnp.inf)
        likelihood = proposals.log_prob.reshape(batch, 1, -1)
        scores = marginal(votes, jnp.broadcast_to(likelihood, votes.shape))
    scores = jnp.where(exists & ~again, scores, -jnp.inf)
    scores, best = jax.lax.top_k(scores, beam.returned)
    found = ~jnp.isneginf(scores)
    tokens = jnp.take_along_axis(candidates, best[..., None], axis=1)
    tokens = jnp.where(found[..., None], tokens, PAD_ID)
    if rescore_all:
        per_passage = jnp.take_along_axis(per_passage, best[..., None], axis=1)
    else:
        per_passage = answer_logprobs(model, params, memory, tokens)
    log_prior = log_prior[:, None, :]
    log_prob = jnp.where(found, marginal(log_prior, per_passage), -jnp.inf)
    return Decoded(tokens, log_prob, log_posterior(log_prior, per_passage))


def answer_logprobs(
    model: RagModel, params: Params, memory: object, tokens: Int[Array, "B n T"]
) -> Float[Array, "B n K"]:
    """Computes log p(y|x,d_k) of n answers to each question; the memory has no axis of answers."""

    def of(tokens):
        return sequence_logprobs(model.token_logprobs(params, memory, tokens), tokens != PAD_ID)

    return jax.vmap(of, in_axes=1, out_axes=1)(tokens)


def decode_rag_token(
    model: RagModel,
    params: Params,
    question: Int[Array, "B Q"],
    *,
    passages: Int[Array, "B K P"],
    log_prior: Float[Array, "B K"],
    length: int,
    beam: Beam | None = None,
) -> Decoded:
    """Decodes under RAG-Token: each token maximises the marginal (section 2.5 of the same).

    The passage is a latent of each token; the posterior returned is its mean over the answer's tokens.

    Args:
      model: the model.
      params: its parameters.
      question: [B,Q].
      passages: [B,K,P].
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      length: T.
      beam: how answers are searched by the marginals of their tokens; greedily where it is None.

    Returns:
      The answers.
    """
    if beam is not None:
        found = nbest_rag_token(
            model,
            params,
            question,
            passages=passages,
            log_prior=log_prior,
            length=length,
            beam=replace(beam, returned=1),
        )
        return jax.tree.map(lambda leaf: leaf[:, 0], found)
    memory = model.encode(params, question, passages)
    tokens = greedy_marginal(model, params, memory, log_prior, length)
    return _told_by_token(model, params, memory, log_prior, tokens)


def nbest_rag_token(
    model: RagModel,
    params: Params,
    question: Int[Array, "B Q"],
    *,
    passages: Int[Array, "B K P"],
    log_prior: Float[Array, "B K"],
    length: int,
    beam: Beam,
) -> Decoded:
    """The n best answers of a beam search under RAG-Token, see `beam_marginal`.

    Args:
      model: the model.
      params: its parameters.
      question: [B,Q].
      passages: [B,K,P], encoded once.
      log_prior: [B,K] log p(d_k|x); -inf at a miss.
      length: T.
      beam: the options, and n.

    Returns:
      The answers [B,n,T], by the score of the search; the posterior is as in `decode_rag_token`.
    """
    memory = model.encode(params, question, passages)
    found = beam_marginal(model, params, memory, log_prior, length=length, beam=beam)
    told = jax.vmap(
        lambda tokens: _told_by_token(model, params, memory, log_prior, tokens),
        in_axes=1,
        out_axes=1,
    )(found.tokens)
    log_prob = jnp.where(jnp.isneginf(found.score), -jnp.inf, told.log_prob)
    return Decoded(told.tokens, log_prob, told.log_posterior)


def _told_by_token(
    model: RagModel,
    params: Params,
    memory: object,
    log_prior: Float[Array, "B K"],
    tokens: Int[Array, "B T"],
) -> Decoded:
    """Answers with their probability under RAG-Token, and the mean posterior over their tokens."""
    mask = tokens != PAD_ID
    logprobs = model.token_logprobs(params, memory, tokens)
    per_token = log_posterior(log_prior[:, None, :], jnp.swapaxes(logprobs, 1, 2))  # [B,T,K]
    weight = jnp.where(mask[..., None], jnp.exp(per_token), 0.0)
    count = jnp.sum(mask.astype(jnp.float32), axis=1, keepdims=True)
    mean = jnp.sum(weight, axis=1) / jnp.maximum(count, 1.0)
    return Decoded(tokens, rag_token(log_prior, logprobs, mask), jnp.log(mean))
