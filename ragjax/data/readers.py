"""Passages and questions from files of the user: rows (`data.rows`), and folders of text."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ragjax.data.markdown import markdown_lines
from ragjax.data.rows import (
    COLUMNS,
    PASSAGE_NAMES,
    QUESTION_NAMES,
    ROW_KINDS,
    Row,
    kind_of,
    parse_fields,
    read_lines,
    read_rows,
)
from ragjax.data.trec import ranked_passages
from ragjax.errors import require
from ragjax.text import OVERLAP, PASSAGE_WORDS, is_empty
from ragjax.types import Passage, Question

TEXT_KINDS = (".txt", ".md", ".markdown")


def _renamed_rows(
    path: Path, names: Mapping[str, tuple[str, ...]], fields: str
) -> Iterator[tuple[int, Row, dict[str, Any]]]:
    """Yields the line, the row and its values by the file's own names.

    Args:
      path: a file of rows.
      names: what each column may be called.
      fields: what the user calls some of them, see `parse_fields`.

    Raises:
      UserError: see `read_rows`; or a name of the user's is in no row. `id` may be, for the user gives
        names of passages and questions together, and either may have none.
    """
    given = parse_fields(fields, COLUMNS)
    names = {column: (given[column],) if column in given else names[column] for column in names}
    missing = {column: given[column] for column in names if column in given and column != "id"}
    present: list[str] = []
    for number, values in read_rows(path):
        present = present or list(values)
        missing = {column: name for column, name in missing.items() if name not in values}
        if missing and kind_of(path) != ".jsonl":
            break  # the first line of a table has named all columns
        yield number, Row(f"{path}, line {number}", values, names), values
    for column, name in missing.items():
        require(
            not present,
            f"{path} has no column {name!r}, which the fields name for {column!r} (its first row has "
            f"{', '.join(map(str, present))}); name one that it has, or add it.",
        )


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
    ranking: Path | None = None,
) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
    """Reads what `read_passages` yields, those without a text left out.

    With a ranking, the file is read as a stream, and only the passages that this names are kept.

    Args:
      path: see `read_passages`, as `words`, `overlap` and `fields`.
      words: see `read_passages`.
      overlap: see `read_passages`.
      fields: see `read_passages`.
      hint: how else the column of texts can be named, for a message.
      ranking: a TREC run, of which only the passages are wanted; None for all.

    Returns:
      The passages, and notes on how many were left out, if any were.

    Raises:
      UserError: none is left, a file can't be read, or one that the ranking names is not there.
    """
    wanted = None if ranking is None else ranked_passages(ranking)
    found: list[Passage] = []
    total = 0
    for passage in read_passages(path, words=words, overlap=overlap, fields=fields):
        total += 1
        if wanted is None or passage.id in wanted:
            found.append(passage)
    missing = (wanted or set()) - {passage.id for passage in found}
    require(
        not missing,
        f"{ranking} names {len(missing)} passages that {path} does not have, such as "
        f"{min(missing, default='')!r}; search the same passages again.",
    )
    kept = tuple(passage for passage in found if not is_empty(passage.text))
    rows = path.is_file() and kind_of(path) in ROW_KINDS
    remedy = "call the column of texts 'text'" if rows else "write one into it"
    require(bool(kept), f"{path} has no passage with a text; {remedy}{hint * rows}.")
    notes = []
    if len(found) < total:
        notes.append(f"{total - len(found)} of {total} passages are not ranked and are left out")
    if empty := len(found) - len(kept):
        notes.append(f"{empty} of {len(found)} passages have no text and are left out")
    return kept, tuple(notes)


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
    for count, (number, row, _) in enumerate(_renamed_rows(path, PASSAGE_NAMES, fields)):
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
    text), `positives` (ids of gold passages), `relation`, `entity` and `patterns` (regular expressions
    that an answer has to match, in place of `answers`).

    Args:
      path: a file of rows.
      fields: what the file calls its columns, see `parse_fields`.

    Raises:
      UserError: names the file and the line that can't be read.
    """
    for count, (_, row, values) in enumerate(_renamed_rows(path, QUESTION_NAMES, fields)):
        question = Question(
            id=row.text("id", f"{path.name.partition('.')[0]}/{count}"),
            question=row.text("question"),
            answers=row.texts("answers"),
            positives=row.texts("positives"),
            relation=row.text("relation", ""),
            entity=row.text("entity", ""),
            patterns=row.texts("patterns"),
        )
        yield question, values


def read_asked(path: Path, fields: str) -> list[Question]:
    """The questions of a file that `--questions` names, each with an id of its own.

    Raises:
      UserError: see `read_questions`; or two have one id, or there is none.
    """
    parse_fields(fields, tuple(QUESTION_NAMES), "--fields")
    questions: dict[str, Question] = {}
    for question, _ in read_questions(path, fields=fields):
        require(
            question.id not in questions,
            f"{path} has two questions with the id {question.id!r}; give each its own.",
        )
        questions[question.id] = question
    require(bool(questions), f"{path} has no questions; give it at least one.")
    return list(questions.values())
