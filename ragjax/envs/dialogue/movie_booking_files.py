"""Reading a user's table of showings and goals, with every fault named by file and line."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ragjax.data.rows import kind_of, read_lines, read_rows, refuse_pickle
from ragjax.envs.dialogue.movie_booking_acts import SLOT, SLOTS
from ragjax.envs.dialogue.movie_booking_knowledge import Goal, Showings
from ragjax.errors import UserError, require
from ragjax.text import half_character

KINDS = "JSON (.json), JSON lines (.jsonl) or a table (.tsv, .csv)"


def read_showings(table: Path, goals: Path) -> Showings:
    """Reads a table of showings and the goals of users.

    Args:
      table: rows of slot -> value. JSON, an object of rows or a list of them; JSON lines; or TSV or CSV,
        whose first line names the slots. Cells that are missing, empty or null say nothing.
      goals: JSON or JSON lines of {"inform_slots": {slot: value}, "request_slots": {slot: anything} or
        [slot]}; the ticket is requested in any case.

    Raises:
      UserError: a file can't be read, has no rows, or has a fault, which is named with its line.
    """
    rows = tuple(_row(where, found) for where, found in _records(table))
    require(len(rows) > 0, f"{table}, line 1: there are no rows; give a table of showings.")
    require(any(rows), f"{table}, line 1: all rows are empty; give a table of showings.")
    made = tuple(_goal(where, found) for where, found in _records(goals))
    require(len(made) > 0, f"{goals}, line 1: there are no goals; give at least one.")
    return Showings(rows, made)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields where a record stands, file and line, and the record."""
    refuse_pickle(path)
    if kind_of(path) != ".json":
        for line, row in read_rows(path):
            yield f"{path}, line {line}", row
        return
    lines = [line for _, line in read_lines(path)]
    text = "".join(lines)
    for position, record in _items(path, text):
        yield f"{path}, line {_line_at(text, position)}", record


def _items(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yields the values of a JSON object or the items of a list, and where they begin in the text."""
    decoder = json.JSONDecoder(object_pairs_hook=_pairs)
    place = _skip(text, 0)
    opening = text[place : place + 1]
    require(
        opening in ("{", "["),
        f"{path}, line {_line_at(text, place)} begins neither an object nor a list; write the rows as "
        "either.",
    )
    closing = {"{": "}", "[": "]"}[opening]
    try:
        place = _skip(text, place + 1)
        while text[place] != closing:
            if opening == "{":
                _, place = decoder.raw_decode(text, place)
                place = _after(text, place, ":")
            start = place
            item, place = decoder.raw_decode(text, place)
            yield start, item
            place = _skip(text, place)
            if text[place] != closing:
                place = _after(text, place, ",")
    except (ValueError, IndexError, RecursionError) as error:
        at = getattr(error, "pos", min(place, len(text)))
        what = getattr(error, "msg", "it ends too soon or is nested too deeply")
        raise UserError(
            f"{path}, line {_line_at(text, at)} is not JSON ({what}); mend it."
        ) from error
    rest = _skip(text, place + 1)
    require(
        rest == len(text),
        f"{path}, line {_line_at(text, rest)} goes on after the end of the rows; remove what follows.",
    )


class _Repeated(dict[str, Any]):
    """An object in which a name stands twice.

    Attributes:
      name: the name.
    """

    name = ""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, marked where one of its names stands twice."""
    made = _Repeated(pairs)
    if len(made) == len(pairs):
        return dict(pairs)
    names = [name for name, _ in pairs]
    made.name = next(name for name in names if names.count(name) > 1)
    return made


def _skip(text: str, place: int) -> int:
    """The next place that is no white space."""
    while place < len(text) and text[place] in " \t\n\r":
        place += 1
    return place


def _after(text: str, place: int, sign: str) -> int:
    """The next place after a sign, and white space about it."""
    place = _skip(text, place)
    if text[place] != sign:
        raise json.JSONDecodeError(f"expecting {sign!r}", text, place)
    return _skip(text, place + 1)


def _line_at(text: str, place: int) -> int:
    """The number of the line that a place is in."""
    return text.count("\n", 0, place) + 1


def _object(where: str, found: Any, what: str) -> Mapping[str, Any]:
    """An object whose names are slots, each once."""
    require(
        isinstance(found, dict), f"{where}: {what} is no object of slots; write {{slot: value}}."
    )
    if isinstance(found, _Repeated):
        raise UserError(f"{where}: {what} names slot {found.name!r} twice; remove one.")
    for slot in found:
        require(bool(slot.strip()), f"{where}: {what} has a slot without a name; name it.")
        require(
            slot in SLOT,
            f"{where}: {what} names slot {slot!r}, which is unknown; choose from {', '.join(SLOTS)}.",
        )
    return found


def _values(where: str, found: Any, what: str) -> dict[str, str]:
    """Slot -> value of what is there, in the order of slots."""
    cells = _object(where, found, what)
    return {
        slot: _value(f"{where}: {what} has", slot, cells[slot])
        for slot in SLOTS
        if cells.get(slot) not in (None, "")
    }


def _value(where: str, slot: str, value: Any) -> str:
    """A value as a text of one line."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(
        isinstance(value, str) or whole,
        f"{where} {slot} {value!r}, which is no text; write one.",
    )
    text = str(value)
    require(
        not any(sign in text for sign in "\t\n\r"),
        f"{where} {slot} {text!r}, which holds a tab or a newline; write a blank in its place.",
    )
    require(
        not half_character(text), f"{where} {slot} {text!r}, which holds half a character; mend it."
    )
    return text


def _row(where: str, found: Any) -> dict[str, str]:
    """A showing."""
    return _values(where, found, "the row")


def _goal(where: str, found: Any) -> Goal:
    """A goal."""
    if isinstance(found, _Repeated):
        raise UserError(f"{where}: the goal names {found.name!r} twice; remove one.")
    require(
        isinstance(found, dict) and "inform_slots" in found,
        f'{where}: the goal has no "inform_slots"; write {{"inform_slots": {{...}}, "request_slots": '
        "{...}}.",
    )
    constraints = _values(where, found["inform_slots"], '"inform_slots"')
    require(len(constraints) > 0, f'{where}: "inform_slots" is empty; constrain a slot.')
    asked = found.get("request_slots") or {}
    if isinstance(asked, list):
        asked = _pairs([(str(slot), None) for slot in asked])
    requests = [slot for slot in _object(where, asked, '"request_slots"') if slot != "ticket"]
    both = [slot for slot in requests if slot in constraints]
    require(not both, f"{where}: the goal both gives and requests {', '.join(both)}; choose one.")
    return Goal(constraints, tuple(sorted(requests, key=SLOTS.index)))
