"""Learning from questions: retriever and reader, by the marginal over retrieved passages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.config import Config, differing_fields, read_json, to_json
from ragjax.data.batching import EncodedQuestions, stream_rows
from ragjax.data.prepared import PreparedText
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.errors import UserError, require
from ragjax.evaluation.answers import Answers, evaluate_questions, make_answer_function
from ragjax.evaluation.metrics import summarise
from ragjax.models.generator import Generator
from ragjax.models.rag import build_model
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context, Objective
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.base import RetrieverSpec
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.corpus import IndexState
from ragjax.retrieval.fixed import Oracle
from ragjax.run_dir import CONFIG, RESULT, load_run, made_from
from ragjax.tasks.base import SPLITS, Task
from ragjax.training.learner import Learner, Stage, State, step_keys, traced_scalars
from ragjax.training.optimizer import Adam, Optimizer, evaluation_params
from ragjax.types import Loss, Params, QaData, Question, RagBatch

GAIN_QUESTIONS = 128  # of the development sample, answered once more with random passages
ON_DEVICE = 256 * 2**20  # bytes of training questions up to which they live on the device


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one batch shape, hence one compilation.

    Attributes:
      steps: updates.
      batch_size: B, questions an update.
      k: K, passages retrieved for each question.
      candidates: where a learned retriever takes the K passages from: its own `index`, or `bm25`, a
        warm start where the index of an untrained encoder finds too little. It scores them itself
        either way, and evaluation always searches the index.
    """

    steps: int
    batch_size: int = 32
    k: int = 4
    candidates: Literal["index", "bm25"] = "index"

    def __post_init__(self):
        """Checks the fields."""
        for name in ("steps", "batch_size", "k"):
            value = getattr(self, name)
            require(value >= 1, f"phases.{name} is {value}; it must be at least 1.")
        require(
            self.candidates in ("index", "bm25"),
            f"phases.candidates is {self.candidates!r}; choose index or bm25.",
        )


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured.

    Attributes:
      k: passages retrieved for each question.
      batch_size: questions decoded at once.
      every: steps between measurements on the development split while training, the last step
        included; 0 for none.
      questions: development questions measured while training; the final figures use whole splits.
    """

    k: int = 8
    batch_size: int = 64
    every: int = 100
    questions: int = 128

    def __post_init__(self):
        """Checks the fields."""
        for name in ("k", "batch_size", "questions"):
            value = getattr(self, name)
            require(value >= 1, f"evaluation.{name} is {value}; it must be at least 1.")
        require(self.every >= 0, f"evaluation.every is {self.every}; it must not be negative.")


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(Config):
    """One experiment in retrieval-augmented generation.

    Attributes:
      task: corpus and questions.
      tokenizer: how text becomes arrays.
      retriever: where passages come from, and p(d|x).
      generator: the reader.
      objective: the loss and its decoder.
      phases: stretches of training, in order.
      evaluation: how the model is measured.
      compute: dtype of the computation; parameters and sums are always float32.
      start: the directory of a finished run whose parameters training starts from, with "{seed}" in the
        place of the seed; it has the same task, tokenizer and model. "" starts from new parameters.
    """

    records: ClassVar[type[Answers]] = Answers

    task: Task
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    retriever: RetrieverSpec = field(default_factory=Dense)
    generator: Generator = field(default_factory=Generator)
    objective: Objective = field(default_factory=RagSequence)
    optimizer: Optimizer = field(default_factory=Adam)
    phases: tuple[Phase, ...] = (Phase(steps=400),)
    evaluation: Evaluation = field(default_factory=Evaluation)
    compute: Literal["float32", "bfloat16"] = "float32"
    start: str = ""

    def __post_init__(self):
        """Checks what single components can't."""
        super().__post_init__()
        require(len(self.phases) > 0, "phases is empty; training needs at least one phase.")
        for number, phase in enumerate(self.phases):
            require(
                phase.batch_size % self.optimizer.accumulate == 0,
                f"phases.{number}.batch_size is {phase.batch_size}, which optimizer.accumulate "
                f"{self.optimizer.accumulate} does not divide; choose a multiple of it.",
            )
        require(
            self.retriever.learned or self.objective.normalised_over == "retrieved",
            f"The objective's documents is {self.objective.normalised_over!r}, but a fixed retriever "
            "has scores for the passages it returns only; choose retrieved.",
        )
        require(
            self.retriever.scores_all or self.objective.normalised_over != "index",
            "The objective's documents is 'index', but retriever.index does not score every passage; "
            "use an index that does, such as Exact, or choose in_batch.",
        )
        require(
            self.retriever.learned or all(phase.candidates == "index" for phase in self.phases),
            "phases.candidates is 'bm25', but a fixed retriever brings its own passages; use index.",
        )
        require(
            self.compute in ("float32", "bfloat16"),
            f"compute is {self.compute!r}; choose float32 or bfloat16.",
        )

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    @property
    def evaluate_every(self) -> int:
        """Steps between measurements."""
        return self.evaluation.every

    @property
    def subject(self) -> str:
        """Name of the task."""
        return self.task.name

    def start_dir(self, seed: int) -> Path:
        """The directory that `start` names for a seed."""
        return Path(self.start.replace("{seed}", str(seed)))

    def create(self) -> "QuestionsLearner":
        """Prepares the task's text for a new run."""
        if self.start:
            for seed in self.seeds:
                _require_start(self, seed)  # before anything is made
        data = self.task.load()
        for split in SPLITS:
            require(
                len(data.splits.get(split, ())) > 0,
                f"Task {self.task.name} has no {split} questions; generate at least one.",
            )
        self.check_depths(len(data.passages))
        return QuestionsLearner(self, PreparedText.make(self.tokenizer, data), data)

    def load(self, run_dir: Path) -> "QuestionsLearner":
        """Reads the text that a run prepared; its task's questions are made when they are needed."""
        return QuestionsLearner(self, PreparedText.load(self.tokenizer, run_dir), origin=run_dir)

    def check_depths(self, passages: int) -> None:
        """Checks that the corpus has as many passages as are to be retrieved.

        Raises:
          UserError: names the field that asks for too many.
        """
        depths = {f"phases.{number}.k": phase.k for number, phase in enumerate(self.phases)}
        for name, k in (depths | {"evaluation.k": self.evaluation.k}).items():
            require(
                k <= passages,
                f"{name} is {k}, but the corpus of task {self.task.name} has {passages} passages; "
                "choose at most that many.",
            )


