"""Writes the files of a corpus as a stream, and finds ids and texts that occur twice.

No id or text stays in memory: each leaves a hash of 64 bits on disk. These are sorted, and only passages
with equal hashes are compared.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ragjax.data.passage_files import (
    HASHES,
    OFFSETS,
    ROWS,
    TEXT,
    Column,
    PassageFiles,
    column,
    hash_of,
)
from ragjax.data.report import line_of
from ragjax.errors import UserError, require
from ragjax.text import half_character, is_empty
from ragjax.types import Passage

NAMED = 3  # of the passages that something is told of, so many are named

# [N] uint64 of each passage, needed only while the files are made.
_COLUMNS = _IDS, _CONTENTS, _LINES, _ORIGINS = ("ids.tmp", "contents.tmp", "lines.tmp", "files.tmp")


class _Written(NamedTuple):
    """What was seen while passages were written.

    Attributes:
      directory: of the files.
      count: N.
      digest: of the passages, see `report.digest_of`.
      origins: the files that they come from.
      empty: how many without a text were left out.
      empty_named: where the first of them are.
    """

    directory: Path
    count: int
    digest: str
    origins: list[Path]
    empty: int
    empty_named: list[str]

    def where(self, row: int) -> str:
        line, origin = (int(column(self.directory / name)[row]) for name in (_LINES, _ORIGINS))
        return f"{self.origins[origin]}, line {line}"


def write_passages(
    located: Iterable[tuple[Path, int, Passage]],
    directory: Path,
    *,
    name: str,
    drop_repeats: bool = False,
) -> dict[str, Any]:
    """Writes passages and the index of their ids.

    Args:
      located: (file, line, passage).
      directory: where `passage_files.FILES` are written.
      name: what the passages are called, for messages.
      drop_repeats: whether passages with title and text of an earlier one are left out.

    Returns:
      The counts and the digest of `PassageStore.facts`.

    Raises:
      UserError: a passage has no id, two have the same, or there is none with a text.
    """
    written = _write(located, directory)
    require(
        written.count > 0,
        f"{name} has no passage with a text ({written.empty} without one); a corpus needs at least one "
        "(--fields text=NAME names the column that holds it).",
    )
    _require_own_ids(written)
    repeats, repeats_named = _repeats(written)
    facts = {"empty": written.empty, "empty_named": written.empty_named}
    facts |= {"repeats": len(repeats), "repeats_named": repeats_named, "dropped": drop_repeats}
    if drop_repeats and len(repeats):
        written = _rewritten_without(written, repeats)
    _index_ids(directory)
    for temporary in _COLUMNS:
        (directory / temporary).unlink()
    return facts | {"passages": written.count, "digest": written.digest}


def _write(located: Iterable[tuple[Path, int, Passage]], directory: Path) -> _Written:
    """Writes texts, offsets and the columns by which duplicates are found and named."""
    origins: dict[Path, int] = {}
    empty_named: list[str] = []
    empty, count, end = 0, 0, 0
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        texts = stack.enter_context((directory / TEXT).open("wb"))
        names = (OFFSETS, *_COLUMNS)
        columns = [stack.enter_context(Column(directory / name)) for name in names]
        offsets, *columns = columns
        offsets.add(0)
        for file, line, passage in located:
            if is_empty(passage.text):
                empty += 1
                empty_named += [f"{file}, line {line}"] * (empty <= NAMED)
                continue
            parts = _utf8(passage, f"{file}, line {line}")
            for part in parts:
                texts.write(part)
                end += len(part)
                offsets.add(end)
            origin = origins.setdefault(file, len(origins))
            values = (hash_of(parts[0]), hash_of(_content(parts)), line, origin)
            for one, value in zip(columns, values, strict=True):
                one.add(value)
            digest.update(line_of(passage))
            count += 1
    return _Written(directory, count, digest.hexdigest()[:16], list(origins), empty, empty_named)


def _utf8(passage: Passage, where: str) -> tuple[bytes, bytes, bytes]:
    require(bool(passage.id.strip()), f"{where} has an empty id; give it one of its own.")
    try:
        return passage.id.encode(), passage.title.encode(), passage.text.encode()
    except UnicodeEncodeError as error:
        half = half_character(error.object)
        raise UserError(
            f"{where} holds {half!r}, which is half of a character; mend or remove it."
        ) from error


def _content(parts: Sequence[bytes]) -> bytes:
    """Title and text as one, which tells where the one ends."""
    return b"%d %b%b" % (len(parts[1]), parts[1], parts[2])


# Duplicates


def _equal(written: _Written, hashes: str, what: Any) -> Iterator[tuple[int, int]]:
    """Pairs (first row, later row) of passages that are equal in something.

    Args:
      written: the passages.
      hashes: the column with its hashes.
      what: (id, title, text) -> what has to be equal.
    """
    values = np.array(column(written.directory / hashes))
    order = np.argsort(values, kind="stable")  # rows of equal hashes stay in order
    values = values[order]
    same = np.flatnonzero(values[1:] == values[:-1])
    del values
    if not len(same):
        return
    files = PassageFiles(written.directory)
    breaks = np.flatnonzero(np.diff(same) > 1) + 1
    for run in np.split(same, breaks):
        first: dict[bytes, int] = {}  # of one hash there are hardly ever two
        for row in order[run[0] : run[-1] + 2].tolist():
            known = first.setdefault(what(files.parts(row, row + 1)), row)
            if known != row:
                yield known, row
        files.release()


def _require_own_ids(written: _Written) -> None:
    """Checks that no two passages have the same id."""
    pairs = _equal(written, _IDS, lambda parts: parts[0])
    found = list(islice(pairs, NAMED))
    if not found:
        return
    count = len(found) + sum(1 for _ in pairs)
    files = PassageFiles(written.directory)
    named = [
        f"{files.passages(row, row + 1)[0].id!r} of {written.where(row)} is that of "
        f"{written.where(first)}"
        for first, row in sorted(found, key=lambda pair: pair[1])
    ]
    raise UserError(
        f"{count} passage{'s have' if count > 1 else ' has'} the id of an earlier one: "
        f"{listed(named, count)}; give each passage an id of its own."
    )


def _repeats(written: _Written) -> tuple[np.ndarray, list[str]]:
    """The rows of passages with title and text of an earlier one, and the first few in words."""
    pairs = np.fromiter(_equal(written, _CONTENTS, _content), np.dtype((np.int64, 2)))
    pairs = pairs[np.argsort(pairs[:, 1])]
    named = [
        f"{written.where(row)} repeats {written.where(first)}"
        for first, row in pairs[:NAMED].tolist()
    ]
    return pairs[:, 1], named


def listed(named: Sequence[str], count: int) -> str:
    """The first few of several things in words, and how many more there are."""
    more = count - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def _rewritten_without(written: _Written, rows: np.ndarray) -> _Written:
    """Writes the files anew without some rows, which are in order."""
    directory = written.directory
    kept = np.ones(written.count, bool)
    kept[rows] = False
    anew = directory / "anew.tmp"
    anew.mkdir()
    located = (
        (written.origins[0], 0, passage)
        for passage, stays in zip(PassageFiles(directory), kept, strict=True)
        if stays
    )
    rewritten = _write(located, anew)
    for file in anew.iterdir():
        file.replace(directory / file.name)
    anew.rmdir()
    return rewritten._replace(directory=directory)


def _index_ids(directory: Path) -> None:
    """Writes the hashes of the ids in order, and the row of each."""
    hashes = np.array(column(directory / _IDS))
    order = np.argsort(hashes, kind="stable")
    order.astype(np.uint64, copy=False).tofile(directory / ROWS)
    hashes[order].tofile(directory / HASHES)
