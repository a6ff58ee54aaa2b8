"""What the loop, the commands and a sweep know of what is trained: the seam between them and a learner.

Questions and episodes differ in how a batch comes about (`learners/`); everything else is common. All
state of a run is one `State`, and one step of it is `training.step.make_step`:

    collect   the next questions with the answers drawn to them, or a rollout with its advantages
    loss      of that batch, minimised by one or several updates
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array

from ragjax.errors import UserError
from ragjax.records import Records
from ragjax.types import Leaf, Loss, Params, QaData

# Batches are collected with keys made from fold_in(fold_in(run key, this), step), apart from those of
# losses, fold_in(run key, step).
_COLLECTION = 2**32 - 1


class State(struct.PyTreeNode):
    """All that a checkpoint holds.

    Attributes:
      step: [] steps of the run made so far.
      params: the parameters that are trained.
      opt_state: state of the optax transformation.
      key: PRNG key of the run; it never changes, what a step draws comes from `step_keys`.
      index: `retrieval.corpus.IndexState`, or None of a learner that searches no index.
      carry: where the environments stand, or None.
      extra: what an algorithm or objective keeps beside: parameters of a lagging behaviour policy, of a
        reference or of a target network, a replay buffer; or None.
    """

    step: Leaf
    params: Params
    opt_state: Leaf
    key: Leaf
    index: Leaf = None
    carry: Leaf = None
    extra: Leaf = None

    @property
    def frozen(self) -> Leaf:
        """Parameters of the model that are not trained; None where all are."""
        return None


class StepKeys(NamedTuple):
    """The PRNG keys of one step of a run."""

    loss: Array
    collect: Array
    reset: Array
    shuffle: Array


def step_keys(state: State) -> StepKeys:
    """The keys of the step that starts from `state`: functions of the run's key and the step alone."""
    collection = jax.random.fold_in(jax.random.fold_in(state.key, _COLLECTION), state.step)
    return StepKeys(jax.random.fold_in(state.key, state.step), *jax.random.split(collection, 3))


@dataclass(frozen=True)
class Stage:
    """A stretch of a run whose batches have one shape, hence one compilation.

    Attributes:
      steps: steps of the run.
      epochs: times that each collected batch is gone through.
      minibatches: parts of a batch, each an update; divides its rows.
      shuffle: whether every epoch deals the rows to minibatches anew; for batches whose loss draws
        nothing by row.
      accumulate: micro-batches whose gradients are summed for one update; divides its rows.
      target_kl: mean of the metric `kl` beyond which the rest of a batch's updates is left out; 0 for
        never.
      phase: the learner's own description of the stretch.
    """

    steps: int
    epochs: int = 1
    minibatches: int = 1
    shuffle: bool = False
    accumulate: int = 1
    target_kl: float = 0.0
    phase: Any = None


