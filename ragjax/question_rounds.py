"""What a trained reader finds and answers in each round of retrieval: the book of a `QaAgent`."""

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

from ragjax.config import Config, read_json
from ragjax.envs.qa_agent import FIRST, SHOWN, Book, QaAgent
from ragjax.errors import require
from ragjax.evaluation.metrics import exact_match, token_f1
from ragjax.experiment import Experiment, load_experiment
from ragjax.objectives.likelihood import retrieve
from ragjax.retrieval.corpus import gather_passages
from ragjax.run_dir import CHECKPOINTS, CONFIG, RESULT
from ragjax.tasks.reader_lessons import REWRITE
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.optimizer import evaluation_params
from ragjax.types import EOS_ID, PAD_ID, Leaf, Params, QaData, Question, RagBatch

BATCH = 64  # questions at once
COMPONENTS = 8  # of a question's embedding that an agent sees


@struct.dataclass
class Rounds:
    """B questions in each round; nothing is retrieved in the first.

    Attributes:
      ids: [B,ROUNDS,K] rows of the passages, -1 for none.
      log_prior: [B,ROUNDS,K] log p(d|x).
      answer: [B,ROUNDS,T] what the reader answers greedily.
      log_prob: [B,ROUNDS] its log p(y|x).
      similarity: [B,ROUNDS] of the best passage, -1 to 1.
      query: [B,Q] by which the last round retrieves.
      leads_on: [B,ROUNDS] share of the names (content tokens) in that query that the question does not
        hold, in the round before: a question that one passage does not answer leads on to another name.
      embedding: [B,D] of the question.
      length: [B] share of the Q tokens that the question has.
    """

    ids: Leaf
    log_prior: Leaf
    answer: Leaf
    log_prob: Leaf
    similarity: Leaf
    query: Leaf
    leads_on: Leaf
    embedding: Leaf
    length: Leaf


