"""Policies that choose among discrete actions, with their critics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.layers import ACTIVATIONS, Perceptron
from ragjax.ops.distributions import Categorical
from ragjax.types import Env, PolicyModel


@dataclass(frozen=True)
class Policy:
    """Base of the policy specs.

    Attributes:
      learns: whether training changes it; a policy that is fixed is only measured.
    """

    learns: ClassVar[bool] = True

    @property
    def on_mesh(self) -> bool:
        """Whether it works on a mesh of several devices."""
        return True

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment's observations, passages and actions.

        Args:
          env: the environment; its arrays may be traced.
          contents: what a policy that retrieves reads in each passage's place, its own features if
            None.

        Raises:
          UserError: the environment is none for this policy.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ActorCritic(Policy):
    """Two perceptrons that share nothing: π(a|s) = softmax(f(s))_a and V(s).

    Orthogonal initialisation with gain √2 in hidden layers, 0.01 for the policy's output and 1 for the
    critic's (Huang et al. 2022, "The 37 implementation details of PPO"). Without hidden layers and bias
    both are linear in the observation, hence tabular where that is one-hot.

    Attributes:
      hidden: widths of the hidden layers.
      activation: tanh or relu.
      bias: whether layers have one.
      policy_scale: gain of the policy's output layer.
      value_scale: gain of the critic's output layer; 0 starts at V = 0.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    bias: bool = True
    policy_scale: float = 0.01
    value_scale: float = 1.0

    def __post_init__(self):
        """Checks the fields."""
        require_widths(self.hidden)
        require(
            self.activation in ACTIVATIONS,
            f"policy.activation is {self.activation!r}; choose tanh or relu.",
        )
        for name in ("policy_scale", "value_scale"):
            value = getattr(self, name)
            require(value >= 0, f"policy.{name} is {value}; it must not be negative.")

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment's observations and actions."""
        del contents
        require_single_actions(env, type(self).__name__)

        def network(outputs, scale):
            return Perceptron(self.hidden, outputs, self.activation, scale, self.bias)

        policy = network(env.num_actions, self.policy_scale)
        value = network(1, self.value_scale)
        shape = jnp.shape(env.low)

        def flat(observation):
            lead = observation.shape[: observation.ndim - len(shape)]
            return observation.reshape(*lead, -1)

        # One run at a time under vmap: jaxlib 0.10 deals the QR of a batch to the threads of XLA's pool
        # and waits for them on one of these, for ever where as many do so at once as there are cores.
        @jax.custom_batching.sequential_vmap
        def init(key):
            policy_key, value_key = jax.random.split(key)
            example = jnp.zeros((math.prod(shape),))
            return {
                "policy": policy.init(policy_key, example)["params"],
                "value": value.init(value_key, example)["params"],
            }

        def apply(params, observation):
            x = flat(observation)
            logits = policy.apply({"params": params["policy"]}, x)
            values: Any = value.apply({"params": params["value"]}, x)
            return Categorical(logits), values[..., 0]

        return PolicyModel(init, apply)


def require_widths(hidden: Sequence[int]) -> None:
    """Raises a `UserError` if a policy's hidden layers have a width that is not positive."""
    require(
        all(width >= 1 for width in hidden),
        f"policy.hidden is {hidden}; every width must be at least 1.",
    )


def require_single_actions(env: Env, policy: str) -> None:
    """Raises a `UserError` if the environment's actions are slates, which this policy can't choose."""
    require(
        not env.slate,
        f"policy is {policy}, which chooses single actions, but the environment is shown slates of "
        f"{env.slate}; choose SlatePolicy, or SlateRetrieval where slates are of passages.",
    )
