"""Marginal likelihood of the answer: RAG-Sequence and RAG-Token."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.decoding.marginal import Decoded, decode_rag_sequence, decode_rag_token
from ragjax.errors import require
from ragjax.ops.health import retrieval_health
from ragjax.ops.marginal import log_posterior, rag_sequence, rag_token, sequence_logprobs
from ragjax.ops.noise import corrupt_words, random_renaming
from ragjax.ops.scoring import log_prior_in_batch, log_prior_index, log_prior_retrieved
from ragjax.retrieval.base import Retriever
from ragjax.retrieval.corpus import gather_passages
from ragjax.retrieval.exact import ExactIndex
from ragjax.types import PAD_ID, Loss, Params, RagBatch, RagModel, TopK, Vocabulary

HUB_QUESTIONS = 16  # of fewer each is a large share itself
Documents = Literal["retrieved", "in_batch", "index"]


@dataclass(frozen=True)
class Likelihood:
    """Base of the marginal-likelihood objectives: -log p(y|x), summed over the batch.

    Attributes:
      updates: of the parameters in one step, on the same batch and what `sample` draws before them.
      anchored: whether the loss needs the parameters that the run began with.
      critic: whether the loss needs the model's `values`.
      documents: what p(d|x) is normalised over: the K `retrieved` passages, the distinct passages of
        the batch (`in_batch`), or the whole `index`; `ops.scoring` says what each bounds.
      rename_reader: probability that a step shows the reader renamed content tokens.
      rename_retriever: the same for the retriever, by another permutation.
      corrupt_words: probability that a template word of a question (a token that is no content token)
        is left out or, as often, replaced by a random one, for retriever and reader alike: a stand-in
        for the wordings that training does not have.
      from_memory: whether training questions that name no gold passage are read without any, and
        without renaming: a reader that is to know their answers by heart.
    """

    updates: ClassVar[int] = 1
    anchored: ClassVar[bool] = False
    critic: ClassVar[bool] = False

    documents: Documents = "retrieved"
    rename_reader: float = 0.0
    rename_retriever: float = 0.0
    corrupt_words: float = 0.0
    from_memory: bool = False

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.documents in ("retrieved", "in_batch", "index"),
            f"objective.documents is {self.documents!r}; choose retrieved, in_batch or index.",
        )
        for name in ("rename_reader", "rename_retriever", "corrupt_words"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"objective.{name} is {value}; it is a probability, 0 to 1.")

    def log_marginal(self, log_prior: Array, token_logprobs: Array, mask: Array) -> Array:
        """[B] log p(y|x) from [B,K], [B,K,T] and [B,T]."""
        raise NotImplementedError

    def decode(
        self,
        model: RagModel,
        params: Params,
        question: Array,
        passages: Array,
        log_prior: Array,
        length: int,
    ) -> Decoded:
        """Decodes answers from question [B,Q], passages [B,K,P] and log_prior [B,K]."""
        raise NotImplementedError

    def loss(
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
        samples: Any = None,
        reference: Params = None,
    ) -> Loss:
        """Computes Σ_b -log p(y_b|x_b) and the batch's retrieval metrics.

        Args:
          model: the model.
          vocabulary: names the content tokens, for renaming.
          retriever: spec of the retriever; a fixed one has put its passages into the batch.
          params: the parameters, differentiated.
          key: PRNG key of the step.
          batch: B questions.
          corpus: [N,P] passage tokens.
          embeddings: [N,D] the index; it chooses passages and carries no gradient.
          k: K.
          samples: what `sample` drew before the updates of this step, or None.
          reference: parameters of a model to stay near, or None; without gradient.

        Returns:
          The loss with `recall` (a gold passage is among the K) and `posterior_mass` (on gold
          passages, given the gold answer), of the questions that are not answered from memory, and,
          where some are, `memory_loss` (the loss of these, in nats). Of a learned retriever also the
          figures of `ops.health.retrieval_health`, of the prior over the K passages.
        """
        reading = self.read(
            model, vocabulary, retriever, params, key, batch, corpus, embeddings, k=k
        )
        topk, log_prior, closed = reading.topk, reading.log_prior, reading.closed
        token_logprobs = model.token_logprobs(params, reading.memory, reading.target)
        mask = batch.target != PAD_ID
        log_likelihood = self.log_marginal(log_prior, token_logprobs, mask)
        gold = is_gold(topk, batch.positives)
        posterior = log_posterior(log_prior, sequence_logprobs(token_logprobs, mask))
        open_book = jnp.where(closed, 0.0, batch.weight)

        def total(values, weight=batch.weight):
            # where, not a product: a filling row may hold anything, and 0 * inf is NaN.
            return jnp.sum(jnp.where(weight > 0, values * weight, 0.0))

        figures = {
            "recall": (jnp.any(gold, axis=-1).astype(jnp.float32), open_book),
            "posterior_mass": (
                jnp.sum(jnp.where(gold, jnp.exp(posterior), 0.0), axis=-1),
                open_book,
            ),
        }
        if self.from_memory:
            figures["memory_loss"] = (-log_likelihood, batch.weight - open_book)
        metrics = {
            name: (total(values, weight), jnp.sum(weight))
            for name, (values, weight) in figures.items()
        }
        if retriever.learned:
            # Over the K passages, whatever p(d|x) is normalised over.
            among = log_posterior(log_prior, jnp.zeros_like(log_prior))
            seen = among, posterior, topk.ids, open_book, corpus.shape[0]
            count = jnp.sum(open_book)
            health = jax.lax.stop_gradient(retrieval_health(*seen))
            if batch.weight.shape[0] < HUB_QUESTIONS:
                del health["hub_share"]
            metrics |= {name: (count * value, count) for name, value in health.items()}
        likelihood = Loss(sum=-total(log_likelihood), denom=jnp.sum(batch.weight), metrics=metrics)
        anchor = None
        if reference is not None:
            same = dataclasses.replace(batch, retrieved=topk)  # pyright: ignore[reportArgumentType]
            read = self.read(
                model, vocabulary, retriever, reference, key, same, corpus, embeddings, k=k
            )
            anchor = reference, read
        return self.completed(
            likelihood, model, params, key, reading, batch.weight, samples, anchor
        )

    def read(
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
    ) -> "Reading":
        """Retrieves and reads, with the noise of a step's key; see `loss`."""
        reader_key, retriever_key, word_key = jax.random.split(key, 3)
        question = corrupt_words(word_key, batch.question, vocabulary.content, self.corrupt_words)
        batch = dataclasses.replace(batch, question=question)  # pyright: ignore[reportArgumentType]
        rename = random_renaming(retriever_key, vocabulary.content, self.rename_retriever)
        topk, log_prior = retrieve(
            self, model, retriever, params, batch, corpus, embeddings, k=k, rename=rename
        )
        rename = random_renaming(reader_key, vocabulary.content, self.rename_reader)
        rename, original = (
            jnp.broadcast_to(names, (batch.question.shape[0], *names.shape))
            for names in (rename, jnp.argsort(rename))  # a permutation and its inverse
        )
        closed = jnp.zeros(batch.weight.shape, bool)
        if self.from_memory:
            closed = jnp.all(batch.positives < 0, axis=-1)
            topk, log_prior = _without_passages(closed, topk, log_prior)
            same = jnp.arange(rename.shape[-1])
            rename = jnp.where(closed[:, None], same, rename)
            original = jnp.where(closed[:, None], same, original)
        passages = gather_passages(corpus, topk.ids)
        memory = model.encode(params, batch.question, passages, rename)
        target = jnp.take_along_axis(rename, batch.target, axis=-1)
        return Reading(topk, log_prior, memory, target, closed, batch.accepted, original)

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
    ) -> tuple[RagBatch, Any]:
        """What an objective with several `updates` draws before them; for the arguments see `loss`.

        Returns:
          The batch with the passages that were retrieved, and a tree of arrays that lead with B.
        """
        raise NotImplementedError

    def completed(
        self,
        likelihood: Loss,
        model: RagModel,
        params: Params,
        key: Array,
        reading: "Reading",
        weight: Array,
        samples: Any,
        anchor: tuple[Params, "Reading"] | None,
    ) -> Loss:
        """The whole loss, of which an objective may have more than the likelihood.

        Args:
          likelihood: the loss of the likelihood.
          model: the model.
          params: the parameters, differentiated.
          key: PRNG key of the step.
          reading: what was retrieved and read.
          weight: [B].
          samples: what `sample` drew before, or None.
          anchor: the reference's parameters and what it reads of the same passages, or None.
        """
        del model, params, key, reading, weight, samples, anchor
        return likelihood


