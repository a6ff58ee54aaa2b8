"""Ways to start workers: each starts identical processes, which share a sweep by its directory alone.

A new launcher is a subclass of `Launcher` here, and a name in `LAUNCHERS`.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ragjax.compiled import keep_compiled
from ragjax.errors import UserError, require
from ragjax.interrupts import held_interrupts, stop_if_interrupted
from ragjax.printing import PlainConsole, print_error
from ragjax.sweep.plan import Plan
from ragjax.sweep.store import Store
from ragjax.sweep.worker import PAUSE
from ragjax.sweep.working import work_on
from ragjax.training.logging import RunProgress

LOGS = "logs"  # in the sweep's directory


def run_worker(directory: str) -> int:
    """Works on a sweep in this process until it is done; returns 0, or 2 if it can't."""
    console = PlainConsole(stderr=True)
    keep_compiled()
    try:
        with held_interrupts():
            work_on(Path(directory), console)
    except UserError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _runs_asked(store: Store) -> int:
    """All runs of a sweep, those that are still to be drawn included."""
    plan, sweep = Plan(store.generations), store.sweep
    known = sum(len(batch.runs) for batch in plan.batches)
    return known + (sweep.count * sweep.seeds if sweep.sampler.learns else 0)


class Launcher:
    """Base of the launchers: starts nothing but workers."""

    def launch(
        self, store: Store, workers: int, options: Mapping[str, str], console: PlainConsole
    ) -> None:
        """Starts workers.

        Args:
          store: of the sweep, which has begun.
          workers: how many.
          options: of the launcher.
          console: where it is said what becomes of them.

        Raises:
          UserError: an option is unknown, a package is missing, or no worker could work.
        """
        raise NotImplementedError


class Local(Launcher):
    """Processes of this machine, which share its cores; each writes its own log."""

    def launch(
        self, store: Store, workers: int, options: Mapping[str, str], console: PlainConsole
    ) -> None:
        """See `Launcher.launch`."""
        require(
            not options,
            f"--launcher-options names {', '.join(options)}, but local has none; leave it out.",
        )
        logs = store.directory / LOGS
        logs.mkdir(exist_ok=True)
        command = [sys.executable, "-m", __name__, str(store.directory)]
        started: list[tuple[Path, subprocess.Popen]] = []
        for number in range(workers):
            path = logs / f"worker_{number}.log"
            with path.open("ab") as log:
                # In a session of its own, so that Ctrl-C reaches this process alone, which passes it on.
                own = {"stdout": log, "stderr": log, "start_new_session": True}
                started.append((path, subprocess.Popen(command, **own)))
        console.print(f"{workers} workers are at work; their logs are in {logs}")
        total = _runs_asked(store)
        try:
            with RunProgress(console, total, store.runs_done(), "run") as progress:
                while any(process.poll() is None for _, process in started):
                    stop_if_interrupted()
                    progress.advance(min(store.runs_done(), total), {})
                    time.sleep(PAUSE)
                progress.advance(min(store.runs_done(), total), {})
        except KeyboardInterrupt:
            for _, process in started:
                process.terminate()
            for _, process in started:
                process.wait()
            raise
        store.workers()  # removes what killed ones left
        _report([(str(path), process.returncode) for path, process in started], console)


class Slurm(Launcher):
    """A job array of Slurm by submitit, which goes on after this command has ended."""

    def launch(
        self, store: Store, workers: int, options: Mapping[str, str], console: PlainConsole
    ) -> None:
        """See `Launcher.launch`; options are those of submitit, and `cluster=local` tries it without."""
        # Else its import closes all handlers of Python's logging, whoever made them.
        os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
        try:
            import submitit
        except ImportError as error:
            raise _missing("slurm", "submitit", error) from error
        given: dict[str, Any] = {name: _plain(value) for name, value in options.items()}
        cluster = given.pop("cluster", "slurm")
        try:
            executor = submitit.AutoExecutor(folder=store.directory / LOGS, cluster=cluster)
            executor.update_parameters(**given)
            jobs = executor.map_array(run_worker, [str(store.directory.absolute())] * workers)
        except Exception as error:  # of submitit, and of the commands of Slurm
            raise UserError(
                f"The launcher slurm can't submit ({' '.join(str(error).split())[:200]}); mend "
                "--launcher-options, or run it where sbatch is."
            ) from error
        console.print(
            f"submitted jobs {', '.join(job.job_id for job in jobs)}; logs are in "
            f"{store.directory / LOGS}; look at it by: ragjax sweep {store.directory} --show"
        )
        if cluster == "local":
            _report([(f"job {job.job_id}", _code(job.result)) for job in jobs], console)


class Ray(Launcher):
    """Tasks of a Ray cluster, or of a local one if none is named; Ray starts killed ones again."""

    def launch(
        self, store: Store, workers: int, options: Mapping[str, str], console: PlainConsole
    ) -> None:
        """See `Launcher.launch`; `address` names a cluster, the others are options of Ray's tasks."""
        try:
            import ray
        except ImportError as error:
            raise _missing("ray", "ray", error) from error
        given: dict[str, Any] = {name: _plain(value) for name, value in options.items()}
        address = given.pop("address", None)
        try:
            here = {} if address else {"include_dashboard": False, "num_cpus": workers}
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **here)
            task = ray.remote(run_worker).options(**{"num_cpus": 1, "max_retries": -1} | given)
            jobs = [task.remote(str(store.directory.absolute())) for _ in range(workers)]
        except Exception as error:  # of Ray
            raise UserError(
                f"The launcher ray can't start ({' '.join(str(error).split())[:200]}); mend "
                "--launcher-options, or start the cluster."
            ) from error
        console.print(f"{workers} workers are at work in Ray")
        codes = [(f"task {n}", _code(lambda job=job: ray.get(job))) for n, job in enumerate(jobs)]
        ray.shutdown()
        _report(codes, console)


LAUNCHERS: dict[str, Launcher] = {"local": Local(), "slurm": Slurm(), "ray": Ray()}


def _missing(name: str, package: str, error: ImportError) -> UserError:
    return UserError(
        f"The launcher {name} needs {package} ({error}); install it with "
        f"`pip install 'ragjax[{name}]'`."
    )


def _plain(value: str) -> Any:
    """An option as a number where it is one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _code(result: Any) -> int:
    """The exit code that a worker returned, or 1 if it ended otherwise."""
    try:
        return int(result())
    except Exception:  # whatever a killed worker's launcher raises
        return 1


def _report(codes: list[tuple[str, int]], console: PlainConsole) -> None:
    """Says which workers ended badly.

    Raises:
      UserError: all did.
    """
    bad = [(name, code) for name, code in codes if code != 0]
    for name, code in bad:
        console.print(
            f"a worker ended with exit code {code}: {name}; what it had in hand, others took over, or "
            "the next call does",
            soft_wrap=True,
        )
    require(
        len(bad) < len(codes),
        f"Every worker ended badly (see {codes[0][0]}); mend that and give the same command again.",
    )


if __name__ == "__main__":
    sys.exit(run_worker(sys.argv[1]))
