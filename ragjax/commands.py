"""What the commands do with retrieval-augmented generators: train, evaluate and answer."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ragjax.config import Config, read_json, to_json
from ragjax.errors import UserError, require
from ragjax.evaluation.metrics import drawn_exact_match, summarise, write_predictions
from ragjax.experiment import (
    Experiment,
    RunState,
    create_experiment,
    load_experiment,
    start_state,
    starting_config,
    training_program,
)
from ragjax.files import write_json
from ragjax.retrieval.fixed import Oracle
from ragjax.run_dir import (
    CHECKPOINTS,
    CONFIG,
    RESULT,
    check_run_dir,
    made_from,
    parameter_counts,
    peak_memory_mb,
    provenance,
    report_damaged,
)
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import METRICS, MetricLog, RunProgress
from ragjax.training.loop import fit
from ragjax.training.optimizer import evaluation_params
from ragjax.types import QaData, Question

PREDICTIONS = "predictions.jsonl"


def train(config: Config, run_dir: Path, *, resume: bool, console: Console) -> dict[str, Any]:
    """Trains an experiment, measures it on the test split, and writes the run's files.

    Args:
      config: the experiment.
      run_dir: where the files go; made if missing.
      resume: continue from the newest whole checkpoint.
      console: where progress is drawn.

    Returns:
      The content of result.json.

    Raises:
      UserError: the directory holds another run, or cannot be written.
    """
    started, cpu = time.perf_counter(), time.process_time()
    check_run_dir(config, run_dir, resume)
    if config.start and not resume:
        starting_config(config)  # before anything is written
    data = config.task.load()
    check_splits(config, data)
    check_depths(config, len(data.passages))
    if resume:
        experiment = load_experiment(config, run_dir)
        require(
            experiment.corpus.passages == data.passages,
            f"The passages of {run_dir} are not those that task {config.task.name} makes now; install "
            "the package versions named in its result or train into a new --run-dir.",
        )
    else:
        experiment = create_experiment(config, data, run_dir)
        write_json(run_dir / CONFIG, to_json(config))  # last, since it marks the directory as a run
    checkpoints = Checkpoints(run_dir / CHECKPOINTS)
    if resume and checkpoints.steps():
        state, start, damaged = experiment.load_state(checkpoints)
        report_damaged(damaged, start, console)
        console.print(f"continuing at step {start} of {config.steps}")
    else:
        state, start = start_state(experiment), 0
    report_cuts(experiment, console)
    program = training_program(experiment, data.splits)
    log = MetricLog(run_dir, start)
    with RunProgress(console, config.steps, start) as progress, contextlib.closing(log):
        state = fit(program, state, start, checkpoints, log, progress)
    state = dataclasses.replace(state, index=experiment.fresh_index(state))
    checkpoints.save(config.steps, state)
    trained, cpu = time.perf_counter() - started, time.process_time() - cpu

    with answering(console, "test", len(data.splits["test"])) as progress:
        encoded = experiment.encode(data.splits["test"], config.evaluation.k)
        records = experiment.evaluate(state, encoded, progress)
    write_predictions(run_dir / PREDICTIONS, records)
    result = (
        summarise(records)
        | {
            "drawn_em": drawn_exact_match(records),
            "split": "test",
            "steps": config.steps,
            "seed": config.seed,
            "train_seconds": round(trained, 2),
            "train_cpu_seconds": round(cpu, 2),
            "total_seconds": round(time.perf_counter() - started, 2),
            "resumed_at": start,
            "parameters": parameter_counts(state.train.params),
            "index_built_at_step": int(state.index.built_at_step),
            "peak_memory_mb": peak_memory_mb(),
        }
        | ({"start": made_from(config.start_dir)} if config.start else {})
        | reward_curve(run_dir / METRICS)
        | provenance()
    )
    write_json(run_dir / RESULT, result)
    return result


def reward_curve(path: Path) -> dict[str, Any]:
    """The reward of drawn answers within a run's metrics, for its result; nothing if none was drawn."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if "reward" in row]
    curve = {name: [row[name] for row in rows] for name in ("step", "reward")}
    return {"curve": curve} if rows else {}


def check_splits(config: Config, data: QaData) -> None:
    """Checks that the task has questions to train, tune and test on.

    Raises:
      UserError: names the split that is empty or missing.
    """
    for split in ("train", "dev", "test"):
        require(
            len(data.splits.get(split, ())) > 0,
            f"Task {config.task.name} has no {split} questions; generate at least one.",
        )


