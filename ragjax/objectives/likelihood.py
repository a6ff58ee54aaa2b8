"""Marginal likelihood of the answer: RAG-Sequence and RAG-Token."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.decoding.beam import Beam
from ragjax.decoding.marginal import Decoded, decode_rag_sequence, decode_rag_token
from ragjax.errors import require
from ragjax.objectives.base import Context, Documents, Objective
from ragjax.ops.augmentation import corrupt_words, random_renaming
from ragjax.ops.marginal import log_posterior, rag_sequence, rag_token, sequence_logprobs
from ragjax.ops.retrieval_figures import retrieval_figures
from ragjax.ops.scoring import FULL_PRECISION, log_prior_in_batch, log_prior_index
from ragjax.retrieval.base import best, prior_of_scores, require_depth
from ragjax.retrieval.blocks import all_rows
from ragjax.retrieval.corpus import Corpus, gather_passages
from ragjax.retrieval.fusion import listed_scores, scores_of_all
from ragjax.types import PAD_ID, Loss, Params, RagBatch, RagModel, TopK

HUB_QUESTIONS, HUB_PASSAGES = 16, 10  # of fewer each is a large share itself


class Reading(NamedTuple):
    """What was retrieved for B questions and read.

    Attributes:
      topk: the K passages.
      log_prior: [B,K] log p(d|x).
      memory: the reader's, of the B*K sources.
      target: [B,T] answers, with the names that the reader was shown.
      closed_book: [B] whether a question was read without any passage.
      accepted: [B,Y,T] accepted answers, with their own names.
      own_names: [B,V] the own name of each token that the reader was shown.
    """

    topk: TopK
    log_prior: Array
    memory: Any
    target: Array
    closed_book: Array
    accepted: Array
    own_names: Array


@dataclass(frozen=True)
class Likelihood(Objective):
    """Base of the marginal-likelihood objectives: -log p(y|x), summed over the batch.

    Attributes:
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

    documents: Documents = "retrieved"
    rename_reader: float = 0.0
    rename_retriever: float = 0.0
    corrupt_words: float = 0.0
    from_memory: bool = False

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.documents in get_args(Documents),
            f"The objective's documents is {self.documents!r}; choose retrieved, in_batch or index.",
        )
        for name in ("rename_reader", "rename_retriever", "corrupt_words"):
            value = getattr(self, name)
            require(
                0 <= value <= 1,
                f"The objective's {name} is {value}; it is a probability, 0 to 1.",
            )

    @property
    def normalised_over(self) -> Documents:
        """The field `documents`."""
        return self.documents

    @property
    def alters_words(self) -> bool:
        """Whether `rename_retriever` or `corrupt_words` is set."""
        return self.rename_retriever > 0 or self.corrupt_words > 0

    @property
    def few_labels(self) -> bool:
        """Unless gold passages decide what is read."""
        return not self.from_memory

    def log_marginal(self, log_prior: Array, token_logprobs: Array, mask: Array) -> Array:
        """[B] log p(y|x) from [B,K], [B,K,T] and [B,T]."""
        raise NotImplementedError

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
        """Computes Σ_b -log p(y_b|x_b) and the batch's metrics; see `Objective.loss`.

        Returns:
          The loss with `recall` (a gold passage is among the K) and `posterior_mass` (on gold passages,
          given the gold answer), of the questions that name one and are not answered from memory, and,
          where some are, `memory_loss` (of these, in nats). Of a learned retriever also those of
          `ops.retrieval_figures.retrieval_figures`, of the prior over the K passages.
        """
        del samples, reference
        reading = self.read(context, params, key, batch, corpus=corpus, index=index)
        return self.loss_of_reading(context, params, reading, batch, passages=corpus.shape[0])

    def loss_of_reading(
        self, context: Context, params: Params, reading: Reading, batch: RagBatch, *, passages: int
    ) -> Loss:
        """The loss of what `read` gave of a batch and a corpus of N `passages`; see `loss`."""
        topk, log_prior = reading.topk, reading.log_prior
        mask = batch.target != PAD_ID
        log_likelihood, posterior = self.explained(context.model, params, reading, mask)
        gold = is_gold(topk, batch.positives)
        open_book = jnp.where(reading.closed_book, 0.0, batch.weight)
        with_gold = jnp.where(jnp.any(batch.positives >= 0, axis=-1), open_book, 0.0)

        def total(values, weight=batch.weight):  # where: a filling row may hold NaN
            return jnp.sum(jnp.where(weight > 0, values * weight, 0.0))

        figures = {
            "recall": (jnp.any(gold, axis=-1).astype(jnp.float32), with_gold),
            "posterior_mass": (
                jnp.sum(jnp.where(gold, jnp.exp(posterior), 0.0), axis=-1),
                with_gold,
            ),
        }
        if self.from_memory:
            figures["memory_loss"] = (-log_likelihood, batch.weight - open_book)
        metrics = {
            name: (total(values, weight), jnp.sum(weight))
            for name, (values, weight) in figures.items()
        }
        if context.retriever.learned:
            among = log_posterior(log_prior, jnp.zeros_like(log_prior))  # over the K alone
            count = jnp.sum(open_book)
            health = jax.lax.stop_gradient(
                retrieval_figures(among, posterior, topk.ids, open_book, passages)
            )
            if batch.weight.shape[0] < HUB_QUESTIONS or passages < HUB_PASSAGES:
                del health["hub_share"]
            metrics |= {name: (count * value, count) for name, value in health.items()}
        loss = -total(log_likelihood, batch.target_weight)
        return Loss(sum=loss, denom=jnp.sum(batch.weight), metrics=metrics)

    def explained(
        self, model: RagModel, params: Params, reading: Reading, mask: Array
    ) -> tuple[Array, Array]:
        """[B] log p(y|x) and [B,K] log p(d|x,y) of the targets, whose tokens `mask` [B,T] marks."""
        token_logprobs = model.token_logprobs(params, reading.memory, reading.target)
        each = sequence_logprobs(token_logprobs, mask)
        log_likelihood = self.log_marginal(reading.log_prior, token_logprobs, mask)
        return log_likelihood, log_posterior(reading.log_prior, each)

    def noise(self, context: Context, key: Array, batch: RagBatch) -> tuple[RagBatch, Array, Array]:
        """The noise of a step's key.

        Returns:
          The batch with corrupted questions, and the [V] names that are shown to the retriever and
          those that are shown to the reader.
        """
        content = context.vocabulary.content
        reader_key, retriever_key, word_key = jax.random.split(key, 3)
        question = corrupt_words(word_key, batch.question, content, self.corrupt_words)
        return (
            dataclasses.replace(batch, question=question),  # pyright: ignore[reportArgumentType]
            random_renaming(retriever_key, content, self.rename_retriever),
            random_renaming(reader_key, content, self.rename_reader),
        )

    def read(
        self,
        context: Context,
        params: Params,
        key: Array,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
    ) -> Reading:
        """Retrieves and reads, with the noise of a step's key; see `Objective.loss`."""
        model = context.model
        batch, retriever_names, rename = self.noise(context, key, batch)
        topk, log_prior = retrieve(
            self, context, params, batch, corpus=corpus, index=index, rename=retriever_names
        )
        shown, own = (
            jnp.broadcast_to(names, (batch.question.shape[0], *names.shape))
            for names in (rename, jnp.argsort(rename))  # a permutation and its inverse
        )
        closed_book = jnp.zeros(batch.weight.shape, bool)
        if self.from_memory:
            closed_book = jnp.all(batch.positives < 0, axis=-1)
            topk, log_prior = _without_passages(closed_book, topk, log_prior)
            same = jnp.arange(shown.shape[-1])
            shown = jnp.where(closed_book[:, None], same, shown)
            own = jnp.where(closed_book[:, None], same, own)
        passages = gather_passages(corpus, topk.ids)
        memory = model.encode(params, batch.question, passages, shown)
        target = jnp.take_along_axis(shown, batch.target, axis=-1)
        return Reading(topk, log_prior, memory, target, closed_book, batch.accepted, own)

    def retrieve(
        self, context: Context, params: Params, batch: RagBatch, *, corpus: Corpus, index: Any
    ) -> tuple[TopK, Array]:
        """See `retrieve` with a frozen index."""
        return retrieve(self, context, params, batch, corpus=corpus, index=index, frozen_index=True)


