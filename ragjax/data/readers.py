"""Passages and questions from files of the user: JSON lines, CSV, TSV, and folders of text.

Files are read as a stream, compressed or not (`.gz`), in UTF-8. A line that can't be read stops the
reading with a sentence that names it; none is passed over.
"""

import contextlib
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ragjax.data.markdown import markdown_lines
from ragjax.errors import UserError, require
from ragjax.files import parse_json
from ragjax.text import OVERLAP, PASSAGE_WORDS, half_character, is_empty
from ragjax.types import Passage, Question

ROW_KINDS = (".jsonl", ".csv", ".tsv")
TEXT_KINDS = (".txt", ".md", ".markdown")

# What a column may be called, the first name that a row has.
PASSAGE_NAMES = {"id": ("id", "_id", "docid"), "title": ("title",), "text": ("text", "contents")}
QUESTION_NAMES = {
    "id": ("id", "_id", "qid"),
    "question": ("question", "query"),
    "answers": ("answers", "answer"),
    "positives": ("positives",),
    "relation": ("relation",),
    "entity": ("entity",),
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


def _renamed(names: Mapping[str, tuple[str, ...]], fields: str) -> dict[str, tuple[str, ...]]:
    """What the columns `names` may be called, where the user calls some of them otherwise."""
    given = parse_fields(fields, COLUMNS)
    return {column: (given[column],) if column in given else names[column] for column in names}


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, row) of a file of JSON lines, CSV or TSV, whose first line names the columns.

    Raises:
      UserError: the file is missing, of another kind, or has a line that can't be read.
    """
    kind = kind_of(path)
    require(
        kind in ROW_KINDS,
        f"{path} is no {', '.join(ROW_KINDS)} file (.gz or not); convert it to one of these.",
    )
    lines = read_lines(path)
    if kind == ".jsonl":
        for number, line in lines:
            if line.strip():
                yield number, _json_row(path, number, line)
        return
    yield from _table_rows(path, lines, "\t" if kind == ".tsv" else ",")


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
    path: Path, lines: Iterator[tuple[int, str]], delimiter: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table; a cell in quotes may hold the delimiter, quotes ("") and newlines."""
    csv.field_size_limit(sys.maxsize)  # a passage may be longer than 128 KB
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            number, start = start, reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                require(
                    delimiter == "\t" or len(header) > 1 or ";" not in header[0],
                    f"{path} names a single column, {header[0]!r}; write commas between columns, in "
                    "place of semicolons.",
                )
                require(
                    len(set(header)) == len(header),
                    f"{path} names two columns alike ({', '.join(header)}); rename one.",
                )
                continue
            require(
                len(cells) == len(header),
                f"{path}, line {number} has {len(cells)} cells, but the first line names "
                f"{len(header)} columns; mend it (a cell that holds the delimiter wants quotes).",
            )
            yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}, line {start} can't be read ({error}); mend it.") from error


def read_passages(path: Path, *, words: int, overlap: int, fields: str = "") -> Iterator[Passage]:
    """Yields the passages of a file of rows, of a text file, or of all text files below a folder.

    A row has `text`, and may have `id` (the row's number, if no row has one) and `title`. A text is cut
    into passages of `words` words, each beginning with the last `overlap` words of the one before; its
    title is its first Markdown heading or its name. The marks of headings are left out.

    Args:
      path: file or folder.
      words: of a passage that is cut from a text.
      overlap: words that a passage and the next have in common.
      fields: what the file calls its columns, see `parse_fields`.

    Raises:
      UserError: names the file, and the line, that can't be read.
    """
    for _, _, passage in located_passages(path, words=words, overlap=overlap, fields=fields):
        yield passage


