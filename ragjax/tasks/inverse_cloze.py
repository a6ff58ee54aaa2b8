"""The inverse cloze task: a retriever learns from passages alone, before any question is asked."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ragjax.data.checks import checked
from ragjax.errors import require
from ragjax.tasks.base import Task, fraction
from ragjax.tasks.own_data import OwnData
from ragjax.types import Passage, QaData, Question

# A full stop before a word that is not in lower case, so that few abbreviations end a sentence.
_END = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])|(?<=[。！？])(?=.)")


@dataclass(frozen=True)
class InverseCloze(Task):
    """Another task, trained on sentences of its passages in place of its questions.

    A training question is a sentence, and its gold passage the one that it was taken from (Lee et al.,
    arXiv 1906.00300, section 5). The passage is not changed here: `Contrastive(remove_question=0.9)`
    embeds it without the sentence, nine times of ten. Passages, vocabulary, development and test
    questions are those of `task`, so that a run on `task` can `start` from one on this.

    No answer is known: the passage's title stands for it, or else the sentence.

    Attributes:
      task: whose passages they are.
      sentences: at most so many are drawn from each passage.
      min_length: characters of the shortest sentence that is drawn.
      seed: of which sentences are drawn.
    """

    name: ClassVar[str] = "inverse_cloze"
    version: ClassVar[str] = "1.0.0"

    task: Task = field(default_factory=OwnData)
    sentences: int = 1
    min_length: int = 20
    seed: int = 0

    def __post_init__(self):
        """Checks the fields."""
        for name in ("sentences", "min_length"):
            value = getattr(self, name)
            require(value >= 1, f"task.{name} is {value}; it must be at least 1.")
        require(self.seed >= 0, f"task.seed is {self.seed}; it must not be negative.")

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the other task."""
        return self.task.files

    @property
    def vocabulary_task(self) -> Task:
        """That of the other task."""
        return self.task.vocabulary_task

    def fingerprint(self) -> str:
        """Returns a short hash of all that decides what either task generates."""
        both = f"{super().fingerprint()}/{self.task.fingerprint()}"
        return hashlib.sha256(both.encode()).hexdigest()[:12]

    def load(self, data_dir: Path | None = None) -> QaData:
        """Returns what `generate` returns, checked; see `Task.load`."""
        return checked(self._asked_of(self.task.load(data_dir)), self.name)

    def generate(self) -> QaData:
        """Returns the other task's passages, questions made of them, and its other splits.

        Raises:
          UserError: no passage has a sentence to ask for.
        """
        return self._asked_of(self.task.load())

    def _asked_of(self, data: QaData) -> QaData:
        parts = {passage.id: split_sentences(passage.text) for passage in data.passages}
        times = Counter(sentence for found in parts.values() for sentence in found)
        questions: list[Question] = []
        none = repeated = 0
        for passage in data.passages:
            found = parts[passage.id]
            # Of a single sentence nothing would be left.
            long = [s for s in found if len(s) >= self.min_length] if len(found) > 1 else []
            own = [sentence for sentence in long if times[sentence] == 1]
            repeated += len(long) - len(own)
            none += not own
            questions += self._drawn(passage, own)
        require(
            len(questions) > 0,
            f"Task {self.task.name} has no passage of two sentences or more, one of them at least "
            f"task.min_length {self.min_length} characters long; give longer passages.",
        )
        notes = [f"{none} of {len(data.passages)} passages have no sentence to ask for"] * bool(
            none
        )
        if repeated:
            notes.append(f"{repeated} sentences stand in several places and are not asked for")
        splits = {split: rows for split, rows in data.splits.items() if split != "train"}
        return QaData(data.passages, {"train": tuple(questions)} | splits, (*data.notes, *notes))

    def _drawn(self, passage: Passage, found: list[str]) -> list[Question]:
        """Questions of some of a passage's sentences, the same on every call and machine."""
        key = f"inverse_cloze/{self.seed}/{passage.id}"
        drawn = sorted(found, key=lambda sentence: fraction(f"{key}/{sentence}"))[: self.sentences]
        return [
            Question(
                id=f"cloze/{passage.id}/{number}",
                question=sentence,
                answers=(passage.title.strip() or sentence,),
                positives=(passage.id,),
                relation="cloze",
                entity=passage.title,
            )
            for number, sentence in enumerate(drawn)
        ]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, by their full stops; an abbreviation before a capital ends one, too."""
    return [part.strip() for part in _END.split(text) if part.strip()]
