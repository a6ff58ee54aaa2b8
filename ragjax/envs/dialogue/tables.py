"""Tables of rows and slots, whose cells may be missing: what users of a dialogue ask about.

A table comes from a spec, as everything that a config names: facts that packages carry, a generator, or
a file of the user's. A new source is one class with `build`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ragjax.data.rows import kind_of, read_rows, refuse_pickle
from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.tasks import _sources as sources
from ragjax.text import half_character

MISSING = -1  # in place of a value
MOST_SLOTS = 12  # users' goals are counted for every half of the slots
SLOT_NAMES = ("person", "title", "style", "origin", "year", "rating", "place", "colour", "material",
              "purpose", "format", "class")  # fmt: skip
SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in "aeiou")
NUMBERED = ("year", "rating")  # slots of the generator whose values are numbers
_NOBLE = (2, 10, 18, 36, 54, 86, 118)  # the last atomic number of each period
_WORD = re.compile(r"\d+\.\d+|\w+")


class KnowledgeTable(NamedTuple):
    """N rows of M slots.

    Attributes:
      slots: names of the slots.
      names: what each row is called.
      values: the V_j values of each slot, as text, in the order in which they were first met.
      cells: [N,M] int32, which value each cell holds; `MISSING` for none.
    """

    slots: tuple[str, ...]
    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    cells: np.ndarray

    def describe(self, row: int) -> str:
        """What a row says, in words: "slot value, slot value", missing cells left out."""
        said = [
            f"{slot} {values[cell]}"
            for slot, values, cell in zip(self.slots, self.values, self.cells[row], strict=True)
            if cell != MISSING
        ]
        return ", ".join(said)


@dataclass(frozen=True)
class TableSource:
    """Base of the specs of tables."""

    def build(self) -> KnowledgeTable:
        """Returns the table.

        Raises:
          UserError: its source is missing or no table.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Countries(TableSource):
    """The 249 countries and territories of the CIA World Factbook, by six of its fields."""

    def build(self) -> KnowledgeTable:
        """Returns region, government, language, currency, religion and coast of each."""
        found = sources.countries()
        slots = ("region", "government", "language", "currency", "religion", "coast")
        rows = (dict(zip(slots, _country_cells(one), strict=True)) for one in found)
        return table_of(slots, rows, [country.name for country in found])


@dataclass(frozen=True)
class Elements(TableSource):
    """The 118 chemical elements, by what package `periodictable` knows of them."""

    def build(self) -> KnowledgeTable:
        """Returns period, block, crystal, charge, density (g/cm³) and radius (Å) of each."""
        import periodictable

        found: list[Any] = [one for one in periodictable.elements if one.number > 0]
        slots = ("period", "block", "crystal", "charge", "density", "radius")
        rows = (dict(zip(slots, _element_cells(one), strict=True)) for one in found)
        return table_of(slots, rows, [one.name for one in found])


