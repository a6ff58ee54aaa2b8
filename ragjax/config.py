"""The configuration of an experiment: frozen dataclasses, in Python files and as JSON.

A config file is a Python file with `get_config()`, which returns a `Config` (or, for a policy, a
`ragjax.policy_config.PolicyConfig`). Each field that names a component holds that component's spec, an
instance of a class; there is no registry and nothing is looked up by name.
"""

import dataclasses
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.errors import UserError, require
from ragjax.files import load_function
from ragjax.models.encoder import BagEncoder, TransformerEncoder
from ragjax.models.generator import Generator
from ragjax.models.scorer import Scorer
from ragjax.objectives.likelihood import Likelihood, RagSequence
from ragjax.retrieval.base import Retriever
from ragjax.retrieval.dense import Dense
from ragjax.tasks.base import Task
from ragjax.training.optimizer import Adam


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
      every: steps between measurements on the development split while training; 0 for none.
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
class RunConfig:
    """What the configs of all runs share.

    Attributes:
      seed: of parameters, order of the data, renaming, environments and actions.
      log_every: steps between two rows of metrics.
      checkpoint_every: steps between checkpoints; one is also written at the end.
    """

    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self):
        """Checks the fields."""
        require(self.seed >= 0, f"seed is {self.seed}; it must not be negative.")
        for name in ("log_every", "checkpoint_every"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}; it must be at least 1 step.")

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """Name of what is learned; it names the directory of runs."""
        raise NotImplementedError

    @property
    def run_name(self) -> str:
        """Name of the run's own directory, unless another is given."""
        return f"seed_{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """One experiment in retrieval-augmented generation.

    Attributes:
      task: corpus and questions.
      tokenizer: how text becomes arrays.
      encoder: the retriever's encoder.
      retriever: where passages come from.
      scorer: how scores become p(d|x).
      generator: the reader.
      objective: the loss and its decoder.
      optimizer: the optimiser.
      phases: stretches of training, in order.
      evaluation: how the model is measured.
      compute: dtype of the computation; parameters and sums are always float32.
      start: the directory of a finished run whose parameters training starts from, with "{seed}" in the
        place of the seed; it has the same task, tokenizer and model. "" starts from new parameters.
    """

    task: Task
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    encoder: BagEncoder | TransformerEncoder = field(default_factory=BagEncoder)
    retriever: Retriever = field(default_factory=Dense)
    scorer: Scorer = field(default_factory=Scorer)
    generator: Generator = field(default_factory=Generator)
    objective: Likelihood = field(default_factory=RagSequence)
    optimizer: Adam = field(default_factory=Adam)
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
            self.retriever.learned or self.objective.documents == "retrieved",
            f"objective.documents is {self.objective.documents!r}, but a fixed retriever has scores "
            "for the passages it returns only; use objective.documents retrieved.",
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
        """Updates of all phases together."""
        return sum(phase.steps for phase in self.phases)

    @property
    def subject(self) -> str:
        """Name of the task."""
        return self.task.name

    @property
    def start_dir(self) -> Path:
        """The directory that `start` names for this seed."""
        return Path(self.start.replace("{seed}", str(self.seed)))

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the computation."""
        return jnp.dtype(self.compute)

    def phase_at(self, step: int) -> Phase:
        """The phase that update number `step` (from 0) belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


def to_json(value: Any) -> Any:
    """A spec as plain JSON values; every dataclass carries its import path under "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {
            item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
        return {"type": f"{kind.__module__}.{kind.__qualname__}"} | fields
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """Inverse of `to_json`; lists become tuples.

    Raises:
      UserError: a type can't be imported or its fields do not fit.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {name: from_json(item) for name, item in value.items() if name != "type"}
    module_name, _, class_name = str(value.get("type", "")).rpartition(".")
    try:
        kind = vars(importlib.import_module(module_name))[class_name]
        require(dataclasses.is_dataclass(kind), f"{value['type']} is no spec.")
        return kind(**fields)
    except (ImportError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"The config's {value.get('type')!r} can't be rebuilt ({error}); it was written by "
            "another version of the code, so check that version out or train again."
        ) from error


def read_json(path: Path) -> Any:
    """Reads a run's config.json and returns its `RunConfig`.

    Raises:
      UserError: the file is missing or malformed.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} can't be read as a config ({error}); name the directory of a run."
        ) from error
    config = from_json(value)
    require(
        isinstance(config, RunConfig), f"{path} does not hold a config; name a run's directory."
    )
    return config


def load_config(path: Path) -> Any:
    """Runs a config file's `get_config` and returns its `RunConfig`.

    Raises:
      UserError: the file is missing, fails, or has no `get_config`.
    """
    config = load_function(path, "get_config", "config")()
    require(
        isinstance(config, RunConfig),
        f"get_config() of {path} returned a {type(config).__name__}; it must return a Config or "
        "a PolicyConfig.",
    )
    return config


def differing_fields(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configs, as JSON values, differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        names = list(left) + [name for name in right if name not in left]
        return [
            found
            for name in names
            for found in differing_fields(left.get(name), right.get(name), f"{prefix}{name}.")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [
            found
            for number, (one, other) in pairs
            for found in differing_fields(one, other, f"{prefix}{number}.")
        ]
    return [] if left == right else [prefix.rstrip(".")]
