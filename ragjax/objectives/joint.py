"""Likelihood and reward on one retriever and one generator, in one step."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.decoding.sampling import sample_answers
from ragjax.errors import require
from ragjax.objectives.likelihood import RagSequence
from ragjax.objectives.rewards import ExactMatch, Reward
from ragjax.ops.sequence_policy import (
    GENERATED,
    PADDING,
    group_normalised,
    leave_one_out,
    marginal_token_logprobs,
    sequence_policy_loss,
)
from ragjax.types import PAD_ID, Loss, Params, RagModel

Advantage = Literal["rloo", "grpo"]


@dataclass(frozen=True)
class Joint(RagSequence):
    """α · log-likelihood + β · expected reward of RAG-Sequence's own answers.

        loss = -α log p(y*|x) - β E_{y ~ p(y|x)}[R(y)],   p(y|x) = Σ_d p(d|x) p(y|x,d)

    The second term's gradient is estimated from G sampled answers, which keep their own tokens and
    log-probabilities; it flows through the marginal, so into retriever and generator alike. Both terms
    share the passages retrieved and the sources read. Where names are renamed (`rename_reader`) the
    answers are, too, and are compared with the renamed target: a bijection changes no reward.

    Attributes:
      likelihood_weight: α.
      reward_weight: β; 0 samples nothing.
      samples: G.
      advantage: `rloo` subtracts the mean of a question's other answers, `grpo` normalises by mean and
        deviation of all its answers.
      reward: R.
    """

    likelihood_weight: float = 1.0
    reward_weight: float = 1.0
    samples: int = 4
    advantage: Advantage = "rloo"
    reward: Reward = field(default_factory=ExactMatch)

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("likelihood_weight", "reward_weight"):
            value = getattr(self, name)
            require(value >= 0, f"objective.{name} is {value}; it must not be negative.")
        require(
            self.likelihood_weight + self.reward_weight > 0,
            "objective.likelihood_weight and objective.reward_weight are both 0; nothing is learned.",
        )
        require(
            self.samples >= 2,
            f"objective.samples is {self.samples}; a baseline from other answers needs at least 2.",
        )
        require(
            self.advantage in get_args(Advantage),
            f"objective.advantage is {self.advantage!r}; choose rloo or grpo.",
        )

    def completed(
        self,
        likelihood: Loss,
        model: RagModel,
        params: Params,
        key: Array,
        memory: object,
        log_prior: Array,
        target: Array,
        weight: Array,
    ) -> Loss:
        """Adds the reward's term to that of the likelihood.

        Returns:
          The loss, with `reward`, `sampled_entropy` (minus the log-probability of an answer, in nats)
          and `distinct` (share of a question's answers that no earlier one repeats).
        """
        total, metrics = self.likelihood_weight * likelihood.sum, dict(likelihood.metrics)
        if self.reward_weight == 0:
            return Loss(total, likelihood.denom, metrics)
        frozen = jax.lax.stop_gradient((params, memory, log_prior))
        answers, behaviour = sample_answers(model, *frozen, key, self.samples, target.shape[-1])
        reward = self.reward.score(answers, target)
        estimate = leave_one_out if self.advantage == "rloo" else group_normalised
        real = weight > 0
        advantage = jnp.where(real[:, None], estimate(reward) * weight[:, None], 0.0)

        said = answers != PAD_ID

        def score(answer):
            return model.token_logprobs(params, memory, answer)

        by_passage = jax.vmap(score, in_axes=1, out_axes=1)(answers)  # [B,G,K,T]
        by_passage = jnp.where(said[:, :, None], by_passage, 0.0)
        log_probs = marginal_token_logprobs(log_prior[:, None], by_passage)
        source = jnp.where(said & real[:, None, None], GENERATED, PADDING)
        policy = sequence_policy_loss(log_probs, behaviour, advantage, source).policy

        def mean(values):
            return jnp.sum(jnp.where(real, jnp.mean(values, axis=-1) * weight, 0.0))

        same = jnp.all(answers[:, :, None] == answers[:, None, :], axis=-1)
        repeated = jnp.any(jnp.tril(same, k=-1), axis=-1)
        figures = {
            "reward": mean(reward),
            "sampled_entropy": mean(-jnp.sum(behaviour, axis=-1)),
            "distinct": mean(1.0 - repeated.astype(jnp.float32)),
        }
        metrics |= {name: (value, likelihood.denom) for name, value in figures.items()}
        total = total + self.reward_weight * policy / self.samples
        return Loss(total, likelihood.denom, metrics)
