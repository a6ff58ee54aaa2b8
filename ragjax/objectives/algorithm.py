"""What every reinforcement-learning algorithm is: a frozen spec of pure functions over rollouts.

A new algorithm is one new file with one frozen dataclass. It says how to act, what to learn from a
rollout (`batch`), and the loss; whatever it keeps beside the parameters (a lagging behaviour policy, a
target network, a replay buffer) is a pytree of its own, `extra`, which lives in the run's state.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.ops.distributions import MarginalCategorical
from ragjax.ops.retrieval_figures import retrieval_figures
from ragjax.ranges import BELOW
from ragjax.types import (
    Env,
    Loss,
    Params,
    PolicyBatch,
    PolicyModel,
    Retrieved,
    Rollout,
    Timestep,
)

Hyper = dict[str, Array]  # name -> [] traced scalar


@dataclass(frozen=True)
class Algorithm:
    """Base of the algorithms.

    Attributes:
      num_envs: E, environments side by side.
      rollout_length: T, steps in each between two updates.
      discount: γ.
      epochs: passes over a batch.
      minibatches: parts of a batch, each an update.
      target_kl: mean of the metric `kl` beyond which the rest of a batch is put aside; 0 for never.
      episodic: whether each rollout starts new episodes and counts their first ones only.
    """

    num_envs: int = 8
    rollout_length: int = 128
    discount: float = 0.99

    epochs: ClassVar[int] = 1
    minibatches: ClassVar[int] = 1
    target_kl: ClassVar[float] = 0.0
    episodic: ClassVar[bool] = False

    def __post_init__(self):
        """Checks the fields."""
        for name in ("num_envs", "rollout_length", "epochs", "minibatches"):
            value = getattr(self, name)
            require(value >= 1, f"algorithm.{name} is {value}; it must be at least 1.")
        require(
            0 <= self.discount <= 1,
            f"algorithm.discount is {self.discount}; it must lie between 0 and 1.",
        )
        require(
            self.target_kl >= 0,
            f"algorithm.target_kl is {self.target_kl}; it must not be negative.",
        )
        require(
            self.batch_size < BELOW,
            f"algorithm.num_envs is {self.num_envs} and algorithm.rollout_length {self.rollout_length}; "
            f"make a rollout of less than {BELOW} steps.",
        )
        require(
            self.batch_size % self.minibatches == 0,
            f"algorithm.minibatches is {self.minibatches}, which does not divide the "
            f"{self.batch_size} steps of a rollout (num_envs {self.num_envs} x rollout_length "
            f"{self.rollout_length}); choose a divisor.",
        )

    @property
    def batch_size(self) -> int:
        """Steps of a rollout, T*E."""
        return self.num_envs * self.rollout_length

    def hyper(self) -> dict[str, float]:
        """The numbers that are traced, by name."""
        return {"discount": self.discount}

    def begin(self, policy: PolicyModel, params: Params, timestep: Timestep) -> Any:
        """`extra` before the first rollout.

        Args:
          policy: the model.
          params: the first ones; copy what is kept of them, for they are donated.
          timestep: [E] what the environments show after their reset.
        """
        del policy, params, timestep
        return None

    def behave(self, params: Params, extra: Any, step: Array) -> tuple[Params, Any]:
        """The parameters to act by, and `extra` as it is from this step on.

        Args:
          params: the learner's.
          extra: before the step.
          step: [] rollouts made before.
        """
        del step
        return params, extra

    def explore(self, distribution: Any, hyper: Hyper, step: Array) -> Any:
        """The distribution that actions are drawn from, of what the policy gives.

        Args:
          distribution: of the policy.
          hyper: traced scalars.
          step: [] rollouts made before.
        """
        del hyper, step
        return distribution

    def model(self, policy: Policy, env: Env) -> PolicyModel:
        """The policy's functions, with what else the algorithm needs of the environment.

        Raises:
          UserError: the environment is none for this policy.
        """
        return policy.build(env)

    def act(self, policy: PolicyModel, params: Params, seen: Any, hyper: Hyper, step: Array) -> Any:
        """The distribution that actions are drawn from: what `explore` makes of the policy's.

        Args:
          policy: the model.
          params: those to act by.
          seen: what `policy.retrieve` gave of observations [E,O...].
          hyper: traced scalars.
          step: [] rollouts made before.
        """
        return self.explore(policy.apply(params, seen)[0], hyper, step)

    def targets(
        self, policy: PolicyModel, params: Params, rollout: Rollout, hyper: Hyper
    ) -> PolicyBatch:
        """Turns a rollout into steps to learn from, [T,E] leading; nothing carries a gradient.

        Steps of weight 0 change nothing in the others, whatever they hold (`actor_critic.counted`).
        """
        raise NotImplementedError

    def batch(
        self,
        policy: PolicyModel,
        params: Params,
        rollout: Rollout,
        hyper: Hyper,
        *,
        key: Array,
        extra: Any,
    ) -> tuple[PolicyBatch, Any]:
        """What the updates of this step learn from: by default the rollout's `targets`.

        Args:
          policy: the model.
          params: the learner's parameters before the updates.
          rollout: what was just made.
          hyper: traced scalars.
          key: PRNG key, for algorithms that draw.
          extra: from `behave`.

        Returns:
          A batch of steps in no order, and `extra` as it is kept.
        """
        del key
        steps = self.targets(policy, params, rollout, hyper)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), steps), extra

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
        """The loss, summed over the steps that count.

        Args:
          policy: the model.
          params: differentiated.
          key: of the step.
          batch: B steps.
          hyper: traced scalars.
          extra: from `batch`, without gradient.
        """
        raise NotImplementedError


def retriever_figures(
    policy: PolicyModel, params: Params, batch: PolicyBatch, steps: Rollout, data: Any
) -> dict[str, Array]:
    """Figures of a policy's retriever, of passages `data["passages"]`, before it learns from a batch.

    Returns:
      What `ops.retrieval_figures.retrieval_figures` gives; nothing where the policy doesn't sum over
      passages.
    """
    if not isinstance(batch.observation, Retrieved):
        return {}
    distribution, _ = policy.apply(params, batch.observation)
    if not isinstance(distribution, MarginalCategorical):
        return {}
    ids, gold = batch.observation.ids, None
    if "gold" in steps.metrics:
        gold = ids == steps.metrics["gold"].reshape(-1, 1)
    posterior = distribution.log_posterior(distribution.executed(batch.action))
    prior, count = distribution.log_prior, len(data["passages"])
    return retrieval_figures(prior, posterior, ids, batch.weight, count, gold)


def explained_variance(batch: PolicyBatch) -> Array:
    """1 - Var(G - V) / Var(G) over the steps that count; 0 where the targets don't vary."""
    weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1.0)

    def variance(values):
        mean = jnp.sum(weight * values)
        return jnp.sum(weight * jnp.square(values - mean))

    total = variance(batch.value_target)
    rest = variance(batch.value_target - batch.value)
    return jnp.where(total > 0, 1.0 - rest / jnp.where(total > 0, total, 1.0), 0.0)
