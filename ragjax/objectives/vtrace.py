"""V-trace: actor-critic on rollouts of an older policy."""

from dataclasses import dataclass

import jax.numpy as jnp

from ragjax.objectives.actor_critic import PolicyGradient, counted, policy_batch, rollout_values
from ragjax.ops.distributions import Categorical
from ragjax.ops.returns import vtrace
from ragjax.types import Hyperparameters, Params, PolicyBatch, PolicyModel, Rollout


@dataclass(frozen=True)
class VTrace(PolicyGradient):
    """Actor-critic with V-trace's corrections (Espeholt et al., arXiv 1802.01561).

    The behaviour policy μ is the learner's of up to `refresh_actor_every` - 1 updates ago; ratios
    π(a|s)/μ(a|s), cut at 1, weigh advantages and value targets (`ops.returns.vtrace`).

    Attributes:
      trace: λ, which the trace-cutting coefficients c_t = λ min(1, ρ_t) carry.
      refresh_actor_every: updates that use rollouts of one behaviour policy.
    """

    rollout_length: int = 20
    trace: float = 1.0
    refresh_actor_every: int = 4

    def targets(
        self, policy: PolicyModel, params: Params, rollout: Rollout, hyper: Hyperparameters
    ) -> PolicyBatch:
        """V-trace advantages and targets under the learner's parameters."""
        rollout = counted(rollout)
        reward, discount, values = rollout_values(policy, params, rollout, hyper)
        distribution, _ = policy.apply(params, rollout.observation)
        log_ratio = distribution.log_prob(rollout.action) - Categorical(rollout.log_probs).log_prob(
            rollout.action
        )
        made = vtrace(reward, discount, values, jnp.asarray(log_ratio), hyper.trace)
        return policy_batch(rollout, values[:-1], made.advantage, made.value_target)
