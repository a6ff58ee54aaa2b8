"""Passages that an environment labels, by likelihood, beside rewards by PPO: one retriever of both."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.objectives.algorithm import Hyper
from ragjax.objectives.ppo import PPO
from ragjax.ops.plackett_luce import PlackettLuce
from ragjax.ops.policy_gradient import weighted_sum
from ragjax.types import Env, Leaf, Loss, Params, PolicyBatch, PolicyModel, Retrieved, Rollout

LABEL = "label"  # the metric of an environment that labels passages: a row, or -1 for none


@struct.dataclass
class LabelledBatch(PolicyBatch):
    """Steps, of which some have a label.

    Attributes:
      label: [B] the row of a passage, -1 for none.
    """

    label: Leaf


@dataclass(frozen=True, kw_only=True)
class LabelledPassages(PPO):
    """PPO, and the likelihood of passages that the environment labels.

        β · PPO's loss - α Σ_b w_b log π(d_b|s_b)   over steps b with a label d_b

    π is that of a slate's first place, over the passages that were found and drawn in the rollout; where
    the label is not among them, it takes the place of the last one. A label tells what would have been
    right without its having been shown, such as what a user of `RecoGym` views next, so that the
    retriever learns from many more steps than are rewarded. With α = 0 this is PPO, with β = 0
    likelihood alone.

    Attributes:
      label_coef: α.
      reward_coef: β.
    """

    label_coef: float = 1.0
    reward_coef: float = 1.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("label_coef", "reward_coef"):
            value = getattr(self, name)
            require(value >= 0, f"algorithm.{name} is {value}; it must not be negative.")

    def hyper(self) -> dict[str, float]:
        """The numbers that are traced, by name."""
        own = {"label_coef": self.label_coef, "reward_coef": self.reward_coef}
        return super().hyper() | own

    def model(self, policy: Policy, env: Env) -> PolicyModel:
        """The policy's functions.

        Raises:
          UserError: the environment labels no passages.
        """
        first = jax.eval_shape(env.reset, env.params, jax.random.PRNGKey(0))[1]
        require(
            LABEL in first.metrics,
            "algorithm is LabelledPassages, but the environment labels no passages; choose PPO, or one "
            "that does, such as RecoGym with env.views.",
        )
        return policy.build(env)

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
        """The steps with their labels.

        Raises:
          UserError: the policy retrieves none.
        """
        require(
            isinstance(rollout.observation, Retrieved),
            "algorithm is LabelledPassages, but the policy retrieves nothing; choose a SlateRetrieval.",
        )
        batch, extra = super().batch(policy, params, rollout, hyper, key=key, extra=extra)
        fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
        return LabelledBatch(**fields, label=rollout.metrics[LABEL].reshape(-1)), extra

    def loss(
        self,
        policy: PolicyModel,
        params: Params,
        key: Array,
        batch: LabelledBatch,
        hyper: Hyper,
        *,
        extra: Any = None,
    ) -> Loss:
        """See the class.

        Returns:
          The loss over all steps, with the metrics of PPO, and `label_loss`, the mean of -log π(d|s)
          over those with a label.
        """
        loss = super().loss(policy, params, key, batch, hyper, extra=extra)
        seen: Retrieved = batch.observation  # pyright: ignore[reportAssignmentType]
        seen, place = with_label(seen, batch.label)
        slates: PlackettLuce = policy.apply(params, seen)[0]
        log_label = jnp.take_along_axis(slates.log_probs, place[:, None], axis=-1)[:, 0]
        weight = jnp.where(batch.label >= 0, batch.weight, 0.0)
        negative = -weighted_sum(log_label, weight)
        return Loss(
            hyper["reward_coef"] * loss.sum + hyper["label_coef"] * negative,
            loss.denom,
            {**loss.metrics, "label_loss": (negative, jnp.sum(weight))},
        )


def with_label(seen: Retrieved, label: Int[Array, "B"]) -> tuple[Retrieved, Int[Array, "B"]]:
    """Passages [B,K] with the label [B] among them, else in the last place, and its place [B]."""
    among = seen.ids == label[:, None]
    last = seen.ids.shape[-1] - 1
    place = jnp.where(jnp.any(among, axis=-1), jnp.argmax(among, axis=-1), last)
    replaced = jnp.where((label >= 0) & (place == last), label, seen.ids[:, -1])
    return dataclasses.replace(seen, ids=seen.ids.at[:, -1].set(replaced)), place