@dataclass(frozen=True)
class QuestionReader:
    """A trained reader with its retriever, asked in rounds.

    Attributes:
      experiment: config, corpus and functions of its run.
      params: its parameters.
      embeddings: [N,D] its index.
    """

    experiment: Experiment
    params: Params
    embeddings: Array

    @classmethod
    def load(cls, run_dir: Path) -> "QuestionReader":
        """Reads a finished run.

        Raises:
          UserError: there is none, or its retriever is a fixed one.
        """
        require(
            (run_dir / RESULT).is_file(),
            f"env.reader names {run_dir}, which holds no finished run; train it first, for example by "
            "`ragjax train configs/reader_lessons/reader.py`.",
        )
        config = read_json(run_dir / CONFIG)
        require(
            isinstance(config, Config) and config.retriever.learned,
            f"env.reader names {run_dir}, which is no run of a generator with a retriever of its own.",
        )
        experiment = load_experiment(config, run_dir)
        state, _, _ = experiment.load_state(Checkpoints(run_dir / CHECKPOINTS))
        params = evaluation_params(state.train.params, state.train.opt_state)
        return cls(experiment, params, experiment.fresh_index(state).embeddings)

    def encode(self, texts: Sequence[str]) -> Int[np.ndarray, "B Q"]:
        """Tokenises questions, in words that the reader knows."""
        experiment = self.experiment
        known = [
            experiment.corpus.lexicon.known_form(experiment.tokenizer, text)[0] for text in texts
        ]
        length = experiment.config.tokenizer.question_length
        return experiment.tokenizer.encode_batch(known, length)[0]

    def read(self, texts: Sequence[str], k: int) -> Rounds:
        """Asks questions, in batches and on the device.

        Args:
          texts: B questions.
          k: K.

        Returns:
          The rounds, as NumPy arrays.

        Raises:
          UserError: the corpus has fewer than K passages.
        """
        count = len(self.experiment.corpus.passages)
        require(k <= count, f"env.k is {k}, but the reader's corpus has {count} passages.")
        asked = self.encode(texts), self.encode([f"{REWRITE} {text}" for text in texts])
        size = min(BATCH, len(texts))
        filled = [np.pad(rows, ((0, -len(texts) % size), (0, 0))) for rows in asked]
        chunks = [rows.reshape(-1, size, rows.shape[-1]) for rows in filled]
        rounds = self._rounds(self.params, self.embeddings, chunks[0], chunks[1], k)
        found = jax.device_get(rounds)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(texts)], found)

    def unread(self, count: int, k: int) -> Rounds:
        """The rounds of questions that were not asked: zeros of the right shapes."""
        asked = jax.ShapeDtypeStruct((count, self.experiment.config.tokenizer.question_length), int)
        read = partial(self._round_batch, k=k)
        rounds = jax.eval_shape(read, self.params, self.embeddings, asked, asked)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), rounds)

    @cached_property
    def _rounds(self):
        """The jitted (parameters, index, [n,B,Q] questions, [n,B,Q] rewritings, K) -> `Rounds` [n,B]."""

        def several(params, embeddings, questions, rewritings, k):
            return jax.lax.map(
                lambda asked: self._round_batch(params, embeddings, asked[0], asked[1], k),
                (questions, rewritings),
            )

        return jax.jit(several, static_argnums=4)

    def _round_batch(
        self,
        params: Params,
        embeddings: Float[Array, "N D"],
        question: Int[Array, "B Q"],
        rewriting: Int[Array, "B Q"],
        k: int,
    ) -> Rounds:
        """All rounds of B questions; `rewriting` are the questions behind `REWRITE`."""
        experiment, config = self.experiment, self.experiment.config
        model = experiment.model

        def search(query):
            asked = RagBatch(query)
            arrays = params, asked, experiment.device_corpus, embeddings
            topk, log_prior = retrieve(
                config.objective, model, config.retriever, *arrays, k=k, frozen_index=True
            )
            return topk.ids, log_prior, topk.scores[:, 0]

        def decode(asked, ids, log_prior):
            passages = gather_passages(experiment.device_corpus, ids)
            length = config.tokenizer.answer_length
            return config.objective.decode(model, params, asked, passages, log_prior, length)

        none = jnp.full((question.shape[0], k), -1)
        certain = jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, -jnp.inf), none.shape)
        # One passage suffices where none is read.
        memory = decode(question, none[:, :1], certain[:, :1])
        first, first_prior, first_similarity = search(question)
        read = decode(question, first, first_prior)
        written = decode(rewriting, first, first_prior).tokens
        written = jnp.where(written == EOS_ID, PAD_ID, written)
        room = question.shape[-1] - written.shape[-1]
        query = jnp.pad(written, ((0, 0), (0, max(room, 0))))[:, : question.shape[-1]]
        fold, names = experiment.vocabulary.fold, experiment.vocabulary.content[query]
        asked = jnp.any(fold[query][:, :, None] == fold[question][:, None, :], axis=-1)
        count = jnp.maximum(jnp.sum(names, axis=-1), 1)
        leads_on = jnp.sum(names & ~asked, axis=-1) / count
        second, second_prior, second_similarity = search(query)
        read_again = decode(query, second, second_prior)

        def stack(*rounds):
            return jnp.stack(rounds, axis=1)

        return Rounds(
            ids=stack(none, first, second),
            log_prior=stack(certain, first_prior, second_prior),
            answer=stack(memory.tokens, read.tokens, read_again.tokens),
            log_prob=stack(memory.log_prob, read.log_prob, read_again.log_prob),
            similarity=stack(jnp.zeros_like(first_similarity), first_similarity, second_similarity),
            query=query,
            leads_on=stack(jnp.zeros_like(leads_on), leads_on, jnp.zeros_like(leads_on)),
            embedding=model.embed_query(params, question),
            length=jnp.mean((question != PAD_ID).astype(jnp.float32), axis=-1),
        )

    def book(
        self,
        spec: QaAgent,
        questions: Sequence[Question],
        basis: np.ndarray,
        *,
        unread: bool = False,
    ) -> Book:
        """The book of an environment.

        Args:
          spec: the environment.
          questions: M questions, in any order.
          basis: [C-1,D] from `principal_components`.
          unread: leave the questions unasked, for a book whose shapes alone matter.

        Returns:
          The book, its questions in the order of their kinds.
        """
        require(len(questions) > 0, f"Task {spec.task.name} has no questions to ask an agent.")
        kinds = sorted({question.relation for question in questions})
        questions = sorted(questions, key=lambda question: kinds.index(question.relation))
        if unread:
            rounds = self.unread(len(questions), spec.k)
        else:
            rounds = self.read([question.question for question in questions], spec.k)
        measure = exact_match if spec.measure == "em" else token_f1
        scores = [
            [float(measure(self.text(answer), question.answers)) for answer in answers]
            for question, answers in zip(questions, rounds.answer, strict=True)
        ]
        return make_book(rounds, basis, scores, [question.relation for question in questions])

    def embed(self, questions: Sequence[Question]) -> Float[np.ndarray, "M D"]:
        """Embeddings of questions."""
        tokens = self.encode([question.question for question in questions])
        embed = jax.jit(self.experiment.model.embed_query)
        return np.asarray(embed(self.params, tokens))

    def text(self, tokens: np.ndarray) -> str:
        """Tokens as text."""
        return self.experiment.tokenizer.decode(tokens)

    def found(self, rounds: Rounds, reached: int, text: str) -> dict[str, Any]:
        """What the retrieval that led to a round of the only question `text` used and found."""
        query = text if reached == FIRST else self.text(rounds.query[0])
        passages, hits = self.experiment.corpus.passages, rounds.ids[0, reached]
        priors = np.exp(rounds.log_prior[0, reached])
        listed = [
            vars(passages[row]) | {"prior": float(prior)}
            for row, prior in zip(hits, priors, strict=True)
        ]
        return {"query": query, "passages": listed}


