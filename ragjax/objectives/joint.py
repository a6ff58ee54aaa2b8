"""Likelihood and reward on one retriever and one generator, in one step."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.decoding.sampling import sample_answers
from ragjax.errors import require
from ragjax.objectives.likelihood import RagSequence, Reading
from ragjax.objectives.rewards import ExactMatch, Reward
from ragjax.ops.sequence_policy import (
    GENERATED,
    PADDING,
    group_normalised,
    leave_one_out,
    marginal_token_logprobs,
    minus_other_questions,
    sequence_policy_loss,
)
from ragjax.retrieval.base import Retriever
from ragjax.types import PAD_ID, Loss, Params, RagBatch, RagModel, Vocabulary

Advantage = Literal["rloo", "grpo", "reinforce"]


@dataclass(frozen=True)
class Joint(RagSequence):
    """α · log-likelihood + β · expected reward of RAG-Sequence's own answers.

        loss = -α log p(y*|x) - β E_{y ~ p(y|x)}[R(y)] + κ KL(p || p_0),   p(y|x) = Σ_d p(d|x) p(y|x,d)

    The second term's gradient is estimated from G sampled answers, which keep their own tokens and
    log-probabilities; it flows through the marginal, so into retriever and generator alike. Both terms
    share the passages retrieved and the sources read. Where names are renamed (`rename_reader`) the
    answers are, too, and are compared with the renamed target: a bijection changes no reward.

    With several `updates` a step draws answers once and learns from them so often, by PPO's clipped
    ratio of marginals, over the passages that were retrieved when they were drawn. All its updates are
    shown the same names; the learning rate's schedule counts updates, everything else steps.

    Attributes:
      likelihood_weight: α.
      reward_weight: β; 0 samples nothing.
      samples: G.
      advantage: `rloo` subtracts the mean of a question's other answers, `grpo` normalises by mean and
        deviation of all its answers, `reinforce` subtracts the mean of the other questions' answers.
      reward: R.
      updates: of the parameters by each set of answers.
      clip: ε of the ratio, with several updates.
      kl_weight: κ; p_0 are the parameters that the run began with, over the same passages.
    """

    likelihood_weight: float = 1.0
    reward_weight: float = 1.0
    samples: int = 4
    advantage: Advantage = "rloo"
    reward: Reward = field(default_factory=ExactMatch)
    updates: int = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    clip: float = 0.2
    kl_weight: float = 0.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("likelihood_weight", "reward_weight", "kl_weight"):
            value = getattr(self, name)
            require(value >= 0, f"objective.{name} is {value}; it must not be negative.")
        require(
            self.likelihood_weight + self.reward_weight > 0,
            "objective.likelihood_weight and objective.reward_weight are both 0; nothing is learned.",
        )
        require(
            self.advantage in get_args(Advantage),
            f"objective.advantage is {self.advantage!r}; choose rloo, grpo or reinforce.",
        )
        fewest = 1 if self.advantage == "reinforce" else 2
        require(
            self.samples >= fewest,
            f"objective.samples is {self.samples}; objective.advantage {self.advantage} needs at least "
            f"{fewest}.",
        )
        require(self.updates >= 1, f"objective.updates is {self.updates}; it must be at least 1.")
        require(self.clip > 0, f"objective.clip is {self.clip}; it must be positive.")
        require(
            self.reward_weight > 0 or (self.updates == 1 and self.kl_weight == 0),
            "objective.reward_weight is 0, so there are no answers that objective.updates or "
            "objective.kl_weight could be about; leave them at 1 and 0.",
        )

    @property
    def anchored(self) -> bool:
        """Whether a divergence from the run's first parameters is paid for."""
        return self.kl_weight > 0

    def sample(
        self,
        model: RagModel,
        vocabulary: Vocabulary,
        retriever: Retriever,
        params: Params,
        key: Array,
        batch: RagBatch,
        corpus: Array,
        embeddings: Array,
        *,
        k: int,
    ) -> tuple[RagBatch, "Samples"]:
        """Draws the answers that all updates of a step learn from."""
        reading = self.read(
            model, vocabulary, retriever, params, key, batch, corpus, embeddings, k=k
        )
        samples = self._draw(model, params, key, reading)
        return dataclasses.replace(batch, retrieved=reading.topk), samples  # pyright: ignore[reportArgumentType]

    def _draw(self, model: RagModel, params: Params, key: Array, reading: Reading) -> "Samples":
        """G answers to each question, without gradient."""
        frozen = jax.lax.stop_gradient((params, reading.memory, reading.log_prior))
        key, length = jax.random.fold_in(key, 3), reading.target.shape[-1]
        answers, behaviour = sample_answers(model, *frozen, key, self.samples, length)
        return Samples(answers, behaviour, self.reward.score(answers, reading.target))

    def completed(
        self,
        likelihood: Loss,
        model: RagModel,
        params: Params,
        key: Array,
        reading: Reading,
        weight: Array,
        samples: "Samples | None",
        anchor: tuple[Params, Reading] | None,
    ) -> Loss:
        """Adds the reward's term to that of the likelihood.

        Returns:
          The loss, with `reward`, `sampled_entropy` (minus the log-probability of an answer, in nats),
          `distinct` (share of a question's answers that no earlier one repeats), with several updates
          `clipped` (share of tokens), and with a divergence to pay for `kl` (nats of an answer).
        """
        total, metrics = self.likelihood_weight * likelihood.sum, dict(likelihood.metrics)
        if self.reward_weight == 0:
            return Loss(total, likelihood.denom, metrics)
        if samples is None:
            samples = self._draw(model, params, key, reading)
        answers, behaviour, reward = samples
        real = weight > 0
        advantage = self._advantage(reward, weight)
        advantage = jnp.where(real[:, None], advantage * weight[:, None], 0.0)
        said = answers != PAD_ID
        source = jnp.where(said & real[:, None, None], GENERATED, PADDING)

        def log_probs(params, reading):
            """The marginal's, [B,G,T]."""

            def score(answer):
                return model.token_logprobs(params, reading.memory, answer)

            by_passage = jax.vmap(score, in_axes=1, out_axes=1)(answers)  # [B,G,K,T]
            by_passage = jnp.where(said[:, :, None], by_passage, 0.0)
            return marginal_token_logprobs(reading.log_prior[:, None], by_passage)

        terms = sequence_policy_loss(
            log_probs(params, reading),
            behaviour,
            advantage,
            source,
            clip=self.clip if self.updates > 1 else None,
            reference=None if anchor is None else log_probs(*anchor),
        )

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
        total = total + self.reward_weight * terms.policy / self.samples
        if self.updates > 1:
            metrics["clipped"] = (terms.clipped, terms.count)
        if anchor is not None:
            metrics["kl"] = (terms.kl / self.samples, likelihood.denom)
            total = total + self.kl_weight * terms.kl / self.samples
        return Loss(total, likelihood.denom, metrics)

    def _advantage(self, reward: Array, weight: Array) -> Array:
        """[B,G]."""
        if self.advantage == "reinforce":
            return minus_other_questions(reward, weight)
        return leave_one_out(reward) if self.advantage == "rloo" else group_normalised(reward)


class Samples(NamedTuple):
    """Answers that the model gave.

    Attributes:
      answers: [B,G,T] tokens.
      behaviour: [B,G,T] their log p(y_t|x,y_<t) when they were drawn.
      reward: [B,G].
    """

    answers: Array
    behaviour: Array
    reward: Array
