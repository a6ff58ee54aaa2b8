"""The sweep command: `ragjax sweep FILE|CONFIG|DIR`."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from ragjax.errors import UserError, require
from ragjax.files import check_place, read_json_object
from ragjax.printing import PlainConsole, print_line, print_text
from ragjax.result_commands import print_report

# As in `ragjax.cli`, what is slow to import is imported where it is needed.


@dataclass(frozen=True)
class Sweep:
    """Train a config with many values of its fields, and choose by development data.

    The same command goes on with a sweep that was stopped, and shares it with whoever works on it.
    """

    what: Annotated[Positional[Path], arg(metavar="FILE|CONFIG|DIR")]
    """A file with get_sweep(); a config, with --vary; or the directory of a sweep."""
    vary: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=VALUES")] = ()
    """A field and its values: optimizer.retriever_rate=log:1e-3..3e-2, phases.0.k=2,4,8,
    algorithm.discount=uniform:0.9..1, algorithm.epochs=int:1..8; may be given several times."""
    sampler: Literal["grid", "random", "sobol", "tpe", "cmaes"] | None = None
    """How trials are drawn; grid if all values are listed, else random. tpe and cmaes learn."""
    sampler_seed: int | None = None
    """Of what is drawn; 0 if not given."""
    trials: int | None = None
    """How many; all of a grid, else 20, if not given."""
    seeds: int | None = None
    """Runs of each trial, whose mean counts; 1 if not given."""
    metric: str | None = None
    """What is chosen by, of the figures of development data: em or greedy_return if not given."""
    direction: Literal["maximize", "minimize"] | None = None
    """Whether more of it is better; maximize if not given."""
    rungs: Annotated[str | None, arg(metavar="SHARES")] = None
    """Stop bad trials at these shares of their steps: 0.1,0.3."""
    side_by_side: int | None = None
    """Runs in one program at most, where only seeds and rates differ; 8 if not given."""
    storage: str | None = None
    """Where tpe and cmaes remember: postgresql://host/name; a file in the directory if not given."""
    sweep_dir: Path | None = None
    """Where everything goes; runs/sweeps/<name of the file> if not given."""
    workers: int = 1
    """Processes to start; the same command elsewhere adds more."""
    launcher: Literal["local", "slurm", "ray"] | None = None
    """What starts them; local if not given."""
    launcher_options: Annotated[str, arg(metavar="NAME=VALUE,...")] = ""
    """Of slurm: those of submitit (timeout_min=600,slurm_partition=gpu); of ray: address, num_gpus."""
    retry: bool = False
    """Try failed trials again."""
    show: bool = False
    """Show what has been found so far, with pictures and the best config, and train nothing."""


# Options of its own that have a value, and those that have none.
_OPTIONS = {
    f"--{item.name.replace('_', '-')}": item.type is not bool
    for item in dataclasses.fields(Sweep)
    if item.name != "what"
}
VALUED = {name for name, valued in _OPTIONS.items() if valued}
BARE = {word for name in _OPTIONS.keys() - VALUED for word in (name, f"--no-{name[2:]}")}


def sweep(options: Sweep, overrides: list[str], console: PlainConsole) -> int:
    """Runs or shows a sweep; returns the exit code."""
    from ragjax.config import to_json
    from ragjax.config_differences import differing_fields
    from ragjax.interrupts import stop_if_interrupted
    from ragjax.sweep.store import SWEEP, Store
    from ragjax.sweep.study import plan_of
    from ragjax.sweep.working import work_on

    require(options.workers >= 1, f"--workers is {options.workers}; give at least 1.")
    directory, asked = _asked(options, overrides)
    require(
        not directory.is_file(), f"--sweep-dir is {directory}, which is a file; name a directory."
    )
    check_place("--sweep-dir", directory, SWEEP)
    store = Store(directory)
    try:
        stop_if_interrupted()
        if asked is None:
            require(
                not _given(options),
                f"{options.what} is a sweep's directory, which says all of it; leave out "
                f"{', '.join(_given(options))}, or name its file.",
            )
            store.open()
        elif options.show:
            store.open()
            fields = differing_fields(to_json(store.sweep), to_json(asked))
            require(
                not fields,
                f"The sweep in {directory} differs in {', '.join(fields)}; show it by: ragjax sweep "
                f"{directory} --show.",
            )
        else:
            if not (directory / SWEEP).is_file():
                _check(asked, console)
            for note in store.begin(asked, plan_of):
                console.print(note)
        if options.retry:
            _forget_failed(store)
        if options.show:
            return _show(store, console)
        if options.workers == 1 and options.launcher is None:
            from ragjax.compiled import keep_compiled

            keep_compiled()
            work_on(directory, console)
        else:
            _launch(store, options, console)
    except KeyboardInterrupt:
        if (directory / SWEEP).is_file():
            print_text(f"stopped; go on by: ragjax sweep {shlex.quote(str(directory))}", sys.stderr)
        raise
    return _show(store, console)


def _given(options: Sweep) -> list[str]:
    """The options that say what a sweep is, as far as they are given."""
    names = [
        name for name in VALUED if name not in ("--workers", "--launcher", "--launcher-options")
    ]
    values = {name: getattr(options, name[2:].replace("-", "_")) for name in sorted(names)}
    return [name for name, value in values.items() if value not in (None, ())]