def passages_with_text(
    path: Path,
    *,
    words: int = PASSAGE_WORDS,
    overlap: int = OVERLAP,
    fields: str = "",
    hint: str = "",
) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    """Reads what `read_passages` yields, those without a text left out.

    Args:
      path: see `read_passages`, as `words`, `overlap` and `fields`.
      words: see `read_passages`.
      overlap: see `read_passages`.
      fields: see `read_passages`.
      hint: how else the column of texts can be named, for a message.

    Returns:
      The passages, and a note on how many were left out, if any were.

    Raises:
      UserError: none is left, or a file can't be read.
    """
    found = list(read_passages(path, words=words, overlap=overlap, fields=fields))
    kept = tuple(passage for passage in found if not is_empty(passage.text))
    rows = path.is_file() and kind_of(path) in ROW_KINDS
    remedy = "name the column that holds it text" if rows else "write one into it"
    require(bool(kept), f"{path} has no passage with a text; {remedy}{hint * rows}.")
    empty = len(found) - len(kept)
    notes = (f"{empty} of {len(found)} passages have no text and are left out",)
    return kept, notes if empty else ()


def located_passages(
    path: Path, *, words: int, overlap: int, fields: str = ""
) -> Iterator[tuple[Path, int, Passage]]:
    """As `read_passages`, with the file that each passage is in and the line that it begins on."""
    require(path.exists(), f"{path} does not exist; name a file of passages or a folder of texts.")
    if path.is_dir() or kind_of(path) in TEXT_KINDS:
        for file in text_files(path):
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            for number, passage in _cut_text(file, name, words, overlap):
                yield file, number, passage
        return
    require(
        kind_of(path) in ROW_KINDS,
        f"{path} is no {', '.join((*ROW_KINDS, *TEXT_KINDS))} file (.gz or not); convert it to one of "
        "these, or name a folder of texts.",
    )
    names = _renamed(PASSAGE_NAMES, fields)
    for count, (number, values) in enumerate(read_rows(path)):
        row = Row(f"{path}, line {number}", values, names)
        text = row.text("text", "")
        yield path, number, Passage(row.text("id", str(count)), row.text("title", ""), text)


def text_files(path: Path) -> list[Path]:
    """The text files of a folder and of those below it by name, hidden ones aside; or the file itself.

    Raises:
      UserError: there is none.
    """
    if not path.is_dir():
        return [path]
    found = [
        file
        for file in path.rglob("*")
        if file.is_file()
        and kind_of(file) in TEXT_KINDS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    require(bool(found), f"{path} holds no {', '.join(TEXT_KINDS)} file; name a folder that does.")
    return sorted(found, key=lambda file: file.relative_to(path).as_posix())


def _cut_text(file: Path, name: str, words: int, overlap: int) -> Iterator[tuple[int, Passage]]:
    """The passages of a text, each with the line of its first word; an empty text is an empty one."""
    markdown = kind_of(file) != ".txt"
    headings = (line.text.strip() for line in markdown_lines(read_lines(file)) if line.is_title)
    title = next(filter(None, headings), "") if markdown else ""
    lines = (
        ((number, text) for number, text, _ in markdown_lines(read_lines(file)))
        if markdown
        else read_lines(file)
    )
    found = ((number, word) for number, line in lines for word in line.split())
    piece, count = list(islice(found, words)), 0
    more = piece
    while more or not count:
        text = " ".join(word for _, word in piece)
        yield (
            piece[0][0] if piece else 1,
            Passage(f"{name}#{count}", title or Path(name).stem, text),
        )
        more = list(islice(found, words - overlap))
        piece = piece[len(piece) - overlap :] + more
        count += 1


def read_questions(path: Path, *, fields: str = "") -> Iterator[tuple[Question, dict[str, Any]]]:
    """Yields the questions of a file of rows, each with the row as it is in the file.

    A row has `question`, and may have `id` (the row's number, if it has none), `answers` (a list or one
    text), `positives` (ids of gold passages), `relation` and `entity`.

    Args:
      path: a file of rows.
      fields: what the file calls its columns, see `parse_fields`.

    Raises:
      UserError: names the file and the line that can't be read.
    """
    names = _renamed(QUESTION_NAMES, fields)
    for count, (number, values) in enumerate(read_rows(path)):
        row = Row(f"{path}, line {number}", values, names)
        question = Question(
            id=row.text("id", f"{path.name.partition('.')[0]}/{count}"),
            question=row.text("question"),
            answers=row.texts("answers"),
            positives=row.texts("positives"),
            relation=row.text("relation", ""),
            entity=row.text("entity", ""),
        )
        yield question, values