def check_depths(config: Config, passages: int) -> None:
    """Checks that the corpus has as many passages as are to be retrieved.

    Raises:
      UserError: names the field that asks for too many.
    """
    depths = {f"phases.{number}.k": phase.k for number, phase in enumerate(config.phases)}
    for name, k in (depths | {"evaluation.k": config.evaluation.k}).items():
        require(
            k <= passages,
            f"{name} is {k}, but the corpus of task {config.task.name} has {passages} passages; "
            "choose at most that many.",
        )


def report_cuts(experiment: Experiment, console: Console) -> None:
    """Says how many passages are longer than what is read of them."""
    corpus, length = experiment.corpus, experiment.config.tokenizer.passage_length
    if corpus.cut:
        console.print(
            f"{corpus.cut} of {len(corpus.passages)} passages are cut to their first {length} tokens "
            "(tokenizer.passage_length)"
        )


@contextlib.contextmanager
def answering(console: Console, split: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over questions; yields the function that is told how many are done."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"answering {split}", total=total)
        yield lambda done: progress.update(task, completed=done)


@dataclass(frozen=True)
class TrainedRun:
    """A run loaded for use.

    Attributes:
      experiment: config, data and functions.
      state: the newest whole checkpoint, its index fresh.
    """

    experiment: Experiment
    state: RunState

    @classmethod
    def load(cls, run_dir: Path, console: Console) -> "TrainedRun":
        """Reads a run's directory.

        Raises:
          UserError: it is missing, is no run, or has no whole checkpoint.
        """
        require(run_dir.is_dir(), f"{run_dir} is not a directory; name the directory of a run.")
        config = read_json(run_dir / CONFIG)
        if not isinstance(config, Config):
            raise UserError(
                f"{run_dir} holds a policy and no generator; name the run of a generator."
            )
        experiment = load_experiment(config, run_dir)
        state, step, damaged = experiment.load_state(Checkpoints(run_dir / CHECKPOINTS))
        report_damaged(damaged, step, console)
        return cls(experiment, dataclasses.replace(state, index=experiment.fresh_index(state)))

    def answer(self, text: str) -> dict[str, Any]:
        """Answers one question.

        Args:
          text: the question; at most `tokenizer.question_length` tokens are read.

        Returns:
          {"question", "answer", "probability", "passages": [{"id", "title", "text", "prior",
          "posterior"}], "notes": what was left out}, the passages in the order of their posterior.

        Raises:
          UserError: the question is empty, has no known word, or the retriever needs a gold passage.
        """
        experiment, config = self.experiment, self.experiment.config
        text, notes = experiment.understood(text)
        require(
            not isinstance(config.retriever, Oracle),
            "This run reads the gold passage of each question (retriever Oracle), which a question of "
            "your own does not have; ask a run with another retriever.",
        )
        corpus = experiment.corpus
        question = Question("asked", text, ("",), (), "", "")
        encoded = experiment.encode((question,), config.evaluation.k)
        params = evaluation_params(self.state.train.params, self.state.train.opt_state)
        topk, log_prior, decoded = jax.device_get(
            experiment.answer_one(
                params, encoded.arrays, experiment.device_corpus, self.state.index.embeddings
            )
        )
        hits = np.flatnonzero(topk.valid[0] & (topk.ids[0] >= 0))
        passages = [
            vars(corpus.passages[topk.ids[0, hit]])
            | {
                "prior": float(np.exp(log_prior[0, hit])),
                "posterior": float(np.exp(decoded.log_posterior[0, hit])),
            }
            for hit in hits
        ]
        return {
            "question": text,
            "answer": experiment.tokenizer.decode(decoded.tokens[0]),
            "probability": float(np.exp(decoded.log_prob[0])),
            "passages": sorted(passages, key=lambda passage: -passage["posterior"]),
            "notes": notes,
        }


def evaluate(run_dir: Path, split: str, output: Path | None, console: Console) -> dict[str, Any]:
    """Measures a run's newest checkpoint on a split.

    Args:
      run_dir: the run.
      split: train, dev or test.
      output: where predictions go, as JSON lines; None keeps none.
      console: where progress is drawn.

    Returns:
      The figures of `evaluation.metrics.summarise`, the split and the checkpoint's step.

    Raises:
      UserError: the run can't be loaded, or there is no such split.
    """
    run = TrainedRun.load(run_dir, console)
    experiment = run.experiment
    splits = experiment.config.task.load().splits
    require(split in splits, f"--split is {split!r}; choose one of {', '.join(splits)}.")
    with answering(console, split, len(splits[split])) as progress:
        encoded = experiment.encode(splits[split], experiment.config.evaluation.k)
        records = experiment.evaluate(run.state, encoded, progress)
    if output is not None:
        write_predictions(output, records)
    facts = {"split": split, "step": int(run.state.train.step)}
    return facts | summarise(records) | {"drawn_em": drawn_exact_match(records)}
