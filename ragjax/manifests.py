"""Directories of large files that are made once: whole or not at all, and known again by a manifest.

`manifest.json` is written last. It holds the size and the SHA-256 of every other file, and a SHA-256 of
what it says itself, so that a directory that was cut, edited or made by something else is refused.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax.errors import UserError, require
from ragjax.files import parse_json, read_json_object, write_json

MANIFEST = "manifest.json"
FORMAT = 1
CHEAP = 64 * 2**20  # bytes that are read and compared whenever a directory is opened
_SEAL, _FILES = "seal", "files"


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def tree_digest(tree: Any) -> str:
    """A hash of the leaves of a tree of arrays, such as the parameters of a model."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, which is not in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def new_directory(directory: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a directory with a temporary name, which gets its own when the block has ended well.

    Args:
      directory: its name.
      replace: whether it takes the place of one that has this name.

    Raises:
      UserError: there is something of that name, and `replace` is off.
    """
    require(
        replace or not directory.exists(),
        f"{directory} already exists; delete it or name another directory.",
    )
    directory.parent.mkdir(parents=True, exist_ok=True)
    making = directory.with_name(f".{directory.name}-{secrets.token_hex(8)}.tmp")
    making.mkdir()
    try:
        yield making
        put_in_place(making, directory)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def put_in_place(made: Path, directory: Path) -> None:
    """Gives a directory its name, in place of one that may have it."""
    old = directory.with_name(f".{directory.name}-{secrets.token_hex(8)}.tmp")
    if directory.exists():
        directory.rename(old)
    made.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def remove_abandoned(directory: Path) -> None:
    """Removes what killed processes have left of `new_directory`; none may be at work there."""
    for left in directory.parent.glob(f".{directory.name}-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def write_manifest(
    directory: Path, kind: str, facts: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Writes the manifest of files that are complete, after their bytes have reached the disk.

    Args:
      directory: of the files.
      kind: what the directory holds, such as "passages".
      facts: what else is to be known of it, as JSON values.
      names: of the files.
    """
    files = {}
    for name in names:
        with (directory / name).open("rb") as file:
            os.fsync(file.fileno())
        files[name] = _size_and_digest(directory / name)
    content = {"kind": kind, "format": FORMAT, **facts, _FILES: files}
    write_json(directory / MANIFEST, content | {_SEAL: _seal_of(content)})


def amend_manifest(directory: Path, facts: Mapping[str, Any]) -> None:
    """Changes what a manifest that was read says beside the files, which stay as they are."""
    content = parse_json((directory / MANIFEST).read_bytes())
    del content[_SEAL]
    content |= facts
    write_json(directory / MANIFEST, content | {_SEAL: _seal_of(content)})


def read_manifest(
    directory: Path, kind: str, remedy: str, *, verify: bool | None = None
) -> dict[str, Any]:
    """Reads a manifest and checks the files against it.

    Args:
      directory: what `write_manifest` was given.
      kind: what it has to hold.
      remedy: what to do where it is not as it has to be, for messages.
      verify: whether all bytes of the files are read and compared, instead of their sizes alone; None
        for those of at most 64 MiB together.

    Returns:
      What was written.

    Raises:
      UserError: it is missing, of another kind, cut or edited.
    """
    path = directory / MANIFEST
    require(directory.is_dir(), f"{directory} is not a directory of {kind}; {remedy}")
    content = read_json_object(path, remedy)
    seal = content.pop(_SEAL, None)
    whole = path.read_bytes().endswith(b"}\n") and seal == _seal_of(content)
    require(whole, f"{path} was cut or edited; {remedy}")
    found = content.get("kind"), content.get("format")
    require(
        found == (kind, FORMAT),
        f"{path} is of {found[0]!r}, format {found[1]!r}, but {kind!r} of format {FORMAT} is read; "
        f"{remedy}",
    )
    if verify is None:
        verify = sum(size for size, _ in content[_FILES].values()) <= CHEAP
    for name, (size, digest) in content[_FILES].items():
        file = directory / name
        try:
            now = _size_and_digest(file) if verify else [file.stat().st_size, digest]
        except OSError as error:
            raise UserError(f"{file} can't be read ({error.strerror}); {remedy}") from error
        require(
            now[0] == size, f"{file} has {now[0]} bytes, but its manifest says {size}; {remedy}"
        )
        require(now[1] == digest, f"{file} was edited: its manifest has another digest; {remedy}")
    return content


def _size_and_digest(path: Path) -> list[Any]:
    return [path.stat().st_size, file_digest(path)]


def _seal_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
