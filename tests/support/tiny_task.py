"""A user's own task: thirty made-up people, each with a town, in files that ragjax knows nothing of."""

import json
from dataclasses import dataclass
from typing import ClassVar

from ragjax.tasks.base import Task
from ragjax.types import Passage, QaData, Question

PEOPLE = (
    *("Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines", "Jon"),
    *("Kira", "Leo", "Mara", "Nils", "Olga", "Paul", "Quin", "Rosa", "Sven", "Tara"),
    *("Ugo", "Vera", "Wim", "Xena", "Yuri", "Zoe", "Abel", "Bea", "Carl", "Dora"),
)
TOWNS = (
    *("Arles", "Bern", "Cork", "Delft", "Essen", "Faro", "Ghent", "Hull", "Ivry", "Jena"),
    *("Kiel", "Lyon", "Metz", "Nice", "Oslo", "Pisa", "Quito", "Riga", "Siena", "Turin"),
    *("Ulm", "Vaduz", "Worms", "Xanten", "York", "Zug", "Aarau", "Basel", "Como", "Dijon"),
)
WORDINGS = ("Where does {} live?", "In which town does {} live?", "Which town is the home of {}?")


@dataclass(frozen=True)
class TinyTask(Task):
    """Who lives where: 30 passages, 60 training, 12 development and 12 test questions."""

    name: ClassVar[str] = "tiny"
    version: ClassVar[str] = "1.0.0"

    def generate(self) -> QaData:
        """Returns the people in order: 20 to train on, 4 to tune on, 6 to test on."""
        passages = tuple(
            Passage(f"p{i}", person, f"{person} lives in {TOWNS[i]}, a quiet town.")
            for i, person in enumerate(PEOPLE)
        )

        def ask(people: range, wordings: tuple[str, ...]) -> tuple[Question, ...]:
            return tuple(
                Question(
                    id=f"q{i}/{number}",
                    question=wording.format(PEOPLE[i]),
                    answers=(TOWNS[i],),
                    positives=(f"p{i}",),
                    relation=("home", "town", "town")[number],
                    entity=PEOPLE[i],
                )
                for i in people
                for number, wording in enumerate(wordings)
            )

        return QaData(
            passages,
            {
                "train": ask(range(20), WORDINGS),
                "dev": ask(range(20, 24), WORDINGS),
                "test": ask(range(24, 30), WORDINGS[:2]),
            },
        )


@dataclass(frozen=True)
class CachedTask(TinyTask):
    """The same, kept on disk once it is generated."""

    name: ClassVar[str] = "tiny_cached"
    cached: ClassVar[bool] = True


def write_tiny_files(directory):
    """Writes the task's passages as a table, and its questions, which say their split."""
    data = TinyTask().generate()
    lines = [f"{p.id}\t{p.text}\t{p.title}" for p in data.passages]
    (directory / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    rows = [
        {"id": q.id, "question": q.question, "answers": q.answers, "positives": q.positives}
        | {"split": split}
        for split, questions in data.splits.items()
        for q in questions
    ]
    (directory / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
