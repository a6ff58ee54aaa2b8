"""What all policy-gradient algorithms share: targets from a rollout, and the actor-critic loss.

An algorithm is a frozen spec. Once a rollout it turns [T,E] steps into advantages and value targets
(`targets`, without gradient); then its `loss` is minimised over them by the training step.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.objectives.algorithm import Algorithm, Hyper
from ragjax.ops.policy_gradient import value_sum
from ragjax.ops.returns import across_resets
from ragjax.types import Loss, Params, PolicyBatch, PolicyModel, Rollout


@dataclass(frozen=True)
class PolicyGradient(Algorithm):
    """Base of the policy-gradient algorithms.

    Attributes:
      entropy_coef: weight of the entropy bonus.
      value_coef: weight of the critic's loss ½ (V - G)².
      gae_lambda: λ of advantages and returns.
      clip_eps: ε, where the algorithm clips.
    """

    entropy_coef: float = 0.0
    value_coef: float = 0.5

    gae_lambda: ClassVar[float] = 1.0
    clip_eps: ClassVar[float] = 0.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            0 <= self.gae_lambda <= 1,
            f"algorithm.gae_lambda is {self.gae_lambda}; it must lie between 0 and 1.",
        )
        for name in ("entropy_coef", "value_coef", "clip_eps"):
            value = getattr(self, name)
            require(value >= 0, f"algorithm.{name} is {value}; it must not be negative.")

    def hyper(self) -> dict[str, float]:
        """The numbers that are traced, by name."""
        names = ("discount", "gae_lambda", "entropy_coef", "clip_eps")
        return {name: getattr(self, name) for name in names}

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
        """The actor-critic loss, summed over the steps that count.

            Σ_b w_b [-log π(a_b|s_b) A_b + value_coef ½ (V(s_b) - G_b)² - entropy_coef H(π(·|s_b))]

        Args:
          policy: the model.
          params: differentiated.
          key: of the step; unused here.
          batch: B steps.
          hyper: traced scalars.
          extra: unused here.

        Returns:
          The loss; its denominator is the number of steps that count.
        """
        del key, extra
        distribution, value = policy.apply(params, batch.observation)
        weight = batch.weight
        parts = {
            "policy_loss": distribution.policy_gradient_sum(batch.action, batch.advantage, weight),
            "value_loss": value_sum(value, batch.value_target, weight),
            "entropy": distribution.entropy_sum(weight),
        }
        return self.total(parts, weight, hyper)

    def total(self, parts: Mapping[str, Array], weight: Array, hyper: Hyper) -> Loss:
        """Adds the losses up; `parts` has policy_loss, value_loss, entropy and further metrics."""
        denom = jnp.sum(weight)
        return Loss(
            sum=parts["policy_loss"]
            + self.value_coef * parts["value_loss"]
            - hyper["entropy_coef"] * parts["entropy"],
            denom=denom,
            metrics={name: (value, denom) for name, value in parts.items()},
        )


def counted(rollout: Rollout) -> Rollout:
    """Puts zeros in place of whatever steps of weight 0 hold.

    Their own losses are weighted away, but a NaN of theirs would live on: in the returns of the steps
    before, times the discount 0 of an episode's end, and in the gradient of a layer that reads it.
    """

    def kept(tree: Any, weight: Array) -> Any:
        def zeroed(leaf: Array) -> Array:
            wide = weight.reshape(weight.shape + (1,) * (leaf.ndim - weight.ndim))
            return jnp.where(wide != 0, leaf, jnp.zeros_like(leaf))

        return jax.tree.map(zeroed, tree)

    rows = {
        name: kept(getattr(rollout, name), rollout.weight)
        for name in ("observation", "action", "log_probs", "reward", "final_observation")
    }
    last = kept(rollout.last_observation, rollout.weight[-1])
    return dataclasses.replace(rollout, last_observation=last, **rows)


def rollout_values(
    policy: PolicyModel, params: Params, rollout: Rollout, hyper: Hyper
) -> tuple[Array, Array, Array]:
    """What every estimator starts from.

    Returns:
      [T,E] rewards and [T,E] discounts from `ops.returns.across_resets`, and [T+1,E] values of the
      observations acted on and of the one after the last step.
    """
    observations = jax.tree.map(
        lambda steps, last: jnp.concatenate([steps, last[None]]),
        rollout.observation,
        rollout.last_observation,
    )
    values = policy.apply(params, observations)[1]
    final_values = policy.apply(params, rollout.final_observation)[1]
    reward, discount = across_resets(
        rollout.reward, rollout.terminated, rollout.truncated, final_values, hyper["discount"]
    )
    return reward, discount, values


def policy_batch(
    rollout: Rollout, values: Array, advantage: Array, value_target: Array
) -> PolicyBatch:
    """Puts a rollout, V [T,E], advantages [T,E] and targets [T,E] together."""
    return PolicyBatch(
        observation=rollout.observation,
        action=rollout.action,
        log_probs=rollout.log_probs,
        value=jax.lax.stop_gradient(values),
        advantage=jax.lax.stop_gradient(advantage),
        value_target=jax.lax.stop_gradient(value_target),
        weight=rollout.weight,
    )
