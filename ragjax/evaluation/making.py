"""Making the runs that a table lacks: training in processes of their own, and recording."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ragjax.errors import UserError, require
from ragjax.evaluation.runs import record_run
from ragjax.evaluation.tables import MarkdownTable, Row, Table, missing_runs
from ragjax.printing import PlainConsole


def make_missing(table: Table | MarkdownTable, runs: Path, console: PlainConsole) -> None:
    """Trains and records every declared run that isn't recorded yet; finished ones are recorded only.

    Args:
      table: what declares the runs.
      runs: directory in which they train.
      console: where it is said which run is made.

    Raises:
      UserError: a run failed, or can't be recorded; or the table is not one of runs.
    """
    if isinstance(table, MarkdownTable):
        raise UserError(
            f"--run makes the runs of a table, but {table.title!r} is written by its experiment's file; "
            "leave it out (below the table stands the command that measures its figures)."
        )
    missing = missing_runs(table)
    for row in {row.directory: row for row, _, _ in missing}.values():
        lacking = {seed: place for other, seed, place in missing if other == row}
        base = runs / table.name / row.directory
        # All seeds of a row in one program, or one after another.
        together = table.side_by_side and len(lacking) == len(table.seeds) > 1
        for seeds in [list(lacking)] if together else [[seed] for seed in lacking]:
            run_dir = base if together else base / f"seed_{seeds[0]}"
            which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            console.print(f"{row.label}, {which}: {run_dir}")
            if not all((base / f"seed_{seed}" / "result.json").exists() for seed in seeds):
                _make_run(row, seeds, run_dir)
        for seed, destination in lacking.items():
            record_run(base / f"seed_{seed}", destination)


def _make_run(row: Row, seeds: Sequence[int], run_dir: Path) -> None:
    """Trains a row of a table, in a process of its own so that time and memory are its own."""
    command = [row.config, *row.overrides, "--seed", str(seeds[0]), "--run-dir", str(run_dir)]
    if len(seeds) > 1:
        command += ["--num-seeds", str(len(seeds))]
    if (run_dir / "config.json").exists():
        command.append("--resume")
    process = subprocess.Popen([sys.executable, "-m", "ragjax", "train", *command])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()  # it has had the same Ctrl-C, and saves what it has
        raise
    require(code == 0, f"The run {run_dir} ended with exit code {code}; mend it and start again.")
