"""Policies that show slates: Plackett-Luce over the candidates that an environment offers."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.layers import Perceptron
from ragjax.models.policy import Policy, require_widths
from ragjax.ops.plackett_luce import PlackettLuce
from ragjax.types import Env, PolicyModel


@dataclass(frozen=True)
class SlatePolicy(Policy):
    """Scores each candidate by a perceptron of the user's part of the observation and its features.

    z_k = f(user, candidate k), and slates are drawn by Plackett-Luce of z. The critic reads the user's
    part and the mean of the candidates' features, so that both know no order of the candidates.

    Attributes:
      hidden: widths of the hidden layers of policy and critic.
    """

    hidden: tuple[int, ...] = (64, 64)

    def __post_init__(self):
        """Checks the fields."""
        require_widths(self.hidden)

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment's observations and candidates.

        Raises:
          UserError: the environment is shown no slates, or offers no candidates.
        """
        del contents
        require_offered(env, type(self).__name__)
        policy = Perceptron(self.hidden, 1, "tanh", 0.01)
        critic = Perceptron(self.hidden, 1, "tanh", 1.0)

        # One run at a time under vmap, see `models.layers.orthogonal`.
        @jax.custom_batching.sequential_vmap
        def init(key):
            policy_key, value_key = jax.random.split(key)
            user, candidates = user_and_candidates(env, jnp.zeros(jnp.shape(env.low)))
            example = jnp.concatenate([user, candidates[0]])
            return {
                "policy": policy.init(policy_key, example)["params"],
                "value": critic.init(value_key, example)["params"],
            }

        def apply(params, observation):
            user, candidates = user_and_candidates(env, observation)
            scores = read(policy, params["policy"], user, candidates)
            value = read(
                critic, params["value"], user, jnp.mean(candidates, axis=-2, keepdims=True)
            )
            clicked = clicked_place(env, observation)
            return PlackettLuce(scores, env.slate, clicked=clicked), value[..., 0]

        return PolicyModel(init, apply)


def split(env: Env, observation: Array) -> dict[str, Array]:
    """The parts of observations [...,O] by name, each [...] and its shape."""
    parts, place, lead = {}, 0, observation.shape[:-1]
    for name, shape in (env.parts or {}).items():
        size = math.prod(shape)
        parts[name] = observation[..., place : place + size].reshape(*lead, *shape)
        place += size
    return parts


def user_and_candidates(env: Env, observation: Array) -> tuple[Array, Array]:
    """Of observations [...,O] the candidates [...,K,C], and all other parts [...,U] as one."""
    parts = split(env, observation)
    candidates = parts.pop("candidates")
    lead = observation.shape[:-1]
    user = [part.reshape(*lead, -1) for part in parts.values()]
    return jnp.concatenate(user, axis=-1), candidates


def clicked_place(env: Env, observation: Array) -> Array | None:
    """The place [...] of the slate shown last that was clicked, the number of places if none was.

    It is what observations [...,O] tell first of each response; None where they have none.
    """
    parts = split(env, observation)
    if "responses" not in parts:
        return None
    clicks = parts["responses"][..., 0]
    none = 1.0 - jnp.sum(clicks, axis=-1, keepdims=True)
    return jnp.argmax(jnp.concatenate([clicks, none], axis=-1), axis=-1)


def read(module: Perceptron, params: Any, user: Array, items: Array) -> Array:
    """The numbers [...,K] that a perceptron gives of [...,U] and each of [...,K,F]."""
    wide = (*items.shape[:-1], user.shape[-1])
    both = jnp.concatenate([jnp.broadcast_to(user[..., None, :], wide), items], axis=-1)
    numbers: Any = module.apply({"params": params}, both)
    return numbers[..., 0]


def require_slates(env: Env) -> None:
    """Raises a `UserError` if the environment's actions are no slates."""
    require(
        env.slate > 0,
        "policy chooses slates, but the environment takes single actions; choose ActorCritic or "
        "RetrievalPolicy.",
    )


def require_offered(env: Env, policy: str) -> None:
    """Raises a `UserError` if the environment is shown no slates or offers no candidates for them."""
    require_slates(env)
    require(
        "candidates" in (env.parts or {}),
        f"policy is a {policy}, but the environment offers no candidates, its slates are of passages; "
        "choose SlateRetrieval.",
    )
