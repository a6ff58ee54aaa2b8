"""Answers drawn from the marginal of RAG-Sequence, with the log-probabilities they were drawn with."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.ops.marginal import log_posterior, marginal
from ragjax.types import BOS_ID, EOS_ID, PAD_ID, Params, RagModel


def sample_answers(
    model: RagModel,
    params: Params,
    key: Array,
    *,
    memory: object,
    log_prior: Float[Array, "B K"],
    samples: int,
    length: int,
) -> tuple[Int[Array, "B G T"], Float[Array, "B G T"]]:
    """Draws G answers to each question from p(y|x) = Σ_k p(d_k|x) p(y|x,d_k), token by token.

        y_t ~ Σ_k p(d_k|x,y_<t) p(y_t|x,d_k,y_<t)

    where the weight of a passage is its posterior given the tokens so far, which makes the whole answer
    one of RAG-Sequence. Sources are read once, whatever G.

    Args:
      model: gives `init_cache` and `decode_step`.
      params: its parameters.
      key: PRNG key.
      memory: of B*K sources, from `model.encode`.
      log_prior: [B,K] log p(d_k|x); -inf at a miss. Normalised here, where it is not.
      samples: G.
      length: T, after which an unfinished answer ends.

    Returns:
      [B,G,T] tokens, padding after the end of sequence, and [B,G,T] their log p(y_t|x,y_<t), 0 at
      padding.
    """
    prior = log_posterior(log_prior, jnp.zeros_like(log_prior))
    batch = prior.shape[0]

    def draw(key):
        def step(carry, drawn):
            cache, previous, finished, weight = carry
            position, key = drawn
            shared = jnp.broadcast_to(previous[:, None], prior.shape)
            logprobs, cache = model.decode_step(params, memory, cache, shared, position)
            mixed = marginal(weight[:, None, :], jnp.swapaxes(logprobs, 1, 2))
            # By one number a row: Gumbel noise of every token takes longer than all the rest.
            upto = jnp.cumsum(jnp.exp(mixed), axis=-1)
            level = (1.0 - jax.random.uniform(key, (batch, 1))) * upto[:, -1:]  # above 0
            token = jnp.sum(upto < level, axis=-1)
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
        keys = jax.random.split(key, length)
        _, (tokens, gains) = jax.lax.scan(step, start, (jnp.arange(length), keys))
        return tokens.T, gains.T

    return jax.vmap(draw, out_axes=1)(jax.random.split(key, samples))