class QuestionsLearner(Learner):
    """A retriever and a reader that learn from a task's questions.

    Attributes:
      config: the config.
      text: tokenizer and corpus.
      corpus: [N,P] passage tokens on the device.
      vocabulary: token statistics on the device.
      model: the model's pure functions.
    """

    def __init__(
        self,
        config: QuestionsConfig,
        text: PreparedText,
        task: QaData | None = None,
        origin: Path | None = None,
    ):
        """Builds the model's functions.

        Args:
          config: the config.
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
            config.generator,
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
    def training_questions(self) -> dict[str, EncodedQuestions]:
        """The training split, with the passages that each kind of candidates needs."""
        require(
            self.text.corpus.passages == self.task.passages,
            f"The passages of {self.origin} are not those that task "
            f"{self.config.task.name} makes now; install the package versions named in its result or "
            "train into a new --run-dir.",
        )
        deepest = max(phase.k for phase in self.config.phases)
        return {
            source: self.encode(
                self.task.splits["train"], deepest, BM25() if source == "bm25" else None
            )
            for source in {phase.candidates for phase in self.config.phases}
        }

    @cached_property
    def on_device(self) -> bool:
        """Whether training questions live on the device, so that rows alone are fed."""
        arrays = [encoded.arrays for encoded in self.training_questions.values()]
        return sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) <= ON_DEVICE

    @cached_property
    def data(self) -> dict[str, Any]:
        """The corpus, and the training questions if they live on the device."""
        questions = {}
        if self.on_device:
            with jax.ensure_compile_time_eval():
                questions = {
                    source: jax.tree.map(jnp.asarray, encoded.arrays)
                    for source, encoded in self.training_questions.items()
                }
        return {"corpus": self.corpus, "questions": questions}

    @property
    def init_data(self) -> None:
        """Nothing: new parameters depend on shapes alone."""
        return None

    def encode(
        self, questions: Sequence[Question], k: int, retriever: RetrieverSpec | None = None
    ) -> EncodedQuestions:
        """Tokenises questions and looks up K passages each if the retriever is a fixed one.

        Args:
          questions: M questions.
          k: K.
          retriever: the config's if None.
        """
        return self.text.encode(questions, retriever or self.config.retriever, k)

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
        _require_start(config, seed)
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
        """The rows of the step's questions, or the questions themselves where they live on the host."""
        position, phase = 0, self.config.phases[-1]
        for phase in self.config.phases:
            if step < phase.steps:
                break
            position, step = position + phase.steps * phase.batch_size, step - phase.steps
        encoded = self.training_questions[phase.candidates]
        position += step * phase.batch_size
        rows = stream_rows(seed, position, phase.batch_size, len(encoded.questions))
        return rows.astype(np.int32) if self.on_device else encoded.rows(rows)

    def searches(self, phase: Phase) -> bool:
        """Whether the phase takes passages from an index that ages."""
        return (
            self.config.retriever.learned
            and self.config.objective.normalised_over != "index"
            and phase.candidates == "index"
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
            batch = jax.tree.map(lambda leaf: leaf[fed], data["questions"][phase.candidates])
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
    def _answer(self):
        return self._answer_function()

    @cached_property
    def _answer_one(self):
        """The same for single questions: compiling takes longer than answering them."""
        return self._answer_function(quickly_compiled=True)

    def _answer_function(self, *, quickly_compiled: bool = False):
        config = self.config
        return make_answer_function(
            config.objective,
            self.context(config.evaluation.k),
            length=config.tokenizer.answer_length,
            quickly_compiled=quickly_compiled,
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
        return self.encode(sample, self.config.evaluation.k)

    @cached_property
    def _gain_questions(self) -> EncodedQuestions:
        """Those of the sample that are answered with random passages, too."""
        first = self._development.questions[:GAIN_QUESTIONS]
        return self.encode(first, self.config.evaluation.k)

    def finish(self, state: State) -> State:
        """The state with an index of its own evaluation parameters, made anew if it has an older one."""
        if not self.config.retriever.learned or state.index.built_at_step == state.step:
            return state
        params = evaluation_params(state.params, state.opt_state)
        return state.replace(index=IndexState(self._embed(params, self.corpus), state.step))

    def measure(self, state: State) -> dict[str, float]:
        """Figures of the development sample, under `dev/`."""
        state = self.finish(state)
        answered = self._answers(state, self._development)
        summary = summarise(answered)
        if self.config.retriever.learned:
            blind = summarise(self._answers(state, self._gain_questions, blind=True))["em"]
            summary["retrieval_gain"] = summarise(answered[:GAIN_QUESTIONS])["em"] - blind
        return {
            f"dev/{name}": summary[name]
            for name in ("em", "f1", "recall@1", "recall@5", "retrieval_gain")
            if summary.get(name) is not None
        }

    def _answers(
        self,
        state: State,
        encoded: EncodedQuestions,
        progress: Callable[[int], None] = lambda done: None,
        *,
        blind: bool = False,
    ) -> list[dict[str, Any]]:
        """One record a question; `blind` exchanges the passages of a learned retriever at random."""
        params, embeddings = (
            evaluation_params(state.params, state.opt_state),
            state.index.embeddings,
        )
        if blind:
            order = np.random.default_rng(0).permutation(len(self.corpus))
            embeddings = self._embed(params, self.corpus[order])
        return evaluate_questions(
            self._answer,
            params,
            self.text,
            self.corpus,
            embeddings,
            encoded,
            self.config.evaluation.batch_size,
            progress,
        )

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
        encoded = self.encode(questions, self.config.evaluation.k)
        records = self._answers(
            self.finish(state), encoded, lambda done: progress(done, len(questions))
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
            not isinstance(self.config.retriever, Oracle),
            "This run reads the gold passage of each question (retriever Oracle), which a question of "
            "your own does not have; ask a run with another retriever.",
        )
        question = Question("asked", text, ("",), (), "", "")
        encoded = self.encode((question,), self.config.evaluation.k)
        state = self.finish(state)
        params = evaluation_params(state.params, state.opt_state)
        topk, log_prior, decoded = jax.device_get(
            self._answer_one(params, encoded.arrays, self.corpus, state.index.embeddings)
        )
        hits = np.flatnonzero(topk.valid[0] & (topk.ids[0] >= 0))
        passages = [
            vars(self.text.corpus.passages[topk.ids[0, hit]])
            | {
                "prior": float(np.exp(log_prior[0, hit])),
                "posterior": float(np.exp(decoded.log_posterior[0, hit])),
            }
            for hit in hits
        ]
        return {
            "question": text,
            "answer": self.text.tokenizer.decode(decoded.tokens[0]),
            "probability": float(np.exp(decoded.log_prob[0])),
            "passages": sorted(passages, key=lambda passage: -passage["posterior"]),
            "notes": notes,
        }

    # The run's directory and its result

    def save(self, run_dir: Path) -> None:
        """Writes tokenizer and corpus."""
        self.text.save(run_dir)

    def facts(self, state: State, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """When the index was built, the run that this one started from, and the rewards drawn."""
        found: dict[str, Any] = {"index_built_at_step": int(state.index.built_at_step)}
        if self.config.start:
            found["start"] = made_from(self.config.start_dir(self.config.seed))
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
        encoded = self.training_questions[self.config.phases[0].candidates]
        rows = stream_rows(
            self.config.seed, 0, self.config.phases[0].batch_size, len(encoded.questions)
        )
        questions = [encoded.questions[row] for row in rows]
        return [f"{q.question} -> {' | '.join(q.answers)}" for q in questions]


# What decides the shapes and the meaning of parameters.
def _model_fields(config: QuestionsConfig) -> dict[str, Any]:
    fields = {name: to_json(getattr(config, name)) for name in ("task", "tokenizer", "generator")}
    weights = {name: to_json(value) for name, value in config.retriever.weights.items()}
    return fields | {"retriever": weights}


def _require_start(config: QuestionsConfig, seed: int) -> None:
    """Checks the run that `config.start` names for a seed.

    Raises:
      UserError: that run is missing or not finished, or is one of another model.
    """
    directory = config.start_dir(seed)
    require(
        (directory / RESULT).is_file(),
        f"start is {config.start!r}, but {directory} holds no finished run; train it first or name one.",
    )
    theirs = read_json(directory / CONFIG)
    if not isinstance(theirs, QuestionsConfig):
        raise UserError(f"start is {config.start!r}, which is no run of a reader.")
    differing = differing_fields(_model_fields(theirs), _model_fields(config))
    require(
        not differing,
        f"start is {config.start!r}, but that run differs in {', '.join(differing)}; give the same "
        "values or another start.",
    )
