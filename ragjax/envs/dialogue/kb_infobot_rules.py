"""The rules of KB-InfoBot: ask for the slot of the highest entropy, until enough is known."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.envs.dialogue.kb_infobot import Params
from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.models.slate_policy import split
from ragjax.ops.distributions import Categorical
from ragjax.ops.plackett_luce import CERTAIN
from ragjax.types import Env, PolicyModel


@dataclass(frozen=True)
class EntropyRule(Policy):
    """A policy that learns nothing, of `KBInfoBot` with `counts_asked`.

    It asks for the slot of the highest entropy among those worth asking for, and informs if there is
    none. Where the environment shows the posterior's entropy, it informs as soon as that is below
    `certain`; where it shows how many rows match, it informs if one does, and if none does it asks for
    any slot that it may still ask for.

    Attributes:
      certain: bits.
      least: bits of a slot that is worth asking for.
      share: of its first entropy that such a slot has at least.
      requests: of the same slot, at the most.
    """

    learns: ClassVar[bool] = False

    certain: float = 1.0
    least: float = 1.0
    share: float = 0.5
    requests: int = 1

    def __post_init__(self):
        """Checks the fields."""
        for name in ("certain", "least", "share", "requests"):
            value = getattr(self, name)
            require(value >= 0, f"policy.{name} is {value}; it must not be negative.")

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions, of no parameters; the critic is 0.

        The distribution is over M requests and informing.

        Raises:
          UserError: the environment is another one, or does not show how often slots were asked for.
        """
        del contents
        require(
            isinstance(env.params, Params) and "asked" in (env.parts or {}),
            "policy is an EntropyRule, which is one of environment kb_infobot with env.counts_asked "
            "only; choose another policy.",
        )
        first = env.params.knowledge.entropy

        def init(key):
            del key
            return {"policy": {}, "value": {}}

        def apply(params, observation):
            del params
            parts = split(env, observation)
            bits = parts["entropies"]
            open_slots = (parts["asked"] < self.requests) & (parts["dropped"] == 0)
            worth = open_slots & (bits >= self.least) & (bits >= self.share * first)
            best = jnp.argmax(jnp.where(worth, bits, -1.0), axis=-1)
            informs = ~jnp.any(worth, axis=-1)
            if "posterior_entropy" in parts:
                informs |= parts["posterior_entropy"][..., 0] < self.certain
            if "matches" in parts:
                informs |= parts["matches"][..., 1] > 0
            act = jnp.where(informs, first.shape[0], best)
            logits = CERTAIN * jax.nn.one_hot(act, first.shape[0] + 1)
            if "matches" in parts:
                any_open = jnp.pad(
                    CERTAIN * open_slots.astype(bits.dtype), [(0, 0)] * act.ndim + [(0, 1)]
                )
                again = (parts["matches"][..., :1] > 0) & jnp.any(open_slots, -1, keepdims=True)
                logits = jnp.where(again, any_open, logits)
            return Categorical(logits), jnp.zeros(act.shape)

        return PolicyModel(init, apply)
