"""All that the tests of the wiring know of the modules they test: to be adapted here, and only here."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ragjax import commands
from ragjax.config import read_json
from ragjax.learners.episodes import EpisodeEvaluation as EpisodeEvaluation
from ragjax.learners.episodes import EpisodesConfig as EpisodesConfig
from ragjax.learners.questions import Evaluation as Evaluation
from ragjax.learners.questions import Phase as Phase
from ragjax.learners.questions import QuestionsConfig as QuestionsConfig
from ragjax.printing import PlainConsole
from ragjax.run_dir import CHECKPOINTS, CONFIG, load_run
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.optimizer import Adam, evaluation_params
from ragjax.training.program import state_shapes


def questions_optimizer(rate: float, **fields: Any) -> Adam:
    """Adam with one rate for all groups of parameters, without a warm-up."""
    rates = dict.fromkeys(("retriever_rate", "reader_rate", "critic_rate"), rate)
    return Adam(**rates, warmup_steps=0, **({"schedule": "constant"} | fields))


def episodes_optimizer(rate: float, *, anneal: bool) -> Adam:
    """Adam whose rate falls linearly to 0, or not."""
    return Adam.for_policies(learning_rate=rate, schedule="linear" if anneal else "constant")


def train(config: Any, run_dir: Path, *, resume: bool = False) -> list[dict[str, Any]]:
    """Trains as the command does; returns the result of each seed."""
    return commands.train(config, run_dir, resume=resume, console=PlainConsole(quiet=True))


class Left(NamedTuple):
    """What the newest checkpoint of one seed's run holds.

    Attributes:
      step: of the run.
      params: as trained.
      average: those to evaluate with.
      index: its `IndexState`, or None.
    """

    step: int
    params: Any
    average: Any
    index: Any


def left(run_dir: Path) -> Left:
    """Reads the newest checkpoint of one seed's run, questions or episodes, just as it is."""
    config = read_json(run_dir / CONFIG)
    shapes = state_shapes(config.load(run_dir), config.seeds)
    step, state, _ = Checkpoints(run_dir / CHECKPOINTS).restore(shapes)
    return Left(step, state.params, evaluation_params(state.params, state.opt_state), state.index)


def embedded(run_dir: Path, params: Any) -> Any:
    """The index of a run's corpus by other parameters than those of its checkpoint."""
    learner: Any = load_run(run_dir).learner
    return learner.model.retriever.index(params, learner.corpus)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def column(run_dir: Path, name: str) -> list[float]:
    """A figure of metrics.jsonl, of the rows that have it."""
    return [row[name] for row in rows_of(run_dir / "metrics.jsonl") if name in row]


def result_of(run_dir: Path) -> dict[str, Any]:
    """The content of result.json."""
    return json.loads((run_dir / "result.json").read_text())
