"""Passage embeddings on disk, [N,D], written chunk by chunk and searched without being loaded.

    embeddings.npy  [N,D] float32 or float16, or the bits of bfloat16 as uint16
    manifest.json   whose embeddings they are; see `ragjax.manifests`

While they are made, `plan.json` says of what, and `done.txt` has a line for each chunk that is on disk.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragjax.errors import UserError, require
from ragjax.files import read_json_object, write_json
from ragjax.manifests import put_in_place, read_manifest, write_manifest
from ragjax.precision import single_precision
from ragjax.retrieval.base import require_depth
from ragjax.retrieval.blocks import best_in_blocks
from ragjax.types import TopK

KIND = "embeddings"
DTYPES = ("float32", "float16", "bfloat16")
EMBEDDINGS, PLAN, DONE = "embeddings.npy", "plan.json", "done.txt"
REMEDY = "make them again with `ragjax index build --force`."
BLOCK, QUERIES = 2**16, 256  # rows and queries whose scores are in memory at once


class StoredEmbeddings:
    """[N,D] embeddings on disk.

    Attributes:
      directory: where they are.
      facts: what the manifest says: "count" (N), "width" (D), "dtype", "encoder" and "corpus" (digests
        of what they were made with and of), and what else their maker added.
      rows: [N,D] in their own dtype, mapped into memory.
    """

    def __init__(self, directory: Path, *, verify: bool | None = None):
        """Opens embeddings.

        Args:
          directory: from `EmbeddingsWriter.finish`.
          verify: whether all bytes are compared with the manifest's digest, see
            `manifests.read_manifest`.

        Raises:
          UserError: it holds no whole embeddings.
        """
        self.directory = directory
        self.facts = read_manifest(directory, KIND, REMEDY, verify=verify)
        rows = _mapped_rows(directory, REMEDY)
        self.rows = rows.view(np.dtype(jnp.dtype(self.facts["dtype"])))

    def require_made(self, whose: Mapping[str, str], *, allow_other: bool = False) -> None:
        """Checks what the embeddings were made with.

        Args:
          whose: fact of the manifest -> the digest that it has to have, such as "encoder" or "corpus".
          allow_other: whether others are good enough.

        Raises:
          UserError: one is another.
        """
        maker = self.facts.get("run") or self.facts.get("source")
        for name, digest in whose.items():
            made = str(self.facts.get(name))
            if maker and name in ("encoder", "tokenizer"):
                made = f"that of {maker}, {made}"
            require(
                allow_other or self.facts.get(name) == digest,
                f"{self.directory} was made with another {name} ({made}) than is given now ({digest}); "
                f"give that one, or {REMEDY}",
            )

    def block(self, start: int, stop: int) -> Float[np.ndarray, "n D"]:
        """The rows `start` to `stop` as float32, in memory."""
        return np.asarray(self.rows[start:stop], np.float32)


def _mapped_rows(directory: Path, remedy: str) -> np.ndarray:
    path = directory / EMBEDDINGS
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); {remedy}") from error


def _write_through(file: BinaryIO, data: bytes) -> None:
    """Writes data and waits until it is on disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


@single_precision
def search_rows(
    stored: StoredEmbeddings, queries: Float[np.ndarray, "M D"], k: int, block: int = BLOCK
) -> TopK:
    """Finds the k rows of highest inner product with each query, exactly, reading all rows once.

    Args:
      stored: [N,D] on disk.
      queries: [M,D].
      k: rows wanted for each query.
      block: rows that are in memory at once.

    Returns:
      NumPy `TopK` of [M,k], best first, ties by the lower row.

    Raises:
      UserError: k exceeds N.
    """
    count = stored.rows.shape[0]
    require_depth(k, count)
    asked = [
        jnp.asarray(queries[start : start + QUERIES], jnp.float32)
        for start in range(0, len(queries), QUERIES)
    ]
    best = [
        (jnp.full((len(some), k), -jnp.inf, jnp.float32), jnp.full((len(some), k), -1, jnp.int32))
        for some in asked
    ]
    for start in range(0, count, block):
        rows = jnp.asarray(stored.block(start, min(start + block, count)))
        best = [
            _best_of(*found, some, rows, np.int32(start))
            for found, some in zip(best, asked, strict=True)
        ]
    scores, ids = (np.concatenate(parts) for parts in zip(*best, strict=True))
    return TopK(ids, scores, ids >= 0)


@jax.jit
def _best_of(
    scores: Float[Array, "M k"],
    ids: Int[Array, "M k"],
    queries: Float[Array, "M D"],
    rows: Float[Array, "n D"],
    start: Int[Array, ""],
) -> tuple[Float[Array, "M k"], Int[Array, "M k"]]:
    """The best of those found before, whose rows are lower, and of `rows`, which begin at `start`."""
    found = best_in_blocks(rows, queries, min(scores.shape[1], rows.shape[0]))
    every = jnp.concatenate([scores, found.scores], axis=1)
    every_ids = jnp.concatenate([ids, jnp.where(found.valid, start + found.ids, -1)], axis=1)
    # Of equal scores `top_k` takes those that stand first.
    best, at = jax.lax.top_k(every, scores.shape[1])
    return best, jnp.take_along_axis(every_ids, at, axis=1)