class Learner:
    """Pure functions of a run's state, and what they are made of; a subclass for each kind of batch.

    `init`, `collect` and `loss` can be traced; arrays that they read are in `data`, an argument, so that
    no corpus is compiled into a program. `hyper` are the scalars that may differ between runs of one
    compiled program. Both are trees of arrays.
    """

    @cached_property
    def compiled(self) -> dict[Any, Callable[..., Any]]:
        """The programs of its steps (`training.program`), which its later runs use again."""
        return {}

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what `save` writes and a loaded run reads; none of it may change afterwards."""
        return ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stretches of a run, in order."""
        raise NotImplementedError

    @property
    def hyper(self) -> dict[str, Array]:
        """The config's traced scalars, which its objective and its optimiser name."""
        raise NotImplementedError

    @property
    def data(self) -> Any:
        """Arrays on the device that training reads."""
        raise NotImplementedError

    @property
    def init_data(self) -> Any:
        """As much of `data` as `init` reads, for runs that are loaded to be used and not trained."""
        return self.data

    @property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The optax transformation; its update takes `hyper` and `step` beside the usual."""
        raise NotImplementedError

    def init(self, key: Array, hyper: dict[str, Array], data: Any) -> State:
        """The state before the first step, of new parameters."""
        raise NotImplementedError

    def state_shapes(self) -> State:
        """The shapes of `init`, for restoring a checkpoint; nothing is computed."""
        return jax.eval_shape(self.init, jax.random.PRNGKey(0), self.hyper, self.init_data)

    def warm_start(self, state: State, seed: int) -> State:
        """Puts the parameters of another run, if the config names one, in place of the new ones."""
        del seed
        return state

    def feed(self, seed: int, step: int) -> Any:
        """What the host gives step `step` (from 0) of the run with this seed; None if nothing."""
        del seed, step
        return None

    @property
    def acts_between_steps(self) -> bool:
        """Whether `between_steps` does anything, which only a run step by step, of one seed, allows."""
        return False

    def between_steps(self, state: State, step: int) -> State:
        """The state that step `step` (from 0) begins with, where the host changes it in between."""
        del step
        return state

    def close(self) -> None:
        """Ends what works beside the steps, once there are no more; raises what went wrong there."""

    @property
    def environments(self) -> int:
        """Environments that it learns in, the rows of what they carry on; 0 if none."""
        return 0

    def counts(self, steps: int) -> dict[str, int]:
        """What the host counts, to be logged with the metrics of the last of `steps` steps."""
        del steps
        return {}

    def collect(
        self, state: State, fed: Any, *, stage: Stage, hyper: dict[str, Array], data: Any
    ) -> tuple[State, Any, dict[str, Any]]:
        """Makes the batch of a step.

        Args:
          state: before the step.
          fed: from `feed`.
          stage: static.
          hyper: traced scalars.
          data: the arrays of `data`.

        Returns:
          The state with what collecting changed (index, carry, extra), a batch whose leaves all lead
          with its rows, and metrics.
        """
        raise NotImplementedError

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
        """The loss of a batch, or of a part of it.

        Args:
          params: differentiated.
          key: of the step.
          batch: rows of what `collect` made.
          stage: static.
          state: after `collect`, without gradient; its parameters are those from before the step.
          hyper: traced scalars.
          data: the arrays of `data`.
        """
        raise NotImplementedError

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """A context in which everything that computes runs; it raises what went wrong on the host."""
        return contextlib.nullcontext()

    def resume(self, state: State) -> tuple[State, list[str]]:
        """The state to continue a run from a checkpoint, and what of it could not be restored."""
        return state, []

    def measure(self, state: State) -> dict[str, Any]:
        """Figures on development data while training, under the names that they are logged by."""
        raise NotImplementedError

    def finish(self, state: State) -> State:
        """The state to keep at the end of a run."""
        return state

    def evaluate(
        self,
        state: State,
        split: str | None = None,
        *,
        episodes: int | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[Records, dict[str, Any]]:
        """Measures a state.

        Args:
          state: of a run, as `finish` gives it.
          split: train, dev or test; None for the one that final figures come from.
          episodes: how many to play; None for what the config says, and for questions.
          progress: told how many records of how many are done.

        Returns:
          The records, and what was measured: the split, the environment.

        Raises:
          UserError: there is no such split, or nothing that has episodes.
        """
        raise NotImplementedError

    def calibrate(self, state: State) -> None:
        """Measures on development data when an answer of this state is sure enough to be given."""
        del state

    def development(
        self, state: State, *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, Any]:
        """Figures to choose by, so that nothing is chosen by the final ones: those of the dev split.

        Args:
          state: of a run, as `finish` gives it.
          progress: told how many records of how many are done.

        Returns:
          The figures of `evaluate` without those by relation, and their `source` in words.
        """
        records, _ = self.evaluate(state, "dev", progress=progress)
        figures = {"source": "the development split"} | records.summary()
        figures.pop("per_relation", None)
        return figures

    def answer(self, state: State, text: str, *, force: bool = False) -> dict[str, Any]:
        """Answers a question.

        Args:
          state: one that `finish` gave.
          text: the question.
          force: whether an answer is given that the run is not sure of.

        Returns:
          {"question", "answer" (None if there is none), "probability", "notes"}, and "passages" that
          were read or the "decisions" that led to it.

        Raises:
          UserError: it can't be read, or this learner answers no questions.
        """
        raise NotImplementedError

    def over(self, state: State, data: QaData) -> tuple["Learner", State]:
        """The same parameters over another corpus.

        Args:
          state: one that `finish` gave.
          data: its passages; questions there need be none.

        Raises:
          UserError: it is too small, or this learner has no corpus.
        """
        del state, data
        raise UserError("--passages is for runs of questions; leave it out for a policy.")

    def exported(self, state: State) -> dict[str, Any]:
        """The `models.pretrained.Pretrained` models that it answers with; refused where none is."""
        del state
        raise UserError("The run has no pretrained model; name a run that began with one.")

    def corpus_encoder(self, state: State) -> Any:
        """A `data.corpus_encoding.CorpusEncoder`: embeds passages and questions as its retriever does.

        Args:
          state: one that `finish` gave.

        Raises:
          UserError: it has no retriever of texts that is learned.
        """
        del state
        raise UserError("--run names a run of a policy; name one of questions, which embed.")

    def save(self, run_dir: Path) -> None:
        """Writes what a run's directory needs beside config and checkpoints to be loaded again."""
        del run_dir

    def origins(self, seed: int) -> dict[str, Any]:
        """The runs that the one of a seed is built on: what each is to it, and `made_from` of it."""
        del seed
        return {}

    def facts(self, state: State, rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        """What result.json says beside figures, time and provenance.

        Args:
          state: the last one.
          rows: of the run's metrics.jsonl.
          seed: of the run, one of several that may have run side by side.
        """
        del state, rows, seed
        return {}

    def notes(self) -> list[str]:
        """What the user should know before training: what is cut or left out, a sentence each."""
        return []

    def first_batch(self) -> list[str]:
        """The first batch of training in words, a line for each example."""
        return []


def stage_at(learner: Learner, step: int) -> Stage:
    """The stage that step number `step` (from 0) belongs to."""
    for stage in learner.stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return learner.stages[-1]


def traced_scalars(values: Mapping[str, float]) -> dict[str, Array]:
    """Numbers of a config as the scalars of `Learner.hyper`."""
    # They outlive a trace in which they are first asked for.
    with jax.ensure_compile_time_eval():
        return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
