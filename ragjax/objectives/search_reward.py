"""A language model that learns when to search, and with which words, from the reward of its answers."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from ragjax.decoding.marginal import Decoded
from ragjax.decoding.searching import TextModel, Texts, write_texts, written_places
from ragjax.errors import UserError, require
from ragjax.objectives.answer_reward import AnswerReward, Rewarded, Samples
from ragjax.objectives.base import Context, Objective
from ragjax.objectives.likelihood import is_gold
from ragjax.retrieval.base import RetrieverSpec, prior_of_scores, require_depth
from ragjax.retrieval.corpus import Corpus, gather_passages
from ragjax.types import PAD_ID, Leaf, Loss, Params, RagBatch, RagModel, TopK


@struct.dataclass
class Drawn:
    """Texts that the model wrote, [B,G] of each leaf, and what they are worth.

    Attributes:
      texts: the texts.
      reward: [B,G].
      values: [B,G,W] V(x,y_<t) when they were drawn, or None without a critic.
    """

    texts: Texts
    reward: Leaf
    values: Leaf


@dataclass(frozen=True)
class SearchReward(Rewarded, Objective):
    """Search within the model's own text, by policy gradients (Search-R1, arXiv 2503.09516).

        -β E_{y ~ π(y|x)}[R(answer of y)] + κ KL(π || π_0) - η Σ_t H(π(·|x,y_<t))

    A text y holds queries, what was found for each, and the answer (`decoding.searching`). What was
    found is read but was not written: only tokens that the model drew count, in every term. The reader
    is a `PretrainedReader` of the Llama family with `search`. The passages of a query are the K nearest
    by the run's retriever, which gets no gradient.

    Attributes:
      reward: R with its weight β, texts to a question, advantages and what else is paid for.
      searches: at most so many in a text.
      query_length: tokens of a query, if they are more than those of an answer.
    """

    reward: AnswerReward = field(default_factory=AnswerReward)
    searches: int = 1
    query_length: int = 16

    def __post_init__(self):
        """Checks the fields."""
        for name in ("searches", "query_length"):
            value = getattr(self, name)
            require(value >= 1, f"objective.{name} is {value}; it must be at least 1.")
        require(
            self.reward.weight > 0,
            f"objective.reward.weight is {self.reward.weight}; nothing else is learned from, so it must "
            "be positive.",
        )

    def check(self, retriever: RetrieverSpec, k: int) -> None:
        """See `Objective.check`."""
        del k
        require(
            retriever.learned,
            f"The objective asks queries of its own, but retriever {type(retriever).__name__} is looked "
            "up before training; use one that embeds them, such as Dense.",
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
        samples: Drawn | None = None,
        reference: Params = None,
    ) -> Loss:
        """See `Objective.loss`.

        Returns:
          The loss with the figures of `AnswerReward.costs`, and of texts `searches` (their number) and,
          where questions name gold passages, `recall` (one was found last).
        """
        if samples is None:
            _, samples = self.sample(context, params, key, batch, corpus=corpus, index=index)
        model, texts, weight = text_model(context.model), samples.texts, batch.weight
        places, states, logprobs = self._read(model, params, batch.question, texts)
        said, source = texts.tokens[..., places], texts.source[..., places]
        near = entropy = values = None
        if reference is not None:
            near = _of(self._read(model, reference, batch.question, texts)[2], said)
        if self.reward.entropy_coef > 0:
            entropy = -jnp.sum(jnp.exp(logprobs) * logprobs, axis=-1)
        if self.critic:
            values = model.values(params, states)
        costs = self.reward.costs_of(
            Samples(said, texts.behaviour, samples.reward, samples.values),
            source,
            weight,
            log_probs=_of(logprobs, said),
            near=near,
            entropy=entropy,
            values=values,
        )
        metrics = costs.metrics | _figures(texts, batch)
        return Loss(sum(costs.terms, jnp.zeros(())), jnp.sum(weight), metrics)

    def sample(
        self,
        context: Context,
        params: Params,
        key: Array,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
    ) -> tuple[RagBatch, Drawn]:
        """Writes G texts to each question; see `Objective.sample`."""
        model, length = text_model(context.model), self._length(batch.target.shape[-1])
        params = jax.lax.stop_gradient(params)
        texts = self._texts(
            context,
            params,
            jax.random.fold_in(key, 3),
            batch,
            corpus=corpus,
            index=index,
            texts=self.reward.samples,
            length=length,
        )
        # An answer has no more tokens than what is written at a time, but accepted ones may have fewer.
        wider = [(0, 0), (0, 0), (0, length - batch.accepted.shape[-1])]
        reward = self.reward.reward.score(texts.answers, jnp.pad(batch.accepted, wider))
        values = None
        if self.critic:
            _, states, _ = self._read(model, params, batch.question, texts)
            values = model.values(params, states)
        return batch, Drawn(texts, reward, values)

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
        """Writes the likeliest text; see `Objective.answer`.

        Returns:
          What was found last, the [B,K] log p(d|x) of that, which nothing is summed over, and the
          answers with log p of the whole text.
        """
        texts = self._texts(
            context,
            params,
            None,
            batch,
            corpus=corpus,
            index=index,
            hidden=hidden,
            texts=1,
            length=self._length(length),
        )
        topk = jax.tree.map(lambda leaf: leaf[:, 0], texts.topk)
        log_prior = prior_of_scores(context.model.retriever.scale(params), topk)
        written = jnp.sum(texts.behaviour[:, 0], axis=-1)
        decoded = Decoded(texts.answers[:, 0], written, log_prior, query=texts.query[:, 0])
        return topk, log_prior, decoded

    def _length(self, answer: int) -> int:
        """T, the tokens that are written at a time."""
        return max(self.query_length, answer)

    def _texts(
        self,
        context: Context,
        params: Params,
        key: Array | None,
        batch: RagBatch,
        *,
        corpus: Corpus,
        index: Any,
        texts: int,
        length: int,
        hidden: Array | None = None,
    ) -> Texts:
        require_depth(context.k, corpus.shape[0])

        def search(query: Array) -> tuple[TopK, Array]:
            topk = nearest(context, params, query, index)
            if hidden is not None:
                gone = jnp.any(topk.ids[..., None] == hidden[:, None, None, :], axis=-1)
                topk = _hits_where(~gone, topk)
            return topk, gather_passages(corpus, topk.ids)

        return write_texts(
            text_model(context.model),
            params,
            key,
            question=batch.question,
            search=search,
            k=context.k,
            texts=texts,
            searches=self.searches,
            length=length,
        )

    def _read(
        self, model: TextModel, params: Params, question: Array, texts: Texts
    ) -> tuple[np.ndarray, Array, Array]:
        """Where in the texts the model writes, and its states and distributions there.

        Returns:
          [W] places, and before each of them the states [B,G,W,H] and log p [B,G,W,V].
        """
        prompt = jax.eval_shape(model.begin, question).shape[-1]
        whole, written = texts.tokens.shape[-1], texts.behaviour.shape[-1]
        found = (whole - prompt - written) // self.searches
        length = written // (self.searches + 1)
        places = written_places(prompt, found, self.searches, length)
        states = model.states(params, texts.tokens)[..., places - 1, :]
        return places, states, model.logprobs(params, states)


def text_model(model: RagModel) -> TextModel:
    """The functions with which a reader searches in its own text.

    Raises:
      UserError: it has none.
    """
    if model.text is None:
        raise UserError(
            "SearchReward needs a reader that searches in its own text; choose a PretrainedReader of "
            "the Llama family, and give it search=SearchWords(...)."
        )
    return model.text


def nearest(context: Context, params: Params, query: Array, index: Any) -> TopK:
    """The K passages that an index finds for [B,G,T] queries in the reader's tokens, or misses."""
    retriever, own = context.model.retriever, context.retriever.reads
    if retriever.weigh is not None:
        raise UserError(
            "SearchReward asks queries of its own, which a Hybrid retriever can't look up by words; "
            "choose Dense."
        )
    rows = query.reshape(-1, query.shape[-1])
    if own is not None:
        shape = jax.ShapeDtypeStruct((len(rows), own.lengths[0]), jnp.int32)
        requery = context.requery
        assert requery is not None, "the learner reads queries in the retriever's tokens"
        again = jax.pure_callback(
            lambda tokens: requery(np.asarray(tokens)), shape, rows, vmap_method="sequential"
        )
        rows = jnp.concatenate([rows, again], axis=-1)
    found = retriever.search(index, retriever.query(params, rows), context.k)
    topk = jax.tree.map(lambda leaf: leaf.reshape(*query.shape[:2], -1), found)
    return _hits_where(jnp.any(query != PAD_ID, axis=-1, keepdims=True), topk)