@dataclass(frozen=True)
class Generated(TableSource):
    """A made table, of any size.

    A slot's value v = 0, 1, ... is in a cell with a chance in proportion to 1 / (v + 1)^skew. Values
    have one to three words of syllables, each of which is with a chance of `overlap` one of twenty
    that all slots share; those of the slots `year` and `rating` are numbers, which users blur.

    Attributes:
      rows: N.
      values: V_j, one number a slot.
      skew: exponent of Zipf's law; 0 for values that are equally frequent.
      overlap: chance that a word is shared.
      missing: chance that a cell is missing.
      seed: that it is made from.
    """

    rows: int = 428
    values: tuple[int, ...] = (50, 50, 20, 10, 60, 60)
    skew: float = 0.8
    overlap: float = 0.3
    missing: float = 0.05
    seed: int = field(default=0, metadata=SEED)

    def __post_init__(self):
        """Checks the fields."""
        require(self.rows >= 1, f"env.table.rows is {self.rows}; it must be at least 1.")
        require(
            1 <= len(self.values) <= MOST_SLOTS and all(count >= 1 for count in self.values),
            f"env.table.values is {self.values}; give each of 1 to {MOST_SLOTS} slots at least 1 value.",
        )
        require(self.skew >= 0, f"env.table.skew is {self.skew}; it must not be negative.")
        require(self.seed >= 0, f"env.table.seed is {self.seed}; it must not be negative.")
        for name in ("overlap", "missing"):
            value = getattr(self, name)
            require(0 <= value < 1, f"env.table.{name} is {value}; it must be at least 0, below 1.")

    def build(self) -> KnowledgeTable:
        """Returns the table; of a value that no cell holds nothing is known."""
        random = np.random.default_rng(self.seed)
        slots = SLOT_NAMES[: len(self.values)]
        shared = ["".join(random.choice(SYLLABLES, 2)) for _ in range(20)]
        columns = []
        for slot, count in zip(slots, self.values, strict=True):
            words = self._words(random, slot, count, shared)
            chances = (1.0 + np.arange(count)) ** -self.skew
            drawn = random.choice(count, self.rows, p=chances / chances.sum())
            known = random.random(self.rows) >= self.missing
            columns.append([words[v] if told else "" for v, told in zip(drawn, known, strict=True)])
        rows = (dict(zip(slots, cells, strict=True)) for cells in zip(*columns, strict=True))
        return table_of(slots, rows, [f"row {row}" for row in range(self.rows)])

    def _words(
        self, random: np.random.Generator, slot: str, count: int, shared: Sequence[str]
    ) -> list[str]:
        """The values of a slot, each different from the others."""
        if slot in NUMBERED:
            numbers = random.permutation(max(count, 100))[:count]
            return [f"{n / 10:.1f}" if slot == "rating" else f"{1920 + n}" for n in numbers]
        made: dict[str, None] = {}
        while len(made) < count:
            words = [
                random.choice(shared)
                if random.random() < self.overlap
                else "".join(random.choice(SYLLABLES, 3))
                for _ in range(random.integers(1, 4))
            ]
            made[" ".join(words)] = None
        return list(made)


@dataclass(frozen=True)
class TableFile(TableSource):
    """A table of the user's: TSV or CSV, whose first line names the columns, or JSON lines.

    An empty cell is a missing one; every column is a slot, but for the one that names rows.

    Attributes:
      path: the file.
      name: the column that says what each row is called; rows are numbered if it is empty.
    """

    path: Path
    name: str = ""

    def build(self) -> KnowledgeTable:
        """Reads the file.

        Raises:
          UserError: says in one sentence what is wrong, in which file and line.
        """
        refuse_pickle(self.path)
        rows, names = [], []
        for line, cells in read_rows(self.path):
            where = f"{self.path}, line {line}"
            header = where if kind_of(self.path) == ".jsonl" else f"{self.path}, line 1"
            row = {_column(header, name): _cell(where, name, cells[name]) for name in cells}
            names.append(row.pop(self.name, "") or f"row {len(rows)}")
            rows.append(row)
        require(
            len(rows) > 0,
            f"{self.path}, line 1 is followed by no rows; give the table at least one.",
        )
        slots = tuple(dict.fromkeys(slot for row in rows for slot in row))
        require(
            1 <= len(slots) <= MOST_SLOTS,
            f"{self.path}, line 1 has {len(slots)} columns that are slots; keep 1 to {MOST_SLOTS} of "
            "them.",
        )
        for slot in slots:
            require(
                any(row.get(slot) for row in rows),
                f"{self.path}, line 1 names column {slot!r}, which has no value in any row; remove it.",
            )
        return table_of(slots, rows, names)


