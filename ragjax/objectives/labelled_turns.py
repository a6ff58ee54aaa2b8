"""Labelled turns and rewards together: a given policy's dialogues by likelihood, its own by PPO."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.objectives.algorithm import Hyper
from ragjax.objectives.guided_ppo import require_fixed, with_guide
from ragjax.objectives.labelled import Labelled, labelled_batch
from ragjax.ops.plackett_luce import REMOVED
from ragjax.ops.request_or_list import RequestOrList
from ragjax.types import Env, Leaf, Loss, Params, PolicyBatch, PolicyModel, Retrieved, Rollout


@struct.dataclass
class LabelledBatch(PolicyBatch):
    """Steps, of which some are labelled.

    Attributes:
      labelled: [B] 1 for a turn that is labelled, 0 for one that is learned from by reward.
      row: [B] the row that is looked for.
    """

    labelled: Leaf
    row: Leaf


@dataclass(frozen=True, kw_only=True)
class LabelledTurns(Labelled):
    """PPO in some environments, and in the others the likelihood of what a guide said and meant.

        Σ_b w_b α [-log π(a_b|s_b)]   over labelled turns, beside β times PPO's loss over the others

    A label is the guide's request, or that it informed and which row was looked for:

        log π(request j|s) = log Σ_d p(d|s) π(j|s,d),   log π(inform, d*|s) = log p(d*|s) π(inform|s,d*)

    so that the retriever learns from both. Where the row that is looked for was not found, it takes the
    place of the last one that was. With a `share` of 0 this is PPO, with β = 0 likelihood alone. The
    critic learns from turns that aren't labelled.

    Attributes:
      guide: the policy whose turns are labelled; one that learns nothing, of the observation alone.
      share: of the environments, the first ones.
    """

    guide: Policy
    share: float = 0.25

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(0 <= self.share <= 1, f"algorithm.share is {self.share}; it is a share, 0 to 1.")
        require_fixed(self.guide)

    def model(self, policy: Policy, env: Env) -> PolicyModel:
        """The policy's functions with those of the guide."""
        return with_guide(policy.build(env), self.guide, env)

    def labelled(self) -> Array:
        """[E] bool, which environments are."""
        return jnp.arange(self.num_envs) < round(self.share * self.num_envs)

    def act(
        self, policy: PolicyModel, params: Params, seen: Any, hyper: Hyper, step: Array
    ) -> RequestOrList:
        """The guide's distribution where turns are labelled, with rows by p(d|s); else the policy's."""
        own = super().act(policy, params, seen, hyper, step)
        require(
            isinstance(own, RequestOrList),
            "algorithm is LabelledTurns, whose labels are requests and rows; choose a RowRetrieval.",
        )
        assert policy.guide is not None  # it is of `model`
        guided = policy.guide(seen.observation).log_probs
        listed = guided[..., -1:] + own.log_prior
        guided = jnp.concatenate([guided[..., :-1], listed], axis=-1)
        return own.with_log_probs(jnp.where(self.labelled()[:, None], guided, own.log_probs))

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
        """The steps with their labels, the row that is looked for among those that are read."""
        batch, extra = super().batch(policy, params, rollout, hyper, key=key, extra=extra)
        labelled = jnp.broadcast_to(self.labelled(), rollout.reward.shape).reshape(-1)
        row = rollout.metrics["gold"].reshape(-1)
        seen: Retrieved = batch.observation  # pyright: ignore[reportAssignmentType]
        found = jnp.any(seen.ids == row[:, None], axis=-1)
        last = jnp.where(labelled & ~found, row, seen.ids[:, -1])
        seen = dataclasses.replace(seen, ids=seen.ids.at[:, -1].set(last))
        fields = {"observation": seen, "labelled": labelled.astype(jnp.float32), "row": row}
        return labelled_batch(LabelledBatch, batch, **fields), extra

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
        """PPO's loss of turns without a label, and the negative log-likelihood of those with one.

        Returns:
          The loss over all turns, with the metrics of PPO over its own, and `label_loss`, the mean of
          -log π(a|s) over labelled turns.
        """
        weight = batch.weight * batch.labelled
        own = dataclasses.replace(batch, weight=batch.weight * (1.0 - batch.labelled))
        loss = super().loss(policy, params, key, own, hyper, extra=extra)
        distribution = policy.apply(params, batch.observation)[0]
        log_labels = log_label(distribution, batch.action, batch.row)
        return self.with_labels(loss, log_labels, weight, jnp.sum(batch.weight), hyper)


def log_label(distribution: RequestOrList, action: Array, row: Array) -> Array:
    """[B] log π of labels: of the request that actions [B,P] begin with, or of informing of rows [B]."""
    requests = distribution.requests
    first = distribution.log_probs
    named = jnp.where(distribution.ids == row[:, None], first[:, requests:], REMOVED)
    asked = jnp.minimum(action[:, :1], requests - 1)
    asked = jnp.take_along_axis(first, asked, axis=-1)[:, 0]
    return jnp.where(action[:, 0] < requests, asked, jax.nn.logsumexp(named, axis=-1))
