"""A user's own task whose passages are of several sentences: who lives where, and what all share."""

from dataclasses import dataclass, replace
from typing import ClassVar

from tiny_task import PEOPLE, TOWNS, TinyTask

from ragjax.types import Passage, QaData

TRADES = ("baker", "tailor", "joiner", "mason", "potter", "weaver")


@dataclass(frozen=True)
class ProseTask(TinyTask):
    """`TinyTask` with longer passages; the last one is a single sentence."""

    name: ClassVar[str] = "prose"
    version: ClassVar[str] = "1.0.0"

    def generate(self) -> QaData:
        """Returns the people in order."""
        texts = [
            f"{person} lives in {town}. A {TRADES[i % 6]} by trade, {person} sings. Who knows? "
            "Nobody here is rich or poor."
            for i, (person, town) in enumerate(zip(PEOPLE, TOWNS, strict=True))
        ]
        texts[-1] = f"{PEOPLE[-1]} lives in {TOWNS[-1]} and says little of it."
        passages = tuple(Passage(f"p{i}", PEOPLE[i], text) for i, text in enumerate(texts))
        return replace(super().generate(), passages=passages, notes=("made up",))
