"""Masked reductions whose gradients stay finite where everything is masked."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ragjax.types import Figure

NEG_INF = -jnp.inf


def masked_logsumexp(
    logits: Float[Array, "..."], mask: Bool[Array, "..."], axis: int = -1
) -> Float[Array, "..."]:
    """Computes log Σ_i mask_i exp(logits_i) along `axis`.

    Masked entries have zero weight and zero gradient whatever they hold, inf and NaN included. Where
    everything is masked the value is -inf and the gradient zero.

    Args:
      logits: [..., n].
      mask: broadcastable to `logits`; True keeps an entry.
      axis: the axis to reduce.

    Returns:
      `logits` without `axis`.
    """
    mask = jnp.broadcast_to(mask, logits.shape)
    some = jnp.any(mask, axis=axis)
    # The inner where keeps the values of masked entries out of the gradient (0 * inf is NaN); rows
    # that are masked throughout take zeros and are overwritten below.
    kept = jnp.where(mask, logits, jnp.where(jnp.expand_dims(some, axis), NEG_INF, 0.0))
    return jnp.where(some, jax.nn.logsumexp(kept, axis=axis), NEG_INF)


def masked_log_softmax(
    logits: Float[Array, "..."], mask: Bool[Array, "..."], axis: int = -1
) -> Float[Array, "..."]:
    """Computes logits_i - log Σ_j mask_j exp(logits_j), and -inf where masked.

    Args:
      logits: [..., n].
      mask: broadcastable to `logits`; True keeps an entry.
      axis: the axis to normalise over.

    Returns:
      Log-probabilities shaped as `logits`; masked entries are -inf and carry no gradient.
    """
    mask = jnp.broadcast_to(mask, logits.shape)
    total = masked_logsumexp(logits, mask, axis)
    total = jnp.expand_dims(jnp.where(jnp.isneginf(total), 0.0, total), axis)
    return jnp.where(mask, jnp.where(mask, logits, 0.0) - total, NEG_INF)


def known_mean(values: Any, where: Any = True) -> Figure:
    """The mean of what is known and counts.

    Args:
      values: [...] numbers, or a `Figure` of them.
      where: [...] bool, which of them count.

    Returns:
      [] the mean; nothing if nothing counts.
    """
    figure = Figure.of(values)
    counted = figure.known & where
    total = jnp.sum(jnp.where(counted, figure.value, 0), dtype=jnp.float32)
    count = jnp.sum(counted, dtype=jnp.float32)
    return Figure(total / jnp.maximum(count, 1.0), count > 0)
