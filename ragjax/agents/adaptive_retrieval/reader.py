"""A trained reader with its retriever, asked without, with one and with two retrievals."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.config import read_json
from ragjax.errors import UserError, require
from ragjax.learners.questions import QuestionsConfig, QuestionsLearner
from ragjax.retrieval.corpus import gather_passages
from ragjax.run_dir import CONFIG, RESULT, load_run
from ragjax.tasks.reader_training import REWRITE
from ragjax.types import EOS_ID, PAD_ID, Leaf, Params, RagBatch

BATCH = 64  # questions at once
# Stages: nothing retrieved; retrieved by the question; by the query that the reader makes of both.
MEMORY, FIRST, SECOND = range(3)
STAGES = 3


@struct.dataclass
class RetrievalTrace:
    """What a reader retrieves and answers at each stage, for B questions.

    Attributes:
      ids: [B,STAGES,K] rows of the passages, -1 for none.
      log_prior: [B,STAGES,K] log p(d|x).
      answer: [B,STAGES,T] what the reader answers greedily.
      log_prob: [B,STAGES] its log p(y|x).
      similarity: [B,STAGES] of the best passage, -1 to 1.
      query: [B,Q] by which the last stage retrieves.
      new_name_share: [B,STAGES] share of the names (content tokens) in that query that the question does
        not hold, at the stage before: where one passage does not answer, the query asks about another
        name.
      embedding: [B,D] of the question.
      length: [B] share of the Q tokens that the question has.
    """

    ids: Leaf
    log_prior: Leaf
    answer: Leaf
    log_prob: Leaf
    similarity: Leaf
    query: Leaf
    new_name_share: Leaf
    embedding: Leaf
    length: Leaf


@dataclass(frozen=True)
class TrainedReader:
    """A trained reader with its retriever.

    Attributes:
      learner: config, text and functions of its run.
      params: its parameters.
      embeddings: its index.
    """

    learner: QuestionsLearner
    params: Params
    embeddings: Any

    @classmethod
    def load(cls, run_dir: Path) -> "TrainedReader":
        """Reads a finished run.

        Raises:
          UserError: there is none, or its retriever is a fixed one or a hybrid.
        """
        require(
            (run_dir / RESULT).is_file(),
            f"env.reader names {run_dir}, which holds no finished run; train it first, for example by "
            "`ragjax train configs/reader_training/reader.py`.",
        )
        config = read_json(run_dir / CONFIG)
        if not isinstance(config, QuestionsConfig) or not config.retriever.learned:
            raise UserError(
                f"env.reader names {run_dir}, which is no run of a reader with a retriever of its own."
            )
        require(
            not config.retriever.fuses,
            f"env.reader names {run_dir}, whose retriever also goes by words in common; a query that "
            "the reader writes has none looked up, so train one with a Dense retriever.",
        )
        require(
            config.retriever.reads is None,
            f"env.reader names {run_dir}, whose encoder has a tokenizer of its own, which a query that "
            "the reader writes does not pass through; train one with an encoder that reads any tokens.",
        )
        run = load_run(run_dir)
        assert isinstance(run.learner, QuestionsLearner)
        return cls(run.learner, run.learner.evaluated(run.state), run.state.index.embeddings)

    def encode(self, texts: Sequence[str]) -> Int[np.ndarray, "B Q"]:
        """Tokenises questions, in words that the reader knows."""
        text, length = self.learner.text, self.learner.config.tokenizer.question_length
        known = [text.known_words(each)[0] for each in texts]
        return text.tokenizer.encode_batch(known, length)[0]

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B D"]:
        """Embeddings of questions."""
        embed = jax.jit(self.learner.model.retriever.query)
        return np.asarray(embed(self.params, self.encode(texts)))

    def understood(self, text: str) -> tuple[str, list[str]]:
        """A question that is not of the task, checked, and notes on what of it is not read.

        Raises:
          UserError: it is empty, or holds what is no character.
        """
        return self.learner.text.check_question(text)

    def text(self, tokens: np.ndarray) -> str:
        """Tokens as text."""
        return self.learner.text.tokenizer.decode(tokens)

    def read(self, texts: Sequence[str], k: int) -> RetrievalTrace:
        """Asks questions at every stage, in batches and on the device.

        Args:
          texts: B questions.
          k: K.

        Returns:
          The trace, as NumPy arrays.

        Raises:
          UserError: the corpus has fewer than K passages.
        """
        count = len(self.learner.text.corpus.passages)
        require(k <= count, f"env.k is {k}, but the reader's corpus has {count} passages.")
        asked = self.encode(texts), self.encode([f"{REWRITE} {text}" for text in texts])
        size = min(BATCH, len(texts))
        filled = [np.pad(rows, ((0, -len(texts) % size), (0, 0))) for rows in asked]
        chunks = [rows.reshape(-1, size, rows.shape[-1]) for rows in filled]
        arrays = self.params, self.learner.corpus, self.embeddings
        trace = self._read_batches(arrays, chunks[0], chunks[1], k)
        trace = jax.device_get(trace)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(texts)], trace)

    def empty_trace(self, count: int, k: int) -> RetrievalTrace:
        """The trace of questions that are not asked: zeros of the right shapes."""
        asked = jax.ShapeDtypeStruct(
            (count, self.learner.config.tokenizer.question_length), jnp.int32
        )
        read = partial(self._read_batch, k=k)
        arrays = self.params, self.learner.corpus, self.embeddings
        trace = jax.eval_shape(read, arrays, asked, asked)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), trace)

    @cached_property
    def _read_batches(self):
        """The jitted (arrays, [n,B,Q] questions, [n,B,Q] rewritings, K) -> traces [n,B]."""

        def several(arrays, questions, rewritings, k):
            return jax.lax.map(
                lambda asked: self._read_batch(arrays, asked[0], asked[1], k),
                (questions, rewritings),
            )

        return jax.jit(several, static_argnums=3)

    def _read_batch(
        self,
        arrays: tuple[Params, Int[Array, "N P"], Any],
        question: Int[Array, "B Q"],
        rewriting: Int[Array, "B Q"],
        k: int,
    ) -> RetrievalTrace:
        """All stages of B questions.

        Args:
          arrays: parameters, passage tokens and index.
          question: the questions.
          rewriting: the questions behind `REWRITE`.
          k: K.
        """
        params, corpus, embeddings = arrays
        learner, config = self.learner, self.learner.config
        model = learner.model

        def search(query):
            topk, log_prior = config.objective.retrieve(
                learner.context(k), params, RagBatch(query), corpus=corpus, index=embeddings
            )
            return topk.ids, log_prior, topk.scores[:, 0]

        def decode(asked, ids, log_prior):
            passages = gather_passages(corpus, ids)
            return config.objective.decode(
                model,
                params,
                asked,
                passages=passages,
                log_prior=log_prior,
                length=config.tokenizer.answer_length,
            )

        # From memory. One passage suffices where none is read.
        none = jnp.full((question.shape[0], k), -1)
        certain = jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf), none.shape)
        memory = decode(question, none[:, :1], certain[:, :1])

        # The first retrieval.
        first, first_prior, first_similarity = search(question)
        read = decode(question, first, first_prior)

        # The query that is made of it, and the second retrieval.
        written = decode(rewriting, first, first_prior).tokens
        written = jnp.where(written == EOS_ID, PAD_ID, written)
        room = question.shape[-1] - written.shape[-1]
        query = jnp.pad(written, ((0, 0), (0, max(room, 0))))[:, : question.shape[-1]]
        fold, names = learner.vocabulary.fold, learner.vocabulary.content[query]
        asked = jnp.any(fold[query][:, :, None] == fold[question][:, None, :], axis=-1)
        count = jnp.maximum(jnp.sum(names, axis=-1), 1)
        new_names = jnp.sum(names & ~asked, axis=-1) / count
        second, second_prior, second_similarity = search(query)
        read_again = decode(query, second, second_prior)

        def stack(*stages):
            return jnp.stack(stages, axis=1)

        return RetrievalTrace(
            ids=stack(none, first, second),
            log_prior=stack(certain, first_prior, second_prior),
            answer=stack(memory.tokens, read.tokens, read_again.tokens),
            log_prob=stack(memory.log_prob, read.log_prob, read_again.log_prob),
            similarity=stack(jnp.zeros_like(first_similarity), first_similarity, second_similarity),
            query=query,
            new_name_share=stack(jnp.zeros_like(new_names), new_names, jnp.zeros_like(new_names)),
            embedding=model.retriever.query(params, question),
            length=jnp.mean((question != PAD_ID).astype(jnp.float32), axis=-1),
        )

    def retrieval(self, trace: RetrievalTrace, stage: int, text: str) -> dict[str, Any]:
        """Query and passages of the retrieval that leads to a stage, of the only question `text`."""
        query = text if stage == FIRST else self.text(trace.query[0])
        passages, ids = self.learner.text.corpus.passages, trace.ids[0, stage]
        priors = np.exp(trace.log_prior[0, stage])
        listed = [
            vars(passages[row]) | {"prior": float(prior)}
            for row, prior in zip(ids, priors, strict=True)
            if row >= 0
        ]
        return {"query": query, "passages": listed}
