"""What a GGUF file tells of itself: its metadata, and where its tensors lie.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The gguf package reads
it too, but makes an array of each of a vocabulary's strings, which takes longer than the weights.
"""

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ragjax.errors import UserError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
_MOST_AXES = 4
# Number of a type in the file -> its code in `struct`.
_NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


class StoredTensor(NamedTuple):
    """Where a tensor lies.

    Attributes:
      kind: how it is quantised, as a number of `gguf.GGMLQuantizationType`.
      shape: rows first, as NumPy has it.
      start: its first byte in the file.
    """

    kind: int
    shape: tuple[int, ...]
    start: int

    @property
    def rows(self) -> int:
        """How many, along all axes but the last."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class Header:
    """What stands before the weights.

    Attributes:
      facts: the metadata, by key.
      tensors: by name.
      size: of the whole file, in bytes.
    """

    facts: dict[str, Any]
    tensors: dict[str, StoredTensor]
    size: int


def read_header(path: Path) -> Header:
    """Reads all but the weights.

    Raises:
      UserError: the file is missing, truncated or something else.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(data)
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror}); name a GGUF file that can."
        ) from error
    except (ValueError, OverflowError, struct.error) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}); download it again.") from error


def _header(data: mmap.mmap) -> Header:
    if data[:4] != _MAGIC:
        raise ValueError("it does not begin with GGUF")
    cursor = _Cursor(data, 4)
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}; 2 and 3 are read, of little-endian machines")
    tensor_count, fact_count = cursor.number("Q"), cursor.number("Q")
    facts = _distinct(cursor, fact_count, lambda: cursor.value(cursor.number("I")))
    stored = _distinct(cursor, tensor_count, cursor.tensor)
    alignment = facts.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0:
        raise ValueError(f"its general.alignment is {alignment!r}")
    weights = -(-cursor.at // alignment) * alignment
    tensors = {name: one._replace(start=weights + one.start) for name, one in stored.items()}
    return Header(facts, tensors, len(data))


def _distinct(cursor: "_Cursor", count: int, value: Callable[[], Any]) -> dict[str, Any]:
    """As many names, each followed by a value."""
    values: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.string()
        if name in values:
            raise ValueError(f"it has {name!r} twice")
        values[name] = value()
    return values


class _Cursor:
    """Reads one thing after the other; each fails at the end of the file."""

    def __init__(self, data: mmap.mmap, at: int):
        self.data = data
        self.at = at

    def number(self, code: str) -> Any:
        return self.numbers(code, 1)[0]

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        size = count * struct.calcsize(f"<{code}")
        if size > len(self.data) - self.at:
            raise ValueError("it ends too early")
        numbers = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += size
        return numbers

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        # A vocabulary has 100,000 of them: the loop is kept short.
        data, end, at, strings = self.data, len(self.data), self.at, []
        for _ in range(count):
            start = at + 8
            at = start + _LENGTH.unpack_from(data, at)[0]
            if at > end:
                raise ValueError("it ends too early")
            strings.append(data[start:at].decode())
        self.at = at
        return strings

    def value(self, kind: int) -> Any:
        """A value of the metadata."""
        if kind == _STRING:
            return self.string()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ValueError(f"it has a value of type {kind}")
        item, count = self.number("I"), self.number("Q")
        if item == _STRING:
            return self.strings(count)
        if item not in _NUMBERS:  # llama.cpp has no arrays of arrays either
            raise ValueError(f"it has an array of values of type {item}")
        return list(self.numbers(_NUMBERS[item], count))

    def tensor(self) -> StoredTensor:
        """Where a tensor lies, counted from the first of them."""
        axes = self.number("I")
        if not 0 < axes <= _MOST_AXES:
            raise ValueError(f"it has a tensor of {axes} axes")
        shape = self.numbers("Q", axes)[::-1]
        kind, start = self.number("I"), self.number("Q")
        return StoredTensor(kind, shape, start)