def _asked(options: Sweep, overrides: Sequence[str]) -> tuple[Path, Any]:
    """The directory, and the sweep that is asked for; None if the directory alone is named."""
    from ragjax.config import load_config
    from ragjax.overrides import override
    from ragjax.shipped import find_config
    from ragjax.sweep.samplers import SAMPLERS
    from ragjax.sweep.space import Choice, parse_vary
    from ragjax.sweep.spec import Rungs, Sweep, load_sweep

    what = options.what
    if what.is_dir():
        require(
            not overrides, f"{what} is a sweep's directory; leave out {overrides and overrides[0]}."
        )
        return what, None
    require(
        find_config(what).exists(),
        f"{what} does not exist; name a sweep file, a config (`ragjax configs` lists those of the "
        "package), or the directory of a sweep.",
    )
    directory = Path("runs") / "sweeps" / what.stem
    directory = directory if options.sweep_dir is None else options.sweep_dir
    words = f"ragjax sweep {what}"
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in (
            *("trials", "seeds", "metric", "direction"),
            *("side_by_side", "sampler_seed", "storage"),
        )
        if getattr(options, name) is not None
    }
    if options.sampler is not None:
        changes["sampler"] = SAMPLERS[options.sampler]
    if options.rungs is not None:
        changes["rungs"] = Rungs(_numbers("--rungs", options.rungs))
    if what.is_file() and what.suffix == ".py" and "get_sweep" in what.read_text(encoding="utf-8"):
        require(not options.vary, f"{what} is a sweep file, which has its space; leave out --vary.")
        known = load_sweep(what)
        changes["base"] = override(known.base, overrides, words)
        return directory, dataclasses.replace(known, **changes)
    base = override(load_config(what), overrides, words)
    require(
        bool(options.vary),
        f"{what} is a config, of which nothing is varied; add --vary FIELD=VALUES, or name a sweep "
        "file or the directory of a sweep.",
    )
    space = tuple(parse_vary(base, text) for text in options.vary)
    listed = all(isinstance(vary.values, Choice) for vary in space)
    changes.setdefault("sampler", SAMPLERS["grid" if listed else "random"])
    changes.setdefault("metric", base.records.FIGURES[0])
    return directory, Sweep(base=base, space=space, **changes)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"{name} is {text!r}; give numbers with commas, as in 0.1,0.3.") from error


def _check(asked: Any, console: PlainConsole) -> None:
    """Checks what a new sweep needs, before anything is written."""
    from ragjax.sweep.plan import Generation, Plan
    from ragjax.sweep.samplers import Grid
    from ragjax.sweep.space import require_values
    from ragjax.sweep.study import require_optuna
    from ragjax.sweep.training import Trainer

    if asked.sampler.learns:
        require_optuna()
    require_values(asked.base, asked.space)
    trials = Plan([Generation(asked, 0)]).trials
    refused = [trial for trial in trials if trial.refused]
    if refused and isinstance(asked.sampler, Grid):
        values = ", ".join(f"{name}={value}" for name, value in refused[0].values.items())
        raise UserError(
            f"The config refuses {len(refused)} of {len(trials)} points of the grid, such as {values} "
            f"({refused[0].refused.rstrip('.')}); leave values out, or in a sweep file vary a field "
            "only where it fits, by Given."
        )
    Trainer(console).check_metric(asked)


def _forget_failed(store: Any) -> None:
    """Lets trials be tried again that have failed, other than by values that the config refuses."""
    from ragjax.sweep.store import OUTCOME
    from ragjax.sweep.study import plan_of

    for trial in plan_of(store).trials:
        for run in trial.runs:
            if store.run_outcome(run).status == "failed":
                (store.run_dir(run) / OUTCOME).unlink(missing_ok=True)
    store.forget()


def _launch(store: Any, options: Sweep, console: PlainConsole) -> None:
    """Starts workers, and waits for them where their launcher does."""
    from ragjax.sweep.launchers import LAUNCHERS

    pairs = [word.partition("=") for word in options.launcher_options.split(",") if word]
    bad = [name for name, equals, value in pairs if not (name and equals and value)]
    require(
        not bad, f"--launcher-options has {', '.join(bad)}; write NAME=VALUE with commas between."
    )
    launcher = LAUNCHERS[options.launcher or "local"]
    given = {name: value for name, _, value in pairs}
    launcher.launch(store, options.workers, given, console)


def _measured(result: Path, metric: str) -> str:
    """What a result says of the metric on test data, "" if it has it by another name."""
    if not result.exists():
        return " (its result is gone)"
    value = read_json_object(result, "measure the run again.").get(metric)
    return f": {metric} {value:.4g}" if isinstance(value, int | float) else ""


def _show(store: Any, console: PlainConsole) -> int:
    """Prints what a sweep has found, and writes its best config and pictures."""
    from ragjax.config import write_config
    from ragjax.run_dir import RESULT
    from ragjax.sweep import show
    from ragjax.sweep.pictures import draw_parallel, draw_slices
    from ragjax.sweep.study import plan_of
    from ragjax.sweep.winner import finished, winners

    store.forget()
    plan = plan_of(store)
    for line in show.progress_lines(store, plan):
        print_line(line)
    found = finished(store, plan)
    if not found:
        return 0
    table, note = show.importance_table(store, plan)
    print_report([show.best_table(store, plan), *([] if table is None else [table])])
    if note:
        print_line(note)
    best = store.directory / "best.json"
    write_config(best, found[0][0].config)
    print_line(f"the best config, which `ragjax train` takes: {best}")
    try:
        for name, draw in (("slices", draw_slices), ("parallel", draw_parallel)):
            draw(store, plan, store.directory / f"{name}.png")
            print_line(f"picture: {store.directory / name}.png")
    except UserError as error:  # without matplotlib the rest is as good
        console.print(str(error))
    for winner in winners(store):
        runs = [store.directory / "runs" / name for name in winner["runs"]]
        print_line(f"trial {winner['trial']} was measured on test data; its runs:")
        for run in runs:
            print_line(f"  {run}{_measured(run / RESULT, store.sweep.metric)}")
    return 0
