"""A retriever and a reader that answer questions: what a run needs to be measured and asked."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.data.batching import EncodedQuestions
from ragjax.data.checks import require_splits
from ragjax.data.corpus_encoding import CorpusEncoder
from ragjax.data.prepared import NOTHING_KNOWN, PreparedText
from ragjax.data.report import REPORT, DataReport
from ragjax.errors import require
from ragjax.evaluation.answers import Answerer, Answers
from ragjax.evaluation.calibration import Calibration
from ragjax.evaluation.metrics import summarise
from ragjax.learners.abstention import (
    QUESTIONS,
    abstained,
    calibrate_run,
    nothing_known,
    recorded_calibration,
    selective_figures,
)
from ragjax.models.rag import build_model
from ragjax.objectives.base import Context
from ragjax.retrieval.corpus import IndexState
from ragjax.training.learner import Learner, State
from ragjax.training.optimizer import evaluation_params
from ragjax.types import Params, QaData, Question, RagBatch

GAIN_QUESTIONS = 128  # of the development sample, answered once more with random passages


class QuestionsAnswerer(Learner):
    """The half of a learner of questions that measures and answers; see `QuestionsLearner`.

    Attributes:
      config: the `questions.QuestionsConfig`.
      text: tokenizer and corpus.
      report: of the data that they were made of.
      calibration: how sure it has to be of an answer; None before `calibrate`.
      corpus: [N,P] passage tokens on the device.
      vocabulary: token statistics on the device.
      model: the model's pure functions.
    """

    def __init__(
        self,
        config: Any,
        text: PreparedText,
        report: DataReport,
        task: QaData | None = None,
        origin: Path | None = None,
    ):
        """Builds the model's functions.

        Args:
          config: a `questions.QuestionsConfig`.
          text: what was made of the task's text.
          report: of the data that it was made of.
          task: the task's data, loaded when it is needed if None.
          origin: the run's directory, of a run that is loaded: its calibration is read from there.
        """
        self.config, self.text, self.report, self.origin = config, text, report, origin
        if task is not None:
            self.task = task
        self.calibration: Calibration | None = None
        if origin is not None:
            self.calibration = recorded_calibration(origin)
        self.corpus = jnp.asarray(text.corpus.tokens)
        self.vocabulary = jax.tree.map(jnp.asarray, text.corpus.vocabulary)
        self.model = build_model(
            config.retriever,
            config.reader,
            self.vocabulary,
            critic=config.objective.critic,
            dtype=jnp.dtype(config.compute),
        )

    @property
    def files(self) -> tuple[str, ...]:
        """See `Learner.files`."""
        return (*self.text.files, REPORT)

    @cached_property
    def task(self) -> QaData:
        """The task's passages and questions.

        Raises:
          UserError: it makes other ones now than the run began with.
        """
        data = self.config.task.load()
        if self.origin is not None:
            self.report.require_same(data, self.origin, self.config.task.name)
        return data

    def whole(self, state: State) -> Params:
        """The model's parameters as training has moved them, those that are not trained included."""
        return self.config.trained.merged(state.params, state.frozen)

    def evaluated(self, state: State) -> Params:
        """The model's parameters to evaluate with, see `evaluation_params`, likewise whole."""
        moved = evaluation_params(state.params, state.opt_state)
        return self.config.trained.merged(moved, state.frozen)

    def encode(self, questions: Sequence[Question]) -> EncodedQuestions:
        """Tokenises questions to be answered; a fixed retriever is looked up."""
        config = self.config
        return self.text.encode(questions, config.retriever, config.evaluation.k)

    def context(self, k: int) -> Context:
        """The composed model, for its objective; a retriever may have fewer than K passages to give."""
        retriever, text = self.config.retriever, self.text
        requery = None if text.own is None else text.reread
        depth = retriever.passages_per_question(k)
        return Context(self.model, self.vocabulary, retriever, depth, requery)

    @cached_property
    def answerer(self) -> Answerer:
        """The programs that answer."""
        config = self.config
        return Answerer(
            config.objective,
            self.context(config.evaluation.k),
            self.text,
            corpus=self.corpus,
            batch_size=config.evaluation.batch_size,
        )

    @cached_property
    def _embed(self):
        """The jitted (params, corpus) -> index."""
        return jax.jit(self.model.retriever.index)

    @cached_property
    def _development(self) -> EncodedQuestions:
        """The sample measured while training, the same for every seed; the split is in order."""
        return self.encode(self._sample(self.config.evaluation.questions))

    def _sample(self, count: int) -> list[Question]:
        """Development questions in an order of chance, the same for every run."""
        questions = self.task.splits["dev"]
        order = np.random.default_rng(0).permutation(len(questions))
        return [questions[row] for row in order[:count]]

    @cached_property
    def _gain_questions(self) -> EncodedQuestions:
        """Those of the sample that are answered with random passages, too."""
        return self.encode(self._development.questions[:GAIN_QUESTIONS])

    @cached_property
    def _exchanged(self) -> Array:
        """[N,P] the passages in a random order, so that others are read than are found."""
        order = np.random.default_rng(0).permutation(len(self.corpus))
        return self.corpus[np.argsort(order)]

    def finish(self, state: State) -> State:
        """The state with an index of its own evaluation parameters, made anew if it has an older one."""
        if not self.config.retriever.learned or state.index.built_at_step == state.step:
            return state
        index = IndexState(self._embed(self.evaluated(state), self.corpus), state.step)
        return state.replace(index=index)

    def measure(self, state: State) -> dict[str, float]:
        """Figures of the development sample, under `dev/`.

        Of a learned retriever also `retrieval_gain`, what EM loses by random passages, and
        `index_recall`: of the passages that exact search finds by the parameters that training moves,
        the share that the index finds which training searches, stale or approximate as it is. All other
        figures are of the parameters to evaluate with, which may be averages.
        """
        searched, state = state.index, self.finish(state)
        answered = self._records(state, self._development)
        summary = summarise(answered)
        if self.config.retriever.learned:
            if searched.built_at_step >= 0:
                summary["index_recall"] = float(self._index_recall(state, searched))
            blind = self._records(state, self._gain_questions, corpus=self._exchanged)
            summary["retrieval_gain"] = (
                summarise(answered[:GAIN_QUESTIONS])["em"] - summarise(blind)["em"]
            )
        # Without gold passages, how often a passage holds an answer says what is found.
        found = "recall" if summary["gold_questions"] else "has_answer"
        return {
            f"dev/{name}": summary[name]
            for name in (
                *("em", "f1", f"{found}@1", f"{found}@5"),
                *("retrieval_gain", "index_recall"),
            )
            if summary.get(name) is not None
        }

    @cached_property
    def _shared_hits(self):
        """The jitted (params, questions, index searched, fresh index) -> [] as of `measure`."""
        retriever, k = self.model.retriever, self.answerer.depth

        def share(params, batch, searched, fresh):
            query, words = retriever.query(params, batch.question), ()
            if retriever.weigh is not None:
                words = (retriever.weigh(params, batch.lexical),)
            found = retriever.search(searched, query, k, *words)
            right = retriever.search_exactly(fresh, query, k, *words)
            same = (right.ids[..., None] == found.ids[..., None, :]) & found.valid[..., None, :]
            hits = jnp.any(same, axis=-1) & right.valid
            return jnp.sum(hits) / jnp.sum(right.valid)

        return jax.jit(share)

    def _index_recall(self, state: State, searched: IndexState) -> Array:
        """`index_recall` of `measure`, of a state that `finish` gave."""
        params, fresh = self.whole(state), state.index.embeddings
        # `finish` embedded by those to evaluate with.
        if evaluation_params(state.params, state.opt_state) is not state.params:
            fresh = self._embed(params, self.corpus)
        arrays = self._development.arrays
        asked = RagBatch(arrays.question, lexical=arrays.lexical)
        return self._shared_hits(params, asked, searched.embeddings, fresh)

    def _records(
        self, state: State, encoded: EncodedQuestions, **options: Any
    ) -> list[dict[str, Any]]:
        """One record a question, see `Answerer.records`, of a state that `finish` gave."""
        params = self.evaluated(state)
        return self.answerer.records(params, state.index.embeddings, encoded, **options)

    def evaluate(
        self,
        state: State,
        split: str | None = None,
        *,
        episodes: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Answers, dict[str, Any]]:
        """Answers the questions of a split."""
        split = split or "test"
        require(episodes is None, "--episodes is of policies; a run of questions has a --split.")
        splits = self.task.splits
        require(split in splits, f"--split is {split!r}; choose one of {', '.join(splits)}.")
        require_splits(self.task, self.config.task.name, (split,))
        questions = splits[split]
        records = self._records(
            self.finish(state),
            self.encode(questions),
            progress=lambda done: progress(done, len(questions)),
        )
        facts: dict[str, Any] = {"split": split}
        if self.calibration is not None and records:
            facts["selective"] = selective_figures(self.calibration, records)
        return Answers(records), facts

    def calibrate(self, state: State) -> None:
        """Calibrates the confidence in answers on the first development questions of the sample."""
        if self.config.retriever.needs_gold:
            return  # it answers the task's own questions only
        state = self.finish(state)
        self.calibration = calibrate_run(
            self.text,
            self._sample(QUESTIONS),
            encode=self.encode,
            answer=lambda encoded, hidden: self._records(state, encoded, hidden=hidden),
            k=self.answerer.depth,
        )

    def answer(self, state: State, text: str, *, force: bool = False) -> dict[str, Any]:
        """Answers one question; at most `tokenizer.question_length` tokens are read.

        Returns:
          {"question", "answer" (None where the run is not sure enough), "probability", "confidence",
          "threshold", "reasons" (why not), "passages": [{"id", "title", "text", "prior",
          "posterior"}], "notes": what was left out}, the passages in the order of their posterior. A run
          that was never calibrated has no confidence, and answers always. A question without a known
          word has no answer, probability or passages, and confidence 0, also with `force`. A reader that
          searches by itself has a "query", what it has searched for last.
        """
        text, notes = self.text.check_question(text)
        require(
            not self.config.retriever.needs_gold,
            "This run reads the gold passage of each question "
            f"(retriever {type(self.config.retriever).__name__}), which a question of your own does "
            "not have; ask a run with another retriever.",
        )
        if not self.text.has_known_word(text):
            told = nothing_known(self.calibration)
            return {"question": text} | told | {"notes": [*notes, NOTHING_KNOWN]}
        encoded = self.encode((Question("asked", text, ("",), (), "", ""),))
        state = self.finish(state)
        params = self.evaluated(state)
        told = self.answerer.answer_text(params, state.index.embeddings, encoded)
        told |= {"known": self.text.known_share(text)}
        if self.calibration is None:
            notes = [*notes, "the run is not calibrated, so it answers however unsure it is"]
        else:
            told = abstained(told, self.calibration, force)
        cut = told.pop("cut")
        if cut and told["answer"] is not None:
            notes = [*notes, f"the answer is cut after {cut} tokens"]
        return {"question": text} | told | {"notes": notes}

    def over(self, state: State, data: QaData) -> tuple["QuestionsAnswerer", State]:
        """The same parameters over other passages, embedded anew; of few, all are retrieved."""
        text, evaluation = self.text.over(data.passages), self.config.evaluation
        k = min(evaluation.k, len(data.passages))
        config = dataclasses.replace(self.config, evaluation=dataclasses.replace(evaluation, k=k))
        learner = type(self)(config, text, DataReport.measure(data, text), data)
        learner.calibration = self.calibration
        fresh = state.replace(index=IndexState(state.index.embeddings, jnp.full((), -1, jnp.int32)))
        return learner, learner.finish(fresh)

    def exported(self, state: State) -> dict[str, Any]:
        """See `Learner.exported`: reader and encoders, with what questions are answered with."""
        params, config = self.evaluated(state), self.config
        models = config.retriever.exported(params["retriever"])
        reader = config.reader.exported(params["reader"])
        models |= {} if reader is None else {"reader": reader}
        return models or super().exported(state)

    def corpus_encoder(self, state: State) -> CorpusEncoder:
        """The retriever, with the parameters that questions are answered with."""
        retriever = self.config.retriever
        require(
            retriever.learned,
            f"The run's retriever is {type(retriever).__name__}, which embeds nothing; leave out --run, "
            "or name a run whose retriever is learned.",
        )
        return CorpusEncoder(self.text, retriever, self.evaluated(state), self.config.compute)

    def save(self, run_dir: Path) -> None:
        """Writes tokenizer, corpus and what is known of the data."""
        self.text.save(run_dir)
        self.report.save(run_dir)