class Reading(NamedTuple):
    """What was retrieved for B questions and read.

    Attributes:
      topk: the K passages.
      log_prior: [B,K] log p(d|x).
      memory: the reader's, of the B*K sources.
      target: [B,T] answers, with the names that the reader was shown.
      closed: [B] whether a question was read without any passage.
      accepted: [B,Y,T] accepted answers, with their own names.
      original: [B,V] the own name of each token that the reader was shown.
    """

    topk: TopK
    log_prior: Array
    memory: Any
    target: Array
    closed: Array
    accepted: Array
    original: Array


def _without_passages(closed: Array, topk: TopK, log_prior: Array) -> tuple[TopK, Array]:
    """Puts one empty passage, of probability one, in the place of the K of each closed [B] question."""
    only = jnp.where(jnp.arange(log_prior.shape[-1]) == 0, 0.0, -jnp.inf)
    ids = jnp.where(closed[:, None], -1, topk.ids)
    return TopK(ids, topk.scores, topk.valid), jnp.where(closed[:, None], only, log_prior)


def is_gold(topk: TopK, positives: Array) -> Array:
    """[B,K] whether each hit is one of the gold passages [B,R] (rows, padded with -1)."""
    same = topk.ids[..., :, None] == positives[..., None, :]
    return jnp.any(same & (positives[..., None, :] >= 0), axis=-1)


