"""Likelihood and reward on one retriever and one generator, in one step."""

import dataclasses
from collections.abc import Callable
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
    marginal_token_entropy,
    marginal_token_logprobs,
    minus_other_questions,
    prefix_posterior,
    sequence_policy_loss,
    token_advantages,
    whitened,
)
from ragjax.retrieval.base import Retriever
from ragjax.types import PAD_ID, Loss, Params, RagBatch, RagModel, Vocabulary

Advantage = Literal["rloo", "grpo", "reinforce", "gae"]


@dataclass(frozen=True)
class Joint(RagSequence):
    """α · log-likelihood + β · expected reward of RAG-Sequence's own answers.

        loss = -α log p(y*|x) - β E_{y ~ p(y|x)}[R(y)] + κ KL(p || p_0) - η Σ_t H(p(·|x,y_<t)),
        p(y|x) = Σ_d p(d|x) p(y|x,d)

    The second term's gradient is estimated from G sampled answers, which keep their own tokens and
    log-probabilities; it flows through the marginal, so into retriever and generator alike. Both terms
    share the passages retrieved and the sources read. Where names are renamed (`rename_reader`) the
    answers are, too; they are rewarded in their own names. With `documents` index the likelihood has
    p(d|x) over the whole index, but answers are drawn, and their log-probabilities taken, with p(d|x)
    normalised over the K retrieved: the policy is scored as it was sampled from.

    With several `updates` a step draws answers once and learns from them so often, by PPO's clipped
    ratio of marginals, over the passages that were retrieved when they were drawn. All its updates are
    shown the same names; the learning rate's schedule counts updates, everything else steps.

    With `gae` every token has an advantage of its own, by a critic over the same passages,
    V(x,y_<t) = Σ_d p(d|x,y_<t) V(x,d,y_<t), linear in the reader's states, to which it sends no
    gradient. With several updates and `whiten` that is PPO on tokens.

    Attributes:
      likelihood_weight: α.
      reward_weight: β; 0 samples nothing.
      samples: G.
      advantage: `rloo` subtracts the mean of a question's other answers, `grpo` normalises by mean and
        deviation of all its answers, `reinforce` subtracts the mean of the other questions' answers,
        `gae` estimates that of each token by a critic.
      trace: λ of `gae`; 1 is the reward minus the value.
      whiten: whether advantages are shifted and scaled to mean 0 and deviation 1 over the tokens of a
        (micro-)batch.
      reward: R.
      updates: of the parameters by each set of answers.
      clip: ε of the ratio, with several updates.
      kl_weight: κ; p_0 are the parameters that the run began with, over the same passages.
      entropy_weight: η, of the distribution that each token was drawn from.
    """

    likelihood_weight: float = 1.0
    reward_weight: float = 1.0
    samples: int = 4
    advantage: Advantage = "rloo"
    trace: float = 0.95
    whiten: bool = False
    reward: Reward = field(default_factory=ExactMatch)
    updates: int = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    clip: float = 0.2
    kl_weight: float = 0.0
    entropy_weight: float = 0.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("likelihood_weight", "reward_weight", "kl_weight", "entropy_weight"):
            value = getattr(self, name)
            require(value >= 0, f"objective.{name} is {value}; it must not be negative.")
        require(
            self.likelihood_weight + self.reward_weight > 0,
            "objective.likelihood_weight and objective.reward_weight are both 0; nothing is learned.",
        )
        require(
            self.advantage in get_args(Advantage),
            f"objective.advantage is {self.advantage!r}; choose rloo, grpo, reinforce or gae.",
        )
        fewest = 2 if self.advantage in ("rloo", "grpo") else 1
        require(
            self.samples >= fewest,
            f"objective.samples is {self.samples}; objective.advantage {self.advantage} needs at least "
            f"{fewest}.",
        )
        require(self.updates >= 1, f"objective.updates is {self.updates}; it must be at least 1.")
        require(self.clip > 0, f"objective.clip is {self.clip}; it must be positive.")
        require(
            0 <= self.trace <= 1,
            f"objective.trace is {self.trace}; it must lie between 0 and 1.",
        )
        if self.reward_weight == 0:
            idle = {"updates": 1, "kl_weight": 0, "entropy_weight": 0, "whiten": False}
            for name, value in idle.items():
                require(
                    getattr(self, name) == value,
                    f"objective.reward_weight is 0, so there are no answers that objective.{name} could "
                    f"be about; leave it at {value}.",
                )
            require(
                not self.critic,
                "objective.reward_weight is 0, so objective.advantage gae's "
                "critic has nothing to learn; choose another.",
            )

    @property
    def anchored(self) -> bool:
        """Whether a divergence from the run's first parameters is paid for."""
        return self.kl_weight > 0

    @property
    def critic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether tokens are valued."""
        return self.advantage == "gae"

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
        params, reading = jax.lax.stop_gradient((params, reading))
        key, length = jax.random.fold_in(key, 3), reading.target.shape[-1]
        source = reading.memory, reading.log_prior
        answers, behaviour = sample_answers(model, params, *source, key, self.samples, length)
        values = None
        if self.critic:
            by_passage = _by_passage(model.token_logprobs, params, reading, answers)
            values = _values(model, params, reading, answers, by_passage)
        own = jnp.take_along_axis(reading.original[:, None], answers, axis=-1)
        return Samples(answers, behaviour, self.reward.score(own, reading.accepted), values)

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
          `clipped` (share of tokens), with a divergence to pay for `kl` (nats of an answer), with a
          bonus for it `entropy` (nats of a token), and with a critic `value_loss` (of a token).
        """
        total, metrics = self.likelihood_weight * likelihood.sum, dict(likelihood.metrics)
        if self.reward_weight == 0:
            return Loss(total, likelihood.denom, metrics)
        if samples is None:
            samples = self._draw(model, params, key, reading)
        answers, behaviour, reward, _ = samples
        real = weight > 0
        source = jnp.where((answers != PAD_ID) & real[:, None, None], GENERATED, PADDING)
        advantage, target = self._advantage(samples, source, weight)
        if self.whiten:
            advantage = whitened(advantage, source, weight)
        advantage = jnp.where(real[:, None, None], advantage * weight[:, None, None], 0.0)
        by_passage = _by_passage(model.token_logprobs, params, reading, answers)
        reference = entropy = critic = None
        if anchor is not None:
            theirs = _by_passage(model.token_logprobs, *anchor, answers)
            reference = marginal_token_logprobs(anchor[1].log_prior[:, None], theirs)
        if self.entropy_weight > 0:
            passages = prefix_posterior(reading.log_prior[:, None], by_passage)
            vocabulary = _by_passage(model.logprobs, params, reading, answers)
            entropy = marginal_token_entropy(passages, vocabulary)
        if target is not None:
            critic = _values(model, params, reading, answers, by_passage), target
        terms = sequence_policy_loss(
            marginal_token_logprobs(reading.log_prior[:, None], by_passage),
            behaviour,
            advantage,
            source,
            clip=self.clip if self.updates > 1 else None,
            reference=reference,
            entropy=entropy,
            critic=critic,
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
        if entropy is not None:
            metrics["entropy"] = (terms.entropy, terms.count)
            total = total - self.entropy_weight * terms.entropy / self.samples
        if critic is not None:
            metrics["value_loss"] = (terms.value, terms.count)
            total = total + terms.value / self.samples
        return Loss(total, likelihood.denom, metrics)

    def _advantage(
        self, samples: "Samples", source: Array, weight: Array
    ) -> tuple[Array, Array | None]:
        """[B,G,T] advantages, and the critic's targets where there is one."""
        reward = samples.reward
        if samples.values is not None:
            return token_advantages(reward, samples.values, source, self.trace)
        if self.advantage == "reinforce":
            advantage = minus_other_questions(reward, weight)
        elif self.advantage == "grpo":
            advantage = group_normalised(reward)
        else:
            advantage = leave_one_out(reward)
        return jnp.broadcast_to(advantage[..., None], source.shape), None


class Samples(NamedTuple):
    """Answers that the model gave.

    Attributes:
      answers: [B,G,T] tokens, with the names that the reader was shown.
      behaviour: [B,G,T] their log p(y_t|x,y_<t) when they were drawn.
      reward: [B,G].
      values: [B,G,T] V(x,y_<t) when they were drawn, or None without a critic.
    """

    answers: Array
    behaviour: Array
    reward: Array
    values: Array | None


def _by_passage(
    function: Callable[..., Array], params: Params, reading: Reading, answers: Array
) -> Array:
    """A model's function of answers, [B,G,K,T,...]; 0 at tokens that were not said."""

    def single(answer):
        return function(params, reading.memory, answer)

    found = jax.vmap(single, in_axes=1, out_axes=1)(answers)
    said = (answers != PAD_ID)[:, :, None]
    return jnp.where(said.reshape(said.shape + (1,) * (found.ndim - said.ndim)), found, 0.0)


def _values(
    model: RagModel, params: Params, reading: Reading, answers: Array, by_passage: Array
) -> Array:
    """[B,G,T] V(x,y_<t), differentiated in the critic's own parameters alone."""
    frozen = jax.lax.stop_gradient((reading.log_prior[:, None], by_passage))
    passages = jnp.swapaxes(jnp.exp(prefix_posterior(*frozen)), -1, -2)
    return jnp.sum(passages * _by_passage(model.values, params, reading, answers), axis=-2)
