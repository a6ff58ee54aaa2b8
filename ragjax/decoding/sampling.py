"""Answers drawn from the marginal of RAG-Sequence, with the log-probabilities they were drawn with."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.decoding.stepping import until_finished
from ragjax.errors import require
from ragjax.ops.marginal import log_posterior, marginal
from ragjax.ops.masking import masked_log_softmax
from ragjax.types import BOS_ID, EOS_ID, PAD_ID, Params, RagModel


@dataclass(frozen=True)
class Sampling:
    """How the next token's distribution is sharpened and cut off before a token is drawn.

        q(y_t) ∝ p(y_t)^(1/temperature) over the tokens that are kept

    The defaults change nothing. The likeliest token is always kept, and one that is as likely as
    another that is kept is kept too.

    Attributes:
      temperature: below 1 sharpens, above 1 flattens.
      top_k: keeps the k likeliest tokens; None keeps all.
      top_p: keeps the fewest likeliest tokens whose probability, of what temperature and `top_k` leave,
        is at least this; 1 keeps all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self):
        """Checks the fields."""
        require(
            math.isfinite(self.temperature) and self.temperature > 0,
            f"sampling.temperature is {self.temperature}; it must be above 0 (greedy decoding is "
            "what it tends to at 0).",
        )
        require(
            self.top_k is None or self.top_k >= 1,
            f"sampling.top_k is {self.top_k}; it must be None or at least 1.",
        )
        require(
            0 < self.top_p <= 1,
            f"sampling.top_p is {self.top_p}; it must be above 0 and at most 1.",
        )

    def apply(self, logprobs: Float[Array, "*batch V"]) -> Float[Array, "*batch V"]:
        """Computes log q of [...,V] log-probabilities p; -inf at tokens that are not kept."""
        if self == IDENTITY:
            return logprobs
        logits = logprobs / self.temperature
        best = jnp.sort(logits, axis=-1, descending=True)
        kept = jnp.arange(best.shape[-1]) < (self.top_k or best.shape[-1])
        if self.top_p < 1:
            share = jnp.exp(masked_log_softmax(best, kept))
            kept &= jnp.cumsum(share, axis=-1) - share < self.top_p  # what is before it falls short
            kept = kept.at[..., 0].set(True)
        least = jnp.min(jnp.where(kept, best, jnp.inf), axis=-1, keepdims=True)
        return masked_log_softmax(logits, logits >= least)


IDENTITY = Sampling()


def drawn_token(key: Array, logprobs: Float[Array, "*batch V"]) -> Int[Array, "*batch"]:
    """Draws a token from each of [...,V] distributions."""
    # By one number a row: Gumbel noise of every token takes longer than all the rest.
    upto = jnp.cumsum(jnp.exp(logprobs), axis=-1)
    level = (1.0 - jax.random.uniform(key, (*logprobs.shape[:-1], 1))) * upto[..., -1:]  # above 0
    return jnp.sum(upto < level, axis=-1)


def sample_answers(
    model: RagModel,
    params: Params,
    key: Array,
    *,
    memory: object,
    log_prior: Float[Array, "B K"],
    samples: int,
    length: int,
    sampling: Sampling = IDENTITY,
) -> tuple[Int[Array, "B G T"], Float[Array, "B G T"]]:
    """Draws G answers to each question from p(y|x) = Σ_k p(d_k|x) p(y|x,d_k), token by token.

        y_t ~ Σ_k p(d_k|x,y_<t) p(y_t|x,d_k,y_<t)

    where the weight of a passage is its posterior given the tokens so far, which makes the whole answer
    one of RAG-Sequence. Sources are read once, whatever G. What `sampling` changes is this mixture;
    posteriors stay those of the model.

    Args:
      model: gives `init_cache` and `decode_step`.
      params: its parameters.
      key: PRNG key.
      memory: of B*K sources, from `model.encode`.
      log_prior: [B,K] log p(d_k|x); -inf at a miss. Normalised here, where it is not.
      samples: G.
      length: T, after which an unfinished answer ends.
      sampling: how each distribution is changed before a token is drawn from it.

    Returns:
      [B,G,T] tokens, padding after the end of sequence, and [B,G,T] their log-probabilities under the
      distributions that they were drawn from, 0 at padding: log p(y_t|x,y_<t) by default.
    """
    params, memory, log_prior = jax.lax.stop_gradient((params, memory, log_prior))
    prior = log_posterior(log_prior, jnp.zeros_like(log_prior))
    batch = prior.shape[0]

    def step(carry, position, key):
        cache, previous, finished, weight = carry
        shared = jnp.broadcast_to(previous[:, None], prior.shape)
        logprobs, cache = model.decode_step(params, memory, cache, shared, position)
        mixed = marginal(weight[:, None, :], jnp.swapaxes(logprobs, 1, 2))
        mixed = sampling.apply(mixed)
        token = drawn_token(key, mixed)
        gain = jnp.take_along_axis(mixed, token[:, None], axis=-1)[:, 0]
        said = jnp.take_along_axis(logprobs, token[:, None, None], axis=-1)[..., 0]
        token = jnp.where(finished, PAD_ID, token).astype(jnp.int32)
        gain = jnp.where(finished, 0.0, gain)
        carry = (cache, token, finished | (token == EOS_ID), log_posterior(weight, said))
        return carry, (token, gain)

    start = (
        model.init_cache(params, memory, length),
        jnp.full((batch,), BOS_ID, jnp.int32),
        jnp.zeros((batch,), bool),
        prior,
    )
    keys = jax.vmap(lambda key: jax.random.split(key, length), out_axes=1)(
        jax.random.split(key, samples)
    )
    tokens, gains = until_finished(  # all samples side by side, [T,G,B]
        lambda carry, given: jax.vmap(step, in_axes=(0, None, 0))(carry, *given),
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (samples, *leaf.shape)), start),
        lambda carry: carry[2],
        length=length,
        drawn=keys,
    )
    return jnp.transpose(tokens, (2, 1, 0)), jnp.transpose(gains, (2, 1, 0))


def sample_by_passage(
    model: RagModel,
    params: Params,
    key: Array,
    *,
    memory: object,
    shape: tuple[int, int],
    samples: int,
    length: int,
    sampling: Sampling = IDENTITY,
) -> tuple[Int[Array, "B K G T"], Float[Array, "B K G T"]]:
    """Draws G answers from each passage by itself, y_t ~ p(y_t|x,d_k,y_<t).

    Args:
      model: gives `init_cache` and `decode_step`.
      params: its parameters.
      key: PRNG key.
      memory: of B*K sources, from `model.encode`: a tree of arrays [B,K,...].
      shape: (B, K).
      samples: G.
      length: T, after which an unfinished answer ends.
      sampling: how each distribution is changed before a token is drawn from it.

    Returns:
      [B,K,G,T] tokens, padding after the end of sequence, and [B,K,G,T] their log-probabilities under
      the distributions that they were drawn from, 0 at padding.
    """
    # As B*K questions with the one passage each.
    alone = jax.tree.map(lambda leaf: leaf.reshape(-1, 1, *leaf.shape[2:]), memory)
    tokens, gains = sample_answers(
        model,
        params,
        key,
        memory=alone,
        log_prior=jnp.zeros((math.prod(shape), 1)),
        samples=samples,
        length=length,
        sampling=sampling,
    )
    return tokens.reshape(*shape, samples, length), gains.reshape(*shape, samples, length)
