"""REINFORCE: the policy gradient from the returns of whole episodes."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from ragjax.objectives.actor_critic import PolicyGradient, counted, policy_batch, rollout_values
from ragjax.objectives.algorithm import Hyper
from ragjax.ops.returns import lambda_returns
from ragjax.types import Loss, Params, PolicyBatch, PolicyModel, Rollout


@dataclass(frozen=True)
class Reinforce(PolicyGradient):
    """REINFORCE with or without a learned baseline (Williams 1992; Sutton & Barto, section 13.4).

        ∇J = E[Σ_t ∇log π(a_t|s_t) (G_t - V(s_t))],   G_t = Σ_{u>=t} γ^(u-t) r_u

    Each of the E environments plays one episode from its start; steps after its end have weight 0. An
    episode that is longer than the rollout is cut there, and V stands for the rest, so choose a
    `rollout_length` of at least the time limit. The loss is divided by the number of episodes, which
    makes its gradient an unbiased estimate of -∇J. As usual the factor γ^t of the discounted problem
    is left out.

    Attributes:
      baseline: subtract V(s_t), which is trained towards G_t either way; without it V only stands for
        the rest of episodes that a time limit or the rollout's end cuts.
    """

    baseline: bool = True

    episodic: ClassVar[bool] = True

    def targets(
        self, policy: PolicyModel, params: Params, rollout: Rollout, hyper: Hyper
    ) -> PolicyBatch:
        """Monte-Carlo returns, minus V with a baseline."""
        rollout = counted(rollout)
        reward, discount, values = rollout_values(policy, params, rollout, hyper)
        returns = lambda_returns(reward, discount, values, 1.0)
        now = values[:-1]
        advantage = returns - now if self.baseline else returns
        return policy_batch(rollout, now, advantage, returns)

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
        """The actor-critic loss, over the number of episodes instead of steps."""
        loss = super().loss(policy, params, key, batch, hyper, extra=extra)
        return dataclasses.replace(loss, denom=jnp.asarray(self.num_envs, jnp.float32))
