"""A run, or several side by side in one program, from the first step to the result."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from rich.progress import MofNCompleteColumn, Progress

from ragjax.config import Config, config_json, read_json, write_config
from ragjax.config_differences import without_place
from ragjax.errors import require
from ragjax.files import write_json
from ragjax.hosts import from_first, is_first
from ragjax.interrupts import stop_if_interrupted
from ragjax.mesh import mesh_notes
from ragjax.origin import (
    changes_since,
    provenance,
    read_origin,
    require_same_files,
    require_same_runs,
    write_origin,
)
from ragjax.printing import PlainConsole
from ragjax.run_dir import (
    CHECKPOINTS,
    CONFIG,
    RESULT,
    is_run,
    parameter_counts,
    peak_memory_mb,
    read_rows,
)
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.learner import Learner, State
from ragjax.training.logging import METRICS, MetricLog, NoLog, RunProgress, SeedLogs
from ragjax.training.loop import Program, fit
from ragjax.training.program import (
    Hyper,
    on_device,
    stack_states,
    starting_state,
    state_of_seed,
    state_shapes,
    training_program,
)


class Place(NamedTuple):
    """A run of a single seed: its config, and the directory that is its own."""

    config: Config
    directory: Path


def seed_runs(config: Config, run_dir: Path) -> list[Place]:
    """The run of each seed of a config; a single one is the run itself."""
    if config.num_seeds == 1:
        return [Place(config, run_dir)]
    return [
        Place(dataclasses.replace(config, seed=seed, num_seeds=1), run_dir / f"seed_{seed}")
        for seed in config.seeds
    ]


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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what the block takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._wall += time.perf_counter() - wall
            self._cpu += time.process_time() - cpu


class RunTraining:
    """The training of one run, or of several whose configs differ in seeds and traced scalars alone.

    `begin`, then `advance` to the end or in parts, then `finish`, and then of each its `result`.

    Attributes:
      config: of all: how many steps there are, and what happens when.
      runs: those that go on, in the order of the program's seeds.
      learner: their functions; from `begin` on.
      step: steps made.
      failed: place in `runs` -> why its loss became non-finite.
    """

    learner: Learner
    step: int
    failed: dict[int, str]

    def __init__(
        self,
        config: Config,
        directory: Path,
        runs: Sequence[Place],
        *,
        console: PlainConsole,
        check_lease: Callable[[], None],
        hyper: Hyper | None = None,
    ):
        """Nothing is done yet.

        Args:
          config: see above.
          directory: where the state of all is saved; of a single run its own. It is a run itself where
            all are seeds of `config`.
          runs: see above.
          console: where progress is drawn.
          check_lease: raises once another process has taken a directory over.
          hyper: see `training_program`.
        """
        self.config, self.runs = config, list(runs)
        self._directory, self._console, self._check_lease = directory, console, check_lease
        self._hyper, self._spent = hyper, Stopwatch()
        self._keeping = {"may_write": check_lease, "spent": self._spent.read, "writes": is_first()}
        self._checkpoints = Checkpoints(directory / CHECKPOINTS, **self._keeping)
        self._states: list[State] = []
        self._changes: list[str] = []

    def begin(
        self, resume: bool, *, learner: Learner | None = None, parent: Path | None = None
    ) -> None:
        """Makes the first state, or restores the newest whole one, and writes what runs begin with.

        Args:
          resume: whether the runs have begun before.
          learner: of a config that differs from `config` as its runs do, to be used again; made if None.
          parent: the directory of the run of which these are the seeds, if there is one.

        Raises:
          UserError: data is missing or has changed, or the runs are others.
        """
        stop_if_interrupted()
        config, origin = self.config, parent or self.runs[0].directory
        self._mesh = config.mesh.build()
        if self._mesh is not None:
            config.check_mesh(self._mesh)
        end = _former_end(origin, config, self._checkpoints) if resume else None
        if learner is None:
            learner = config.load(origin) if resume else config.create()
        self.learner = learner
        stop_if_interrupted()
        self._program = self._make_program()
        begun, before = 0, {}
        with learner.guard():
            if resume and self._checkpoints.steps():
                begun, self._state = self._continued(end)
                before = self._checkpoints.spent(begun)
                self._spent.add(before)
            else:
                if resume:
                    self._console.print("there is no checkpoint yet; starting at step 0")
                self._state = starting_state(learner, self._seeds, self._hyper)
        if resume:
            require_same_files(origin)
            self._changes = changes_since(origin, config)
        stop_if_interrupted()
        if end is not None:
            self._checkpoints.drop(end)
        # The parent first: with it, a run that is killed between two of them can be resumed.
        for own, directory in [*([] if parent is None else [(config, parent)]), *self.runs]:
            if is_first():
                _write_begun(learner, own, directory, begun)
        for note in [*self._changes, *learner.notes(), *mesh_notes(self._mesh)]:
            self._console.print(note)
        self.step, self._begun, self._before, self.failed = begun, begun, before, {}

    @property
    def _seeds(self) -> list[int]:
        return [run.config.seed for run in self.runs]

    def _make_program(self) -> Program:
        return training_program(self.learner, self._seeds, self.config, self._hyper, self._mesh)

    def _continued(self, before: int | None) -> tuple[int, State]:
        """The step and the state of the newest whole checkpoint, before a step if given, and says so."""
        shapes = state_shapes(self.learner, self._seeds)
        begun, state, damaged = self._restored(shapes, before)
        report_damaged(damaged, begun, self._console)
        self._console.print(f"continuing at step {begun} of {self.config.steps}")
        state, lost = self.learner.resume(state)
        for sentence in lost:
            self._console.print(sentence)
        return begun, state

    def _restored(self, shapes: State, before: int | None) -> tuple[int, State, list[int]]:
        """What `Checkpoints.restore` gives; of several hosts the first one chooses the step."""
        if is_first():
            found = self._checkpoints.restore(shapes, before)
            from_first(str(found[0]))
            return found
        chosen = int(from_first(""))
        found = self._checkpoints.restore(shapes, chosen + 1)
        require(
            found[0] == chosen,
            f"Host 0 goes on at step {chosen}, but this host finds the checkpoint of step {found[0]} in "
            f"{self._checkpoints.directory}; check that the hosts share that directory.",
        )
        return found

    def advance(self, end: int | None = None) -> None:
        """Trains up to a step, or to the end.

        Raises:
          NonFiniteLossError: the loss of the only run, or of all.
          KeyboardInterrupt: a signal was held back; the state is saved.
        """
        several, directories = len(self.runs) > 1, [run.directory for run in self.runs]
        log: Any = SeedLogs(directories, self.step) if several else None
        if log is None:
            log = MetricLog(directories[0], self.step) if is_first() else NoLog()
        with (
            self.learner.guard(),
            RunProgress(self._console, self.config.steps, self.step) as progress,
            contextlib.closing(log),
        ):
            # Given away: on a mesh the run would hold it twice.
            state = self._state
            del self._state
            state, self.failed = fit(
                self._program, state, self.step, self._checkpoints, log, progress, end=end
            )
        self._state = on_device(state) if self._mesh is not None else state
        self.step = self.config.steps if end is None else end

    def keep(self, places: Sequence[int]) -> None:
        """Lets only some of several runs go on, in a smaller program."""
        states = [self._own_state(place) for place in places]
        self.runs = [self.runs[place] for place in places]
        if self._hyper is not None:
            self._hyper = {name: of[jnp.asarray(places)] for name, of in self._hyper.items()}
        self._state = stack_states(states) if len(states) > 1 else states[0]
        self.failed = {}
        self._program = self._make_program()

    def _own_state(self, place: int) -> State:
        if self._states:
            return self._states[place]
        return state_of_seed(self._state, place) if len(self.runs) > 1 else self._state

    def finish(self) -> None:
        """Saves the last state of each run that has not failed in its own directory, as it is kept."""
        states = [self._own_state(place) for place in range(len(self.runs))]
        for place, run in enumerate(self.runs):
            if place not in self.failed:
                stop_if_interrupted()
                own = Checkpoints(run.directory / CHECKPOINTS, **self._keeping)
                finished = self.learner.finish(states[place])
                if finished is not states[place] or own.steps()[-1:] != [self.config.steps]:
                    own.save(self.config.steps, finished)
                states[place] = finished
        self._states = states
        # Of a run that had ended, only the measuring is new.
        ended = self._before and self._begun == self.config.steps
        self._trained = self._before if ended else self._spent.read()

    def development(self, place: int) -> dict[str, Any]:
        """Figures of a run as it stands now to choose by; the time that it takes is not of training."""
        with self._spent.paused(), measuring(self._console) as told:
            state = self.learner.finish(self._own_state(place))
            return self.learner.development(state, progress=told)

    def facts(self, place: int) -> dict[str, Any]:
        """What result.json says of a finished run beside its figures."""
        run, state = self.runs[place], self._own_state(place)
        return (
            {
                "steps": self.config.steps,
                "seed": run.config.seed,
                **self._trained,
                "resumed_at": self._begun,
                "parameters": parameter_counts(state.params),
                "peak_memory_mb": peak_memory_mb(),
            }
            | self.learner.facts(state, read_rows(run.directory / METRICS), run.config.seed)
            | read_origin(run.directory)["runs"]
            | provenance()
            | ({"changes": self._changes} if self._changes else {})
        )

    def result(self, place: int) -> dict[str, Any]:
        """Measures a finished run on test and development data, and writes records and result.json."""
        measured_from = time.perf_counter()
        state, directory = self._own_state(place), self.runs[place].directory
        stop_if_interrupted()
        self.learner.calibrate(state)
        with measuring(self._console) as told:
            records, figures = self.learner.evaluate(state, progress=told)
        stop_if_interrupted()
        self._check_lease()
        records.write(directory / records.FILE)
        total = self._trained["train_seconds"] + time.perf_counter() - measured_from
        times = {"dev": self.development(place), "total_seconds": round(total, 2)}
        result = records.summary() | figures | times | self.facts(place)
        stop_if_interrupted()  # Ctrl-C may also have ended the git that tells the commit
        self._check_lease()
        write_json(directory / RESULT, result)
        return result


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
    before, now = config_json(read_json(directory / CONFIG)), config_json(config)
    if before != now:
        if without_place(before) != without_place(now):
            (directory / RESULT).unlink(missing_ok=True)
        write_config(directory / CONFIG, config)


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
