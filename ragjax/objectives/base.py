"""The seam between a learner and its objective on questions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragjax.decoding.marginal import Decoded
from ragjax.ops.masking import masked_log_softmax
from ragjax.retrieval.base import RetrieverSpec, or_empty
from ragjax.retrieval.corpus import Corpus, gather_passages
from ragjax.types import Loss, Params, RagBatch, RagModel, TopK, Vocabulary

Documents = Literal["retrieved", "in_batch", "index"]


class Context(NamedTuple):
    """The composed model that an objective is computed of; nothing of it changes while it learns.

    Attributes:
      model: its pure functions.
      vocabulary: names the content tokens, for renaming.
      retriever: spec of the retriever; a fixed one has put its passages into the batch.
      k: K, passages read for each question.
      requery: [n,T] tokens of the reader on the host -> [n,Q] those that the retriever reads of the same
        words; None where both read the same tokens.
    """

    model: RagModel
    vocabulary: Vocabulary
    retriever: RetrieverSpec
    k: int
    requery: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Objective:
    """Base of the objectives on questions: a loss, and how answers are found once it is learned.

    A subclass is a frozen dataclass, in a file of this package or of its user; its fields are what a
    config may change.
    """

    @property
    def normalised_over(self) -> Documents:
        """What p(d|x) is normalised over in the loss; `ops.scoring` says what each bounds."""
        return "retrieved"

    @property
    def updates(self) -> int:
        """Updates of the parameters in one step, on the same batch and what `sample` drew for it."""
        return 1

    @property
    def needs_reference(self) -> bool:
        """Whether the loss needs the parameters that the run began with."""
        return False

    @property
    def critic(self) -> bool:
        """Whether the loss needs the model's `values`."""
        return False

    @property
    def alters_words(self) -> bool:
        """Whether the retriever is shown other words than there are, in tokens of the reader's."""
        return False

    @property
    def few_labels(self) -> bool:
        """Whether targets count as `RagBatch.label_weight` says, and gold passages in figures alone."""
        return False

    def check(self, retriever: RetrieverSpec, k: int) -> None:
        """Checks that it can learn from K passages of a retriever.

        Raises:
          UserError: it can't.
        """
        del retriever, k

    def loss(
        self,
        context: Context,
        params: Params,
        key: Array,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
        samples: Any = None,
        reference: Params = None,
    ) -> Loss:
        """The loss of a batch, summed over its questions, with figures to log.

        Args:
          context: the composed model.
          params: the parameters, differentiated.
          key: PRNG key of the step.
          batch: B questions.
          corpus: [N,P] passage tokens.
          index: what the retriever searches; it chooses passages and carries no gradient.
          samples: what `sample` drew before the updates of this step, or None.
          reference: parameters of a model to stay near, or None; without gradient.
        """
        raise NotImplementedError

    def sample(
        self,
        context: Context,
        params: Params,
        key: Array,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
    ) -> tuple[RagBatch, Any]:
        """Draws what all `updates` of a step learn from, if there are several; arguments as of `loss`.

        Returns:
          The batch with the passages that were retrieved, and a tree of arrays that lead with B.
        """
        raise NotImplementedError

    def answer(
        self,
        context: Context,
        params: Params,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
        length: int,
        hidden: Array | None = None,
    ) -> tuple[TopK, Array, Decoded]:
        """Answers questions: retrieves and decodes, unless a subclass does it in another way.

        Args:
          context: the composed model.
          params: the parameters.
          batch: B questions.
          corpus: [N,P] passage tokens.
          index: what the retriever searches, made from these very parameters.
          length: tokens of an answer, at most.
          hidden: [B,H] rows of passages that are not read, or None.

        Returns:
          The passages [B,K], their [B,K] log p(d|x), and the answers.
        """
        topk, log_prior = self.retrieve(context, params, batch, corpus=corpus, index=index)
        if hidden is not None:
            topk, log_prior = without(topk, log_prior, hidden)
        decoded = self.decode(
            context.model,
            params,
            batch.question,
            passages=gather_passages(corpus, topk.ids),
            log_prior=log_prior,
            length=length,
        )
        return topk, log_prior, decoded

    def retrieve(
        self, context: Context, params: Params, batch: RagBatch, *, corpus: Corpus, index: Any
    ) -> tuple[TopK, Array]:
        """Chooses the K passages of questions that are to be answered.

        Args:
          context: the composed model.
          params: the parameters.
          batch: B questions.
          corpus: [N,P] passage tokens.
          index: what the retriever searches, made from these very parameters.

        Returns:
          The passages and their [B,K] log p(d|x).
        """
        raise NotImplementedError

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
        """Answers questions [B,Q] from passages [B,K,P] of log_prior [B,K], in up to `length` tokens."""
        raise NotImplementedError


def without(
    topk: TopK, log_prior: Float[Array, "B K"], hidden: Int[Array, "B H"]
) -> tuple[TopK, Float[Array, "B K"]]:
    """Retrieved passages less those whose rows are hidden, and p(d|x) over the others.

    Where none is left, the empty passage is read; where none is hidden, all stays as it is.
    """
    gone = jnp.any(topk.ids[..., None] == hidden[:, None, :], axis=-1) & (topk.ids >= 0)
    scores = jnp.where(gone, -jnp.inf, topk.scores)
    left = or_empty(TopK(jnp.where(gone, -1, topk.ids), scores, topk.valid & ~gone))
    prior = masked_log_softmax(jnp.where(gone, 0.0, log_prior), left.valid)
    some = jnp.any(gone, axis=-1, keepdims=True)
    chosen = jax.tree.map(lambda new, old: jnp.where(some, new, old), left, topk)
    return chosen, jnp.where(some, prior, log_prior)
