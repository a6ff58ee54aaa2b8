"""Passages and questions of your own, from files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ragjax.data.checks import with_answers
from ragjax.data.readers import passages_with_text, read_questions, text_files
from ragjax.data.rows import COLUMNS, parse_fields
from ragjax.errors import UserError, require
from ragjax.tasks.base import SPLITS, Task, fraction
from ragjax.text import OVERLAP, PASSAGE_WORDS
from ragjax.types import QaData, Question

SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    **{"training": "train", "validation": "dev", "valid": "dev", "val": "dev"},
}


@dataclass(frozen=True)
class OwnData(Task):
    """A corpus and questions from files, read anew whenever they are needed.

    Questions are split, in this order: by file, where `dev` and `test` name files of their own; by
    the column `split_field`, where questions have it; else by a hash, into `dev_share`, `test_share` and
    the rest.

    Attributes:
      passages: a file of JSON lines, CSV or TSV, one passage a row (`.gz` or not); or a text or Markdown
        file, or a folder of them, cut into passages. See `data.readers.read_passages`.
      questions: a file of JSON lines, CSV or TSV; "" for passages alone. See
        `data.readers.read_questions`.
      dev: file of the development questions, if they have one of their own.
      test: file of the test questions, likewise.
      fields: what the files call their columns, where it is not what is expected:
        "question=Frage,answers=Antwort".
      split_field: the column with train, dev (validation) or test.
      split_by: what is hashed: `question`, the question's words; `title`, the title of its first gold
        passage, so that no two splits share one; or any other column.
      dev_share: share of the development split where questions are split by a hash.
      test_share: share of the test split, likewise.
      passage_words: words of a passage that is cut from a text.
      overlap: words that such a passage and the next have in common.
      ranking: a TREC run, as `ragjax index search --output` writes it; of `passages` only those that it
        names are read. "" for all.
    """

    name: ClassVar[str] = "own_data"
    version: ClassVar[str] = "1.0.0"

    passages: str = ""
    questions: str = ""
    dev: str = ""
    test: str = ""
    fields: str = ""
    split_field: str = "split"
    split_by: str = "question"
    dev_share: float = 0.1
    test_share: float = 0.2
    passage_words: int = PASSAGE_WORDS
    overlap: int = OVERLAP
    ranking: str = ""

    def __post_init__(self):
        """Checks the fields, and makes paths absolute."""
        self._make_absolute("passages", "questions", "dev", "test", "ranking")
        parse_fields(self.fields, COLUMNS)
        require(
            bool(self.dev) == bool(self.test),
            "One of task.dev and task.test names a file and the other does not; name both, or neither.",
        )
        for name in ("dev_share", "test_share"):
            value = getattr(self, name)
            require(0 < value < 1, f"task.{name} is {value}; it is a share between 0 and 1.")
        require(
            self.dev_share + self.test_share < 1,
            f"task.dev_share {self.dev_share} and task.test_share {self.test_share} leave nothing to "
            "train on; choose less than 1 together.",
        )
        require(
            self.passage_words >= 1,
            f"task.passage_words is {self.passage_words}; it must be at least 1.",
        )
        require(
            0 <= self.overlap < self.passage_words,
            f"task.overlap is {self.overlap}; it must be less than task.passage_words "
            f"{self.passage_words}.",
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read, those of a folder each."""
        named = (self.passages, self.questions, self.dev, self.test, self.ranking)
        return tuple(file for name in named if name for file in text_files(Path(name)))

    def generate(self) -> QaData:
        """Reads the files.

        Raises:
          UserError: names the file, and the line, that is not as it must be.
        """
        require(
            bool(self.passages),
            "task.passages names no file; give one: --task.passages FILE --task.questions FILE.",
        )
        passages, left_out = passages_with_text(
            Path(self.passages),
            words=self.passage_words,
            overlap=self.overlap,
            fields=self.fields,
            hint=", or give its name: --task.fields text=NAME",
            ranking=Path(self.ranking) if self.ranking else None,
        )
        notes = list(left_out)
        splits: dict[str, list[Question]] = {split: [] for split in SPLITS}
        titles = {passage.id: passage.title for passage in passages}
        for split, question in self._read_questions(titles, notes):
            splits[split].append(question)
        asked = [question for each in splits.values() for question in each]
        require(
            not asked or any(question.answers for question in asked),
            f"{self.questions} has no question with an answer; add a column 'answers', or give the name "
            "of it: --task.fields answers=NAME.",
        )
        answered, unanswered = with_answers(splits)
        return QaData(passages, answered, (*notes, *unanswered))

    def _read_questions(
        self, titles: dict[str, str], notes: list[str]
    ) -> Iterator[tuple[str, Question]]:
        """Yields (split, question), and notes how they were split."""
        if not self.questions:
            notes.append("task.questions names no file")
            return
        by_file = {"train": self.questions, "dev": self.dev, "test": self.test}
        if self.dev:
            for split, path in by_file.items():
                for question, _ in read_questions(Path(path), fields=self.fields):
                    yield split, question
            notes.append("questions are split by file")
            return
        path, with_field = Path(self.questions), None
        for question, row in read_questions(path, fields=self.fields):
            has_field = row.get(self.split_field) not in (None, "")
            where = f"{path}: question {question.id!r}"
            if with_field is None:
                with_field = has_field
            require(
                has_field == with_field,
                f"{where} has {'a' if has_field else 'no'} {self.split_field!r}, unlike those before; "
                "give it to all questions or to none.",
            )
            if not with_field:
                yield self._hashed_split(where, question, row, titles), question
                continue
            value = str(row[self.split_field]).strip().lower()
            require(
                value in SPLIT_NAMES,
                f"{where} has {self.split_field} {row[self.split_field]!r}; use one of "
                f"{', '.join(SPLIT_NAMES)}, or --task.split_field '' for a hash.",
            )
            yield SPLIT_NAMES[value], question
        how = f"their {self.split_field!r}" if with_field else f"a hash of their {self.split_by}"
        notes.append(f"questions are split by {how}")

    def _hashed_split(
        self, where: str, question: Question, row: dict[str, Any], titles: dict[str, str]
    ) -> str:
        """The split by the hash of `split_by`; what is hashed alike is in one split."""
        if self.split_by == "question":
            value = question.question
        elif self.split_by == "title":
            gold = question.positives[:1]
            if not gold or gold[0] not in titles:
                raise UserError(
                    f"{where} has {'no gold passage' if not gold else f'the gold passage {gold[0]!r}'} "
                    "of which the corpus knows a title; use another --task.split_by."
                )
            value = titles[gold[0]]
        else:
            value = row.get(self.split_by)
            require(
                value is not None,
                f"{where} has no {self.split_by!r}, which task.split_by names; use a column "
                "of the file.",
            )
        share = fraction("own/" + " ".join(str(value).casefold().split()))
        if share < self.test_share:
            return "test"
        return "dev" if share < self.test_share + self.dev_share else "train"
