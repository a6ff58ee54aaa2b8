"""Data with a fault somewhere, drawn at random, is refused before anything is made of it."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import tiny_config
from tiny_task import TinyTask

from ragjax.errors import UserError
from ragjax.tasks.base import SPLITS

EMPTY = ("", " ", "\n\t", "\u00a0", "\u200b", " \ufeff ")  # to the eye
HALF = ("\ud800", "a\udc00b")
NO_TEXT = (None, 7, 1.5, True, b"x", ["x"], {"x": "y"})
PASSAGE, QUESTION = ("id", "text", "title"), ("id", "question", "relation", "entity")
MAY_BE_EMPTY = ("title", "relation", "entity")

# Kind of fault -> fields of rows that may have it.
FAULTS = {
    "empty": (*PASSAGE, *QUESTION),
    "half": (*PASSAGE, *QUESTION, "answers"),
    "no text": (*PASSAGE, *QUESTION),
    "repeated": ("id",),
    "no list": ("answers", "positives"),
    "nothing": ("answers",),
    "empty within": ("answers",),
    "no text within": ("answers", "positives"),
    "unknown": ("positives",),
}
CASES = [
    (fault, field)
    for fault, fields in FAULTS.items()
    for field in dict.fromkeys(fields)
    if fault != "empty" or field not in MAY_BE_EMPTY
]


def faulty(fault, old, others, rng):
    """A value with a fault in the place of one without; `others` are those of the rows before."""
    within = isinstance(old, tuple)
    drawn = {
        "empty": EMPTY,
        "half": [f"{old[0] if within else old}{half}" for half in HALF],
        "no text": NO_TEXT,
        "repeated": others,
        "no list": ("p1", None, 7, {"p1"}),
        "nothing": ((), []),
        "empty within": EMPTY,
        "no text within": NO_TEXT,
        "unknown": ("p99", "P1", "p1 ", "nowhere"),
    }[fault]
    value = drawn[rng.integers(len(drawn))]
    if not within or fault in ("no list", "nothing"):
        return value
    place = rng.integers(len(old) + 1)
    return (*old[:place], value, *old[place:])


@dataclass(frozen=True)
class Faulty(TinyTask):
    """The tiny task with one fault."""

    name: ClassVar[str] = "faulty"

    fault: str = ""
    field: str = ""
    seed: int = 0

    def generate(self):
        return self.drawn()[0]

    def drawn(self):
        """The data, and the id of the row with the fault."""
        data = super().generate()
        rng = np.random.default_rng([self.seed, *self.fault.encode(), *self.field.encode()])
        tables = {"corpus": data.passages, **data.splits}
        names = [name for name, rows in tables.items() if hasattr(rows[0], self.field)]
        name = str(rng.choice(names))
        # Ids of questions are their own in all splits together.
        rows = list(tables[name])
        before = [row.id for split in SPLITS for row in data.splits[split]]
        before = before[: before.index(rows[0].id)] if name != "corpus" else []
        place = int(rng.integers(0 if before or self.fault != "repeated" else 1, len(rows)))
        row, before = rows[place], [*before, *(other.id for other in rows[:place])]
        wrong = faulty(self.fault, getattr(row, self.field), before, rng)
        # A copy, since these tests check types wherever a row is made, which a user's task doesn't.
        rows[place] = copy.copy(row)
        object.__setattr__(rows[place], self.field, wrong)
        if name == "corpus":
            return dataclasses.replace(data, passages=tuple(rows)), rows[place].id
        splits = data.splits | {name: tuple(rows)}
        return dataclasses.replace(data, splits=splits), rows[place].id


@pytest.mark.parametrize(("fault", "field"), CASES)
def test_a_fault_anywhere_is_refused_by_a_sentence_that_names_the_row(fault, field):
    for seed in range(8):
        task = Faulty(fault, field, seed)
        config = dataclasses.replace(tiny_config.get_config(), task=task)
        with pytest.raises(UserError) as caught:
            config.create()
        said, (_, row) = str(caught.value), task.drawn()
        assert said.startswith("Task faulty: "), said
        assert f" {row!r} " in said or field == "id", said
        assert repr(row) in said, said
        assert said.endswith(".")
        assert said.isprintable(), said


@dataclass(frozen=True)
class Lacking(TinyTask):
    """The tiny task without some of it."""

    name: ClassVar[str] = "lacking"

    what: str = ""
    kept: bool = True

    def generate(self):
        data = super().generate()
        splits = {name: () if name == self.what else rows for name, rows in data.splits.items()}
        splits = {name: rows for name, rows in splits.items() if rows or self.kept}
        passages = () if self.what == "passages" else data.passages
        return dataclasses.replace(data, passages=passages, splits=splits)


@pytest.mark.parametrize("kept", [True, False], ids=["empty", "missing"])
@pytest.mark.parametrize("what", [*SPLITS, "passages"])
def test_what_is_empty_is_refused(what, kept):
    config = dataclasses.replace(tiny_config.get_config(), task=Lacking(what, kept))
    name = what if what == "passages" else f"{what} questions"
    with pytest.raises(UserError, match=rf"^Task lacking has no {name}; [a-z ]+ at least one\.$"):
        config.create()
