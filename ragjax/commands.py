"""What the commands do: train and evaluate, whatever is learned."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.progress import MofNCompleteColumn, Progress

from ragjax.config import Config, config_json, read_json, require_rebuilt, write_config
from ragjax.files import check_output, check_place, write_json
from ragjax.interrupts import stop_if_interrupted
from ragjax.lease import leased
from ragjax.origin import (
    changes_since,
    provenance,
    read_origin,
    require_same_files,
    require_same_runs,
    write_origin,
)
from ragjax.precision import single_precision
from ragjax.printing import PlainConsole
from ragjax.run_dir import (
    CHECKPOINTS,
    CONFIG,
    RESULT,
    Run,
    check_run_dir,
    is_run,
    load_run,
    parameter_counts,
    parameter_lines,
    peak_memory_mb,
    read_rows,
)
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.learner import Learner, State, state_of_seed
from ragjax.training.logging import METRICS, MetricLog, RunProgress, SeedLogs
from ragjax.training.loop import NonFiniteLossError, fit
from ragjax.training.program import starting_state, state_shapes, training_program

EXAMPLES = 2  # of the first batch, which `check` shows


@single_precision
def train(
    config: Config, run_dir: Path, *, resume: bool, console: PlainConsole
) -> list[dict[str, Any]]:
    """Trains, measures the result, and writes the run's files.

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
      UserError: the directory holds another run, is in use, or cannot be written; or config.json could
        not be read again.
      NonFiniteLossError: a seed's loss became infinite or NaN; the others are finished first.
      KeyboardInterrupt: a signal was held back, see `ragjax.interrupts`; what is written is whole.
    """
    check_place("--run-dir", run_dir, CONFIG)
    if resume:
        check_run_dir(config, run_dir, resume)
    runs = seed_runs(config, run_dir)
    places = [(config, run_dir), *runs] if len(runs) > 1 else runs
    for own, _ in places:
        require_rebuilt(own)
    with leased([directory for _, directory in places], console.print) as check_lease:
        # Once more, since another process may have worked there until just now.
        for own, directory in [(config, run_dir)] if resume else places:
            check_run_dir(own, directory, resume)
        return _train(config, run_dir, runs, resume, console, check_lease)


def _train(
    config: Config,
    run_dir: Path,
    runs: list[tuple[Config, Path]],
    resume: bool,
    console: PlainConsole,
    check_lease: Callable[[], None],
) -> list[dict[str, Any]]:
    """What `train` does in directories that nobody else works in.

    Args:
      config: see `train`.
      run_dir: see `train`.
      runs: from `seed_runs`.
      resume: see `train`.
      console: see `train`.
      check_lease: raises once another process has taken a directory over.
    """
    several, spent = len(runs) > 1, Stopwatch()
    before: Mapping[str, float] = {}  # what the run has spent that is continued
    keeping = {"may_write": check_lease, "spent": spent.read}
    checkpoints = Checkpoints(run_dir / CHECKPOINTS, **keeping)
    stop_if_interrupted()

    # The state to begin with
    end = _former_end(run_dir, config, checkpoints) if resume else None
    learner = config.load(run_dir) if resume else config.create()
    stop_if_interrupted()
    program = training_program(learner, config.seeds, config)
    with learner.guard():
        if resume and checkpoints.steps():
            begun, state = _continued(learner, config, checkpoints, console, end)
            before = checkpoints.spent(begun)
            spent.add(before)
        else:
            if resume:
                console.print("there is no checkpoint yet; starting at step 0")
            begun, state = 0, starting_state(learner, config.seeds)
    changes = []
    if resume:
        require_same_files(run_dir)
        changes = changes_since(run_dir, config)
    stop_if_interrupted()
    if end is not None:
        checkpoints.drop(end)
    # The whole run's first: with it, a run that is killed between two of them can be resumed.
    for own, directory in [(config, run_dir), *runs] if several else runs:
        _write_begun(learner, own, directory, begun)
    for note in [*changes, *learner.notes()]:
        console.print(note)

    # Training
    directories = [directory for _, directory in runs]
    log = SeedLogs(directories, begun) if several else MetricLog(run_dir, begun)
    with (
        learner.guard(),
        contextlib.closing(learner),
        RunProgress(console, config.steps, begun) as progress,
        contextlib.closing(log),
    ):
        state, failed = fit(program, state, begun, checkpoints, log, progress)
    states = [state_of_seed(state, place) if several else state for place in range(len(runs))]
    for place, (_, directory) in enumerate(runs):
        if place not in failed:
            stop_if_interrupted()
            own = Checkpoints(directory / CHECKPOINTS, **keeping)
            finished = learner.finish(states[place])
            if finished is not states[place] or own.steps()[-1:] != [config.steps]:
                own.save(config.steps, finished)
            states[place] = finished
    # Of a run that had ended, only the measuring is new.
    trained = before if before and begun == config.steps else spent.read()
    measured_from = time.perf_counter()

    # Measuring
    results = []
    for place, (own, directory) in enumerate(runs):
        if place in failed:
            continue
        stop_if_interrupted()
        learner.calibrate(states[place])
        with measuring(console) as told:
            records, facts = learner.evaluate(states[place], progress=told)
        stop_if_interrupted()
        check_lease()
        records.write(directory / records.FILE)
        total = trained["train_seconds"] + time.perf_counter() - measured_from
        with measuring(console) as told:
            development = learner.development(states[place], progress=told)
        result = (
            records.summary()
            | facts
            | {
                "dev": development,
                "steps": config.steps,
                "seed": own.seed,
                **trained,
                "total_seconds": round(total, 2),
                "resumed_at": begun,
                "parameters": parameter_counts(states[place].params),
                "peak_memory_mb": peak_memory_mb(),
            }
            | learner.facts(states[place], read_rows(directory / METRICS), own.seed)
            | read_origin(directory)["runs"]
            | provenance()
            | ({"changes": changes} if changes else {})
        )
        stop_if_interrupted()  # Ctrl-C may also have ended the git that tells the commit
        check_lease()
        write_json(directory / RESULT, result)
        results.append(result)
    if failed:
        raise NonFiniteLossError(" ".join(failed.values()))
    return results


class Stopwatch:
    """Seconds that training took, those before a run was continued included."""

    def __init__(self):
        """Starts."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def add(self, before: Mapping[str, float]) -> None:
        """Adds what was read before."""
        self._wall -= before.get("train_seconds", 0.0)
        self._cpu -= before.get("train_cpu_seconds", 0.0)

    def read(self) -> dict[str, float]:
        """Seconds of wall time and of the processes' own."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"train_seconds": round(wall, 2), "train_cpu_seconds": round(cpu, 2)}


def _former_end(run_dir: Path, config: Config, checkpoints: Checkpoints) -> int | None:
    """The step at which a run ended that is to be longer now, if an earlier checkpoint is left.

    The one of its end is of the run as it was measured, with an index of the averaged parameters. From
    the one before, the run goes on as one that was longer from the beginning.
    """
    end = read_json(run_dir / CONFIG).steps
    return end if end < config.steps and any(step < end for step in checkpoints.steps()) else None


def _write_begun(learner: Learner, config: Config, directory: Path, begun: int) -> None:
    """Writes what a run's directory begins with, where it isn't there.

    A run that has become longer gets its new config; its result is of the shorter one, and is removed.

    Args:
      learner: of the run; its state has been made or restored.
      config: of the run, of a single seed where several have runs of their own.
      directory: of the run.
      begun: steps made before.

    Raises:
      UserError: a run that begins again began with another run's parameters before.
    """
    if not is_run(directory):
        directory.mkdir(parents=True, exist_ok=True)
        learner.save(directory)
        write_origin(directory, config, learner.origins(config.seed), learner.files)
        # Last, since it marks the directory as a run.
        write_config(directory / CONFIG, config)
        return
    if begun == 0:
        require_same_runs(directory, learner.origins(config.seed))
    if config_json(read_json(directory / CONFIG)) != config_json(config):
        (directory / RESULT).unlink(missing_ok=True)
        write_config(directory / CONFIG, config)


def seed_runs(config: Config, run_dir: Path) -> list[tuple[Config, Path]]:
    """The config and directory of each seed's run; a single one is the run itself."""
    if config.num_seeds == 1:
        return [(config, run_dir)]
    return [
        (dataclasses.replace(config, seed=seed, num_seeds=1), run_dir / f"seed_{seed}")
        for seed in config.seeds
    ]


