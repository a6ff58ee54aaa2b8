"""A task: twenty made-up towns, each with the colour of its gate."""

from dataclasses import dataclass
from typing import ClassVar

from ragjax.tasks.base import Task
from ragjax.types import Passage, QaData, Question

TOWNS = tuple(
    first + last for first in ("Ar", "Bel", "Cor", "Dun") for last in ("a", "o", "um", "is", "en")
)
COLOURS = ("red", "blue", "green", "white", "black")


@dataclass(frozen=True)
class Gates(Task):
    """What colour is the gate of a town: 12 questions to train on, 4 to tune on, 4 to test on."""

    name: ClassVar[str] = "gates"
    version: ClassVar[str] = "1.0.0"

    def generate(self) -> QaData:
        passages, questions = [], []
        for number, town in enumerate(TOWNS):
            colour = COLOURS[number % len(COLOURS)]
            passages.append(Passage(f"p{number}", town, f"The gate of {town} is {colour}."))
            asked = f"What colour is the gate of {town}?"
            kind = "early" if number % 2 else "late"
            questions.append(Question(f"q{number}", asked, (colour,), (f"p{number}",), kind, town))
        splits = {"train": questions[:12], "dev": questions[12:16], "test": questions[16:]}
        return QaData(tuple(passages), {name: tuple(rows) for name, rows in splits.items()})