def table_of(
    slots: Sequence[str], rows: Iterable[Mapping[Any, str]], names: Sequence[str]
) -> KnowledgeTable:
    """Numbers the values of each slot.

    Args:
      slots: M names.
      rows: slot -> value, "" or nothing where it is missing.
      names: of the rows.
    """
    numbers: list[dict[str, int]] = [{} for _ in slots]
    cells = [
        [
            numbers[place].setdefault(row[slot], len(numbers[place])) if row.get(slot) else MISSING
            for place, slot in enumerate(slots)
        ]
        for row in rows
    ]
    values = tuple(tuple(of_slot) for of_slot in numbers)
    return KnowledgeTable(tuple(slots), tuple(names), values, np.asarray(cells, np.int32))


def with_missing(table: KnowledgeTable, share: float, seed: int) -> KnowledgeTable:
    """The table as an agent knows it: a share of the cells that hold a value is missing, by chance."""
    random = np.random.default_rng(seed)
    known = np.flatnonzero(table.cells.reshape(-1) != MISSING)
    dropped = random.permutation(known)[: round(share * len(known))]
    cells = table.cells.reshape(-1).copy()
    cells[dropped] = MISSING
    return table._replace(cells=cells.reshape(table.cells.shape))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, numbers with a decimal point as one word."""
    return _WORD.findall(text.lower())


def _country_cells(country: sources.Country) -> list[str]:
    """The cells of a country, each "" where the source has no short one."""
    fields = country.fields
    people = fields.get("People and Society", {})
    coast = sources.leaf(fields, "Geography", "Coastline")
    length = re.match(r"[\d.,]+", coast)
    kilometres = float(length.group().replace(",", "")) if length else 0.0
    rounded = f"{float(f'{kilometres:.0e}'):.0f} km" if kilometres >= 1 else ""
    return [
        _short(sources.leaf(fields, "Geography", "Map references")),
        _short(sources.leaf(fields, "Government", "Government type")),
        _short(sources.leaf(people, "Languages", "Languages") or sources.leaf(people, "Languages")),
        _short(sources.leaf(fields, "Economy", "Exchange rates", "Currency").split(" per ")[0]),
        _short(sources.leaf(people, "Religions")),
        "landlocked" if "landlocked" in coast else rounded,
    ]


def _short(text: str) -> str:
    """The beginning of a field, in ASCII: up to a mark, a number or a remark; "" if that is long."""
    start = re.split(r"[;:,(<]| \d|\d", sources.fold(text))[0].strip().lower()
    return start if len(start.split()) <= 5 else ""


def _element_cells(element: Any) -> list[str]:
    """The cells of an element, each "" where nothing is known."""
    number = element.number
    period = next(place for place, last in enumerate(_NOBLE, 1) if number <= last)
    first = 1 if period == 1 else _NOBLE[period - 2] + 1
    last = _NOBLE[period - 1]
    if number < first + 2:
        block = "s block"
    elif number > last - 6:
        block = "p block"
    else:
        block = "d block" if number > last - 16 else "f block"
    crystal = getattr(element, "crystal_structure", None) or {}
    density, radius = (getattr(element, name, None) for name in ("density", "covalent_radius"))
    charge = max(element.ions, default=0)
    return [
        str(period),
        block,
        crystal.get("symmetry", ""),
        str(charge) if charge else "",
        f"{density:.1f}" if density else "",
        f"{radius:.1f}" if radius else "",
    ]


def _column(where: str, name: str) -> str:
    """The name of a column."""
    require(bool(name.strip()), f"{where} has a column without a name; name every column.")
    return name


def _cell(where: str, name: str, value: Any) -> str:
    """The value of a cell as a text of one line, "" if it is missing."""
    if value is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        isinstance(value, str) or number,
        f"{where} has {name} {value!r}, which is no text; write one.",
    )
    text = str(value).strip(" ")
    require(
        not any(mark in text for mark in "\t\n\r"),
        f"{where} has {name} {text!r}, which holds a tab or a newline; write a blank in its place.",
    )
    require(not half_character(text), f"{where} has {name} {text!r}, half a character; mend it.")
    require(
        not text or bool(words_of(text)),
        f"{where} has {name} {text!r}, which holds no word; write one, or leave the cell empty.",
    )
    return text
