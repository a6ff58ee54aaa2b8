"""Runs and relevance judgements in the formats of TREC, and judgements in that of BEIR.

A run says what was retrieved, one passage a line: `qid Q0 docid rank score tag`. Judgements (qrels) say
how relevant a passage is to a question: `qid 0 docid grade`, or BEIR's table of three columns under the
line `query-id corpus-id score`. White space separates the columns, hence no id may hold any. Files are
read compressed (`.gz`) or not, and blank lines are passed over; any other line that can't be read stops
the reading with a sentence that names it.
"""

import gzip
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ragjax.data.rows import kind_of, read_lines
from ragjax.errors import UserError, require
from ragjax.files import write_atomically
from ragjax.text import half_character

Run = Mapping[str, Sequence[tuple[str, float]]]
"""Question id -> (passage id, score) of what was retrieved, best first."""

Qrels = Mapping[str, Mapping[str, int]]
"""Question id -> passage id -> grade; a grade of 1 or more is relevant."""

_RUN_COLUMNS = ("qid", "Q0", "docid", "rank", "score", "tag")
_QRELS_COLUMNS = ("qid", "0", "docid", "grade")
_BEIR_COLUMNS = ("query-id", "corpus-id", "score")


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Reads a run, each question's passages best first.

    The score decides, as in trec_eval; passages of equal score stand in the order of their ranks, and
    then of their lines. (trec_eval orders those by descending id.)

    Args:
      path: the file; its second and last columns are not looked at.

    Returns:
      Question id -> [(passage id, score)], see `Run`.

    Raises:
      UserError: names the file and the line that can't be read, repeats a passage of a question, or
        has a score that is no finite number.
    """
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for where, (qid, _, docid, rank, score, _) in _rows(path, _RUN_COLUMNS):
        passages = found.setdefault(qid, {})
        _require_new(where, qid, docid, passages)
        value = _number(where, "score", score)
        passages[docid] = value, _whole(where, "rank", rank)
    require(bool(found), f"{path} holds no line of a run; name a file that does.")

    def place(item: tuple[str, tuple[float, int]]) -> tuple[float, int]:
        _, (score, rank) = item
        return -score, rank

    return {
        qid: [(docid, score) for docid, (score, _) in sorted(passages.items(), key=place)]
        for qid, passages in found.items()
    }


def ranked_passages(path: Path) -> set[str]:
    """Reads the ids of all passages of a run, as a stream.

    Raises:
      UserError: names the file and the line that can't be read, or has no line.
    """
    found = {docid for _, (_, _, docid, *_) in _rows(path, _RUN_COLUMNS)}
    require(bool(found), f"{path} holds no line of a run; name a file that does.")
    return found


def write_run(path: Path, run: Run, tag: str = "ragjax") -> None:
    """Writes a run, whole or not at all; compressed if the name ends in `.gz`.

    A question without a passage leaves no line. Other programs order equal scores in their own way
    (trec_eval by descending id); `read_run` keeps the order.

    Args:
      path: the file.
      run: see `Run`.
      tag: the name of the run, which every line ends with.

    Raises:
      UserError: an id or the tag can't be written, or `require_ranked`.
    """
    _require_writable("the run's tag", tag)
    lines = []
    for qid, ranking in run.items():
        _require_writable("question id", qid)
        require_ranked(qid, ranking)
        for rank, (docid, score) in enumerate(ranking, 1):
            _require_writable("passage id", docid)
            lines.append(f"{qid} Q0 {docid} {rank} {float(score)!r} {tag}\n")
    _write(path, lines)


def require_ranked(qid: str, ranking: Sequence[tuple[str, float]]) -> None:
    """Checks that a question's passages are different ones, best first, with finite scores.

    Raises:
      UserError: names the question and the passage.
    """
    seen: set[str] = set()
    before = math.inf
    for rank, (docid, score) in enumerate(ranking, 1):
        where = f"question {qid!r}, rank {rank}: passage {docid!r}"
        require(docid not in seen, f"{where} was retrieved twice; retrieve it once.")
        require(
            math.isfinite(score),
            f"{where} has the score {score}; give it a finite number.",
        )
        require(
            score <= before,
            f"{where} scores {score}, more than the {before} of the one before; put the best first.",
        )
        seen.add(docid)
        before = score


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Reads judgements in TREC's format, or in BEIR's where the first line names its columns.

    Args:
      path: the file; TREC's second column is not looked at.

    Returns:
      Question id -> passage id -> grade, see `Qrels`.

    Raises:
      UserError: names the file and the line that can't be read, or judges a passage of a question anew.
    """
    found: dict[str, dict[str, int]] = {}
    for where, row in _rows(path, _QRELS_COLUMNS, _BEIR_COLUMNS):
        qid, docid, grade = row[0], row[-2], row[-1]
        grades = found.setdefault(qid, {})
        _require_new(where, qid, docid, grades)
        grades[docid] = _whole(where, "grade", grade)
    require(bool(found), f"{path} holds no judgement; name a file that does.")
    return found


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Writes judgements, whole or not at all; compressed if the name ends in `.gz`.

    Args:
      path: the file; one that is named `.tsv` is written in BEIR's format, another in TREC's.
      qrels: see `Qrels`.

    Raises:
      UserError: an id can't be written.
    """
    beir = kind_of(path) == ".tsv"
    lines = ["\t".join(_BEIR_COLUMNS) + "\n"] if beir else []
    for qid, grades in qrels.items():
        _require_writable("question id", qid)
        for docid, grade in grades.items():
            _require_writable("passage id", docid)
            lines.append(f"{qid}\t{docid}\t{grade}\n" if beir else f"{qid} 0 {docid} {grade}\n")
    _write(path, lines)


def _rows(
    path: Path, columns: Sequence[str], headed: Sequence[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """Yields (file and line, cells) of a file in which white space separates the columns.

    Args:
      path: the file.
      columns: those of a line.
      headed: those of a line where the first line is their names.
    """
    expected, started = columns, False
    for number, line in read_lines(path):
        cells = line.split()
        if cells and not started and cells == list(headed):
            expected = headed
        elif cells:
            where = f"{path}, line {number}"
            other = f" (or to be headed {' '.join(headed)!r})" if headed else ""
            require(
                len(cells) == len(expected),
                f"{where} has {len(cells)} columns, but ought to be {' '.join(expected)!r}{other}; mend "
                "it.",
            )
            yield where, cells
        started = started or bool(cells)


def _require_new(where: str, qid: str, docid: str, seen: Iterable[str]) -> None:
    require(
        docid not in seen,
        f"{where} repeats passage {docid!r} of question {qid!r}; keep one of the lines.",
    )


def _whole(where: str, column: str, cell: str) -> int:
    try:
        return int(cell)
    except ValueError as error:
        raise UserError(f"{where} has the {column} {cell!r}; it must be a whole number.") from error


def _number(where: str, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    require(math.isfinite(value), f"{where} has the {column} {cell!r}; it must be a finite number.")
    return value


def _require_writable(what: str, name: str) -> None:
    half = half_character(name)
    require(not half, f"{what} {name!r} holds {half!r}, which is half of a character; mend it.")
    require(
        name.split() == [name],
        f"{what} {name!r} is empty or holds white space, which separates columns in this format; give "
        "it another name.",
    )


def _write(path: Path, lines: Iterable[str]) -> None:
    data = "".join(lines).encode()
    zipped = path.name.lower().endswith(".gz")
    write_atomically(path, gzip.compress(data, mtime=0) if zipped else data)
