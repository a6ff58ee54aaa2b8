"""A retriever and a reader that learn from questions: the life of a batch, measuring and answering."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.data.batching import EncodedQuestions
from ragjax.data.prepared import PreparedText
from ragjax.data.stream import Phase as Phase
from ragjax.data.stream import QuestionStream
from ragjax.errors import require
from ragjax.evaluation.answers import Answerer, Answers
from ragjax.evaluation.metrics import summarise
from ragjax.learners.start import require_start
from ragjax.models.rag import build_model
from ragjax.objectives.base import Context
from ragjax.retrieval.corpus import IndexState
from ragjax.run_dir import load_run, made_from
from ragjax.training.learner import Learner, Stage, State, step_keys, traced_scalars
from ragjax.training.optimizer import evaluation_params
from ragjax.types import Loss, Params, QaData, Question, RagBatch

GAIN_QUESTIONS = 128  # of the development sample, answered once more with random passages


class QuestionsLearner(Learner):
    """A retriever and a reader that learn from a task's questions.

    Attributes:
      config: the `questions.QuestionsConfig`.
      text: tokenizer and corpus.
      corpus: [N,P] passage tokens on the device.
      vocabulary: token statistics on the device.
      model: the model's pure functions.
    """

    def __init__(
        self,
        config: Any,
        text: PreparedText,
        task: QaData | None = None,
        origin: Path | None = None,
    ):
        """Builds the model's functions.

        Args:
          config: a `questions.QuestionsConfig`.
          text: what was made of the task's text.
          task: the task's data, loaded when it is needed if None.
          origin: the run's directory that the text was read from, for messages.
        """
        self.config, self.text, self.origin = config, text, origin
        if task is not None:
            self.task = task
        self.corpus = jnp.asarray(text.corpus.tokens)
        self.vocabulary = jax.tree.map(jnp.asarray, text.corpus.vocabulary)
        self.model = build_model(
            config.retriever,
            config.reader,
            self.vocabulary,
            critic=config.objective.critic,
            dtype=jnp.dtype(config.compute),
        )

    # What a run is made of

    @cached_property
    def task(self) -> QaData:
        """The task's passages and questions."""
        return self.config.task.load()

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """A stage for each phase."""
        updates, accumulate = self.config.objective.updates, self.config.optimizer.accumulate
        return tuple(
            Stage(phase.steps, epochs=updates, accumulate=accumulate, phase=phase)
            for phase in self.config.phases
        )

    @cached_property
    def hyper(self) -> dict[str, Array]:
        """The optimiser's peak rates."""
        return traced_scalars(self.config.optimizer.hyper())

    @cached_property
    def optimizer(self):
        """The optax transformation."""
        groups = list(jax.eval_shape(self.model.init, jax.random.PRNGKey(0)))
        steps = self.config.steps
        return self.config.optimizer.build(groups, steps, steps * self.config.objective.updates)

    @cached_property
    def stream(self) -> QuestionStream:
        """The training questions.

        Raises:
          UserError: the task makes other passages now than the run has.
        """
        require(
            self.text.corpus.passages == self.task.passages,
            f"The passages of {self.origin} are not those that task "
            f"{self.config.task.name} makes now; install the package versions named in its result or "
            "train into a new --run-dir.",
        )
        config = self.config
        questions = self.task.splits["train"]
        return QuestionStream(self.text, questions, config.phases, config.retriever)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The corpus, and the training questions if they live on the device."""
        return {"corpus": self.corpus, "questions": self.stream.arrays}

    @property
    def init_data(self) -> None:
        """Nothing: new parameters depend on shapes alone."""
        return None

    def encode(self, questions: Sequence[Question]) -> EncodedQuestions:
        """Tokenises questions to be answered; a fixed retriever is looked up."""
        config = self.config
        return self.text.encode(questions, config.retriever, config.evaluation.k)

    # The life of a batch

    def init(self, key: Array, hyper: dict[str, Array], data: Any) -> State:
        """The state before the first step, of new parameters."""
        del hyper, data
        init_key, run_key = jax.random.split(key)
        params = self.model.init(init_key)
        shapes = jax.eval_shape(self.model.retriever.index, params, self.text.corpus.tokens)
        embeddings = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        index = IndexState(embeddings, jnp.full((), -1, jnp.int32))
        return self._begun(params, run_key, index)

    def _begun(self, params: Params, key: Array, index: IndexState) -> State:
        """A state before the first step, with its reference where the objective needs one."""
        reference = None
        if self.config.objective.needs_reference:
            reference = jax.tree.map(jnp.copy, params)  # those that are trained are donated
        zero = jnp.zeros((), jnp.int32)
        return State(zero, params, self.optimizer.init(params), key, index, extra=reference)

    def warm_start(self, state: State, seed: int) -> State:
        """Begins with the parameters of the run `config.start`.

        Raises:
          UserError: that run does not fit, or its passages are others.
        """
        config = self.config
        if not config.start:
            return state
        require_start(config, seed)
        run = load_run(config.start_dir(seed))
        other: QuestionsLearner = run.learner  # pyright: ignore[reportAssignmentType]
        require(
            other.text.corpus.passages == self.text.corpus.passages
            and np.array_equal(other.text.corpus.tokens, self.text.corpus.tokens),
            f"start is {config.start!r}, but its passages are not those that task "
            f"{config.task.name} makes now; train it again.",
        )
        trained = evaluation_params(run.state.params, run.state.opt_state)
        # A critic starts anew: theirs may be of another reward, or there may be none.
        params = state.params | {name: trained[name] for name in ("retriever", "reader")}
        return self._begun(params, state.key, state.index)

    def feed(self, seed: int, step: int) -> Any:
        """The step's questions, see `QuestionStream.feed`."""
        return self.stream.feed(seed, step)

    def searches(self, phase: Phase) -> bool:
        """Whether the phase takes passages from an index that ages."""
        return (
            self.config.retriever.learned
            and self.config.objective.normalised_over != "index"
            and phase.candidates is None
        )

    def collect(
        self, state: State, fed: Any, *, stage: Stage, hyper: dict[str, Array], data: Any
    ) -> tuple[State, Any, dict[str, Array]]:
        """Picks the questions, refreshes an index that is due, and draws answers to be learned from."""
        del hyper
        phase, objective = stage.phase, self.config.objective
        metrics, index = {}, state.index
        if self.searches(phase):
            retriever: Any = self.config.retriever  # a learned one
            due = (index.built_at_step < 0) | (
                state.step - index.built_at_step >= retriever.refresh_every
            )
            embeddings = jax.lax.cond(
                due,
                lambda: self.model.retriever.index(state.params, data["corpus"]),
                lambda: index.embeddings,
            )
            index = IndexState(embeddings, jnp.where(due, state.step, index.built_at_step))
            metrics["index_age"] = state.step - index.built_at_step
        state = state.replace(index=index)
        batch = fed
        if not isinstance(fed, RagBatch):
            questions = data["questions"][self.stream.source(phase)]
            batch = jax.tree.map(lambda leaf: leaf[fed], questions)
        samples = None
        if objective.updates > 1:
            batch, samples = objective.sample(
                self.context(phase.k),
                state.params,
                step_keys(state).loss,
                batch,
                corpus=data["corpus"],
                index=index.embeddings,
            )
        return state, (batch, samples), metrics

    def loss(
        self,
        params: Params,
        key: Array,
        batch: Any,
        *,
        stage: Stage,
        state: State,
        hyper: dict[str, Array],
        data: Any,
    ) -> Loss:
        """The objective's loss."""
        del hyper
        questions, samples = batch
        return self.config.objective.loss(
            self.context(stage.phase.k),
            params,
            key,
            questions,
            corpus=data["corpus"],
            index=state.index.embeddings,
            samples=samples,
            reference=state.extra,
        )

    def context(self, k: int) -> Context:
        """The composed model, for its objective; a retriever may have fewer than K passages to give."""
        retriever = self.config.retriever
        return Context(self.model, self.vocabulary, retriever, retriever.passages_per_question(k))

    # Measuring and answering

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
        questions = self.task.splits["dev"]
        order = np.random.default_rng(0).permutation(len(questions))
        sample = [questions[row] for row in order[: self.config.evaluation.questions]]
        return self.encode(sample)

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
        params = evaluation_params(state.params, state.opt_state)
        return state.replace(index=IndexState(self._embed(params, self.corpus), state.step))

    def measure(self, state: State) -> dict[str, float]:
        """Figures of the development sample, under `dev/`."""
        state = self.finish(state)
        answered = self._records(state, self._development)
        summary = summarise(answered)
        if self.config.retriever.learned:
            blind = self._records(state, self._gain_questions, corpus=self._exchanged)
            summary["retrieval_gain"] = (
                summarise(answered[:GAIN_QUESTIONS])["em"] - summarise(blind)["em"]
            )
        # Without gold passages, how often a passage holds an answer says what is found.
        found = "recall" if summary["gold_questions"] else "has_answer"
        return {
            f"dev/{name}": summary[name]
            for name in ("em", "f1", f"{found}@1", f"{found}@5", "retrieval_gain")
            if summary.get(name) is not None
        }

    def _records(
        self, state: State, encoded: EncodedQuestions, **options: Any
    ) -> list[dict[str, Any]]:
        """One record a question, see `Answerer.records`, of a state that `finish` gave."""
        params = evaluation_params(state.params, state.opt_state)
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
        questions = splits[split]
        records = self._records(
            self.finish(state),
            self.encode(questions),
            progress=lambda done: progress(done, len(questions)),
        )
        return Answers(records), {"split": split}

    def answer(self, state: State, text: str) -> dict[str, Any]:
        """Answers one question; at most `tokenizer.question_length` tokens are read.

        Returns:
          {"question", "answer", "probability", "passages": [{"id", "title", "text", "prior",
          "posterior"}], "notes": what was left out}, the passages in the order of their posterior.
        """
        text, notes = self.text.check_question(text)
        require(
            not self.config.retriever.needs_gold,
            "This run reads the gold passage of each question "
            f"(retriever {type(self.config.retriever).__name__}), which a question of your own does "
            "not have; ask a run with another retriever.",
        )
        encoded = self.encode((Question("asked", text, ("",), (), "", ""),))
        state = self.finish(state)
        params = evaluation_params(state.params, state.opt_state)
        told = self.answerer.answer_text(params, state.index.embeddings, encoded)
        return {"question": text} | told | {"notes": notes}

    # The run's directory and its result

    def save(self, run_dir: Path) -> None:
        """Writes tokenizer and corpus."""
        self.text.save(run_dir)

    def facts(self, state: State, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        """When the index was built, the run that this one started from, and the rewards drawn."""
        found: dict[str, Any] = {"index_built_at_step": int(state.index.built_at_step)}
        if self.config.start:
            found["start"] = made_from(self.config.start_dir(seed))
        drawn = [row for row in rows if "reward" in row]
        if drawn:
            found["curve"] = {name: [row[name] for row in drawn] for name in ("step", "reward")}
        return found

    def notes(self) -> list[str]:
        """How many passages are longer than what is read of them."""
        corpus, length = self.text.corpus, self.config.tokenizer.passage_length
        if not corpus.cut:
            return []
        return [
            f"{corpus.cut} of {len(corpus.passages)} passages are cut to their first {length} tokens "
            "(tokenizer.passage_length)"
        ]

    def first_batch(self) -> list[str]:
        """Questions and accepted answers of the first step."""
        return self.stream.in_words(self.config.seed, 0)
