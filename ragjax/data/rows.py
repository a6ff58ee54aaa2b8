"""Rows of a file of the user: JSON lines, CSV and TSV, and what their columns are called.

Files are read as a stream, compressed or not (`.gz`), in UTF-8. A line that can't be read stops the
reading with a sentence that names it; none is passed over.
"""

import contextlib
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ragjax.errors import UserError, require
from ragjax.files import parse_json
from ragjax.text import half_character

PICKLES = (".p", ".pkl", ".pickle")
ROW_KINDS = (".jsonl", ".csv", ".tsv")

# What a column may be called, the first name that a row has.
PASSAGE_NAMES = {"id": ("id", "_id", "docid"), "title": ("title",), "text": ("text", "contents")}
QUESTION_NAMES = {
    "id": ("id", "_id", "qid"),
    "question": ("question", "query"),
    "answers": ("answers", "answer"),
    "positives": ("positives",),
    "relation": ("relation",),
    "entity": ("entity",),
    "patterns": ("patterns",),
}
COLUMNS = tuple(dict.fromkeys((*PASSAGE_NAMES, *QUESTION_NAMES)))


class Row:
    """One row of a file, whose columns are read by what they hold.

    Attributes:
      where: the file and the line, for messages.
    """

    def __init__(self, where: str, values: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]):
        """Takes the row's values by the file's own names, and the names of each column."""
        self.where, self._values, self._names = where, values, names

    def _find(self, column: str) -> tuple[str, Any]:
        """The file's name of a column and its value, None where the row has none."""
        names = self._names.get(column, (column,))
        name = next((name for name in names if name in self._values), names[0])
        return name, self._values.get(name)

    def text(self, column: str, default: str | None = None) -> str:
        """A text, or a whole number as text; `default` where there is none."""
        name, value = self._find(column)
        if value is None or value == "":
            if default is None:
                require(
                    name not in self._values, f"{self.where} has an empty {name!r}; fill it in."
                )
                present = ", ".join(map(str, self._values)) or "nothing"
                raise UserError(
                    f"{self.where} has no {name!r} (it has {present}); add it, or name the column that "
                    f"holds it in --task.fields (of `ragjax index`: --fields)."
                )
            return default
        return _text(value, f"{self.where}: {name!r}")

    def texts(self, column: str) -> tuple[str, ...]:
        """Several texts: a list, a JSON list in a table's cell, or one text; () where there is none."""
        name, value = self._find(column)
        where = f"{self.where}: {name!r}"
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = parse_json(value)
            except ValueError as error:
                raise UserError(
                    f"{where} is {value!r}, which begins like a JSON list and is none ({error}); write "
                    'it as ["one", "two"].'
                ) from error
        if value is None or value == "":
            return ()
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(dict.fromkeys(_text(item, where) for item in items))


def _text(value: Any, where: str) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(
        isinstance(value, str) or whole,
        f"{where} is {value!r}; it must be a text.",
    )
    return str(value)


def parse_fields(
    fields: str, columns: Collection[str], option: str = "task.fields"
) -> dict[str, str]:
    """Reads what the user calls columns: "question=Frage,answers=Antwort".

    Args:
      fields: each column and its name in the data, with commas between.
      columns: those that there are.
      option: what gave them, for messages.

    Returns:
      Column -> its name in the data.

    Raises:
      UserError: it isn't written so, or names no column.
    """
    found = {}
    for part in filter(None, (part.strip() for part in fields.split(","))):
        column, equals, name = (word.strip() for word in part.partition("="))
        require(
            bool(equals and name) and column in columns,
            f"{option} has {part!r}; write it as column=name, with a column of "
            f"{', '.join(columns)}.",
        )
        found[column] = name
    return found