@dataclass(frozen=True)
class Library:
    """Opens the books of environments, each reader and book once.

    Attributes:
      seed: stands for "{seed}" in a reader's directory.
      unread: whether books hold one question of each kind, unread: enough to load the state of a policy
        that is asked other questions.
    """

    seed: int
    unread: bool = False

    @cached_property
    def _readers(self) -> dict[str, tuple[QuestionReader, QaData, np.ndarray]]:
        return {}

    @cached_property
    def _books(self) -> dict[tuple[QaAgent, str], Book]:
        return {}

    def reader(self, spec: QaAgent) -> tuple[QuestionReader, QaData, np.ndarray]:
        """The environment's reader, its questions, and the basis of what is seen of them."""
        if spec.reader not in self._readers:
            reader = QuestionReader.load(spec.reader_dir(self.seed))
            data = spec.task.load()
            basis = principal_components(reader.embed(data.splits["train"]))
            self._readers[spec.reader] = reader, data, basis
        return self._readers[spec.reader]

    def open(self, spec: QaAgent, split: str) -> Book:
        """The book of a split's questions.

        Raises:
          UserError: the reader can't be loaded, or there are no questions.
        """
        if (spec, split) not in self._books:
            reader, data, basis = self.reader(spec)
            questions = data.splits[split]
            if self.unread:
                questions = tuple({question.relation: question for question in questions}.values())
            book = reader.book(spec, questions, basis, unread=self.unread)
            self._books[spec, split] = book
        return self._books[spec, split]


def make_book(
    rounds: Rounds, basis: np.ndarray, scores: Sequence[Sequence[float]], kinds: Sequence[str]
) -> Book:
    """The book of questions whose kinds stand in order.

    Of a question its length and the components of its embedding are known.

    Args:
      rounds: of M questions.
      basis: [C-1,D].
      scores: [M,ROUNDS] of the answers.
      kinds: [M] names.

    Returns:
      The book.
    """
    figures = {
        "log_prob": np.maximum(rounds.log_prob, -20.0) / 5.0,
        "probability": np.exp(rounds.log_prob),
        "prior": np.exp(np.max(rounds.log_prior, axis=-1)),
        "similarity": rounds.similarity,
        "leads_on": rounds.leads_on,
    }
    shown = np.stack([figures[name] for name in SHOWN], axis=-1)
    question = np.concatenate([rounds.length[:, None], rounds.embedding @ basis.T], axis=-1)
    names, kind, counts = np.unique(kinds, return_inverse=True, return_counts=True)
    return Book(
        score=jnp.asarray(scores, jnp.float32),
        shown=jnp.asarray(shown, jnp.float32),
        question=jnp.asarray(question, jnp.float32),
        kind=jnp.asarray(kind, jnp.int32),
        starts=jnp.asarray(np.cumsum(counts) - counts, jnp.int32),
        counts=jnp.asarray(counts, jnp.int32),
        kinds=tuple(names.tolist()),
    )


def principal_components(embeddings: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "C D"]:
    """The directions in which embeddings vary most, scaled to unit deviation; 0 where nothing varies.

    The sign, which the decomposition leaves open, makes the largest number of each positive.
    """
    centred = embeddings - embeddings.mean(axis=0)
    _, deviations, directions = np.linalg.svd(centred, full_matrices=False)
    directions, deviations = directions[:COMPONENTS], deviations[:COMPONENTS]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    # Where nothing varies, a direction is made of rounding errors.
    spread = np.where(deviations > 1e-4 * deviations[0], deviations, np.inf)
    return directions * np.sign(largest) * np.sqrt(len(embeddings)) / spread[:, None]
