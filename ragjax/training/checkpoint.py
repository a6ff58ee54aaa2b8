"""Checkpoints that are whole or do not exist, and that are verified before they are trusted.

A checkpoint is a directory `checkpoints/<step>/` with the state as Orbax writes it and a manifest of
every file's SHA-256. It is built under a temporary name and renamed, so that a process killed at any
moment leaves whole checkpoints only; the manifest tells a file that was truncated later.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax

from ragjax.errors import UserError

MANIFEST = "manifest.json"
STATE = "state"


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != MANIFEST
    }


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
        """Writes `state`, a pytree of arrays, and drops checkpoints older than the newest `keep`."""
        ocp = _orbax()
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.directory / f"partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            ocp.save_pytree(partial / STATE, state)
            (partial / MANIFEST).write_text(json.dumps(_digests(partial)))
            final = self.directory / str(step)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.directory / str(old), ignore_errors=True)
        for left in self.directory.glob("partial-*"):  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)

    def is_whole(self, step: int) -> bool:
        """Whether every file of the checkpoint is there with the content that was written."""
        path = self.directory / str(step)
        try:
            return json.loads((path / MANIFEST).read_text()) == _digests(path)
        except (OSError, ValueError):
            return False

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
            if not self.is_whole(step):
                damaged.append(step)
                continue
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), template
            )
            try:
                state = _orbax().load_pytree(self.directory / str(step) / STATE, abstract)
            except (ValueError, KeyError) as error:
                first = str(error).splitlines()[0]
                raise UserError(
                    f"Checkpoint {self.directory / str(step)} does not fit the run's config ({first}); "
                    "use the config.json it was written with or train into a new --run-dir."
                ) from error
            return step, state, damaged
        found = f"only damaged ones ({', '.join(map(str, damaged))})" if damaged else "none"
        raise UserError(
            f"{self.directory} should hold a whole checkpoint but has {found}; train the run first."
        )


def _orbax():
    """Imports Orbax late, for the commands' start-up time, and quietens its log."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    from orbax.checkpoint import v1

    return v1
