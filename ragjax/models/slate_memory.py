"""A policy that recalls, for each candidate of a slate, what like items met with in this episode.

    z_c = log Σ_m p(m|c) exp f(s,c,m),   slate ~ Plackett-Luce of z

The memory grows while the episode runs; its rows are the responses to what was shown. The sum over rows
m is the project's marginal, within the weight of each candidate: with one place π(c|s) is the exact
marginal of showing c because of m, and so is that of every further place given those before it.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.layers import Linear, Perceptron, unit_length
from ragjax.models.slate_policy import SlatePolicy, clicked_place, read, require_slates, split
from ragjax.ops.marginal import marginal
from ragjax.ops.masking import masked_log_softmax
from ragjax.ops.plackett_luce import PlackettLuce
from ragjax.retrieval.growing import recall
from ragjax.types import Env, PolicyModel


@dataclass(frozen=True)
class SlateMemory(SlatePolicy):
    """Scores each candidate by the responses to like items, of an environment with a `memory`.

    Candidates and remembered items are embedded by one matrix; p(m|c) is a softmax over the inner
    products with the K best rows, and over a row of zeros, "nothing is known", whose score is learned.
    The critic reads the user, the mean candidate and the mean of the known rows.

    Attributes:
      k: K, rows recalled for each candidate.
      width: D of the embeddings.
      initial_scale: what inner products of unit vectors are multiplied by at the start.
    """

    k: int = 4
    width: int = 32
    initial_scale: float = 10.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("k", "width"):
            value = getattr(self, name)
            require(value >= 1, f"policy.{name} is {value}; it must be at least 1.")
        require(
            self.initial_scale > 0,
            f"policy.initial_scale is {self.initial_scale}; it must be positive.",
        )

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment's observations, candidates and memory.

        Raises:
          UserError: the environment is shown no slates, offers no candidates, or keeps no memory or one
            of fewer rows than K.
        """
        del contents
        require_slates(env)
        parts = env.parts or {}
        require(
            {"candidates", "memory"} <= set(parts),
            "policy is a SlateMemory, but the environment offers no candidates or keeps no memory of "
            "responses; set env.memory to its rows, with env.corpus at 0.",
        )
        rows, row_width = parts["memory"]
        require(
            self.k <= rows,
            f"policy.k is {self.k}, more than the env.memory of {rows} rows; choose at most that many.",
        )
        item_width = parts["candidates"][1]
        embedder = Linear(self.width, use_bias=False)
        policy = Perceptron(self.hidden, 1, "tanh", 0.01)
        critic = Perceptron(self.hidden, 1, "tanh", 1.0)

        def seen(observation):
            """User [...,U], candidates [...,C,F], memory's rows [...,M,W] and which are known."""
            found = split(env, observation)
            candidates, memory = found.pop("candidates"), found.pop("memory")
            lead = observation.shape[:-1]
            user = jnp.concatenate([part.reshape(*lead, -1) for part in found.values()], axis=-1)
            return user, candidates, memory[..., :-1], memory[..., -1] > 0

        # One run at a time under vmap, see `models.layers.orthogonal`.
        @jax.custom_batching.sequential_vmap
        def init(key):
            keys = jax.random.split(key, 3)
            user, candidates, memory, _ = seen(jnp.zeros(jnp.shape(env.low)))
            scored = jnp.concatenate([user, candidates[0], memory[0, : row_width - 1 - item_width]])
            valued = jnp.concatenate([user, candidates[0], memory[0]])
            return {
                "retriever": {
                    "embedder": embedder.init(keys[0], candidates)["params"],
                    "log_scale": jnp.log(self.initial_scale),
                    "unknown": jnp.zeros(()),
                },
                "policy": policy.init(keys[1], scored)["params"],
                "value": critic.init(keys[2], valued)["params"],
            }

        def embed(params, items):
            embedded: Any = embedder.apply({"params": params["retriever"]["embedder"]}, items)
            return unit_length(embedded)

        def apply(params, observation):
            user, candidates, memory, known = seen(observation)
            responses, items = memory[..., :-item_width], memory[..., -item_width:]
            query, keys = embed(params, candidates), embed(params, items)
            found = recall(query, keys[..., None, :, :], known[..., None, :], self.k)
            each = jnp.maximum(found.ids, 0)[..., None]  # [...,C,K,1]
            keys, responses = (
                jnp.take_along_axis(of[..., None, :, :], each, axis=-2) for of in (keys, responses)
            )
            learned = params["retriever"]
            scores = jnp.exp(learned["log_scale"]) * jnp.einsum("...d,...kd->...k", query, keys)
            nothing = jnp.broadcast_to(learned["unknown"], (*scores.shape[:-1], 1))
            log_prior = masked_log_softmax(
                jnp.concatenate([scores, nothing], axis=-1),
                jnp.concatenate([found.valid, jnp.ones_like(nothing, bool)], axis=-1),
            )
            blank = jnp.zeros_like(responses[..., :1, :])
            recalled = jnp.concatenate([responses, blank], axis=-2)
            reads = read_recalled(policy, params["policy"], user, candidates, recalled)
            counted = known.astype(memory.dtype)
            share = counted / jnp.maximum(jnp.sum(counted, axis=-1, keepdims=True), 1.0)
            summary = jnp.einsum("...m,...mw->...w", share, memory)
            whole = jnp.concatenate([jnp.mean(candidates, axis=-2), summary], axis=-1)
            value = read(critic, params["value"], user, whole[..., None, :])
            clicked = clicked_place(env, observation)
            slates = PlackettLuce(marginal(log_prior, reads), env.slate, clicked=clicked)
            return slates, value[..., 0]

        return PolicyModel(init, apply)


def read_recalled(
    module: Perceptron, params: Any, user: Array, candidates: Array, recalled: Array
) -> Array:
    """The numbers [...,C,K] of the user [...,U], candidates [...,C,F] and responses [...,C,K,R]."""
    lead = recalled.shape[:-1]
    user = jnp.broadcast_to(user[..., None, None, :], (*lead, user.shape[-1]))
    candidates = jnp.broadcast_to(candidates[..., None, :], (*lead, candidates.shape[-1]))
    numbers: Any = module.apply(
        {"params": params}, jnp.concatenate([user, candidates, recalled], axis=-1)
    )
    return numbers[..., 0]