def retrieve(
    objective: Likelihood,
    model: RagModel,
    retriever: Retriever,
    params: Params,
    batch: RagBatch,
    corpus: Array,
    embeddings: Array,
    *,
    k: int,
    rename: Array | None = None,
    frozen_index: bool = False,
) -> tuple[TopK, Array]:
    """Chooses K passages for each question and computes log p(d|x) with gradient.

    Args:
      objective: says what p(d|x) is normalised over.
      model: the model.
      retriever: spec of the retriever.
      params: the parameters.
      batch: B questions. Passages that it brings along (of a fixed retriever, or as candidates for a
        learned one) are taken instead of searching; a learned retriever still scores them itself.
      corpus: [N,P] passage tokens.
      embeddings: [N,D] the index.
      k: K.
      rename: [V] new token ids for the retriever, or None.
      frozen_index: take passage embeddings from the index instead of computing them: right where the
        index is fresh and no gradient is wanted (evaluation). In-batch negatives do not exist there,
        and p(d|x) is then over the K retrieved.

    Returns:
      The passages and their [B,K] log-probabilities.
    """
    scale = model.scale(params)
    given = None
    if batch.retrieved is not None:
        given = jax.tree.map(lambda leaf: leaf[:, :k], batch.retrieved)
    if not retriever.learned:
        assert given is not None, "a fixed retriever puts its passages into the batch"
        topk = given
        # A miss scores -inf, and the gradient of the scale would be 0 * -inf.
        scores = scale * jnp.where(topk.valid, topk.scores, 0.0)
        return topk, log_prior_retrieved(scores, topk.valid)

    query = model.embed_query(params, batch.question, rename)
    if objective.documents == "index":
        if not frozen_index:
            embeddings = model.embed_passage(params, corpus, rename)
        topk = given or ExactIndex(jax.lax.stop_gradient(embeddings)).search(query, k)
        all_scores = scale * (query @ embeddings.T)
        return topk, log_prior_index(all_scores, topk.ids, topk.valid)

    index = ExactIndex(embeddings)
    if frozen_index:
        topk = index.search(query, k)
        return topk, log_prior_retrieved(scale * topk.scores, topk.valid)
    # The index holds original names, so the search must use them too; only scores are renamed.
    topk = given or index.search(model.embed_query(params, batch.question), k)
    passages = model.embed_passage(params, gather_passages(corpus, topk.ids), rename)
    if objective.documents == "in_batch":
        scores = scale * jnp.einsum("bd,ckd->bck", query, passages)
        return topk, log_prior_in_batch(scores, topk.ids, topk.valid)
    scores = scale * jnp.einsum("bd,bkd->bk", query, passages)
    return topk, log_prior_retrieved(scores, topk.valid)


@dataclass(frozen=True)
class RagSequence(Likelihood):
    """One passage explains the whole answer: log Σ_k p(d_k|x) Π_t p(y_t|x,d_k,y_<t).

    Attributes:
      thorough: whether decoding scores each proposed answer under every passage.
    """

    thorough: bool = False

    def log_marginal(self, log_prior: Array, token_logprobs: Array, mask: Array) -> Array:
        """See `ops.marginal.rag_sequence`."""
        return rag_sequence(log_prior, token_logprobs, mask)

    def decode(
        self,
        model: RagModel,
        params: Params,
        question: Array,
        passages: Array,
        log_prior: Array,
        length: int,
    ) -> Decoded:
        """See `decoding.marginal.decode_rag_sequence`."""
        decode = partial(decode_rag_sequence, thorough=self.thorough)
        return decode(model, params, question, passages, log_prior, length)


@dataclass(frozen=True)
class RagToken(Likelihood):
    """A passage explains each token: Σ_t log Σ_k p(d_k|x) p(y_t|x,d_k,y_<t)."""

    def log_marginal(self, log_prior: Array, token_logprobs: Array, mask: Array) -> Array:
        """See `ops.marginal.rag_token`."""
        return rag_token(log_prior, token_logprobs, mask)

    def decode(
        self,
        model: RagModel,
        params: Params,
        question: Array,
        passages: Array,
        log_prior: Array,
        length: int,
    ) -> Decoded:
        """See `decoding.marginal.decode_rag_token`."""
        return decode_rag_token(model, params, question, passages, log_prior, length)
