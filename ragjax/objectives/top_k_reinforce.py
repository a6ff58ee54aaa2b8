"""REINFORCE with top-K correction: what a slate of K items teaches about the one that was clicked."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.objectives.actor_critic import PolicyGradient, counted, policy_batch, rollout_values
from ragjax.objectives.algorithm import Hyper
from ragjax.ops.policy_gradient import policy_gradient_sum, top_k_multiplier, value_sum
from ragjax.ops.returns import lambda_returns
from ragjax.types import Loss, Params, PolicyBatch, PolicyModel, Rollout


@dataclass(frozen=True)
class TopKReinforce(PolicyGradient):
    """REINFORCE with top-K correction (Chen et al. 2019, arXiv 1812.02353, equations 6 and 7).

        Σ_t λ_K(a_t) G_t ∇log π(a_t|s_t),   λ_K(a) = K (1 - π(a|s))^(K-1)

    over the steps at which an item a_t of a slate of K places was clicked; π(a|s) is the probability of
    the first place, and G_t the return of `Reinforce`. λ_K is the slope, by π, of 1 - (1 - π)^K: the
    chance to be among K independent draws. An item that is shown almost surely gains nothing from being
    likelier still, so that others rise beside it. Rollouts are the policy's own: the weights π/β of the
    paper are 1. As in `Reinforce` each environment plays one episode, and the loss is divided by their
    number.

    All other algorithms take the exact gradient of the slate as it is shown, log π(a_1, .., a_K|s) by
    Plackett-Luce, with the return as credit of every place. This is an approximation of it: slates are
    drawn without replacement, but a clicked item counts as one draw from π, whatever stood beside it,
    and steps without a click teach nothing. Both are the same with one place and a click in every step.
    There is no baseline, which would bias it, for E[λ_K ∇log π] is not 0; the critic only stands for
    what follows an episode that is cut.
    """

    episodic: ClassVar[bool] = True

    def targets(
        self, policy: PolicyModel, params: Params, rollout: Rollout, hyper: Hyper
    ) -> PolicyBatch:
        """Monte-Carlo returns of the clicked items [T,E], which are the actions; 0 where none is.

        Raises:
          UserError: the policy shows no slates, or its observations don't tell which item was clicked.
        """
        rollout = counted(rollout)
        clicked: Any = getattr(policy.apply(params, rollout.final_observation)[0], "clicked", None)
        require(
            clicked is not None,
            "algorithm is TopKReinforce, which learns from the items that are clicked, but the policy "
            "shows no slates or is not told what was clicked; choose Reinforce, or SlatePolicy in an "
            "environment whose observations hold the responses to a slate.",
        )
        reward, discount, values = rollout_values(policy, params, rollout, hyper)
        returns = lambda_returns(reward, discount, values, 1.0)
        places = rollout.action.shape[-1]
        place = jnp.minimum(clicked, places - 1)[..., None]
        item = jnp.take_along_axis(rollout.action, place, axis=-1)[..., 0]
        batch = policy_batch(
            rollout, values[:-1], jnp.where(clicked < places, returns, 0.0), returns
        )
        return dataclasses.replace(batch, action=item)

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
        """-λ_K G log π(a|s) of the clicked items a, critic and entropy, over the number of episodes."""
        del key, extra
        distribution, value = policy.apply(params, batch.observation)
        weight, log_probs = batch.weight, distribution.log_probs
        chosen = jnp.take_along_axis(log_probs, batch.action[:, None], axis=-1)[:, 0]
        credit = top_k_multiplier(chosen, distribution.places) * batch.advantage
        parts = {
            "policy_loss": policy_gradient_sum(log_probs, batch.action, credit, weight),
            "value_loss": value_sum(value, batch.value_target, weight),
            "entropy": distribution.entropy_sum(weight),
        }
        loss = self.total(parts, weight, hyper)
        return dataclasses.replace(loss, denom=jnp.asarray(self.num_envs, jnp.float32))