class EmbeddingsWriter:
    """Embeddings that are being made, so that a process that is killed loses one chunk at most.

    Attributes:
      directory: where they are made.
      done: chunks of rows that are on disk, counted from the first.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any], *, force: bool = False):
        """Begins, or goes on where an earlier process was stopped.

        Args:
          directory: where they are made, which gets another name at the end.
          plan: the manifest's facts, among them "count", "width", "dtype" and "chunk" (rows of a chunk).
          force: whether what was begun of another plan is thrown away.

        Raises:
          UserError: another plan was begun here.
        """
        self.directory, self._plan = directory, dict(plan)
        if directory.exists() and not self._goes_on(force):
            shutil.rmtree(directory)
        if not directory.exists():
            directory.mkdir(parents=True)
            dtype = np.uint16 if plan["dtype"] == "bfloat16" else np.dtype(plan["dtype"])
            shape = (plan["count"], plan["width"])
            np.lib.format.open_memmap(directory / EMBEDDINGS, "w+", dtype, shape)
            write_json(directory / PLAN, self._plan)
        self.done = self._count_done()

    def _goes_on(self, force: bool) -> bool:
        """Whether the directory holds the beginning of this plan."""
        path = self.directory / PLAN
        if not path.exists():  # killed before anything was embedded
            return False
        begun = read_json_object(path, f"delete {self.directory} and begin anew.")
        differing = [name for name in self._plan if begun.get(name) != self._plan[name]]
        require(
            force or not differing,
            f"{self.directory} was begun with another {', '.join(differing)}; give the same, delete it, "
            "or begin anew with --force.",
        )
        if not differing:
            # To be written, a file that was cut would be lengthened with zeros; to be read, it is not.
            _mapped_rows(self.directory, f"delete {self.directory} and begin anew.")
        return not differing

    def _count_done(self) -> int:
        """The chunks that are recorded, whose lines are whole and in order."""
        with contextlib.suppress(FileNotFoundError):
            done = (self.directory / DONE).read_bytes()
            lines = done.split(b"\n")[:-1]
            count = next((n for n, line in enumerate(lines) if line != b"%d" % n), len(lines))
            whole = b"".join(b"%d\n" % number for number in range(count))
            if whole != done:  # a line that was torn
                (self.directory / DONE).write_bytes(whole)
            return count
        return 0

    @property
    def chunks(self) -> list[range]:
        """The rows of each chunk."""
        count, size = self._plan["count"], self._plan["chunk"]
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def write(self, rows: Float[np.ndarray, "n D"]) -> None:
        """Writes the next chunk and records it once it is on disk.

        Raises:
          UserError: an embedding is not finite, or too large for the dtype.
        """
        place, dtype = self.chunks[self.done], self._plan["dtype"]
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            stored = rows.astype(jnp.dtype(dtype))
        fine = np.isfinite(stored.astype(np.float32)).all(axis=1)
        first = place[int(np.argmin(fine))]
        require(
            bool(fine.all()),
            f"The embedding of passage {first} is not finite as {dtype}; give --dtype float32, or check "
            "the run's parameters.",
        )
        # Not by memory map: on a full disk that ends the process without a word.
        path, total = self.directory / EMBEDDINGS, self._plan["count"] * stored[0].nbytes
        header = path.stat().st_size - total
        with path.open("r+b") as file:
            file.seek(header + place.start * stored[0].nbytes)
            _write_through(file, stored.tobytes())
        with (self.directory / DONE).open("ab") as file:
            _write_through(file, b"%d\n" % self.done)
        self.done += 1

    def finish(
        self,
        directory: Path,
        facts: Mapping[str, Any],
        names: tuple[str, ...] = (),
        check: Callable[[], None] = lambda: None,
    ) -> StoredEmbeddings:
        """Gives the whole embeddings their name, in place of others that have it.

        Args:
          directory: their name, beside the one under which they were made.
          facts: what the manifest says beside the plan.
          names: of more files in the directory that belong to them.
          check: called before anything is written, and before the renaming; may raise.
        """
        assert self.done == len(self.chunks)
        check()
        # It reads the whole file for its digest, which may take minutes.
        write_manifest(self.directory, KIND, {**self._plan, **facts}, (EMBEDDINGS, *names))
        check()
        put_in_place(self.directory, directory)
        for name in (PLAN, DONE):
            (directory / name).unlink()
        return StoredEmbeddings(directory, verify=False)
