"""Checkpoints that are whole or do not exist, and that are verified before they are trusted.

A checkpoint is a directory `checkpoints/<step>/` with the state as Orbax writes it and a manifest:
every file's SHA-256, and the shape and dtype of every array. It is built under a temporary name and
renamed, so that a process killed at any moment leaves whole checkpoints only; the manifest tells a
file that was truncated later, and a state of other shapes before Orbax reads it. What is written is read
before it counts, by Orbax and bit for bit.
"""

import contextlib
import hashlib
import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax.errors import UserError, require
from ragjax.files import parse_json
from ragjax.hosts import from_first
from ragjax.lease import Owner, clock, is_abandoned

MANIFEST = "manifest.json"
STATE = "state"
PARTIAL = "partial-"  # begins the name of what is being built, which ends in its process's tag


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


def _bytes(leaf: Any) -> np.ndarray:
    """The bytes of an array, without a copy where it is one of the host."""
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)


@contextlib.contextmanager
def _plain(directory: Path) -> Iterator[Path]:
    """Yields a path to a directory, for a while, with a name that Orbax takes as it is.

    Orbax looks for its own files by a pattern that begins with the path, so that it never finds those in
    `lr[1e-3]`, and takes `gs:` for a place on the net.
    """
    if re.fullmatch(r"[\w./ +,=@-]*", str(directory)):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="ragjax-") as elsewhere:
        link = Path(elsewhere) / "checkpoint"
        link.symlink_to(directory, target_is_directory=True)
        yield link


