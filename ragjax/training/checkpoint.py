"""Checkpoints that are whole or do not exist, and that are verified before they are trusted.

A checkpoint is a directory `checkpoints/<step>/` with the state as Orbax writes it and a manifest:
every file's SHA-256, and the shape and dtype of every array. It is built under a temporary name and
renamed, so that a process killed at any moment leaves whole checkpoints only; the manifest tells a
file that was truncated later, and a state of other shapes before Orbax reads it.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax

from ragjax.errors import UserError, require

MANIFEST = "manifest.json"
STATE = "state"


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != MANIFEST
    }


def _remove(directory: Path) -> None:
    """Removes a directory into which threads of a failed save go on writing for a while.

    It has to stay away for a second before it counts as removed.
    """
    absent = 0
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        absent = 0 if directory.exists() else absent + 1
        if absent == 20:
            break
        time.sleep(0.05)


def _leaves(state: Any) -> dict[str, str]:
    """Name -> dtype and shape of every array of a pytree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flat}


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      directory: holds one directory a checkpoint, named by its step.
      keep: how many of the newest are kept.
    """

    def __init__(self, directory: Path, keep: int = 2):
        """Names the directory; nothing is written yet."""
        self.directory = directory.absolute()
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of the checkpoints that exist, whole or damaged, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, a pytree of arrays, and drops checkpoints older than the newest `keep`.

        Raises:
          UserError: it can't be written; the earlier checkpoints are as they were.
        """
        ocp = _orbax()
        partial = self.directory / f"partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            ocp.save(str(partial / STATE), state)
            manifest = {"files": _digests(partial), "leaves": _leaves(state)}
            (partial / MANIFEST).write_text(json.dumps(manifest))
            final = self.directory / str(step)
            with contextlib.suppress(FileNotFoundError):
                # Out of the way in one move: half of it would pass for a damaged checkpoint.
                final.rename(f"{partial}-replaced")
            partial.rename(final)
        except (OSError, ValueError) as error:  # what is an OSError in Python, is none in Orbax
            _remove(partial)
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"Checkpoint {step} can't be written to {self.directory} ({reason}); free space there "
                "and go on with --resume."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.directory / str(old), ignore_errors=True)
        for left in self.directory.glob("partial-*"):  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)

    def _manifest(self, step: int) -> dict[str, Any] | None:
        """The manifest of a checkpoint whose files are as they were written, or None."""
        path = self.directory / str(step)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            return manifest if manifest["files"] == _digests(path) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_whole(self, step: int) -> bool:
        """Whether every file of the checkpoint is there with the content that was written."""
        return self._manifest(step) is not None

    def restore(self, template: Any) -> tuple[int, Any, list[int]]:
        """Reads the newest whole checkpoint.

        Args:
          template: a pytree of arrays (or shapes) with the structure that was saved.

        Returns:
          Its step, its state, and the steps of newer checkpoints that were damaged and passed over.

        Raises:
          UserError: there is no whole checkpoint, or it has other shapes than `template`.
        """
        damaged = []
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        for step in reversed(self.steps()):
            path, manifest = self.directory / str(step), self._manifest(step)
            if manifest is None:
                damaged.append(step)
                continue
            differing = dict(_leaves(template).items() ^ manifest["leaves"].items())
            message = (
                f"Checkpoint {path} does not fit the run's config (its state differs in "
                f"{min(differing, default='fields without arrays')}); use the config.json it was "
                "written with or train into a new --run-dir."
            )
            require(not differing, message)
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), template
            )
            try:
                return step, _orbax().load(str(path / STATE), abstract), damaged
            except ValueError as error:  # Orbax tells a missing field from an empty one
                raise UserError(message) from error
        found = f"only damaged ones ({', '.join(map(str, damaged))})" if damaged else "none"
        raise UserError(
            f"{self.directory} should hold a whole checkpoint but has {found}; train the run again into "
            "another --run-dir."
        )


def _orbax():
    """Imports Orbax late, for the commands' start-up time, and quietens its log: errors are raised."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    from orbax.checkpoint import v1

    return v1
