"""What the commands do with policies: train, evaluate and, if they are for it, answer."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ragjax.config import read_json, to_json
from ragjax.envs.base import EpisodeList
from ragjax.envs.from_gymnasium import host_errors
from ragjax.errors import UserError, require
from ragjax.evaluation.episodes import Episodes, write_episodes
from ragjax.files import write_json
from ragjax.policy_config import PolicyConfig
from ragjax.policy_experiment import PolicyExperiment, PolicyState, policy_program, stack_keys
from ragjax.run_dir import (
    CHECKPOINTS,
    CONFIG,
    RESULT,
    check_run_dir,
    parameter_counts,
    peak_memory_mb,
    provenance,
    report_damaged,
)
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import METRICS, MetricLog, RunProgress, SeedLogs
from ragjax.training.loop import fit
from ragjax.training.rollout import start_episodes

EPISODES = "episodes.jsonl"


def train(
    config: PolicyConfig, run_dir: Path, *, resume: bool, console: Console
) -> list[dict[str, Any]]:
    """Trains a policy, measures it in fresh environments, and writes the run's files.

    With `num_seeds` above 1 the seeds run side by side in one program, and each leaves a run of its own
    in `run_dir`/seed_<n>.

    Args:
      config: the experiment.
      run_dir: where the files go; made if missing.
      resume: continue from the newest whole checkpoint.
      console: where progress is drawn.

    Returns:
      The content of each seed's result.json.

    Raises:
      UserError: the directory holds another run or can't be written, or the environment can't be made.
    """
    started, cpu = time.perf_counter(), time.process_time()
    check_run_dir(config, run_dir, resume)
    experiment = PolicyExperiment(config)
    runs = seed_runs(config, run_dir)
    side_by_side = config.num_seeds > 1
    if side_by_side and not resume:
        for own, directory in runs:
            check_run_dir(own, directory, resume)
    require(
        config.env.traceable or not side_by_side,
        f"num_seeds is {config.num_seeds}, but environment {config.env.name} lives outside JAX and "
        "can't run several seeds in one program; train them one after another with --seed.",
    )
    checkpoints = Checkpoints(run_dir / CHECKPOINTS)
    if resume and checkpoints.steps():
        begun, state = continue_run(experiment, checkpoints, console)
    else:
        with host_errors():
            begun, state = 0, jax.jit(first_state(experiment))()
        # The whole run's first: with it, a run that is killed between two of them can be resumed.
        for own, directory in [(config, run_dir), *runs] if side_by_side else runs:
            directory.mkdir(parents=True, exist_ok=True)
            write_json(directory / CONFIG, to_json(own))
    program = policy_program(experiment, side_by_side=side_by_side)
    directories = [directory for _, directory in runs]
    log = SeedLogs(directories, begun) if side_by_side else MetricLog(run_dir, begun)
    with (
        host_errors(),
        RunProgress(console, config.steps, begun) as progress,
        contextlib.closing(log),
    ):
        state = fit(program, state, begun, checkpoints, log, progress)
    trained, cpu = time.perf_counter() - started, time.process_time() - cpu

    listed = experiment.every_episode("test")
    count = None if listed else config.evaluation.episodes
    evaluate = lambda state: experiment.evaluate(state, count)  # noqa: E731
    with host_errors():
        played = jax.jit(jax.vmap(evaluate) if side_by_side else evaluate)(state)
    facts = {
        "train_seconds": round(trained, 2),
        "train_cpu_seconds": round(cpu, 2),
        "total_seconds": round(time.perf_counter() - started, 2),
        "resumed_at": begun,
        "peak_memory_mb": peak_memory_mb(),
    } | provenance()
    facts |= experiment.prepared.facts()
    if config.env.splits:
        facts["split"] = "test"
    results = []
    for number, (own, directory) in enumerate(runs):
        mine, episodes = state, played
        if side_by_side:
            mine, episodes = jax.tree.map(lambda leaf: leaf[number], (state, played))  # noqa: B023
            Checkpoints(directory / CHECKPOINTS).save(config.steps, mine)
        results.append(write_result(own, directory, mine, as_episodes(episodes, listed), facts))
    return results


def first_state(experiment: PolicyExperiment) -> Callable[[], PolicyState]:
    """A function that makes the state before the first update, of all seeds of the config."""
    config, hyper = experiment.config, experiment.hyperparameters
    if config.num_seeds == 1:
        return lambda: experiment.init(jax.random.PRNGKey(config.seed), hyper)
    keys = stack_keys(range(config.seed, config.seed + config.num_seeds))
    return lambda: jax.vmap(experiment.init, (0, None))(keys, hyper)


def continue_run(
    experiment: PolicyExperiment, checkpoints: Checkpoints, console: Console
) -> tuple[int, PolicyState]:
    """The step and the state of the newest whole checkpoint, and says so."""
    config = experiment.config
    begun, state, damaged = checkpoints.restore(jax.eval_shape(first_state(experiment)))
    report_damaged(damaged, begun, console)
    console.print(f"continuing at step {begun} of {config.steps}")
    if not config.env.traceable:
        console.print("its environments lived outside JAX: their episodes start anew")
        key = jax.random.fold_in(state.train.key, begun)
        carry = start_episodes(experiment.raw_env, state.rollout, key)
        # Observations stand in it twice, but what is donated must have a buffer of its own.
        state = dataclasses.replace(state, rollout=jax.tree.map(jnp.copy, carry))
    return begun, state


def seed_runs(config: PolicyConfig, run_dir: Path) -> list[tuple[PolicyConfig, Path]]:
    """The config and directory of each seed's run; a single one is the run itself."""
    if config.num_seeds == 1:
        return [(config, run_dir)]
    seeds = range(config.seed, config.seed + config.num_seeds)
    return [
        (dataclasses.replace(config, seed=seed, num_seeds=1), run_dir / f"seed_{seed}")
        for seed in seeds
    ]


