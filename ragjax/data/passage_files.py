"""The files of a corpus on disk, without the checks and counts of `data.passage_store`.

text.bin       UTF-8 of each passage's id, title and text, one after another
offsets.bin    [3N+1] uint64, where each of them begins; the last one is the end
id_hashes.bin  [N] uint64, a hash of each id, sorted
id_rows.bin    [N] uint64, the row that each hash is of
"""

import hashlib
import mmap
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from ragjax.errors import UserError
from ragjax.types import Passage

FILES = TEXT, OFFSETS, HASHES, ROWS = ("text.bin", "offsets.bin", "id_hashes.bin", "id_rows.bin")
REMEDY = "build it again with `ragjax index build`."
_BLOCK = 4096  # passages that are read at once


def hash_of(data: bytes) -> int:
    """A hash of 64 bits; what has equal ones is compared itself."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class PassageFiles:
    """Text and offsets, mapped into memory.

    Attributes:
      count: N.
    """

    def __init__(self, directory: Path):
        """Maps the files of a directory."""
        self._path = directory / TEXT
        self._maps = [_mapped(directory / name) for name in (TEXT, OFFSETS)]
        self._offsets = np.frombuffer(self._maps[1], np.uint64)
        self.count = len(self._offsets) // 3

    def parts(self, start: int, stop: int) -> list[bytes]:
        """Id, title and text of the passages of rows `start` to `stop`, three for each."""
        bounds = self._offsets[3 * start : 3 * stop + 1].tolist()
        first, data = bounds[0], self._maps[0][bounds[0] : bounds[-1]]
        ends = pairwise(bounds)
        return [data[begin - first : end - first] for begin, end in ends]

    def passages(self, start: int, stop: int) -> list[Passage]:
        """The passages of rows `start` to `stop`.

        Raises:
          UserError: a text is no UTF-8.
        """
        try:
            texts = [part.decode() for part in self.parts(start, stop)]
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path} was edited ({error}); {REMEDY}") from error
        return [Passage(*texts[place : place + 3]) for place in range(0, len(texts), 3)]

    def __iter__(self) -> Iterator[Passage]:
        """All passages in order, of which few are in memory at a time."""
        for start in range(0, self.count, _BLOCK):
            yield from self.passages(start, min(start + _BLOCK, self.count))
            self.release()

    def release(self) -> None:
        """Leaves to the system what was read so far; it is read again where it is needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Column:
    """A file of uint64 that is written little by little, within a `with` block."""

    def __init__(self, path: Path):
        """Begins the file."""
        self._file, self._values = path.open("wb"), array("Q")

    def add(self, value: int) -> None:
        """Adds a number."""
        self._values.append(value)
        if len(self._values) == 2**14:
            self._flush()

    def _flush(self) -> None:
        self._values.tofile(self._file)
        del self._values[:]

    def __enter__(self) -> "Column":
        """The column itself."""
        return self

    def __exit__(self, *_) -> None:
        """Completes the file."""
        with self._file:
            self._flush()


def column(path: Path) -> UInt64[np.ndarray, "n"]:
    """What a `Column` wrote, mapped into memory."""
    return np.memmap(path, np.uint64, "r")
