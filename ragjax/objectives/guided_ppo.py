"""PPO that begins by imitating a policy which is given."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.objectives.algorithm import Hyper
from ragjax.objectives.ppo import PPO
from ragjax.ops.distributions import Categorical
from ragjax.types import Env, Params, PolicyModel, Retrieved, Timestep


def require_fixed(guide: Policy) -> None:
    """Raises a `UserError` if a guide is a policy that would have to learn first."""
    require(
        not guide.learns,
        f"algorithm.guide is a {type(guide).__name__}, which has to learn; choose a policy that "
        "doesn't.",
    )


def with_guide(policy: PolicyModel, guide: Policy, env: Env) -> PolicyModel:
    """A policy's functions with those of its guide, which has no parameters."""
    built = guide.build(env)
    return policy._replace(guide=lambda seen: built.apply({}, seen)[0])


@dataclass(frozen=True, kw_only=True)
class GuidedPPO(PPO):
    """PPO after a warm start: the first rollouts are a guide's, and are learned by likelihood.

        Σ_b w_b [-log π(a_b|s_b)]   in place of the clipped surrogate, of the guide's actions

    The critic learns the guide's returns meanwhile. Of a policy that retrieves, π is the sum over
    passages, so that the retriever learns by the same likelihood as from labelled turns.

    Attributes:
      guide: the policy to begin by; one that learns nothing, of the observation alone.
      guided: rollouts that it makes.
    """

    guide: Policy
    guided: int = 1

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(self.guided >= 0, f"algorithm.guided is {self.guided}; it must not be negative.")
        require_fixed(self.guide)

    def model(self, policy: Policy, env: Env) -> PolicyModel:
        """The policy's functions with those of the guide."""
        return with_guide(policy.build(env), self.guide, env)

    def begin(self, policy: PolicyModel, params: Params, timestep: Timestep) -> Array:
        """Whether what is learned from was the guide's."""
        del policy, params, timestep
        return jnp.zeros((), bool)

    def behave(self, params: Params, extra: Array, step: Array) -> tuple[Params, Array]:
        """The learner's parameters, and whether the guide acts."""
        del extra
        return params, step < self.guided

    def act(
        self, policy: PolicyModel, params: Params, seen: Any, hyper: Hyper, step: Array
    ) -> Categorical:
        """The guide's distribution at first, then the policy's."""
        observation = seen.observation if isinstance(seen, Retrieved) else seen
        assert policy.guide is not None  # it is of `model`
        own = super().act(policy, params, seen, hyper, step).log_probs
        guided = policy.guide(observation).log_probs
        return Categorical(jnp.where(step < self.guided, guided, own))

    def surrogate(
        self, log_ratio: Array, advantage: Array, weight: Array, hyper: Hyper, extra: Any
    ) -> Array:
        """The negative log-likelihood of the guide's actions at first, less what is the guide's own."""
        clipped = super().surrogate(log_ratio, advantage, weight, hyper, extra)
        return jnp.where(extra, -jnp.sum(weight * log_ratio), clipped)