def _continued(
    learner: Learner,
    config: Config,
    checkpoints: Checkpoints,
    console: PlainConsole,
    before: int | None,
) -> tuple[int, State]:
    """The step and the state of the newest whole checkpoint, before a step if given, and says so."""
    shapes = state_shapes(learner, config.seeds)
    begun, state, damaged = checkpoints.restore(shapes, before)
    report_damaged(damaged, begun, console)
    console.print(f"continuing at step {begun} of {config.steps}")
    state, lost = learner.resume(state)
    for sentence in lost:
        console.print(sentence)
    return begun, state


@contextlib.contextmanager
def measuring(console: PlainConsole) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to be told how many records of how many are done; draws a bar of them.

    Between two batches of them a signal that is held back ends the measuring.
    """
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with contextlib.ExitStack() as stack:
        bars: list[tuple[Progress, Any]] = []

        def told(done: int, total: int) -> None:
            stop_if_interrupted()
            if not bars:  # drawn once there is something to show
                progress = stack.enter_context(Progress(*columns, console=console))
                bars.append((progress, progress.add_task("measuring", total=total)))
            for progress, task in bars:
                progress.update(task, completed=done, total=total)

        yield told


def report_damaged(damaged: list[int], used: int, console: PlainConsole) -> None:
    """Says which checkpoints were passed over."""
    for step in damaged:
        console.print(f"checkpoint {step} is damaged; falling back to the one of step {used}")


def open_run(run_dir: Path, console: PlainConsole) -> Run:
    """Loads a run and says which checkpoints were passed over."""
    run = load_run(run_dir)
    report_damaged(run.damaged, run.step, console)
    for change in run.changes:
        console.print(change)
    return run


@single_precision
def evaluate(
    run_dir: Path,
    *,
    split: str | None,
    episodes: int | None,
    output: Path | None,
    console: PlainConsole,
) -> tuple[dict[str, Any], type]:
    """Measures a run's newest checkpoint.

    Args:
      run_dir: the run.
      split: train, dev or test; None for the one that final figures come from.
      episodes: how many a policy plays; None for what its config says.
      output: where the records go, as JSON lines; None keeps none.
      console: where progress is drawn.

    Returns:
      The figures with what was measured, the seed and the checkpoint's step; and the records' class.

    Raises:
      UserError: the run can't be loaded, or there is no such split.
    """
    check_output("--output", output, {})  # which is said before minutes of measuring
    run = open_run(run_dir, console)
    stop_if_interrupted()
    with measuring(console) as told:
        records, facts = run.learner.evaluate(run.state, split, episodes=episodes, progress=told)
    stop_if_interrupted()
    if output is not None:
        records.write(output)
    return facts | {"seed": run.config.seed, "step": run.step} | records.summary(), type(records)


@single_precision
def check(config: Config, console: PlainConsole) -> None:
    """Prints what a run would be: parameters, memory, and its first examples; trains nothing."""
    require_rebuilt(config)
    learner = config.create()
    shapes = state_shapes(learner, config.seeds[:1])

    def size(tree: Any) -> float:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6

    for line in parameter_lines(shapes.params):
        console.print(line)
    counts = parameter_counts(shapes.params)
    total = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    console.print(f"parameters: {sum(counts.values()):,} ({total})")
    console.print(
        f"memory of the state: {size(shapes):.1f} MB a seed, of which parameters "
        f"{size(shapes.params):.1f} MB; data on the device: {size(learner.data):.1f} MB; activations "
        "come on top"
    )
    for number, stage in enumerate(learner.stages):
        console.print(f"stage {number}: {stage}")
    console.print("first batch:")
    batch = learner.first_batch()
    for line in batch[:EXAMPLES]:
        console.print(f"  {line}")
    if len(batch) > EXAMPLES:
        console.print(f"  and {len(batch) - EXAMPLES} more")
    for note in learner.notes():
        console.print(note)
