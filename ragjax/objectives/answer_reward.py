"""The expected reward of a reader's own answers, by policy gradients through the marginal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.decoding.sampling import sample_answers
from ragjax.errors import require
from ragjax.objectives.likelihood import Reading
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
from ragjax.types import PAD_ID, Params, RagModel

Advantage = Literal["rloo", "grpo", "reinforce", "gae"]


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


class Reference(NamedTuple):
    """Parameters to stay near, and what they make of the passages that were read."""

    params: Params
    reading: Reading


class Costs(NamedTuple):
    """What a loss is made of: `terms` [] to add up, and figures to log as in `Loss.metrics`."""

    terms: list[Array]
    metrics: dict[str, tuple[Array, Array]]


@dataclass(frozen=True)
class AnswerReward:
    """The reward's part of a loss, of G answers drawn to each question.

        -β E_{y ~ p(y|x)}[R(y)] + κ KL(p || p_0) - η Σ_t H(p(·|x,y_<t)),   p(y|x) = Σ_d p(d|x) p(y|x,d)

    Answers keep their own tokens and log-probabilities; the gradient flows through the marginal of
    RAG-Sequence, so into retriever and reader alike. Where names were renamed the answers are, too; they
    are rewarded in their own names. Answers are drawn, and their log-probabilities taken, with p(d|x)
    normalised over the K retrieved: the policy is scored as it was sampled from.

    With several `updates` a step draws answers once and learns from them so often, by PPO's clipped
    ratio of marginals, over the passages that were retrieved when they were drawn. All its updates are
    shown the same names; the learning rate's schedule counts updates, everything else steps.

    With `gae` every token has an advantage of its own, by a critic over the same passages,
    V(x,y_<t) = Σ_d p(d|x,y_<t) V(x,d,y_<t), linear in the reader's states, to which it sends no
    gradient. With several updates and `whiten` that is PPO on tokens.

    Attributes:
      weight: β; 0 samples nothing.
      samples: G.
      advantage: `rloo` subtracts the mean of a question's other answers, `grpo` normalises by mean and
        deviation of all its answers, `reinforce` subtracts the mean of the other questions' answers,
        `gae` estimates that of each token by a critic.
      gae_lambda: λ of `gae`; 1 is the reward minus the value.
      whiten: whether advantages are shifted and scaled to mean 0 and deviation 1 over the tokens of a
        (micro-)batch.
      reward: R.
      updates: of the parameters by each set of answers.
      clip_eps: ε of the ratio, with several updates.
      kl_coef: κ; p_0 are the parameters that the run began with, over the same passages.
      entropy_coef: η, of the distribution that each token was drawn from.
    """

    weight: float = 1.0
    samples: int = 4
    advantage: Advantage = "rloo"
    gae_lambda: float = 0.95
    whiten: bool = False
    reward: Reward = field(default_factory=ExactMatch)
    updates: int = 1
    clip_eps: float = 0.2
    kl_coef: float = 0.0
    entropy_coef: float = 0.0

    def __post_init__(self):
        """Checks the fields."""
        for name in ("weight", "kl_coef", "entropy_coef"):
            value = getattr(self, name)
            require(value >= 0, f"objective.reward.{name} is {value}; it must not be negative.")
        require(
            self.advantage in get_args(Advantage),
            f"objective.reward.advantage is {self.advantage!r}; choose rloo, grpo, reinforce or gae.",
        )
        fewest = 2 if self.advantage in ("rloo", "grpo") else 1
        require(
            self.samples >= fewest,
            f"objective.reward.samples is {self.samples}; objective.reward.advantage "
            f"{self.advantage} needs at least {fewest}.",
        )
        require(
            self.updates >= 1,
            f"objective.reward.updates is {self.updates}; it must be at least 1.",
        )
        require(
            self.clip_eps > 0,
            f"objective.reward.clip_eps is {self.clip_eps}; it must be positive.",
        )
        require(
            0 <= self.gae_lambda <= 1,
            f"objective.reward.gae_lambda is {self.gae_lambda}; it must lie between 0 and 1.",
        )
        if self.weight == 0:
            idle = {"updates": 1, "kl_coef": 0, "entropy_coef": 0, "whiten": False}
            for name, value in idle.items():
                require(
                    getattr(self, name) == value,
                    "objective.reward.weight is 0, so there are no answers that "
                    f"objective.reward.{name} could be about; leave it at {value}.",
                )
            require(
                not self.critic,
                "objective.reward.weight is 0, so objective.reward.advantage gae's critic has nothing "
                "to learn; choose another.",
            )

    @property
    def critic(self) -> bool:
        """Whether tokens are valued."""
        return self.advantage == "gae"

    def draw(self, model: RagModel, params: Params, key: Array, reading: Reading) -> Samples:
        """Draws G answers to each question, without gradient.

        Args:
          model: the model.
          params: its parameters.
          key: PRNG key of the step.
          reading: what these parameters read of the batch.
        """
        params, reading = jax.lax.stop_gradient((params, reading))
        answers, behaviour = sample_answers(
            model,
            params,
            jax.random.fold_in(key, 3),
            memory=reading.memory,
            log_prior=reading.log_prior,
            samples=self.samples,
            length=reading.target.shape[-1],
        )
        values = None
        if self.critic:
            by_passage = _by_passage(model.token_logprobs, params, reading, answers)
            values = _values(model, params, reading, answers, by_passage)
        own = jnp.take_along_axis(reading.own_names[:, None], answers, axis=-1)
        return Samples(answers, behaviour, self.reward.score(own, reading.accepted), values)

    def costs(
        self,
        model: RagModel,
        params: Params,
        reading: Reading,
        samples: Samples,
        *,
        weight: Array,
        reference: Reference | None,
    ) -> Costs:
        """The terms of the loss.

        Args:
          model: the model.
          params: its parameters, differentiated.
          reading: what they read of the batch.
          samples: answers to it.
          weight: [B].
          reference: what to stay near, or None.

        Returns:
          The terms, summed over questions, and the figures `reward`, `sampled_entropy` (minus the
          log-probability of an answer, in nats), `distinct` (share of a question's answers that no
          earlier one repeats), with several updates `clipped` (share of tokens), with a divergence to
          pay for `kl` (nats of an answer), with a bonus for it `entropy` (nats of a token), and with a
          critic `value_loss` (of a token).
        """
        answers = samples.answers
        by_passage = _by_passage(model.token_logprobs, params, reading, answers)
        near = entropy = values = None
        if reference is not None:
            theirs = _by_passage(model.token_logprobs, *reference, answers)
            near = marginal_token_logprobs(reference.reading.log_prior[:, None], theirs)
        if self.entropy_coef > 0:
            logprobs = _by_passage(model.logprobs, params, reading, answers)
            passages = prefix_posterior(reading.log_prior[:, None], by_passage)
            entropy = marginal_token_entropy(passages, logprobs)
        if samples.values is not None:
            values = _values(model, params, reading, answers, by_passage)
        return self.costs_of(
            samples,
            jnp.where(answers != PAD_ID, GENERATED, PADDING),
            weight,
            log_probs=marginal_token_logprobs(reading.log_prior[:, None], by_passage),
            near=near,
            entropy=entropy,
            values=values,
        )

    def costs_of(
        self,
        samples: Samples,
        source: Array,
        weight: Array,
        *,
        log_probs: Array,
        near: Array | None = None,
        entropy: Array | None = None,
        values: Array | None = None,
    ) -> Costs:
        """The terms and figures of `costs`, of arrays [B,G,T] of all tokens of a text.

        Args:
          samples: the texts, and their rewards.
          source: where each token comes from; whatever the arrays hold of one that is not `GENERATED`,
            it changes no bit of the terms.
          weight: [B].
          log_probs: log π(y_t|x,y_<t), differentiated.
          near: the same of what to stay near, or None.
          entropy: of the distribution that each token was drawn from, or None.
          values: of a critic, differentiated, or None.
        """
        real = weight > 0
        source = jnp.where(real[:, None, None], source, PADDING)
        advantage, target = self._advantages(samples, source, weight)
        if self.whiten:
            advantage = whitened(advantage, source, weight)
        advantage = jnp.where(real[:, None, None], advantage * weight[:, None, None], 0.0)
        critic = None if values is None or target is None else (values, target)
        sums = sequence_policy_loss(
            log_probs,
            samples.behaviour,
            advantage,
            source,
            clip_eps=self.clip_eps if self.updates > 1 else None,
            reference=near,
            entropy=entropy,
            critic=critic,
        )
        terms, metrics = [self.weight * sums.policy / self.samples], _figures(samples, weight)
        if self.updates > 1:
            metrics["clipped"] = (sums.clipped, sums.count)
        if near is not None:
            metrics["kl"] = (sums.kl / self.samples, jnp.sum(weight))
            terms.append(self.kl_coef * sums.kl / self.samples)
        if entropy is not None:
            metrics["entropy"] = (sums.entropy, sums.count)
            terms.append(-self.entropy_coef * sums.entropy / self.samples)
        if critic is not None:
            metrics["value_loss"] = (sums.value, sums.count)
            terms.append(sums.value / self.samples)
        return Costs(terms, metrics)

    def _advantages(
        self, samples: Samples, source: Array, weight: Array
    ) -> tuple[Array, Array | None]:
        """[B,G,T] advantages, and the critic's targets where there is one."""
        reward = samples.reward
        if samples.values is not None:
            return token_advantages(reward, samples.values, source, self.gae_lambda)
        if self.advantage == "reinforce":
            advantage = minus_other_questions(reward, weight)
        elif self.advantage == "grpo":
            advantage = group_normalised(reward)
        else:
            advantage = leave_one_out(reward)
        return jnp.broadcast_to(advantage[..., None], source.shape), None


class Rewarded:
    """Beside `Objective`: what the field `reward` of an objective, an `AnswerReward`, says of a step."""

    reward: AnswerReward

    @property
    def updates(self) -> int:
        """That of the reward."""
        return self.reward.updates

    @property
    def needs_reference(self) -> bool:
        """Whether a divergence from the run's first parameters is paid for."""
        return self.reward.kl_coef > 0

    @property
    def critic(self) -> bool:
        """That of the reward."""
        return self.reward.critic


def _figures(samples: Samples, weight: Array) -> dict[str, tuple[Array, Array]]:
    """Means over a question's answers, of all questions."""
    answers = samples.answers
    same = jnp.all(answers[:, :, None] == answers[:, None, :], axis=-1)
    repeated = jnp.any(jnp.tril(same, k=-1), axis=-1)
    figures = {
        "reward": samples.reward,
        "sampled_entropy": -jnp.sum(samples.behaviour, axis=-1),
        "distinct": 1.0 - repeated.astype(jnp.float32),
    }

    def total(values):
        return jnp.sum(jnp.where(weight > 0, jnp.mean(values, axis=-1) * weight, 0.0))

    return {name: (total(values), jnp.sum(weight)) for name, values in figures.items()}


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
