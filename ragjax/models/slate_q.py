"""Item values for SlateQ: what a choice of each item is worth, and the slate that follows from it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.layers import Perceptron
from ragjax.models.slate_policy import (
    SlatePolicy,
    clicked_place,
    read,
    require_offered,
    split,
    user_and_candidates,
)
from ragjax.ops.plackett_luce import CERTAIN, PlackettLuce
from ragjax.ops.slates import RULES, Rule, chosen_slate
from ragjax.types import Env, Leaf, PolicyModel


@struct.dataclass
class SlateValues(PlackettLuce):
    """All but surely the slate that a rule makes of item values.

    Attributes:
      item_values: [...,K] q of each candidate.
      choice_scores: [...,K] s of the user's choice.
      no_click: [...] s_0.
      rule: that makes the slate, static.
    """

    item_values: Leaf = None
    choice_scores: Leaf = None
    no_click: Leaf = None
    rule: Rule = struct.field(pytree_node=False, default="optimal")


@dataclass(frozen=True)
class SlateQPolicy(SlatePolicy):
    """Shows the slate of the largest value, of item values q(user, candidate) by a perceptron.

    The scores of the user's choice are those of the proportional model, s_i = u·d_i + offset and s_0, of
    a user u seen in as many numbers as a candidate d: by default those of `InterestEvolution`.
    It is learned by `SlateQ`.

    Attributes:
      rule: how a slate is made of values, see `ops.slates.chosen_slate`.
      offset: that makes the scores of candidates positive.
      no_click: s_0.
    """

    rule: Rule = "optimal"
    offset: float = 1.0
    no_click: float = 2.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            self.rule in RULES, f"policy.rule is {self.rule!r}; choose one of {', '.join(RULES)}."
        )
        for name in ("offset", "no_click"):
            value = getattr(self, name)
            require(value > 0, f"policy.{name} is {value}; it must be positive.")

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment's observations and candidates.

        Raises:
          UserError: the environment is shown no slates, offers no candidates, or shows a user in other
            numbers than these.
        """
        del contents
        require_offered(env, type(self).__name__)
        parts = env.parts or {}
        require(
            parts["user"] == parts["candidates"][1:],
            "policy is a SlateQPolicy, which needs a user seen in as many numbers as a candidate, but "
            f"the environment shows {parts['user'][0]} and {parts['candidates'][1]}; use SlatePolicy.",
        )
        values = Perceptron(self.hidden, 1, "tanh", 1.0)

        # One run at a time under vmap, see `models.layers.orthogonal`.
        @jax.custom_batching.sequential_vmap
        def init(key):
            user, candidates = user_and_candidates(env, jnp.zeros(jnp.shape(env.low)))
            example = jnp.concatenate([user, candidates[0]])
            return {"policy": {}, "value": values.init(key, example)["params"]}

        def apply(params, observation):
            seen = split(env, observation)
            user, candidates = user_and_candidates(env, observation)
            item_values = read(values, params["value"], user, candidates)
            affinity = jnp.einsum("...f,...kf->...k", seen["user"], candidates)
            # A score of 0 would say that a candidate can't be shown.
            scores = jnp.maximum(affinity + self.offset, 1e-6)
            no_click = jnp.full(affinity.shape[:-1], self.no_click, affinity.dtype)
            slate = chosen_slate(self.rule, scores, no_click, item_values, env.slate)
            later = jnp.arange(env.slate, 0, -1, dtype=affinity.dtype)[:, None]
            ranks = jnp.sum(later * jax.nn.one_hot(slate, env.num_actions), axis=-2)
            best: Any = jnp.max(item_values, axis=-1)
            distribution = SlateValues(
                scores=CERTAIN * ranks,
                places=env.slate,
                item_values=item_values,
                choice_scores=scores,
                no_click=no_click,
                clicked=clicked_place(env, observation),
                rule=self.rule,
            )
            return distribution, best

        return PolicyModel(init, apply)