def _without_passages(closed_book: Array, topk: TopK, log_prior: Array) -> tuple[TopK, Array]:
    """Puts one empty passage, of probability one, in the place of the K where closed_book [B] holds."""
    only = jnp.where(jnp.arange(log_prior.shape[-1]) == 0, 0.0, -jnp.inf)
    ids = jnp.where(closed_book[:, None], -1, topk.ids)
    return TopK(ids, topk.scores, topk.valid), jnp.where(closed_book[:, None], only, log_prior)


def is_gold(topk: TopK, positives: Array) -> Array:
    """[B,K] whether each hit is one of the gold passages [B,R] (rows, padded with -1)."""
    same = topk.ids[..., :, None] == positives[..., None, :]
    return jnp.any(same & (positives[..., None, :] >= 0), axis=-1)


def given_passages(batch: RagBatch, k: int) -> TopK | None:
    """The first K of the passages that a batch brings along, or None."""
    if batch.retrieved is None:
        return None
    return jax.tree.map(lambda leaf: leaf[:, :k], batch.retrieved)


def retrieve(
    objective: Likelihood,
    context: Context,
    params: Params,
    batch: RagBatch,
    *,
    corpus: Corpus,
    index: Any,
    rename: Array | None = None,
    frozen_index: bool = False,
) -> tuple[TopK, Array]:
    """Chooses K passages for each question and computes log p(d|x) with gradient.

    Args:
      objective: says what p(d|x) is normalised over.
      context: the composed model, and K.
      params: the parameters.
      batch: B questions. Passages that it brings along (of a fixed retriever, or for a learned one,
        which scores them itself) are taken instead of searching.
      corpus: [N,P] passage tokens.
      index: what a learned retriever searches.
      rename: [V] new token ids for the retriever, or None.
      frozen_index: take scores from the index and embed nothing, where it is fresh and no gradient is
        wanted. p(d|x) of in-batch negatives is then over the K retrieved.

    Returns:
      The passages and their [B,K] log-probabilities.

    Raises:
      UserError: K exceeds the number of passages.
    """
    retriever, k = context.model.retriever, context.k
    given = given_passages(batch, k)
    if not context.retriever.learned:
        assert given is not None, "a fixed retriever puts its passages into the batch"
        return given, retriever.log_prior(params, None, corpus, given)

    require_depth(k, corpus.shape[0])
    query, scale = retriever.query(params, batch.question, rename), retriever.scale(params)
    words = ()
    if retriever.weigh is not None:
        assert batch.lexical is not None, "the lexical hits of a hybrid are in the batch"
        words = (retriever.weigh(params, batch.lexical),)
    if objective.documents == "index":
        if frozen_index:
            topk = given or retriever.search(index, query, k, *words)
            scores = _with_words(retriever.scores(index, query), words)
        else:
            embedded = retriever.embed(params, all_rows(corpus), rename)
            scores = jnp.matmul(query, embedded.T, precision=FULL_PRECISION)
            scores = _with_words(scores, words)
            topk = given or best(scores, k)
        return topk, log_prior_index(scale * scores, topk.ids, topk.valid)
    if frozen_index:
        topk = retriever.search(index, query, k, *words)
        return topk, prior_of_scores(scale, topk)
    # The index holds original names, so the search must use them too; only scores are renamed.
    topk = given or retriever.search(index, retriever.query(params, batch.question), k, *words)
    if objective.documents == "in_batch":
        passages = retriever.embed(params, gather_passages(corpus, topk.ids), rename)
        scores = jnp.einsum("bd,ckd->bck", query, passages, precision=FULL_PRECISION)
        scores = scale * _with_words(scores, words, topk.ids)
        return topk, log_prior_in_batch(scores, topk.ids, topk.valid)
    return topk, retriever.log_prior(params, query, corpus, topk, rename, *words)


