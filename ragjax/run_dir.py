"""A run's directory: its files, what may start or continue there, and where its figures come from."""

import contextlib
import json
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ragjax.config import RunConfig, differing_fields, read_json, to_json
from ragjax.errors import require

CONFIG, RESULT, CHECKPOINTS = "config.json", "result.json", "checkpoints"
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "rlax", "numpy", "tokenizers", "orbax-checkpoint", "bm25s"),
    "gymnasium",
)


def parameter_counts(params: Any) -> dict[str, int]:
    """Number of parameters of each group."""
    return {
        group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in params.items()
    }


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but bytes on macOS
    return round(peak / (1_000_000 if sys.platform == "darwin" else 1_000))


def made_from(run_dir: Path) -> dict[str, Any]:
    """Names a run that another is built on, for the other's result: its directory and git commit."""
    try:
        commit = json.loads((run_dir / RESULT).read_text()).get("git_commit")
    except (OSError, ValueError):  # gone since a run that has been resumed
        commit = None
    return {"run": str(run_dir), "git_commit": commit}


def provenance() -> dict[str, Any]:
    """Package versions, and the git commit where the code lies in a checkout."""
    versions = {}
    for package in ("ragjax", *PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or not a checkout
        commit = None
    return {"versions": versions, "git_commit": commit}


def is_run(run_dir: Path) -> bool:
    """Whether a run was begun in `run_dir`, so that it can be resumed."""
    return (run_dir / CONFIG).exists()


def check_run_dir(config: RunConfig, run_dir: Path, resume: bool) -> None:
    """Checks that a run may start or continue in `run_dir`.

    Raises:
      UserError: it holds a run and `resume` is off, holds none and it is on, or was made by another
        config.
    """
    require(
        resume or not is_run(run_dir),
        f"{run_dir} already holds a run; add --resume to continue it or name another --run-dir.",
    )
    if resume:
        require(
            is_run(run_dir), f"{run_dir} holds no run to resume; leave out --resume to start one."
        )
        differing = differing_fields(to_json(read_json(run_dir / CONFIG)), to_json(config))
        require(
            not differing,
            f"{run_dir} was made by another config; it differs in {', '.join(differing)}; give the "
            "same values or another --run-dir.",
        )


def report_damaged(damaged: list[int], used: int, console: Console) -> None:
    """Says which checkpoints were passed over."""
    for step in damaged:
        console.print(f"checkpoint {step} is damaged; falling back to the one of step {used}")
