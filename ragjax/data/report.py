"""What a run learned from and is measured on: which rows, how many, and what of them is not read."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ragjax.data.prepared import PreparedText
from ragjax.errors import UserError, require
from ragjax.files import read_json_object, write_json
from ragjax.text import counted
from ragjax.types import Passage, QaData, Question

REPORT = "data.json"
PASSAGES = "passages"


@dataclass(frozen=True)
class SplitReport:
    """The questions of a split.

    Attributes:
      questions: how many there are.
      with_gold: how many have a gold passage.
      cut_questions: how many are longer than `tokenizer.question_length`.
      cut_answers: how many first answers do not end within `tokenizer.answer_length`, so that they can't
        be given whole.
      unknown_words: words that are in no passage and no training question, and are left out.
      cut_other_answers: how many other accepted answers don't end there.
      cut_for_retriever: how many questions are longer than what a retriever with a tokenizer of its own
        reads.
    """

    questions: int
    with_gold: int
    cut_questions: int
    cut_answers: int
    unknown_words: int
    # Runs that were made before these were counted have none.
    cut_other_answers: int = 0
    cut_for_retriever: int = 0


@dataclass(frozen=True)
class DataReport:
    """The data of a run.

    Attributes:
      digests: of the passages and of each split, a hash of all their rows.
      passages: how many there are.
      cut_passages: how many are longer than `tokenizer.passage_length`; None if it is not measured.
      splits: of each split its figures.
      notes: what the task left out, a sentence each.
    """

    digests: dict[str, str]
    passages: int
    cut_passages: int | None
    splits: dict[str, SplitReport]
    notes: tuple[str, ...]

    @classmethod
    def measure(cls, data: QaData, text: PreparedText) -> "DataReport":
        """Counts what is in the data, and what of it is not read."""
        splits = {}
        for split, questions in data.splits.items():
            words = [text.known_words(question.question) for question in questions]
            size, end = text.spec.question_length, text.spec.answer_length
            asked = [len(text.tokenizer.encode(known)) for known, _ in words]
            first = [question.answers[0] for question in questions]
            others = [answer for question in questions for answer in question.answers[1:]]
            texts = [question.question for question in questions]
            splits[split] = SplitReport(
                questions=len(questions),
                with_gold=sum(bool(question.positives) for question in questions),
                cut_questions=sum(length > size for length in asked),
                cut_answers=text.tokenizer.encode_batch(first, end, end=True)[1],
                unknown_words=sum(len(left_out) for _, left_out in words),
                cut_other_answers=text.tokenizer.encode_batch(others, end, end=True)[1],
                cut_for_retriever=text.own.questions(texts)[1] if text.own else 0,
            )
        corpus = text.corpus
        return cls(digests(data), len(corpus.passages), corpus.cut, splits, data.notes)

    def save(self, run_dir: Path) -> None:
        """Writes the report into a run's directory."""
        write_json(run_dir / REPORT, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, run_dir: Path) -> "DataReport":
        """Reads what `save` wrote.

        Raises:
          UserError: it is missing or malformed.
        """
        value = read_json_object(run_dir / REPORT, "train the run again.")
        try:
            splits = {name: SplitReport(**split) for name, split in value["splits"].items()}
            return cls(**value | {"splits": splits, "notes": tuple(value["notes"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{run_dir / REPORT} is malformed ({error}); train the run again."
            ) from error

    def require_passages(self, passages: Sequence[Passage], run_dir: Path) -> None:
        """Checks that a run's passages are those that it wrote.

        Raises:
          UserError: they are others.
        """
        require(
            digest_of(passages) == self.digests.get(PASSAGES),
            f"The passages of {run_dir} are not those that it began with; restore its files or train "
            "the run again.",
        )

    def require_same(self, data: QaData, run_dir: Path, task: str) -> None:
        """Checks that a task still makes the rows that a run began with.

        Raises:
          UserError: says which of them are others.
        """
        now = digests(data)
        names = [*self.digests, *(name for name in now if name not in self.digests)]
        differing = [name for name in names if self.digests.get(name) != now.get(name)]
        what = ", ".join(name if name == PASSAGES else f"{name} questions" for name in differing)
        require(
            not differing,
            f"Task {task} makes other {what} now than {run_dir} began with; bring back its files and "
            "package versions, or train into a new --run-dir.",
        )

    def sentences(self) -> list[str]:
        """What of the data is left out or not read, for the user to know before training."""
        told = list(self.notes)
        counts = [f"{of.questions} {name}" for name, of in self.splits.items() if of.questions]
        asked = f"; questions: {', '.join(counts)}" if counts else ""
        told.append(f"{counted(self.passages, 'passage')}{asked}")
        if self.cut_passages:
            told.append(
                f"{self.cut_passages} of {self.passages} passages are longer than "
                "tokenizer.passage_length; their ends are not read"
            )
        for name, report in self.splits.items():
            if report.cut_questions:
                told.append(
                    f"{report.cut_questions} of {report.questions} {name} questions are longer than "
                    "tokenizer.question_length; their ends are not read"
                )
            if report.cut_answers:
                told.append(
                    f"{report.cut_answers} of {report.questions} {name} answers do not fit into "
                    "tokenizer.answer_length and can't be given whole"
                )
            if report.cut_other_answers:
                told.append(
                    f"{report.cut_other_answers} other accepted answers of {name} questions do not fit "
                    "into tokenizer.answer_length and can't be given whole"
                )
            if report.cut_for_retriever:
                told.append(
                    f"{report.cut_for_retriever} of {report.questions} {name} questions are longer than "
                    "the question_length of the retriever's encoder, which does not read their ends"
                )
            if report.unknown_words:
                told.append(
                    f"{report.unknown_words} words of {name} questions are in no passage and no "
                    "training question, and are left out"
                )
            if report.with_gold < report.questions:
                told.append(
                    f"{report.questions - report.with_gold} of {report.questions} {name} questions "
                    "have no gold passage, so that recall is not measured by them"
                )
        return told


def digests(data: QaData) -> dict[str, str]:
    """A hash of the passages and one of each split: of every row, in order."""
    return {PASSAGES: digest_of(data.passages)} | {
        split: digest_of(questions) for split, questions in data.splits.items()
    }


def digest_of(rows: Sequence[Passage | Question]) -> str:
    """A hash of every row, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(line_of(row))
    return digest.hexdigest()[:16]


def line_of(row: Passage | Question) -> bytes:
    """What `digest_of` reads of a row; patterns only of a question that has some, as few have."""
    read = {name: value for name, value in vars(row).items() if name != "patterns" or value}
    return json.dumps(read, ensure_ascii=True).encode() + b"\n"