def _with_words(scores: Array, words: tuple[TopK, ...], rows: Array | None = None) -> Array:
    """Inner products with what words in common add to them.

    Args:
      scores: [B,N] of all passages, or [B,C,K] of those that were found for C questions.
      words: `TopK` [B,L] of the B questions, weighted, or nothing.
      rows: [C,K] of those that were found.
    """
    for hits in words:
        if rows is None:
            scores = scores + scores_of_all(hits, scores.shape[-1])
        else:
            everyone = jnp.broadcast_to(rows.reshape(-1), (scores.shape[0], rows.size))
            scores = scores + listed_scores(hits, everyone).reshape(scores.shape)
    return scores


@dataclass(frozen=True)
class RagSequence(Likelihood):
    """One passage explains the whole answer: log Σ_k p(d_k|x) Π_t p(y_t|x,d_k,y_<t).

    Attributes:
      rescore_all: whether decoding scores each proposed answer under every passage.
      beam: how each passage proposes answers, of which one is given; None for its greedy one.
    """

    rescore_all: bool = False
    beam: Beam | None = None

    def log_marginal(self, log_prior: Array, token_logprobs: Array, mask: Array) -> Array:
        """See `ops.marginal.rag_sequence`."""
        return rag_sequence(log_prior, token_logprobs, mask)

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
        """See `decoding.marginal.decode_rag_sequence`."""
        return decode_rag_sequence(
            model,
            params,
            question,
            passages=passages,
            log_prior=log_prior,
            length=length,
            rescore_all=self.rescore_all,
            beam=self.beam,
        )


@dataclass(frozen=True)
class RagToken(Likelihood):
    """A passage explains each token: Σ_t log Σ_k p(d_k|x) p(y_t|x,d_k,y_<t).

    Attributes:
      beam: how answers are searched, of which one is given; None for greedy decoding.
    """

    beam: Beam | None = None

    def log_marginal(self, log_prior: Array, token_logprobs: Array, mask: Array) -> Array:
        """See `ops.marginal.rag_token`."""
        return rag_token(log_prior, token_logprobs, mask)

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
        """See `decoding.marginal.decode_rag_token`."""
        read = {"passages": passages, "log_prior": log_prior, "length": length}
        return decode_rag_token(model, params, question, **read, beam=self.beam)
