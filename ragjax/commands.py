"""What the commands do: train and evaluate, whatever is learned."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from ragjax.config import Config, config_json, require_rebuilt
from ragjax.errors import UserError, require
from ragjax.files import check_output, check_place
from ragjax.hosts import from_first, is_first
from ragjax.interrupts import stop_if_interrupted
from ragjax.lease import leased
from ragjax.mesh import mesh_notes
from ragjax.precision import single_precision
from ragjax.printing import PlainConsole
from ragjax.run_dir import (
    CONFIG,
    Run,
    check_run_dir,
    load_run,
    parameter_counts,
    parameter_lines,
)
from ragjax.run_training import Place, RunTraining, measuring, report_damaged, seed_runs
from ragjax.training.loop import NonFiniteLossError
from ragjax.training.program import state_shapes

BEGINS = "begins with config "  # what the first host tells the others unless the run is refused
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
      The content of each seed's result.json; nothing on a host that is not the first of several.

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
    same = BEGINS + hashlib.sha256(json.dumps(config_json(config)).encode()).hexdigest()
    if not is_first():  # of several hosts: it writes nothing, and begins once the first one may
        said = from_first("")
        require(
            said == same or not said.startswith(BEGINS),
            "This host's config is not that of host 0; run the same command on every host.",
        )
        require(said == same, said)
        return _train(config, run_dir, runs, resume, console, lambda: None)
    with contextlib.ExitStack() as stack:
        try:
            directories = [directory for _, directory in places]
            check_lease = stack.enter_context(leased(directories, console.print))
            # Once more, since another process may have worked there until just now.
            for own, directory in [(config, run_dir)] if resume else places:
                check_run_dir(own, directory, resume)
        except UserError as error:
            from_first(str(error))
            raise
        from_first(same)
        return _train(config, run_dir, runs, resume, console, check_lease)


def _train(
    config: Config,
    run_dir: Path,
    runs: list[Place],
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
    training = RunTraining(config, run_dir, runs, console=console, check_lease=check_lease)
    training.begin(resume, parent=run_dir if len(runs) > 1 else None)
    with contextlib.closing(training.learner):
        training.advance()
    training.finish()
    if not is_first():
        return []
    going = [place for place in range(len(runs)) if place not in training.failed]
    results = [training.result(place) for place in going]
    if training.failed:
        raise NonFiniteLossError(" ".join(training.failed.values()))
    return results


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
    mesh = config.mesh.build()
    if mesh is not None:
        config.check_mesh(mesh)
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
    for note in [*learner.notes(), *mesh_notes(mesh)]:
        console.print(note)
