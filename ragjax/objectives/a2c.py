"""A2C: synchronous advantage actor-critic."""

from dataclasses import dataclass

from ragjax.objectives.actor_critic import PolicyGradient, counted, policy_batch, rollout_values
from ragjax.objectives.algorithm import Hyper
from ragjax.ops.returns import generalised_advantages
from ragjax.types import Params, PolicyBatch, PolicyModel, Rollout


@dataclass(frozen=True)
class A2C(PolicyGradient):
    """Advantage actor-critic (Mnih et al., arXiv 1602.01783, with synchronous environments).

        -log π(a_t|s_t) A_t + value_coef ½ (V(s_t) - (A_t + V(s_t)))² - entropy_coef H

    Attributes:
      gae_lambda: λ of the generalised advantages; 1 gives the n-step returns of the paper,
        bootstrapped at the rollout's end.
    """

    rollout_length: int = 5
    gae_lambda: float = 1.0

    def targets(
        self, policy: PolicyModel, params: Params, rollout: Rollout, hyper: Hyper
    ) -> PolicyBatch:
        """Generalised advantages A_t, and A_t + V(s_t) as value targets."""
        rollout = counted(rollout)
        reward, discount, values = rollout_values(policy, params, rollout, hyper)
        advantage = generalised_advantages(reward, discount, values, hyper["gae_lambda"])
        now = values[:-1]
        return policy_batch(rollout, now, advantage, advantage + now)