def _age(directory: Path) -> float:
    """Seconds since anything in a directory was last written."""
    times = [0.0]
    for path in (directory, *directory.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return clock(directory.parent) - max(times)


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      directory: holds one directory a checkpoint, named by its step.
      keep: how many of the newest are kept.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 2,
        may_write: Callable[[], None] = lambda: None,
        spent: Callable[[], dict[str, float]] = dict,
        writes: bool = True,
    ):
        """Names the directory; nothing is written yet.

        Args:
          directory: see above.
          keep: see above.
          may_write: called before anything is written; raises if this process may no longer.
          spent: seconds that training took so far, which a checkpoint keeps for who continues from it.
          writes: whether this host is the one of several that writes; the others only read.
        """
        self.directory = directory.absolute()
        self.keep = keep
        self._may_write, self._spent, self._writes = may_write, spent, writes

    def steps(self) -> list[int]:
        """Steps of the checkpoints that exist, whole or damaged, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdigit())

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, a pytree of arrays, and drops checkpoints older than the newest `keep`.

        It is read by Orbax again and compared before it counts, which takes half as long as to write it.

        Raises:
          UserError: it can't be written or read; the earlier checkpoints are as they were.
        """
        if not self._writes:
            partial = self.directory / from_first("")
            _write(partial, state)
            self._require_readable(step, partial, state)
            from_first("")
            return
        self._may_write()
        partial = self.directory / f"{PARTIAL}{Owner.this().tag}"
        replaced, final = Path(f"{partial}-replaced"), self.directory / str(step)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            from_first(partial.name)
            _write(partial, state)
            files, leaves = _digests(partial), _leaves(state)
            manifest = {"files": files, "leaves": leaves, "spent": self._spent()}
            (partial / MANIFEST).write_text(json.dumps(manifest))
            self._require_readable(step, partial, state)
            with contextlib.suppress(FileNotFoundError):
                # Out of the way in one move: half of it would pass for a damaged checkpoint.
                final.rename(replaced)
            partial.rename(final)
            from_first("")  # from now on every host sees it
        except (OSError, ValueError) as error:  # what is an OSError in Python, is none in Orbax
            _remove(partial)
            if replaced.exists() and not final.exists():
                replaced.rename(final)
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"Checkpoint {step} can't be written to {self.directory} ({reason}); free space there "
                "and go on with --resume."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)
        for old in self.steps()[: -self.keep]:
            self.drop(old)
        for left in self.directory.glob(f"{PARTIAL}*"):  # of processes that were killed
            tag = left.name.removeprefix(PARTIAL).removesuffix("-replaced")
            if is_abandoned(tag, _age(left)):
                shutil.rmtree(left, ignore_errors=True)

    def _require_readable(self, step: int, directory: Path, state: Any) -> None:
        """Restores what was just written, on the host, and compares it bit for bit; every host does.

        Raises:
          UserError: it can't be read, or is another state.
        """
        # The shapes alone: NumPy takes no memory for what is never written to.
        shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), state)
        reason = "it differs from what was written"
        try:
            with _plain(directory) as plain, _alone():
                found = _orbax().load(str(plain / STATE), shapes)
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True)
            same = all(np.array_equal(_bytes(a), _bytes(b)) for a, b in pairs)
        except Exception as error:
            same, reason = False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        from_first("")  # before the first host renames it
        require(
            same,
            f"Checkpoint {step} can't be read again from {self.directory} ({reason}); name another "
            "--run-dir, on another disk.",
        )

    def _manifest(self, step: int) -> dict[str, Any] | None:
        """The manifest of a checkpoint whose files are as they were written, or None."""
        path = self.directory / str(step)
        try:
            manifest = parse_json((path / MANIFEST).read_bytes())
            return manifest if manifest["files"] == _digests(path) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def spent(self, step: int) -> dict[str, float]:
        """What `spent` said when a checkpoint, which is whole, was written."""
        return json.loads((self.directory / str(step) / MANIFEST).read_text()).get("spent") or {}

    def drop(self, step: int) -> None:
        """Removes the checkpoint of a step, if there is one, in one move for whoever reads it now."""
        if not self._writes:
            return
        self._may_write()
        gone = self.directory / f"{PARTIAL}{Owner.this().tag}-replaced"
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.directory / str(step)).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def is_whole(self, step: int) -> bool:
        """Whether every file of the checkpoint is there with the content that was written."""
        return self._manifest(step) is not None

    def restore(self, template: Any, before: int | None = None) -> tuple[int, Any, list[int]]:
        """Reads the newest whole checkpoint.

        Args:
          template: a pytree of arrays (or shapes) with the structure that was saved.
          before: a step; those from it on are passed over. None for the newest of all.

        Returns:
          Its step, its state, and the steps of newer checkpoints that were damaged and passed over.

        Raises:
          UserError: there is no whole checkpoint, or it has other shapes than `template`.
        """
        damaged = []
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        for step in reversed(self.steps()):
            if before is not None and step >= before:
                continue
            path, manifest = self.directory / str(step), self._manifest(step)
            if not path.exists():  # the run goes on, and has dropped it meanwhile
                return self.restore(template, before)
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
                with _plain(path) as plain, _alone():
                    return step, _orbax().load(str(plain / STATE), abstract), damaged
            except (OSError, ValueError) as error:
                if not path.exists():
                    return self.restore(template, before)
                # Orbax tells a missing field from an empty one.
                raise UserError(message) from error
        found = f"only damaged ones ({', '.join(map(str, damaged))})" if damaged else "none"
        remedy = (
            "train the run again into another --run-dir"
            if damaged
            else "wait for its first if it is training, or go on with it by --resume"
        )
        raise UserError(
            f"{self.directory} should hold a whole checkpoint but has {found}; {remedy}."
        )


def _write(partial: Path, state: Any) -> None:
    """Saves by Orbax, which wants every host to save the same at the same place."""
    if jax.process_count() > 1:
        state = jax.tree.map(np.asarray, state)
    with _plain(partial) as plain:
        _orbax().save(str(plain / STATE), state)


def _orbax() -> Any:
    """Imports Orbax late, for the commands' start-up time, and quietens its log: errors are raised."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    from orbax.checkpoint import v1

    return v1


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Within it Orbax waits for no other host."""
    if jax.process_count() == 1:
        yield
        return
    host, options = jax.process_index(), _orbax().options
    alone = options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host_{host}"
    )
    with _orbax().Context(multiprocessing_options=alone):
        yield
