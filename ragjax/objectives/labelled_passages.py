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
from ragjax.models.retrieval_policy import MISS
from ragjax.objectives.algorithm import Hyper
from ragjax.objectives.labelled import Labelled, labelled_batch
from ragjax.ops.plackett_luce import PlackettLuce
from ragjax.types import Env, Leaf, Loss, Params, PolicyBatch, PolicyModel, Retrieved, Rollout

LABELS = "labels"  # the metric of an environment that labels passages: [n] rows, -1 for none


@struct.dataclass
class LabelledBatch(PolicyBatch):
    """Steps, of which some have labels.

    Attributes:
      labels: [B,n] rows of passages, -1 for none.
    """

    labels: Leaf


@dataclass(frozen=True, kw_only=True)
class LabelledPassages(Labelled):
    """PPO, and the likelihood of passages that the environment labels.

        β · PPO's loss - α Σ_b w_b Σ_d log π(d|s_b)   over the labels d of steps b

    π is that of a slate's first place, over the passages that were found and drawn in the rollout and
    the labels. A label tells what would have been right without its having been shown, such as what a
    user of `RecoGym` views next, so that the retriever learns from many more steps than are rewarded.
    With α = 0 this is PPO, with β = 0 likelihood alone.
    """

    def model(self, policy: Policy, env: Env) -> PolicyModel:
        """The policy's functions.

        Raises:
          UserError: the environment labels no passages.
        """
        first = jax.eval_shape(env.reset, env.params, jax.random.PRNGKey(0))[1]
        require(
            LABELS in first.metrics,
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
        labels = rollout.metrics[LABELS]
        labels = labels.reshape(-1, labels.shape[-1])
        return labelled_batch(LabelledBatch, batch, labels=labels), extra

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
          over all labels.
        """
        loss = super().loss(policy, params, key, batch, hyper, extra=extra)
        seen: Retrieved = batch.observation  # pyright: ignore[reportAssignmentType]
        seen, place = beside_labels(seen, batch.labels)
        slates: PlackettLuce = policy.apply(params, seen)[0]
        log_labels = jnp.take_along_axis(slates.log_probs, place, axis=-1)
        weight = jnp.where(batch.labels >= 0, batch.weight[:, None], 0.0)
        told = log_labels.reshape(-1), weight.reshape(-1)
        return self.with_labels(loss, *told, loss.denom, hyper)


def beside_labels(
    seen: Retrieved, labels: Int[Array, "B n"]
) -> tuple[Retrieved, Int[Array, "B n"]]:
    """Passages [B,K] and the labels [B,n] that aren't among them, each once; the labels' places."""
    among = jnp.any(labels[:, :, None] == seen.ids[:, None, :], axis=-1)
    repeated = jnp.any(jnp.tril(labels[:, :, None] == labels[:, None, :], k=-1), axis=-1)
    added = jnp.where((labels >= 0) & ~among & ~repeated, labels, MISS)
    ids = jnp.concatenate([seen.ids, added], axis=-1)
    noise = seen.noise
    if noise is not None:
        noise = jnp.concatenate([noise, jnp.ones(labels.shape, noise.dtype)], axis=-1)
    place = jnp.argmax(labels[:, :, None] == ids[:, None, :], axis=-1)
    return dataclasses.replace(seen, ids=ids, noise=noise), place