def write_result(
    config: PolicyConfig,
    run_dir: Path,
    state: PolicyState,
    episodes: Episodes,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Writes a seed's episodes.jsonl and result.json; returns the latter's content."""
    write_episodes(run_dir / EPISODES, episodes)
    result = (
        episodes.summary()
        | {
            "environment": config.env.name,
            "steps": config.steps,
            "env_steps": config.steps * config.algorithm.batch_size,
            "seed": config.seed,
            "curve": read_curve(run_dir / METRICS, config.algorithm.batch_size),
            "parameters": parameter_counts(state.train.params),
        }
        | facts
    )
    write_json(run_dir / RESULT, result)
    return result


def as_episodes(played: Any, listed: EpisodeList | None) -> Episodes:
    """What was played as records, with the names of the episodes where they were listed."""
    names = {} if listed is None else {"ids": listed.ids, "kinds": listed.kinds}
    return Episodes.from_played(played, **names)


def read_curve(path: Path, batch_size: int) -> dict[str, list[int] | list[float]]:
    """The learning curve within a run's metrics: env_steps, greedy and sampled mean returns."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if "eval/greedy_return" in row]
    return {
        "env_steps": [row["step"] * batch_size for row in rows],
        "greedy": [row["eval/greedy_return"] for row in rows],
        "sampled": [row["eval/sampled_return"] for row in rows],
    }


def load_run(
    run_dir: Path, console: Console, *, answering: bool = False
) -> tuple[PolicyExperiment, PolicyState, int]:
    """The experiment, state and step of the newest whole checkpoint of one seed's run.

    Args:
      run_dir: the run of one seed.
      console: where damaged checkpoints are reported.
      answering: see `PolicyExperiment`.

    Raises:
      UserError: the run can't be loaded.
    """
    config = read_json(run_dir / CONFIG)
    if not isinstance(config, PolicyConfig):
        raise UserError(f"{run_dir} holds no policy; evaluate it with --split instead.")
    require(
        config.num_seeds == 1,
        f"{run_dir} holds {config.num_seeds} seeds; name the directory of one of them, such as "
        f"{run_dir / f'seed_{config.seed}'}.",
    )
    experiment = PolicyExperiment(config, answering)
    template = jax.eval_shape(first_state(experiment))
    step, state, damaged = Checkpoints(run_dir / CHECKPOINTS).restore(template)
    report_damaged(damaged, step, console)
    return experiment, state, step


@dataclass(frozen=True)
class TrainedPolicy:
    """The run of a policy whose environment answers questions, loaded for use.

    Attributes:
      run_dir: the run.
      experiment: config and functions.
      state: the newest whole checkpoint.
    """

    run_dir: Path
    experiment: PolicyExperiment
    state: PolicyState

    @classmethod
    def load(cls, run_dir: Path, console: Console) -> "TrainedPolicy":
        """Reads a run's directory.

        Raises:
          UserError: it has no whole checkpoint.
        """
        experiment, state, _ = load_run(run_dir, console, answering=True)
        return cls(run_dir, experiment, state)

    def answer(self, text: str) -> dict[str, Any]:
        """Lets the policy answer one question, see `Environment.answer`.

        Raises:
          UserError: the environment answers none, or not this one.
        """
        answer = self.experiment.prepared.answer(self.experiment.acting(self.state), text)
        if answer is None:
            name = self.experiment.config.env.name
            raise UserError(
                f"{self.run_dir} holds a policy for environment {name}, which answers no questions; "
                "name the run of a generator or of an agent that does."
            )
        return answer


def evaluate(run_dir: Path, episodes: int, split: str, console: Console) -> dict[str, Any]:
    """Plays whole episodes with the newest checkpoint of a run, in fresh environments.

    Args:
      run_dir: the run of one seed.
      episodes: how many, with likeliest and with drawn actions each.
      split: of the questions, where the environment has any; each is played once then.
      console: where damaged checkpoints are reported.

    Returns:
      The figures of `evaluation.episodes.Episodes.summary`, and the checkpoint's step.

    Raises:
      UserError: the run can't be loaded.
    """
    require(episodes >= 1, f"--episodes is {episodes}; play at least 1.")
    experiment, state, step = load_run(run_dir, console)
    config = experiment.config
    with host_errors():
        listed = experiment.every_episode(split)
        count = None if listed else episodes
        played = jax.jit(lambda state: experiment.evaluate(state, count, split=split))(state)
    found = as_episodes(jax.tree.map(np.asarray, played), listed)
    facts = {"environment": config.env.name, "seed": config.seed, "step": step}
    if config.env.splits:
        facts["split"] = split
    return facts | found.summary()