def read_rows(
    path: Path, broken: Callable[[int, UserError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, row) of a file of JSON lines, CSV or TSV, whose first line names the columns.

    Args:
      path: the file.
      broken: takes each line that is no row, and what is wrong with it, which is then passed over; None
        to stop there.

    Raises:
      UserError: the file is missing, of another kind, or has a line that can't be read.
    """
    broken = broken or _stop
    kind = kind_of(path)
    require(
        kind in ROW_KINDS,
        f"{path} is no {', '.join(ROW_KINDS)} file (.gz or not); convert it to one of these.",
    )
    lines = read_lines(path)
    if kind != ".jsonl":
        yield from _table_rows(path, lines, "\t" if kind == ".tsv" else ",", broken)
        return
    for number, line in lines:
        if line.strip():
            try:
                row = _json_row(path, number, line)
            except UserError as error:
                broken(number, error)
            else:
                yield number, row


def _stop(_: int, error: UserError) -> None:
    raise error


def refuse_pickle(path: Path) -> None:
    """Checks that a file is no pickle, which by its name or its first bytes it may be.

    Raises:
      UserError: it is one, or can't be read.
    """
    refused = (
        f"{path}, line 1 is a pickle, which can run any code when it is read; convert it to JSON."
    )
    require(kind_of(path) not in PICKLES, refused)
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror or error}); name a file that exists."
        ) from error
    # Protocol 2 and above, and protocol 0, which is text.
    require(start[:1] != b"\x80" and start not in (b"(d", b"(l", b"(i", b"cc"), refused)


def kind_of(path: Path) -> str:
    """The suffix that says what a file holds, in lower case and without that of its compression."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields each line with its number; only a newline ends one.

    Args:
      path: a file in UTF-8, compressed if its name ends in `.gz`.

    Raises:
      UserError: the file, or the line named, can't be read.
    """
    number = 0
    try:
        with contextlib.ExitStack() as stack:
            file: Any = stack.enter_context(path.open("rb"))
            if path.name.lower().endswith(".gz"):
                file = stack.enter_context(gzip.open(file))
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number} is not UTF-8 ({error.reason}); convert the file to UTF-8."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        require(
            number > 0 or not isinstance(error, gzip.BadGzipFile),
            f"{path} ends in .gz, but isn't compressed by gzip; rename it.",
        )
        raise UserError(
            f"{path} is cut or damaged after line {number} ({error}); copy or download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror or error}); name a file that exists."
        ) from error


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        # The error counts lines within this one.
        fault = error
        if isinstance(error, json.JSONDecodeError):
            fault = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise UserError(
            f"{path}, line {number} is not JSON ({fault}); mend or remove it."
        ) from error
    require(
        isinstance(row, dict),
        f"{path}, line {number} is not a JSON object; each line must be one.",
    )
    if "\\u" in line:
        found = half_character(json.dumps(row, ensure_ascii=False))
        require(
            not found,
            f"{path}, line {number} holds {found!r}, which is half of a character; mend or remove it.",
        )
    return row


def _table_rows(
    path: Path,
    lines: Iterator[tuple[int, str]],
    delimiter: str,
    broken: Callable[[int, UserError], None],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table; a cell in quotes may hold the delimiter, quotes ("") and newlines."""
    csv.field_size_limit(sys.maxsize)  # a passage may be longer than 128 KB
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = UserError(f"{path}, line {number} can't be read ({error}); mend it.")
            if not header:
                raise fault from error
            broken(number, fault)
            continue
        if not cells:
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            _check_header(f"{path}, line {number}", header, delimiter)
        elif len(cells) != len(header):
            message = (
                f"{path}, line {number} has {len(cells)} cells, but the first line names "
                f"{len(header)} columns; mend it (a cell that holds the delimiter wants quotes)."
            )
            broken(number, UserError(message))
        else:
            yield number, dict(zip(header, cells, strict=True))


def _check_header(where: str, header: list[str], delimiter: str) -> None:
    require(
        delimiter == "\t" or len(header) > 1 or ";" not in header[0],
        f"{where} names a single column, {header[0]!r}; write commas between columns, in place of "
        "semicolons.",
    )
    require(
        len(set(header)) == len(header),
        f"{where} names two columns alike ({', '.join(header)}); rename one.",
    )
