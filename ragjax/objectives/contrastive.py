"""The contrastive objective: a retriever that learns from gold passages, without a reader."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.decoding.marginal import Decoded
from ragjax.errors import require
from ragjax.objectives.base import Context, Documents, Objective
from ragjax.objectives.likelihood import RagSequence, given_passages, is_gold
from ragjax.ops.augmentation import without_span
from ragjax.ops.contrastive import contrastive, negatives_of_batch
from ragjax.ops.scoring import FULL_PRECISION
from ragjax.retrieval.base import RetrieverSpec, require_depth
from ragjax.retrieval.corpus import Corpus, gather_passages
from ragjax.types import Loss, Params, RagBatch, RagModel, TopK


@dataclass(frozen=True)
class Contrastive(Objective):
    """A question's gold passage against the other passages of the batch (DPR, arXiv 2004.04906).

        loss = -log exp s(x,d⁺) / Σ_d exp s(x,d) + λ_R · -log Σ_k sg(p(d_k|x)) p(y|x,d_k)

    s is the retriever's score, its temperature included. The sum is over d⁺, one gold passage of the
    question, drawn anew in each step; those of the other questions; and K hard negatives of every
    question: the passages that the batch brings along (`Phase.candidates`), or else those that the index
    finds. Each passage counts once, and the other gold passages of a question are no negatives of it.

    Questions that name no gold passage are left out of both terms and of `Loss.denom`.

    Attributes:
      likelihood: what corrupts and renames questions and passages, and answers in evaluation. Its
        likelihood trains the reader alone.
      likelihood_weight: λ_R; at 0 the reader learns nothing, and its answers mean nothing.
      remove_question: probability that a gold passage is embedded without the question's words, where
        these stand in it as they are: those of `tasks.inverse_cloze`, for which 0.9 is usual.
    """

    likelihood: RagSequence = field(default_factory=RagSequence)
    likelihood_weight: float = 0.0
    remove_question: float = 0.0

    def __post_init__(self):
        """Checks the fields."""
        require(
            type(self.likelihood) is RagSequence,
            f"objective.likelihood is a {type(self.likelihood).__name__}, but Contrastive trains a "
            "reader by RagSequence alone; give one.",
        )
        require(
            self.likelihood.documents != "index",
            "objective.likelihood.documents is 'index', for which no index is searched, but Contrastive "
            "takes hard negatives from it; choose retrieved or in_batch.",
        )
        require(
            self.likelihood_weight >= 0,
            f"objective.likelihood_weight is {self.likelihood_weight}; it must not be negative.",
        )
        require(
            0 <= self.remove_question <= 1,
            f"objective.remove_question is {self.remove_question}; it is a probability, 0 to 1.",
        )

    @property
    def normalised_over(self) -> Documents:
        """That of the likelihood."""
        return self.likelihood.normalised_over

    @property
    def alters_words(self) -> bool:
        """Whether that of the likelihood, or `remove_question` is set."""
        return self.likelihood.alters_words or self.remove_question > 0

    def check(self, retriever: RetrieverSpec, k: int) -> None:
        """See `Objective.check`."""
        del k
        require(
            retriever.learned,
            f"retriever is a {type(retriever).__name__}, which is fixed, but Contrastive trains the "
            "retriever; choose a learned one, such as Dense.",
        )
        require(
            not retriever.fuses,
            f"retriever is a {type(retriever).__name__}, which also counts words in common, but "
            "Contrastive goes by embeddings alone; choose a retriever that does, such as Dense.",
        )

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
        """See `Objective.loss`.

        Returns:
          The loss with `contrastive` (its first term), `first` (whether the gold passage scores higher
          than all others), `recall` (a gold passage is among the K), `without_gold` (the share of
          questions that are left out) and, where questions are removed, `removed` (from how many gold
          passages one was); with λ_R the likelihood's figures and `reader_loss`.
        """
        del samples, reference
        self.check(context.retriever, context.k)
        noise_key, key = jax.random.split(key)
        asked, known = batch.weight, jnp.any(batch.positives >= 0, axis=-1)
        batch = dataclasses.replace(  # pyright: ignore[reportArgumentType]
            batch, weight=jnp.where(known, asked, 0.0)
        )
        arrays = {"corpus": corpus, "index": index}
        cost, figures = self._contrast(context, params, (noise_key, key), batch, **arrays)
        count = jnp.sum(batch.weight)

        def total(values, weight=batch.weight):
            # where, not a product: a filling row may hold anything, and 0 * inf is NaN.
            return jnp.sum(jnp.where(weight > 0, values.astype(jnp.float32) * weight, 0.0))

        metrics = {name: (total(values), count) for name, values in figures.items()}
        metrics["without_gold"] = (total(~known, asked), jnp.sum(asked))
        metrics["contrastive"] = (total(cost), count)
        loss = total(cost)
        if self.likelihood_weight > 0:
            reading = self.likelihood.read(context, params, noise_key, batch, **arrays)
            reading = reading._replace(log_prior=jax.lax.stop_gradient(reading.log_prior))
            reader = self.likelihood.loss_of_reading(
                context, params, reading, batch, passages=corpus.shape[0]
            )
            loss = loss + self.likelihood_weight * reader.sum
            metrics = reader.metrics | metrics | {"reader_loss": (reader.sum, reader.denom)}
        return Loss(sum=loss, denom=count, metrics=metrics)

    def _contrast(
        self,
        context: Context,
        params: Params,
        keys: tuple[Array, Array],
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
    ) -> tuple[Array, dict[str, Array]]:
        """[B] -log p of a gold passage among those of the batch, and figures [B]."""
        retriever, k = context.model.retriever, context.k
        require_depth(k, corpus.shape[0])
        noisy, names, _ = self.likelihood.noise(context, keys[0], batch)
        # ---- whose passages: [B,1+K], the gold one first
        topk = given_passages(noisy, k)
        if topk is None:
            # The index holds original names.
            topk = retriever.search(index, retriever.query(params, noisy.question), k)
        draw_key, remove_key = jax.random.split(keys[1])
        chance = jax.random.uniform(draw_key, batch.positives.shape)
        drawn = jnp.argmax(jnp.where(batch.positives >= 0, chance, -1.0), axis=-1, keepdims=True)
        gold = jnp.take_along_axis(batch.positives, drawn, axis=-1)
        ids = jnp.concatenate([gold, topk.ids], axis=-1)
        valid = (ids >= 0) & (batch.weight > 0)[:, None]
        # ---- scores: [B,B,1+K]
        passages = gather_passages(corpus, ids)
        figures = {"recall": jnp.any(is_gold(topk, batch.positives), axis=-1)}
        if self.remove_question > 0:
            rest, found = without_span(passages[:, 0], batch.question)
            removed = found & jax.random.bernoulli(remove_key, self.remove_question, found.shape)
            shown = jnp.where(removed[:, None], rest, passages[:, 0])
            passages = passages.at[:, 0].set(shown)
            figures["removed"] = removed
        query = retriever.query(params, noisy.question, names)
        embedded = retriever.embed(params, passages, names)
        scores = retriever.scale(params) * jnp.einsum(
            "bd,cmd->bcm", query, embedded, precision=FULL_PRECISION
        )
        own = jnp.diagonal(scores[:, :, 0])
        scores = scores.reshape(scores.shape[0], -1)
        negatives = negatives_of_batch(ids, valid, batch.positives)
        best = jnp.max(jnp.where(negatives, scores, -jnp.inf), axis=-1)
        return contrastive(own, scores, negatives), figures | {"first": own > best}

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
