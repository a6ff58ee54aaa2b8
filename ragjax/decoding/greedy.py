"""Greedy decoding with a key-value cache: per passage, or under the marginal of RAG-Token."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.decoding.stepping import until_finished
from ragjax.ops.marginal import marginal
from ragjax.types import BOS_ID, EOS_ID, PAD_ID, Params, RagModel


def greedy_by_passage(
    model: RagModel, params: Params, memory: object, shape: tuple[int, int], length: int
) -> tuple[Int[Array, "B K T"], Float[Array, "B K"]]:
    """Decodes one answer from each passage by itself.

    Args:
      model: gives `init_cache` and `decode_step`.
      params: its parameters.
      memory: of B*K sources, from `model.encode`.
      shape: (B, K).
      length: T, after which an unfinished answer ends.

    Returns:
      [B,K,T] tokens, padding after the end of sequence, and [B,K] their log p(y|x,d_k).
    """

    def step(carry, given):
        (cache, previous, finished), (position, _) = carry, given
        logprobs, cache = model.decode_step(params, memory, cache, previous, position)
        token = jnp.argmax(logprobs, axis=-1)
        gain = jnp.take_along_axis(logprobs, token[..., None], axis=-1)[..., 0]
        token = jnp.where(finished, PAD_ID, token).astype(jnp.int32)
        gain = jnp.where(finished, 0.0, gain)
        return (cache, token, finished | (token == EOS_ID)), (token, gain)

    start = (
        model.init_cache(params, memory, length),
        jnp.full(shape, BOS_ID, jnp.int32),
        jnp.zeros(shape, bool),
    )
    tokens, gains = until_finished(step, start, lambda carry: carry[2], length=length)
    return jnp.moveaxis(tokens, 0, -1), jnp.sum(gains, axis=0)


def greedy_marginal(
    model: RagModel,
    params: Params,
    memory: object,
    log_prior: Float[Array, "B K"],
    length: int,
) -> Int[Array, "B T"]:
    """Decodes one answer whose every token maximises Σ_k p(d_k|x) p(y_t|x,d_k,y_<t).

    Args:
      model: gives `init_cache` and `decode_step`.
      params: its parameters.
      memory: of B*K sources, from `model.encode`.
      log_prior: [B,K] log p(d_k|x).
      length: T, after which an unfinished answer ends.

    Returns:
      [B,T] tokens, padding after the end of sequence.
    """

    def step(carry, given):
        (cache, previous, finished), (position, _) = carry, given
        shared = jnp.broadcast_to(previous[:, None], log_prior.shape)
        logprobs, cache = model.decode_step(params, memory, cache, shared, position)
        mixed = marginal(log_prior[:, None, :], jnp.swapaxes(logprobs, 1, 2))
        token = jnp.where(finished, PAD_ID, jnp.argmax(mixed, axis=-1)).astype(jnp.int32)
        return (cache, token, finished | (token == EOS_ID)), token

    batch = log_prior.shape[0]
    start = (
        model.init_cache(params, memory, length),
        jnp.full((batch,), BOS_ID, jnp.int32),
        jnp.zeros((batch,), bool),
    )
    tokens = until_finished(step, start, lambda carry: carry[2], length=length)
    return jnp.moveaxis(tokens, 0, -1)
