"""Objectives that teach the retriever what the reader says of each passage."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.errors import UserError, require
from ragjax.objectives.base import Context
from ragjax.objectives.likelihood import RagSequence, Reading
from ragjax.ops import distillation as ops
from ragjax.retrieval.base import RetrieverSpec
from ragjax.types import PAD_ID, Loss, Params, RagBatch


class Heard(NamedTuple):
    """What a reader says of the passages that were retrieved for B questions.

    Attributes:
      log_prior: [B,K] log p(d|x), with gradient; -inf at a miss.
      token_logprobs: [B,K,T] log p(y_t|x,d_k,y_<t), without gradient.
      mask: [B,T] True on the target's tokens.
      attention: () -> what `RagModel.attention` gives of the target, or None if the reader has none.
    """

    log_prior: Array
    token_logprobs: Array
    mask: Array
    attention: Callable[[], tuple[Array, Array, Array]] | None


def _require_positive(objective: Any, *names: str) -> None:
    for name in names:
        value = getattr(objective, name)
        require(value > 0, f"The objective's {name} is {value}; it must be positive.")


@dataclass(frozen=True)
class Distillation(RagSequence):
    """Base: the retriever learns from what the reader says, the reader from the answers.

        loss = λ_R · -log Σ_k sg(p(d_k|x)) p(y|x,d_k) + λ_D · D(x,y),   sg without gradient

    The first term is RAG-Sequence with the prior as it is, and trains the reader alone. The second,
    which a subclass gives, trains the retriever alone. Both are summed over the questions; `Loss.denom`
    is their number. What is read and renamed, and how answers are found, is RAG-Sequence's.

    Attributes:
      likelihood_weight: λ_R; at 0 the reader stays as it is, and should be a trained one (`start`).
      distillation_weight: λ_D.
    """

    likelihood_weight: float = 1.0
    distillation_weight: float = 1.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("likelihood_weight", "distillation_weight"):
            value = getattr(self, name)
            require(value >= 0, f"The objective's {name} is {value}; it must not be negative.")
        require(
            self.likelihood_weight + self.distillation_weight > 0,
            "The objective's likelihood_weight and distillation_weight are both 0; nothing is learned.",
        )

    def distillation(self, heard: Heard) -> Array:
        """[B] D(x,y), with a gradient by the prior only."""
        raise NotImplementedError

    @property
    def few_labels(self) -> bool:
        """The teacher reads every answer."""
        return False

    def loss_of_reading(
        self, context: Context, params: Params, reading: Reading, batch: RagBatch, *, passages: int
    ) -> Loss:
        """The loss of what `read` gave of a batch.

        Questions that are read without any passage (`from_memory`) have nothing to distil.

        Returns:
          The loss with RAG-Sequence's figures, and the means of the two terms, `reader_loss` and
          `distillation`.
        """
        self.check(context.retriever, context.k)
        stopped = jax.lax.stop_gradient
        given = reading._replace(log_prior=stopped(reading.log_prior)), params
        if self.likelihood_weight == 0:
            given = stopped(given)
        likelihood = super().loss_of_reading(context, given[1], given[0], batch, passages=passages)
        total, metrics = jnp.zeros(()), dict(likelihood.metrics)
        if self.likelihood_weight > 0:
            total = self.likelihood_weight * likelihood.sum
        metrics["reader_loss"] = (likelihood.sum, likelihood.denom)
        if self.distillation_weight > 0:
            each = self.distillation(self._heard(context, params, reading, batch))
            weight = jnp.where(reading.closed_book, 0.0, batch.weight)
            # where, not a product: a filling row may hold anything, and 0 * inf is NaN.
            distilled = jnp.sum(jnp.where(weight > 0, each * weight, 0.0))
            total = total + self.distillation_weight * distilled
            metrics["distillation"] = (distilled, jnp.sum(weight))
        return Loss(sum=total, denom=likelihood.denom, metrics=metrics)

    @staticmethod
    def _heard(context: Context, params: Params, reading: Reading, batch: RagBatch) -> Heard:
        params, memory = jax.lax.stop_gradient((params, reading.memory))
        model, target, attention = context.model, reading.target, None
        if model.attention is not None:
            attention = partial(model.attention, params, memory, target)
        said = model.token_logprobs(params, memory, target)
        return Heard(reading.log_prior, said, batch.target != PAD_ID, attention)


@dataclass(frozen=True)
class Emdr2(Distillation):
    """EMDR2: D = -log Σ_k p(d_k|x) sg(p(y|x,d_k)) (Sachan et al., arXiv 2106.05346).

    The paper's reader reads all passages at once (FiD) and learns by log p(y|x,D). Here each passage is
    read alone, and RAG-Sequence's likelihood stands for it: with `per="sequence"` and equal weights the
    gradient is then that of RAG-Sequence itself. It differs with other weights, and per token.

    Attributes:
      per: whether passages are summed for the whole answer (`sequence`, as published) or at each token
        (`token`, as in the released code and as Atlas' EMDR2).
    """

    per: Literal["sequence", "token"] = "sequence"

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(
            self.per in ("sequence", "token"),
            f"The objective's per is {self.per!r}; choose sequence or token.",
        )

    def distillation(self, heard: Heard) -> Array:
        """See `ops.distillation.emdr2_sequence` and `emdr2_token`."""
        loss = ops.emdr2_sequence if self.per == "sequence" else ops.emdr2_token
        return loss(*heard[:3])


@dataclass(frozen=True)
class PerplexityDistillation(Distillation):
    """Atlas' PDist: D = KL(softmax_k(log p(y|x,d_k) / temperature) || p(d|x)) (arXiv 2208.03299).

    With `documents="in_batch"` or "index" the divergence is that of p(d|x) over those: what the batch or
    the corpus has beside the K passages is to get nothing.

    Attributes:
      temperature: of the target; Atlas' scripts use 0.01 and 0.1.
      per_token: whether log p(y|x,d_k) is divided by the answer's length, as in Atlas' code.
    """

    temperature: float = 0.1
    per_token: bool = True

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        _require_positive(self, "temperature")

    def distillation(self, heard: Heard) -> Array:
        """See `ops.distillation.perplexity_distillation`."""
        fields = {"temperature": self.temperature, "per_token": self.per_token}
        return ops.perplexity_distillation(*heard[:3], **fields)


@dataclass(frozen=True)
class LeaveOneOut(PerplexityDistillation):
    """Atlas' LOOP: D = KL(softmax_k(-log p(y|x, D - d_k) / temperature) || p(d|x)).

    What is left without a passage is the mixture of the others, see `ops.distillation.leave_one_out`. It
    needs two passages; a question with one hit adds nothing.
    """

    def check(self, retriever: RetrieverSpec, k: int) -> None:
        """See `Objective.check`."""
        k = retriever.passages_per_question(k)
        require(
            k >= 2,
            f"phases.k is {k}, but LeaveOneOut leaves out one passage and reads the others; choose at "
            "least 2.",
        )

    def distillation(self, heard: Heard) -> Array:
        """See `ops.distillation.leave_one_out`."""
        fields = {"temperature": self.temperature, "per_token": self.per_token}
        return ops.leave_one_out(*heard[:3], **fields)


@dataclass(frozen=True)
class AttentionDistillation(Distillation):
    """D = KL(softmax_k(attention on d_k / temperature) || p(d|x)).

    The attention is the mean pre-softmax score of the reader's cross-attention (Izacard & Grave,
    arXiv 2012.04584), or the mass of attention times the norm of the values (Atlas' ADist). This reader
    also points at what it copies; that distribution is not looked at.

    Attributes:
      temperature: of the target.
      value_norms: whether it is Atlas' ADist.
    """

    temperature: float = 1.0
    value_norms: bool = False

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        _require_positive(self, "temperature")

    def distillation(self, heard: Heard) -> Array:
        """See `ops.distillation.attention_scores` and `attention_mass`."""
        if heard.attention is None:
            raise UserError(
                "The reader shows no cross-attention, which AttentionDistillation distils; use another "
                "reader, or another objective."
            )
        logits, norms, source = heard.attention()
        if self.value_norms:
            source = source & ~jnp.isneginf(heard.log_prior)[..., None]
            scores = ops.attention_mass(logits, norms, source, heard.mask)
        else:
            scores = ops.attention_scores(logits, source, heard.mask)
        return ops.distil(heard.log_prior, scores, self.temperature)


Scores = Literal["log_likelihood", "likelihood"]


@dataclass(frozen=True)
class Replug(Distillation):
    """REPLUG's LSR: D = KL(softmax_k(log p(d_k|x) / γ) || softmax_k(score_k / β)) (arXiv 2301.12652).

    The reader is fixed there: start from a finished run, or give `likelihood_weight`. The divergence is
    over the K passages, whatever p(d|x) is normalised over.

    Attributes:
      retriever_temperature: γ.
      reader_temperature: β.
      scores: log p(y|x,d_k), as in the released code, or p(y|x,d_k), as the paper's formula has it,
        which hardly tells passages apart where the answer is unlikely.
      per_token: whether log p(y|x,d_k) is divided by the answer's length first.
    """

    likelihood_weight: float = 0.0
    retriever_temperature: float = 1.0
    reader_temperature: float = 0.1
    scores: Scores = "log_likelihood"
    per_token: bool = True

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        _require_positive(self, "retriever_temperature", "reader_temperature")
        require(
            self.scores in get_args(Scores),
            f"The objective's scores is {self.scores!r}; choose log_likelihood or likelihood.",
        )

    def distillation(self, heard: Heard) -> Array:
        """See `ops.distillation.replug`."""
        scores = ops.answer_scores(heard.token_logprobs, heard.mask, self.per_token)
        return ops.replug(
            heard.log_prior,
            scores if self.scores == "log_likelihood" else jnp.exp(scores),
            retriever_temperature=self.retriever_temperature,
            reader_temperature=self.reader_temperature,
        )
