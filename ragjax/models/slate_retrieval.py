"""A policy that retrieves the candidates of its slates: what it finds is what it may show.

    p(d|s) over the K passages found,   z_d = log p(d|s) + f(s,d),   slate ~ Plackett-Luce of z

A passage that is shown is part of the action; those found but not shown are summed over in the
denominators. With one place and f = 0 the policy is the retriever itself: π(d|s) = p(d|s).
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.layers import Perceptron
from ragjax.models.policy import Policy, require_widths
from ragjax.models.retrieval_policy import (
    MISS,
    require_refreshed_in_steps,
    require_retrievable,
    two_matrices,
)
from ragjax.models.slate_policy import clicked_place, read, require_slates
from ragjax.ops.plackett_luce import PlackettLuce
from ragjax.retrieval.base import RetrieverSpec
from ragjax.retrieval.corpus import gather_passages
from ragjax.types import Env, PolicyModel, Retrieved, TopK


@dataclass(frozen=True)
class SlateRetrieval(Policy):
    """Shows slates of the passages that it retrieves, in an order of its own.

    A search finds what the retriever already prefers, so that in rollouts some candidates are drawn
    evenly from all passages, too; one that was found anyway is left out there. The likeliest slate is
    of what was found alone. The critic reads the observation.

    Attributes:
      k: K, passages found.
      explored: further candidates, drawn evenly from all passages, while the policy draws.
      hidden: widths of the hidden layers of f and of the critic.
      reranks: whether f is added; otherwise the retriever alone says what is shown.
      retriever: how p(d|s) comes about; a learned one that goes by embeddings alone.
    """

    k: int = 10
    explored: int = 0
    hidden: tuple[int, ...] = (64,)
    reranks: bool = True
    retriever: RetrieverSpec = field(default_factory=two_matrices)

    def __post_init__(self):
        """Checks the fields."""
        require(self.k >= 1, f"policy.k is {self.k}; it must be at least 1.")
        require(self.explored >= 0, f"policy.explored is {self.explored}; it must not be negative.")
        require_widths(self.hidden)
        require_refreshed_in_steps(self.retriever)

    @property
    def on_mesh(self) -> bool:
        """What its retriever says."""
        return self.retriever.on_mesh

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions for an environment's observations and passages.

        Args:
          env: the environment; its arrays may be traced.
          contents: [N,F] features that f reads in each passage's place, its own if None.

        Raises:
          UserError: the environment is shown no slates, its slates are not of its passages or have more
            places than K, or the retriever can't retrieve these.
        """
        require_slates(env)
        stored = require_retrievable(self.retriever, env, self.k)
        require(
            env.num_actions == len(stored) and "candidates" not in (env.parts or {}),
            "policy is a SlateRetrieval, but the environment's slates are of the candidates that it "
            "offers and not of its passages; choose SlatePolicy.",
        )
        require(
            env.slate <= self.k,
            f"policy.k is {self.k}, fewer passages than the {env.slate} places of a slate; raise it.",
        )
        contents = stored if contents is None else contents
        count, width = stored.shape
        size = jnp.shape(env.low)[0]
        retriever = self.retriever.build(env.vocabulary, query_width=size, passage_width=width)
        ranker = Perceptron(self.hidden, 1, "tanh", 0.01)
        critic = Perceptron(self.hidden, 1, "tanh", 1.0)

        # One run at a time under vmap, see `models.layers.orthogonal`.
        @jax.custom_batching.sequential_vmap
        def init(key):
            keys = jax.random.split(key, 3)
            params = {
                "retriever": retriever.init(keys[0]),
                "value": critic.init(keys[2], jnp.zeros((size,)))["params"],
            }
            if self.reranks:
                params["policy"] = ranker.init(keys[1], jnp.zeros((size + width,)))["params"]
            return params

        def embed(params):
            return retriever.index(params, stored)

        def retrieve(params, index, key, observation):
            found = retriever.search(index, retriever.query(params, observation), self.k)
            ids = jnp.where(found.valid, found.ids, MISS)
            if key is None or not self.explored:
                return Retrieved(observation, ids, None)
            drawn = jax.random.randint(key, (*ids.shape[:-1], self.explored), 0, count)
            candidates = jnp.concatenate([ids, drawn], axis=-1)
            earlier = jnp.tril(candidates[..., :, None] == candidates[..., None, :], k=-1)
            candidates = jnp.where(jnp.any(earlier, axis=-1), MISS, candidates)
            by_chance = jnp.broadcast_to(
                jnp.arange(self.k + self.explored) >= self.k, candidates.shape
            )
            return Retrieved(observation, candidates, by_chance.astype(jnp.float32))

        def apply(params, seen: Retrieved):
            observation, valid = seen.observation, seen.ids != MISS
            if seen.noise is not None:  # in play without drawing there is none by chance
                valid &= (jnp.arange(seen.ids.shape[-1]) < self.k) | (seen.noise > 0)
            query = retriever.query(params, observation)
            scores = retriever.log_prior(params, query, stored, TopK(seen.ids, None, valid))
            if self.reranks:
                items = gather_passages(contents, seen.ids)
                scores = scores + read(ranker, params["policy"], observation, items)
            value: Any = critic.apply({"params": params["value"]}, observation)
            clicked = clicked_place(env, observation)
            return PlackettLuce(scores, env.slate, seen.ids, clicked), value[..., 0]

        return PolicyModel(init, apply, embed, retrieve, self.retriever.refresh_every_in_step or 1)
