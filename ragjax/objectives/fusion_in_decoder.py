"""Fusion in decoder: one answer from all passages at once (Izacard & Grave, arXiv 2007.01282)."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array

from ragjax.decoding.beam import Beam, beam_marginal
from ragjax.decoding.greedy import greedy_marginal
from ragjax.decoding.marginal import Decoded
from ragjax.errors import UserError
from ragjax.objectives.likelihood import Likelihood, Reading
from ragjax.ops.marginal import log_posterior, sequence_logprobs
from ragjax.types import PAD_ID, Params, RagModel


@dataclass(frozen=True)
class FusionInDecoder(Likelihood):
    """The reader's encoder reads each passage alone, its decoder all K together: log p(y|x,d_1..d_K).

    It is no sum over passages. p(d|x) only chooses which are read, so that the likelihood gives the
    retriever no gradient at all, and nothing tells which passage an answer is from: log p(d|x,y) is
    log p(d|x). Their order does not matter. A decoder-only reader can't do it.

    Attributes:
      beam: how answers are searched, of which one is given; None for greedy decoding.
    """

    beam: Beam | None = None

    def log_marginal(self, log_prior: Array, token_logprobs: Array, mask: Array) -> Array:
        """Refused: there is no sum over passages."""
        raise UserError(
            "FusionInDecoder reads all passages at once and has no sum over them, which is asked for; "
            "use it by itself, or RagSequence or RagToken in its place."
        )

    def explained(
        self, model: RagModel, params: Params, reading: Reading, mask: Array
    ) -> tuple[Array, Array]:
        """See `Likelihood.explained`."""
        memory = _fused(model, params, reading.memory, reading.log_prior)
        told = model.token_logprobs(params, memory, reading.target)
        among = log_posterior(reading.log_prior, jnp.zeros_like(reading.log_prior))
        return sequence_logprobs(told, mask)[:, 0], among

    def decode(
        self,
        model: RagModel,
        params: Params,
        question: Array,
        *,
        passages: Array,
        log_prior: Array,
        length: int,
    ) -> Decoded:
        """See `Objective.decode`."""
        memory = _fused(model, params, model.encode(params, question, passages), log_prior)
        alone = jnp.zeros((question.shape[0], 1))
        among = log_posterior(log_prior, jnp.zeros_like(log_prior))
        if self.beam is not None:
            beam = replace(self.beam, returned=1)
            found = beam_marginal(model, params, memory, alone, length=length, beam=beam)
            return Decoded(found.tokens[:, 0], found.log_prob[:, 0], among)
        tokens = greedy_marginal(model, params, memory, alone, length)
        told = model.token_logprobs(params, memory, tokens)
        return Decoded(tokens, sequence_logprobs(told, tokens != PAD_ID)[:, 0], among)


def _fused(model: RagModel, params: Params, memory: object, log_prior: Array) -> object:
    """The memory of B sources, of all passages but the misses."""
    if model.fuse is None:
        raise UserError("The reader can't read all passages at once; choose another objective.")
    return model.fuse(params, memory, ~jnp.isneginf(log_prior))
