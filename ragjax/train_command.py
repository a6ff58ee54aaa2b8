"""The train command: `ragjax train CONFIG`."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ragjax import result_commands
from ragjax.errors import require
from ragjax.interrupts import INTERRUPTED, interrupted_twice, raised_interrupts, stop_if_interrupted
from ragjax.printing import PlainConsole, print_line, print_text

# As in `ragjax.cli`, what is slow to import is imported where it is needed.

# Its own options with a value, and those without.
VALUED = {"--run-dir", "--coordinator", "--hosts", "--host"}
BARE = {"--resume", "--no-resume", "--check", "--no-check"}


@dataclass(frozen=True)
class Train:
    """Train and evaluate an experiment: ragjax train CONFIG [--field.sub value ...].

    Every field of the config can be overridden; `ragjax train CONFIG --help` lists them.
    """

    config: Positional[Path]
    """A config file, or the name of one that came with the package: world_facts/rag_sequence."""
    run_dir: Path | None = None
    """Where the run's files go; runs/<task or environment>/<config>/seed_<seed> if not given."""
    resume: bool = False
    """Continue the run in --run-dir from its newest whole checkpoint; with more steps, beyond its
    end (where optimizer.schedule is constant)."""
    check: bool = False
    """Print parameters, memory and the beginning of the first batch instead, and train nothing."""
    coordinator: str | None = None
    """Of a run on several hosts: address:port of host 0, or auto on a cluster that tells (Slurm, Open
    MPI, TPU). Every host runs the same command; set --mesh.devices 0 with it."""
    hosts: int | None = None
    """How many hosts there are."""
    host: int | None = None
    """Which of them this is, from 0."""


def train(options: Any, overrides: list[str], console: PlainConsole) -> int:
    """Trains, where a signal ends everything in one way, from the imports on to the result."""
    words, run_dir = ["ragjax", "train", str(options.config), *overrides], options.run_dir
    before = False if run_dir is None else _holds_run(run_dir)

    def going_on() -> str:
        return _going_on(words, options, run_dir, before)

    def lost() -> str:
        assert run_dir is not None  # the hosts meet once it is known
        return _after_loss(run_dir, going_on(), console)

    try:
        stop_if_interrupted()
        from ragjax import commands, compiled, hosts
        from ragjax.config import load_config
        from ragjax.overrides import override

        stop_if_interrupted()
        config = override(load_config(options.config), overrides, " ".join(words[:3]))
        stop_if_interrupted()
        compiled.keep_compiled()
        told = options.coordinator, options.hosts, options.host
        if run_dir is None:
            run_dir = Path("runs") / config.subject / options.config.stem / config.run_name
            before = _holds_run(run_dir)
        try:
            console.quiet = not hosts.join(*told, spreads=config.mesh.spreads, lost=lost)
            stop_if_interrupted()
            if options.check:
                return _check(options, config)
            assert run_dir is not None, "it has a default"
            results = commands.train(config, run_dir, resume=options.resume, console=console)
        except Exception as error:
            hosts.end_if_lost(error, lost)
            raise
        if results:
            result_commands.print_report(config.records.report(results))
            taken, steps = results[0]["train_seconds"], results[0]["steps"]
            print_line(f"{run_dir}: {taken:.0f} s of training, {steps} steps")
        stop_if_interrupted()
    except (KeyboardInterrupt, Exception) as error:
        # The exception of a second signal may have become another one, in a callback of JAX.
        if not (isinstance(error, KeyboardInterrupt) or interrupted_twice()):
            raise
        if not options.check:
            print_text(f"stopped; continue with: {going_on()}", sys.stderr)
        return INTERRUPTED
    return 0


def _check(options: Any, config: Any) -> int:
    """Prints what the run would be."""
    from ragjax import commands

    for name, given in (("--resume", options.resume), ("--run-dir", options.run_dir)):
        require(not given, f"{name} is given, but --check trains nothing; leave one of them out.")
    with raised_interrupts():  # there is nothing to tear
        commands.check(config, PlainConsole())
    return 0


def _holds_run(run_dir: Path) -> bool:
    """As `ragjax.run_dir.is_run`, whose module takes a while to import."""
    return (run_dir / "config.json").exists()


def _going_on(words: Sequence[str], options: Any, run_dir: Path | None, before: bool) -> str:
    """The command that goes on with a run.

    Args:
      words: how it began.
      options: of the command.
      run_dir: the run's directory, where it is known.
      before: whether a run was there already.
    """
    given = {"run-dir": options.run_dir if options.check else run_dir} | {
        name: getattr(options, name) for name in ("coordinator", "hosts", "host")
    }
    words = [*words]
    for name, value in given.items():
        words += [] if value is None else [f"--{name}", str(value)]
    words += ["--check"] if options.check else []
    # A run that was there already is continued only by who asked for it.
    holds = run_dir is not None and _holds_run(run_dir)
    if holds and not options.check and (options.resume or not before):
        words += ["--resume"]
    return shlex.join(words)


def _after_loss(run_dir: Path, command: str, console: PlainConsole) -> str:
    """What to say once another host was lost, after its name.

    Args:
      run_dir: the run's directory.
      command: that goes on with it.
      console: where a bar may stand.
    """
    from ragjax.run_dir import CHECKPOINTS
    from ragjax.training.checkpoint import Checkpoints

    if console.is_terminal:
        console.show_cursor()
        print_text("", sys.stderr)
    kept = Checkpoints(run_dir / CHECKPOINTS)
    last = str(kept.directory / str(kept.steps()[-1])) if kept.steps() else "none"
    return (
        f" (killed, failed or out of reach; last good checkpoint: {last}); mend it and continue on "
        f"every host, here with: {command}"
    )
