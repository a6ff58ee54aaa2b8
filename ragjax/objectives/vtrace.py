"""V-trace: actor-critic on rollouts of an older policy."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.objectives.actor_critic import PolicyGradient, counted, policy_batch, rollout_values
from ragjax.objectives.algorithm import Hyper
from ragjax.ops.returns import vtrace
from ragjax.types import Params, PolicyBatch, PolicyModel, Rollout, Timestep


@dataclass(frozen=True)
class VTrace(PolicyGradient):
    """Actor-critic with V-trace's corrections (Espeholt et al., arXiv 1802.01561).

    The behaviour policy μ is the learner's of up to `refresh_actor_every` - 1 updates ago; ratios
    π(a|s)/μ(a|s), cut at 1, weigh advantages and value targets (`ops.returns.vtrace`).

    Attributes:
      gae_lambda: λ, which the trace-cutting coefficients c_t = λ min(1, ρ_t) carry.
      refresh_actor_every: updates that use rollouts of one behaviour policy.
    """

    rollout_length: int = 20
    gae_lambda: float = 1.0
    refresh_actor_every: int = 4

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            self.refresh_actor_every >= 1,
            f"algorithm.refresh_actor_every is {self.refresh_actor_every}; it must be at least 1.",
        )

    def begin(self, policy: PolicyModel, params: Params, timestep: Timestep) -> Params:
        """The behaviour policy's parameters."""
        del policy, timestep
        return jax.tree.map(jnp.copy, params)

    def behave(self, params: Params, extra: Params, step: Array) -> tuple[Params, Params]:
        """The behaviour policy's parameters, which are the learner's every so many steps."""
        fresh = step % self.refresh_actor_every == 0
        actor = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), params, extra)
        return actor, actor

    def targets(
        self, policy: PolicyModel, params: Params, rollout: Rollout, hyper: Hyper
    ) -> PolicyBatch:
        """V-trace advantages and targets under the learner's parameters."""
        rollout = counted(rollout)
        reward, discount, values = rollout_values(policy, params, rollout, hyper)
        distribution, _ = policy.apply(params, rollout.observation)
        behaviour, action = distribution.with_log_probs(rollout.log_probs), rollout.action
        log_ratio = distribution.log_prob(action) - behaviour.log_prob(action)
        made = vtrace(reward, discount, values, jnp.asarray(log_ratio), hyper["gae_lambda"])
        return policy_batch(rollout, values[:-1], made.advantage, made.value_target)
