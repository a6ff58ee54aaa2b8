"""A corpus on disk: passages of any number as a sequence, read by memory map and never all at once.

A store is a directory of the files that `data.passage_files` describes and a manifest with counts,
digests, and where the passages come from; see `ragjax.manifests`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int64

from ragjax.data.passage_files import FILES, HASHES, REMEDY, ROWS, PassageFiles, column, hash_of
from ragjax.data.passage_writer import listed, write_passages
from ragjax.data.readers import located_passages, text_files
from ragjax.errors import require
from ragjax.manifests import (
    file_digest,
    new_directory,
    read_manifest,
    versions_of,
    write_manifest,
)
from ragjax.text import counted
from ragjax.types import Passage

KIND = "passages"


class PassageStore(Sequence[Passage]):
    """N passages on disk.

    Attributes:
      directory: where they are.
      facts: what the manifest says: "passages" (N); "digest" of all passages in order, see
        `report.digest_of`; "empty", how many without a text were left out, and "empty_named", where the
        first few are; "repeats", how many have title and text of an earlier one, "repeats_named", and
        "dropped", whether they were left out; "source", see `source_of`; "versions" of packages.
    """

    def __init__(self, directory: Path, *, verify: bool | None = None):
        """Opens a store.

        Args:
          directory: from `build_store`.
          verify: whether all bytes are compared with the manifest's digests, see
            `manifests.read_manifest`.

        Raises:
          UserError: it holds no whole store.
        """
        self.directory = directory
        self.facts = read_manifest(directory, KIND, REMEDY, verify=verify)
        self._files = PassageFiles(directory)
        self._hashes, self._rows = column(directory / HASHES), column(directory / ROWS)

    @property
    def digest(self) -> str:
        """A hash of all passages in order."""
        return self.facts["digest"]

    def __len__(self) -> int:
        """N."""
        return self.facts["passages"]

    @overload
    def __getitem__(self, row: int) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[Passage, ...]: ...
    def __getitem__(self, row: Any) -> Any:
        """The passage of a row, or those of a slice."""
        rows = range(len(self))[row]  # which knows of negative rows, and of those beyond the end
        if isinstance(rows, int):
            return self._files.passages(rows, rows + 1)[0]
        if rows.step == 1 and len(rows):
            return tuple(self._files.passages(rows.start, rows.stop))
        return tuple(self[place] for place in rows)

    def __iter__(self) -> Iterator[Passage]:
        """All passages in order, of which few are in memory at a time."""
        return iter(self._files)

    def release(self) -> None:
        """Leaves to the system what was read so far; it is read again where it is needed."""
        self._files.release()

    def row_of(self, ids: Sequence[str]) -> Int64[np.ndarray, "n"]:
        """The row of each id; -1 of one that no passage has."""
        rows = np.full(len(ids), -1, np.int64)
        hashes = np.array([hash_of(name.encode(errors="replace")) for name in ids], np.uint64)
        starts = np.searchsorted(self._hashes, hashes, "left")
        stops = np.searchsorted(self._hashes, hashes, "right")
        for place, name in enumerate(ids):
            for row in self._rows[starts[place] : stops[place]].tolist():
                if self[row].id == name:
                    rows[place] = row
        return rows

    def notes(self) -> list[str]:
        """What was left out of the store, or may be too much in it, for the user to know."""
        facts, told = self.facts, []
        if facts["empty"]:
            named = listed(facts["empty_named"], facts["empty"])
            empty = counted(facts["empty"], "passage")
            told.append(f"{empty} without a text left out: {named}")
        if facts["repeats"]:
            named = listed(facts["repeats_named"], facts["repeats"])
            how = "left out" if facts["dropped"] else "kept (--drop-repeats leaves them out)"
            repeats = counted(facts["repeats"], "passage")
            told.append(f"{repeats} with title and text of an earlier one {how}: {named}")
        return told


def build_store(
    path: Path,
    directory: Path,
    *,
    words: int,
    overlap: int,
    fields: str = "",
    drop_repeats: bool = False,
    replace: bool = False,
    check: Callable[[], None] = lambda: None,
) -> PassageStore:
    """Builds a store of what `readers.read_passages` reads, as a stream.

    Passages without a text are left out, counted and named. Those with title and text of an earlier one
    are counted and named, but kept unless `drop_repeats`: questions may name them as gold passages.

    Args:
      path: a file of passages, or a folder of texts.
      directory: where the store will be.
      words: of a passage that is cut from a text.
      overlap: words that such a passage and the next have in common.
      fields: what the file calls its columns, see `rows.parse_fields`.
      drop_repeats: whether passages that repeat title and text are left out.
      replace: whether it takes the place of a directory that is there.
      check: called before the store gets its name; may raise.

    Raises:
      UserError: a line can't be read, two passages have the same id, or there is none with a text.
    """
    reading = {"words": words, "overlap": overlap, "fields": fields}
    return write_store(
        located_passages(path, words=words, overlap=overlap, fields=fields),
        directory,
        name=str(path),
        source=source_of(path, **reading, drop_repeats=drop_repeats),
        drop_repeats=drop_repeats,
        replace=replace,
        check=check,
    )


def source_of(path: Path, **options: Any) -> dict[str, Any]:
    """What tells whether a store is of the same files, read in the same way.

    Args:
      path: a file of passages, or a folder of texts.
      **options: those of `build_store`.

    Returns:
      {"name" of file or folder, "digest" of what is in it, and the options}.

    Raises:
      UserError: there is nothing to read.
    """
    require(path.exists(), f"{path} does not exist; name a file of passages or a folder of texts.")
    digest = hashlib.sha256()
    for file in text_files(path):
        name = file.relative_to(path).as_posix() if path.is_dir() else path.name
        digest.update(f"{name}\n{file_digest(file)}\n".encode(errors="surrogateescape"))
    return {"name": path.name, "digest": digest.hexdigest(), **options}


def write_store(
    located: Iterable[tuple[Path, int, Passage]],
    directory: Path,
    *,
    name: str,
    source: dict[str, Any] | None = None,
    drop_repeats: bool = False,
    replace: bool = False,
    check: Callable[[], None] = lambda: None,
) -> PassageStore:
    """Builds a store of passages from anywhere; see `build_store`.

    Args:
      located: (file, line, passage).
      directory: where the store will be.
      name: what the passages are called, for messages.
      source: of the manifest.
      drop_repeats: whether passages that repeat title and text are left out.
      replace: whether it takes the place of a directory that is there.
      check: called before the store gets its name; may raise.
    """
    with new_directory(directory, replace=replace) as making:
        facts = write_passages(located, making, name=name, drop_repeats=drop_repeats)
        facts |= {"source": source, "versions": versions_of(("ragjax", "numpy"))}
        write_manifest(making, KIND, facts, FILES)
        check()
    return PassageStore(directory, verify=False)