def _hits_where(kept: Array, topk: TopK) -> TopK:
    """The hits that are kept, and misses in the place of the others."""
    valid = topk.valid & kept
    ids, scores = jnp.where(valid, topk.ids, -1), jnp.where(valid, topk.scores, -jnp.inf)
    return TopK(ids, scores, valid)


def _of(logprobs: Array, tokens: Array) -> Array:
    """[...,W] log p of tokens."""
    return jnp.take_along_axis(logprobs, tokens[..., None], axis=-1)[..., 0]


def _figures(texts: Texts, batch: RagBatch) -> dict[str, tuple[Array, Array]]:
    """Of a question's texts, means over all questions."""
    gold = jax.vmap(is_gold, in_axes=(1, None), out_axes=1)(texts.topk, batch.positives)
    named = jnp.any(batch.positives >= 0, axis=-1)
    found = jnp.any(gold, axis=-1).astype(jnp.float32)
    figures = {
        "searches": (texts.searches.astype(jnp.float32), batch.weight),
        "recall": (found, jnp.where(named, batch.weight, 0.0)),
    }
    return {
        name: (jnp.sum(jnp.where(weight > 0, jnp.mean(values, -1) * weight, 0.0)), jnp.sum(weight))
        for name, (values, weight) in figures.items()
    }
