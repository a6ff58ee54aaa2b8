"""A retriever and a reader that learn from questions: the life of a batch."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.data.stream import Dealt, QuestionStream
from ragjax.data.stream import Phase as Phase
from ragjax.errors import require
from ragjax.learners.abstention import calibration_json
from ragjax.learners.question_answerer import QuestionsAnswerer
from ragjax.learners.start import require_start
from ragjax.models.adapters import Split
from ragjax.origin import made_from
from ragjax.retrieval.corpus import IndexState
from ragjax.retrieval.refresh import BackgroundRefresh
from ragjax.run_dir import load_run, parameter_counts
from ragjax.training.learner import Stage, State, stage_at, step_keys, traced_scalars
from ragjax.types import Leaf, Loss, Params, RagBatch

# What a run adds to its model is drawn with the key of a step that no run has.
_ADDED = 2**32 - 2

# Of what result.json keeps the course of a run: rewards of drawn answers, health, development figures.
_CURVES = {
    "curve": ("reward",),
    "health": ("effective_passages", "hub_share"),
    "measured": ("dev/em", "dev/recall@5"),
}


class PartialState(State):
    """The state of a run that trains a part of its model's parameters.

    A class of its own, so that checkpoints of other runs have no field for it.

    Attributes:
      frozen: the parameters that are not trained.
    """

    frozen: Leaf = None  # pyright: ignore[reportIncompatibleMethodOverride]


class QuestionsLearner(QuestionsAnswerer):
    """A retriever and a reader that learn from a task's questions."""

    # What a run is made of

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """A stage for each phase."""
        updates, accumulate = self.config.objective.updates, self.config.optimizer.accumulate
        return tuple(
            Stage(phase.steps, epochs=updates, accumulate=accumulate, phase=phase)
            for phase in self.config.phases
        )

    @cached_property
    def _starts(self) -> dict[int, dict[str, Any]]:
        """Seed -> what `made_from` says of the run that it started from."""
        return {}

    @cached_property
    def hyper(self) -> dict[str, Array]:
        """The optimiser's peak rates."""
        return traced_scalars(self.config.hyper())

    @cached_property
    def optimizer(self):
        """The optax transformation."""
        groups = list(self._shapes.moved)
        return self.config.optimizer.build(groups, self.config.steps, self.config.updates)

    @cached_property
    def _shapes(self) -> Split:
        """The shapes of the parameters that are trained, and of the others."""

        def split(key):
            return self.config.trained.split(self.model.init(key), key, self.config.retriever)

        return jax.eval_shape(split, jax.random.PRNGKey(0))

    @cached_property
    def stream(self) -> QuestionStream:
        """The training questions."""
        config = self.config
        questions = self.task.splits["train"]
        return QuestionStream(self.text, questions, config.phases, config.retriever, config.labels)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The corpus, and the training questions if they live on the device."""
        questions = self.stream.arrays if self.config.phases else ()
        return {"corpus": self.corpus, "questions": questions}

    @property
    def init_data(self) -> None:
        """Nothing: new parameters depend on shapes alone."""
        return None

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
        """A state before the first step, with its reference where the objective needs one.

        The reference is that of the trained parameters; it shares the others.
        """
        config = self.config
        moved, frozen = config.trained.split(
            params, jax.random.fold_in(key, _ADDED), config.retriever
        )
        reference = None
        if config.objective.needs_reference:
            reference = jax.tree.map(jnp.copy, moved)  # those that are trained are donated
        zero, opt_state = jnp.zeros((), jnp.int32), self.optimizer.init(moved)
        if frozen is None:
            return State(zero, moved, opt_state, key, index, extra=reference)
        return PartialState(zero, moved, opt_state, key, index, extra=reference, frozen=frozen)

    def warm_start(self, state: State, seed: int) -> State:
        """Begins with the parameters of the run `config.start`, or with pretrained ones, if there are.

        Raises:
          UserError: that run does not fit, or its passages are others.
        """
        config = self.config
        if not config.start:
            retriever, reader = config.retriever.pretrained(), config.reader.pretrained()
            if not retriever and reader is None:
                return state
            params = self.whole(state)
            params = params | {"retriever": params["retriever"] | retriever}
            params |= {} if reader is None else {"reader": reader}
            return self._begun(params, state.key, state.index)
        require_start(config, seed)
        run = load_run(config.start_dir(seed))
        other: QuestionsLearner = run.learner  # pyright: ignore[reportAssignmentType]
        require(
            other.text.corpus.passages == self.text.corpus.passages
            and np.array_equal(other.text.corpus.tokens, self.text.corpus.tokens),
            f"start is {config.start!r}, but its passages are not those that task "
            f"{config.task.name} makes now; train it again.",
        )
        trained = other.evaluated(run.state)  # whole: adapters of theirs are merged
        self._starts[seed] = made_from(config.start_dir(seed), trained)
        # A critic starts anew: theirs may be of another reward, or there may be none.
        params = self.whole(state) | {name: trained[name] for name in ("retriever", "reader")}
        return self._begun(params, state.key, state.index)

    def feed(self, seed: int, step: int) -> Any:
        """The step's questions, see `QuestionStream.feed`."""
        return self.stream.feed(seed, step)

    @cached_property
    def _background(self) -> BackgroundRefresh | None:
        """What makes the index beside the training, where the retriever wants that."""
        every = self.config.refresh_every_beside
        return BackgroundRefresh(self._make_beside, every) if every else None

    def _make_beside(self, params: Split, corpus: Array) -> Any:
        """An index that a step can search at once."""
        whole = self.config.trained.merged(*params)
        index = jax.block_until_ready(self._embed(whole, corpus))
        self.config.retriever.prepare(index)
        return index

    @property
    def acts_between_steps(self) -> bool:
        """Whether the index is made beside the training."""
        return self._background is not None

    def between_steps(self, state: State, step: int) -> State:
        """Swaps in an index that was made beside the training, and begins the next.

        Steps that search nothing let the index age: the first one after them makes it anew itself.
        """
        searches = self.config.searches
        if self._background is None or not searches(stage_at(self, step).phase):
            return state
        index = state.index
        if step > 0 and not searches(stage_at(self, step - 1).phase):
            index = index.replace(built_at_step=jnp.full((), -1, jnp.int32))
        both = state.params, state.frozen or {}
        params = Split(*({"retriever": each.get("retriever", {})} for each in both))
        return state.replace(index=self._background.between_steps(params, self.corpus, index, step))

    def close(self) -> None:
        """Ends the making of an index beside the training."""
        if self._background is not None:
            self._background.close()

    def collect(
        self, state: State, fed: Any, *, stage: Stage, hyper: dict[str, Array], data: Any
    ) -> tuple[State, Any, dict[str, Array]]:
        """Picks the questions, refreshes an index that is due, and draws answers to be learned from."""
        del hyper
        phase, objective = stage.phase, self.config.objective
        metrics, index = {}, state.index
        if self.config.searches(phase):
            due = index.built_at_step < 0
            if every := self.config.retriever.refresh_every_in_step:
                due = due | (state.step - index.built_at_step >= every)
            embeddings = jax.lax.cond(
                due,
                lambda: self.model.retriever.index(self.whole(state), data["corpus"]),
                lambda: index.embeddings,
            )
            index = IndexState(embeddings, jnp.where(due, state.step, index.built_at_step))
            metrics["index_age"] = state.step - index.built_at_step
        state = state.replace(index=index)
        batch = fed
        if not isinstance(fed, RagBatch):
            questions = data["questions"][self.stream.source(phase)]
            rows, label_weight = fed if isinstance(fed, Dealt) else (fed, None)
            batch = jax.tree.map(lambda leaf: leaf[rows], questions)
            batch = batch.replace(label_weight=label_weight)
        samples = None
        if objective.updates > 1:
            batch, samples = objective.sample(
                self.context(phase.k),
                self.whole(state),
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
        (questions, samples), trained = batch, self.config.trained
        reference = None if state.extra is None else trained.merged(state.extra, state.frozen)
        return self.config.objective.loss(
            self.context(stage.phase.k),
            trained.merged(params, state.frozen),
            key,
            questions,
            corpus=data["corpus"],
            index=state.index.embeddings,
            samples=samples,
            reference=reference,
        )

    # The run's directory and its result

    def origins(self, seed: int) -> dict[str, Any]:
        """The run that `warm_start` began with."""
        return {"start": self._starts[seed]} if seed in self._starts else {}

    def facts(self, state: State, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        """When the index was built, how well it held, the data, what was calibrated, and its course.

        `frozen` counts the parameters that are not trained, of a run that trains a part of its model.
        `index_recall` is the mean of the measurements while training, see `QuestionsAnswerer.measure`.
        """
        del seed
        found: dict[str, Any] = {
            "index_built_at_step": int(state.index.built_at_step),
            "data": self.report.to_json(),
            **({} if state.frozen is None else {"frozen": parameter_counts(state.frozen)}),
            "calibration": calibration_json(self.calibration),
        }
        if not self.config.labels.complete:
            found["labelled"] = self.config.labels.count(self.report.splits["train"].questions)
        shares = [row["dev/index_recall"] for row in rows if "dev/index_recall" in row]
        if shares:
            found["index_recall"] = sum(shares) / len(shares)
        for title, names in _CURVES.items():
            kept = [row for row in rows if all(name in row for name in names)]
            if kept:
                found[title] = {name: [row[name] for row in kept] for name in ("step", *names)}
        return found

    def notes(self) -> list[str]:
        """What of the data is left out or not read, and whether a run can be repeated to the bit."""
        notes, labels = self.report.sentences(), self.config.labels
        questions = self.report.splits["train"].questions
        if not labels.complete:
            notes.append(
                f"labelled {labels.count(questions):,} of {questions:,} train questions; the others "
                "tell whether a given answer is right"
            )
        for number, phase in enumerate(self.config.phases):
            if phase.batch_size > questions:
                notes.append(
                    f"phases.{number}.batch_size is {phase.batch_size}, but there are {questions} train "
                    "questions, so that a batch holds some of them more than once"
                )
        if self._background:
            notes.append(
                "the index is refreshed beside the training: no two runs are equal to the bit"
            )
        if self._shapes.frozen is not None:
            moved, frozen = (sum(parameter_counts(each).values()) for each in self._shapes)
            notes.append(f"{moved:,} parameters are trained, and {frozen:,} stay as they are")
        return notes

    def first_batch(self) -> list[str]:
        """Questions and accepted answers of the first step."""
        return self.stream.in_words(self.config.seed, 0)
