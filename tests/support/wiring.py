"""All that the tests of the wiring know of the modules they test: to be adapted here, and only here."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from ragjax import commands, policy_commands, question_rounds
from ragjax.config import Config as Config
from ragjax.config import Evaluation as Evaluation
from ragjax.config import Phase as Phase
from ragjax.config import read_json
from ragjax.experiment import RunState, load_experiment
from ragjax.policy_config import EpisodeEvaluation as EpisodeEvaluation
from ragjax.policy_config import PolicyConfig
from ragjax.policy_experiment import PolicyExperiment
from ragjax.run_dir import CHECKPOINTS, CONFIG
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.optimizer import Adam, TracedAdam, evaluation_params


def questions_optimizer(rate: float, **fields: Any) -> Adam:
    """Adam with one rate for all groups of parameters, without a warm-up."""
    rates = dict.fromkeys(("retriever_rate", "generator_rate", "critic_rate"), rate)
    return Adam(**rates, warmup_steps=0, **({"schedule": "constant"} | fields))


def episodes_optimizer(rate: float, *, anneal: bool) -> TracedAdam:
    """Adam whose rate falls linearly to 0, or not."""
    return TracedAdam(learning_rate=rate, anneal=anneal)


def train(config: Any, run_dir: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    """Trains as the command does; returns the result of each seed."""
    options: Any = {"resume": resume, "console": Console(quiet=True)}
    if isinstance(config, PolicyConfig):
        return policy_commands.train(config, run_dir, **options)
    return [commands.train(config, run_dir, **options)]


class Left(NamedTuple):
    """What the newest checkpoint of one seed's run holds.

    Attributes:
      step: of the run.
      params: as trained.
      average: those to evaluate with.
      embeddings: [N,D] the index, or None.
    """

    step: int
    params: Any
    average: Any
    embeddings: Any


def left(run_dir: Path) -> Left:
    """Reads the newest checkpoint of one seed's run, questions or episodes."""
    config, checkpoints = read_json(run_dir / CONFIG), Checkpoints(run_dir / CHECKPOINTS)
    if isinstance(config, PolicyConfig):
        experiment = PolicyExperiment(config)
        key, hyper = jax.random.PRNGKey(config.seed), experiment.hyperparameters
        step, state, _ = checkpoints.restore(jax.eval_shape(experiment.init, key, hyper))
        return Left(step, state.train.params, state.train.params, state.index)
    state: RunState
    state, step, _ = load_experiment(config, run_dir).load_state(checkpoints)
    params, opt_state = state.train.params, state.train.opt_state
    return Left(step, params, evaluation_params(params, opt_state), state.index.embeddings)


def open_book(spec: Any, split: str) -> Any:
    """The book of an agent's environment over the questions of a split."""
    return question_rounds.Library(0).open(spec, split)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def column(run_dir: Path, name: str) -> list[float]:
    """A figure of metrics.jsonl, of the rows that have it."""
    return [row[name] for row in rows_of(run_dir / "metrics.jsonl") if name in row]


def result_of(run_dir: Path) -> dict[str, Any]:
    """The content of result.json."""
    return json.loads((run_dir / "result.json").read_text())
