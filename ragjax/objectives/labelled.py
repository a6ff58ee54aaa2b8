"""What the algorithms that learn from labels beside rewards have in common."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ragjax.errors import require
from ragjax.objectives.algorithm import Hyper
from ragjax.objectives.ppo import PPO
from ragjax.ops.policy_gradient import weighted_sum
from ragjax.types import Loss, PolicyBatch


@dataclass(frozen=True, kw_only=True)
class Labelled(PPO):
    """Base of PPO beside the likelihood of labels: β · PPO's loss - α Σ_b w_b log π(label_b|s_b).

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

    def with_labels(
        self,
        rewarded: Loss,
        log_labels: Float[Array, "L"],
        weight: Float[Array, "L"],
        denom: Array,
        hyper: Hyper,
    ) -> Loss:
        """The loss over `denom` steps, and beside the metrics of `rewarded` the figure `label_loss`.

        Args:
          rewarded: PPO's loss.
          log_labels: log π of each label.
          weight: of each label.
          denom: [] weight of all steps.
          hyper: traced scalars.
        """
        negative = -weighted_sum(log_labels, weight)
        return Loss(
            hyper["reward_coef"] * rewarded.sum + hyper["label_coef"] * negative,
            denom,
            {**rewarded.metrics, "label_loss": (negative, jnp.sum(weight))},
        )


def labelled_batch(kind: type[Any], batch: PolicyBatch, **fields: Any) -> Any:
    """A batch of `kind`, of the fields of another one and those given."""
    kept = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return kind(**(kept | fields))
