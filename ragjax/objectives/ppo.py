"""PPO: proximal policy optimisation."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ragjax.objectives.a2c import A2C
from ragjax.objectives.algorithm import Hyper
from ragjax.ops.policy_gradient import (
    clipped_surrogate_sum,
    standardised,
    value_sum,
)
from ragjax.types import Loss, Params, PolicyBatch, PolicyModel


@dataclass(frozen=True)
class PPO(A2C):
    """Proximal policy optimisation with a clipped ratio (Schulman et al., arXiv 1707.06347).

    Several epochs of minibatches over one rollout, each an update; advantages as in A2C. Details and
    defaults follow Huang et al. 2022, "The 37 implementation details of PPO".

    Attributes:
      gae_lambda: λ of the generalised advantages.
      clip_eps: ε of the ratio π(a|s)/μ(a|s), and of the critic's change with `clip_value`.
      clip_value: whether the critic's loss is clipped too.
      normalise_advantage: whether each minibatch's advantages are brought to mean 0 and deviation 1.
      epochs: passes over a rollout.
      minibatches: parts of a rollout, each an update.
      target_kl: mean divergence KL(μ || π) of a minibatch at which what is left of the rollout is
        skipped; 0 for never.
    """

    num_envs: int = 8
    rollout_length: int = 128
    gae_lambda: float = 0.95
    clip_eps: float = 0.2
    clip_value: bool = False
    normalise_advantage: bool = True
    epochs: int = 4
    minibatches: int = 4
    target_kl: float = 0.0

    def loss(
        self,
        policy: PolicyModel,
        params: Params,
        key: Array,
        batch: PolicyBatch,
        hyper: Hyper,
        *,
        extra: Any = None,
    ) -> Loss:
        """Clipped surrogate, critic and entropy, summed over the steps that count.

        Args:
          policy: the model.
          params: differentiated.
          key: of the step; unused.
          batch: B steps.
          hyper: traced scalars.
          extra: from `batch`.

        Returns:
          The loss with `kl`, the exact KL(μ || π), and `clip_fraction`, the share of clipped ratios.
        """
        del key
        weight = batch.weight
        distribution, value = policy.apply(params, batch.observation)
        behaviour = distribution.with_log_probs(batch.log_probs)
        log_ratio = distribution.log_prob(batch.action) - behaviour.log_prob(batch.action)
        advantage = batch.advantage
        if self.normalise_advantage:
            advantage = standardised(advantage, weight)
        old_value = batch.value if self.clip_value else None
        clipped = jnp.abs(jnp.expm1(log_ratio)) > hyper["clip_eps"]
        counts = weight > 0
        parts = {
            "policy_loss": self.surrogate(log_ratio, advantage, weight, hyper, extra),
            "value_loss": value_sum(
                value, batch.value_target, weight, old_value, hyper["clip_eps"]
            ),
            "entropy": distribution.entropy_sum(weight),
            "kl": jnp.sum(jnp.where(counts, behaviour.kl(distribution) * weight, 0.0)),
            "clip_fraction": jnp.sum(jnp.where(counts & clipped, weight, 0.0)),
        }
        return self.total(parts, weight, hyper)

    def surrogate(
        self, log_ratio: Array, advantage: Array, weight: Array, hyper: Hyper, extra: Any
    ) -> Array:
        """[] what the policy's part of the loss sums up, of log π(a|s) - log μ(a|s) [B]."""
        del extra
        return clipped_surrogate_sum(log_ratio, advantage, hyper["clip_eps"], weight)
