"""Whether a retriever that is trained end to end is still one: what its p(d|x) looks like over a batch.

A retriever can die in ways that the loss shows late: all queries get the same passage (a hub), p(d|x)
puts everything on one wrong passage so that no other is ever credited, or what is read no longer changes
what is said, so that the posterior is the prior and no gradient is left.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def retrieval_figures(
    log_prior: Float[Array, "B K"],
    log_posterior: Float[Array, "B K"],
    ids: Int[Array, "B K"],
    weight: Float[Array, "B"],
    passages: int,
    gold: Bool[Array, "B K"] | None = None,
) -> dict[str, Array]:
    """Figures of a batch, all weighted means over its B rows.

    Args:
      log_prior: [B,K] log p(d_k|x), over the K retrieved; -inf at a miss.
      log_posterior: [B,K] log p(d_k|x,a), of what was done or said; -inf at a miss.
      ids: [B,K] rows of the corpus.
      weight: [B].
      passages: N.
      gold: [B,K] whether a hit is a right one, where that is known.

    Returns:
      `prior_entropy` and `posterior_entropy` in nats; `effective_passages`, exp of the prior's entropy;
      `passage_credit`, KL(posterior || prior) in nats, which is what the retriever learns from;
      `hub_share`, the share of all prior mass on the passage that has most of it; and with `gold`
      `recall`, how often a right passage is among the K.
    """
    count = jnp.maximum(jnp.sum(weight), 1e-9)

    def mean(values):
        return jnp.sum(jnp.where(weight > 0, values * weight, 0.0)) / count

    prior, posterior = jnp.exp(log_prior), jnp.exp(log_posterior)

    def expected(probability, values):
        possible = probability > 0
        kept = jnp.where(possible, values, 0.0)
        return jnp.sum(jnp.where(possible, probability * kept, 0.0), axis=-1)

    entropy = -expected(prior, log_prior)
    shares = jnp.where(weight[:, None] > 0, prior * weight[:, None], 0.0) / count
    mass = jnp.zeros((passages,)).at[jnp.maximum(ids, 0)].add(jnp.where(ids >= 0, shares, 0.0))
    figures = {
        "prior_entropy": mean(entropy),
        "posterior_entropy": mean(-expected(posterior, log_posterior)),
        "effective_passages": mean(jnp.exp(entropy)),
        "passage_credit": mean(expected(posterior, log_posterior - log_prior)),
        "hub_share": jnp.max(mass),
    }
    if gold is not None:
        figures["recall"] = mean(jnp.any(gold, axis=-1).astype(jnp.float32))
    return figures
