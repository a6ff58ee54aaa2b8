"""Likelihood and reward on one retriever and one reader, in one step."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array

from ragjax.decoding.marginal import Decoded
from ragjax.errors import require
from ragjax.objectives.answer_reward import AnswerReward, Reference, Rewarded, Samples
from ragjax.objectives.base import Context, Documents, Objective
from ragjax.objectives.likelihood import RagSequence, Reading
from ragjax.retrieval.base import RetrieverSpec
from ragjax.retrieval.corpus import Corpus
from ragjax.types import Loss, Params, RagBatch, RagModel, TopK


@dataclass(frozen=True)
class Joint(Rewarded, Objective):
    """α · log-likelihood + β · expected reward of RAG-Sequence's own answers.

        loss = -α log p(y*|x) - β E_{y ~ p(y|x)}[R(y)],   p(y|x) = Σ_d p(d|x) p(y|x,d)

    with what else the reward's term pays for. Both terms are of one reading: the same passages are
    retrieved and read once. Of few labels (`data.labels`) the first term is a mean over the labelled
    questions of a batch, the second one over all. Where the likelihood has p(d|x) over the whole index,
    answers are drawn with p(d|x) normalised over the K retrieved.

    Attributes:
      likelihood: the likelihood, which retrieves, reads and decodes for both.
      likelihood_weight: α.
      reward: the reward of answers, with its weight β.
    """

    likelihood: RagSequence = field(default_factory=RagSequence)
    likelihood_weight: float = 1.0
    reward: AnswerReward = field(default_factory=AnswerReward)

    def __post_init__(self):
        """Checks the fields."""
        require(
            type(self.likelihood) is RagSequence,
            f"objective.likelihood is a {type(self.likelihood).__name__}, but Joint takes the "
            "likelihood of RagSequence alone, from which it draws answers; give one.",
        )
        require(
            self.likelihood_weight >= 0,
            f"objective.likelihood_weight is {self.likelihood_weight}; it must not be negative.",
        )
        require(
            self.likelihood_weight + self.reward.weight > 0,
            "objective.likelihood_weight and objective.reward.weight are both 0; nothing is learned.",
        )

    @property
    def normalised_over(self) -> Documents:
        """That of the likelihood."""
        return self.likelihood.normalised_over

    @property
    def alters_words(self) -> bool:
        """Whether those of the likelihood are."""
        return self.likelihood.alters_words

    @property
    def few_labels(self) -> bool:
        """That of the likelihood: the reward is of all questions."""
        return self.likelihood.few_labels

    def check(self, retriever: RetrieverSpec, k: int) -> None:
        """That of the likelihood."""
        self.likelihood.check(retriever, k)

    def loss(
        self,
        context: Context,
        params: Params,
        key: Array,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
        samples: Samples | None = None,
        reference: Params = None,
    ) -> Loss:
        """See `Objective.loss`, with the figures of both terms.

        Without `samples` the answers are drawn here, as `sample` would.
        """
        arrays = {"corpus": corpus, "index": index}
        reading = self.likelihood.read(context, params, key, batch, **arrays)
        likelihood = self.likelihood.loss_of_reading(
            context, params, reading, batch, passages=corpus.shape[0]
        )
        total, metrics = self.likelihood_weight * likelihood.sum, likelihood.metrics
        if self.reward.weight == 0:
            return Loss(total, likelihood.denom, metrics)
        if samples is None:
            samples = self.reward.draw(context.model, params, key, reading)
        near = None
        if reference is not None:
            same = _with_passages(batch, reading)
            near = Reference(
                reference, self.likelihood.read(context, reference, key, same, **arrays)
            )
        costs = self.reward.costs(
            context.model, params, reading, samples, weight=batch.weight, reference=near
        )
        return Loss(sum(costs.terms, total), likelihood.denom, metrics | costs.metrics)

    def sample(
        self,
        context: Context,
        params: Params,
        key: Array,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
    ) -> tuple[RagBatch, Samples]:
        """Draws the answers that all updates of a step learn from; see `Objective.sample`."""
        reading = self.likelihood.read(context, params, key, batch, corpus=corpus, index=index)
        samples = self.reward.draw(context.model, params, key, reading)
        return _with_passages(batch, reading), samples

    def retrieve(
        self, context: Context, params: Params, batch: RagBatch, *, corpus: Corpus, index: Any
    ) -> tuple[TopK, Array]:
        """That of the likelihood."""
        return self.likelihood.retrieve(context, params, batch, corpus=corpus, index=index)

    def decode(
        self,
        model: RagModel,
        params: Params,
        question: Array,
        *,
        passages: Array,
        log_prior: Array,
        length: int,
    ) -> Decoded:
        """That of the likelihood."""
        return self.likelihood.decode(
            model, params, question, passages=passages, log_prior=log_prior, length=length
        )


def _with_passages(batch: RagBatch, reading: Reading) -> RagBatch:
    """The batch, for which the passages that were read are read again."""
    return dataclasses.replace(batch, retrieved=reading.topk)  # pyright: ignore[reportArgumentType]
