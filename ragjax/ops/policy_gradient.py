"""Policy-gradient losses as weighted sums over steps, by rlax.

rlax divides each loss by the number of steps it is given, masked ones included. Here every loss is a
sum over the steps that count, Σ_b w_b l_b, and its caller divides once. A step of weight 0 contributes
nothing, whatever it holds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import rlax
from jaxtyping import Array, Float, Int

from ragjax.ops.returns import Scalar

lib: Any = rlax  # its annotations name array types of its own


def _kept(values: Array, weight: Array, fill: float = 0.0) -> Array:
    """`values` where the weight isn't 0, and `fill` elsewhere: 0 times a NaN would be one."""
    weight = weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
    return jnp.where(weight != 0, values, jnp.asarray(fill, values.dtype))


def policy_gradient_sum(
    log_probs: Float[Array, "B A"],
    action: Int[Array, "B"],
    advantage: Float[Array, "B"],
    weight: Float[Array, "B"],
) -> Float[Array, ""]:
    """Σ_b w_b [-log π(a_b|s_b) A_b], whose gradient is minus the policy gradient (Williams, 1992).

    Args:
      log_probs: [B,A] log π(a|s), of a marginal over passages or of a plain policy.
      action: [B].
      advantage: [B], taken as constants.
      weight: [B].
    """
    mean = lib.policy_gradient_loss(
        _kept(log_probs, weight), action, _kept(advantage, weight), weight
    )
    return mean * action.shape[0]


def clipped_surrogate_sum(
    log_ratio: Float[Array, "B"],
    advantage: Float[Array, "B"],
    clip: Scalar,
    weight: Float[Array, "B"],
) -> Float[Array, ""]:
    """Σ_b w_b [-min(ρ_b A_b, clip(ρ_b, 1-ε, 1+ε) A_b)] (Schulman et al., arXiv 1707.06347, equation 7).

    Args:
      log_ratio: [B] log ρ_b = log π(a_b|s_b) - log μ(a_b|s_b), μ the behaviour policy.
      advantage: [B], taken as constants.
      clip: ε.
      weight: [B], not negative.
    """
    ratio = jnp.exp(_kept(log_ratio, weight))
    # The loss is linear in the advantage, so a weight that is not negative can be put there.
    weighted = _kept(advantage, weight) * weight
    mean = lib.clipped_surrogate_pg_loss(ratio, weighted, jnp.asarray(clip, ratio.dtype))
    return mean * ratio.shape[0]


def top_k_multiplier(log_prob: Float[Array, "B"], count: int) -> Float[Array, "B"]:
    """λ_K = K (1 - π)^(K-1), the slope by π of the chance 1 - (1 - π)^K to be among K draws.

    A constant, by which the policy gradient of one item is multiplied where K are shown (Chen et al.,
    arXiv 1812.02353, equation 7).

    Args:
      log_prob: [B] log π of the items.
      count: K.
    """
    chance = jnp.exp(jax.lax.stop_gradient(log_prob))
    return count * (1.0 - chance) ** (count - 1)


def entropy_sum(log_probs: Float[Array, "B A"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """Σ_b w_b H(π(·|s_b)), in nats, to be maximised (rlax's loss is minus its mean)."""
    return -lib.entropy_loss(_kept(log_probs, weight), weight) * weight.shape[0]


def weighted_sum(values: Float[Array, "B"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """Σ_b w_b values_b."""
    return jnp.sum(_kept(values, weight) * weight)


def value_sum(
    value: Float[Array, "B"],
    target: Float[Array, "B"],
    weight: Float[Array, "B"],
    old_value: Float[Array, "B"] | None = None,
    clip: Scalar = 0.0,
) -> Float[Array, ""]:
    """Σ_b w_b ½ (V_b - G_b)², or with `old_value` the larger of it and its clipped form.

    The clipped form replaces V_b by old_b + clip(V_b - old_b, -ε, ε), as PPO's released code does.

    Args:
      value: [B] V(s_b).
      target: [B] G_b, taken as constants.
      weight: [B].
      old_value: [B] V under the behaviour parameters, or None.
      clip: ε.
    """
    value, target = _kept(value, weight), _kept(target, weight)
    target = jax.lax.stop_gradient(target)
    loss = lib.l2_loss(value - target)
    if old_value is not None:
        old = _kept(old_value, weight)
        loss = jnp.maximum(loss, lib.l2_loss(old + jnp.clip(value - old, -clip, clip) - target))
    return jnp.sum(loss * weight)


def standardised(values: Array, weight: Array) -> Array:
    """Values [B] shifted and scaled to weighted mean 0 and standard deviation 1."""
    values = jnp.where(weight > 0, values, 0.0)
    count = jnp.maximum(jnp.sum(weight), 1.0)
    centred = values - jnp.sum(values * weight) / count
    deviation = jnp.sqrt(jnp.sum(jnp.square(centred) * weight) / count)
    return centred / (deviation + 1e-8)
