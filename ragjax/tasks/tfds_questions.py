"""Questions of a dataset that TFDS knows, over its own contexts or passages of yours."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ragjax.data.checks import with_answers
from ragjax.data.readers import passages_with_text, text_files
from ragjax.data.rows import parse_fields
from ragjax.data.tfds_source import field, read_examples
from ragjax.errors import UserError, require
from ragjax.tasks.base import Task, fraction
from ragjax.text import is_empty
from ragjax.types import Passage, QaData, Question

_COLUMNS = ("question", "answers", "id", "context", "title")


@dataclass(frozen=True)
class TfdsQuestions(Task):
    """A question-answering dataset by its name in TFDS.

        natural_questions_open      fields="answers=answer"                         and passages of yours
        trivia_qa/unfiltered.nocontext
                                    fields="answers=answer/value+answer/aliases,id=question_id"  likewise
        squad                       fields="answers=answers/text,id=id,context=context,title=title"

    Attributes:
      dataset: name, config and version as TFDS writes them.
      fields: where each column is: `question` and `answers`; `id`, if there is one; `context` and
        `title`, if the dataset brings the passages. Fields within fields are written with "/", several
        fields of answers with "+".
      passages: a file or folder of passages, see `data.readers.read_passages`; "" for the contexts.
      train_split: the dataset's own name of the training split.
      dev_split: of the development split; "" for a share of the training split, by a hash of questions.
      test_split: of the test split; public datasets often have no answers for theirs.
      dev_share: the share, where `dev_split` is "".
      data_dir: where TFDS keeps its datasets; its own default if "".
      ranking: a TREC run, as `ragjax index search --output` writes it; of `passages` only those that it
        names are read. "" for all.
      each_answer: whether a training question stands once for each of its answers, that answer first.
    """

    name: ClassVar[str] = "tfds_questions"
    version: ClassVar[str] = "1.0.0"
    packages: ClassVar[tuple[str, ...]] = ("tensorflow-datasets",)

    dataset: str = ""
    fields: str = ""
    passages: str = ""
    train_split: str = "train"
    dev_split: str = ""
    test_split: str = "validation"
    dev_share: float = 0.1
    data_dir: str = ""
    ranking: str = ""
    each_answer: bool = False

    def __post_init__(self):
        """Checks the fields, and makes paths absolute."""
        self._make_absolute("passages", "ranking", "data_dir")
        require(
            0 < self.dev_share < 1,
            f"task.dev_share is {self.dev_share}; it is a share between 0 and 1.",
        )
        require(
            bool(self.passages) or not self.ranking,
            f"task.ranking is {self.ranking}, but task.passages names no file of which to choose; give "
            "one, or leave it out.",
        )
        self._paths()

    def _paths(self) -> dict[str, str]:
        """Column -> where it is in an example."""
        usual = {"question": "question", "answers": "answers"}
        return usual | parse_fields(self.fields, _COLUMNS)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of passages, and the ranking."""
        named = (self.passages, self.ranking)
        return tuple(file for name in named if name for file in text_files(Path(name)))

    def asked(self) -> Iterator[tuple[str, Question]]:
        """Yields (split, question) as they are in the dataset; no file of passages is read."""
        for split, question, _ in self._read(self._paths()):
            yield split, question

    def generate(self) -> QaData:
        """Reads the dataset.

        Raises:
          UserError: it can't be had, lacks a field, or brings no passages and none are named.
        """
        require(bool(self.dataset), "task.dataset is empty; name one, such as squad.")
        paths = self._paths()
        require(
            bool(self.passages) != ("context" in paths),
            "task.passages names a file or task.fields the context of each question; give one of both.",
        )
        passages, left_out = (), ()
        if self.passages:
            ranking = Path(self.ranking) if self.ranking else None
            passages, left_out = passages_with_text(Path(self.passages), ranking=ranking)
        contexts: dict[str, Passage] = {}  # each stands beside several questions
        splits: dict[str, list[Question]] = {"train": [], "dev": [], "test": []}
        empty = 0
        for split, question, passage in self._read(paths):
            if passage is not None and is_empty(passage.text):
                question, empty = replace(question, positives=()), empty + 1
            elif passage is not None:
                contexts.setdefault(passage.id, passage)
            splits[split].append(question)
        notes = list(left_out)
        if empty:
            notes.append(f"the contexts of {empty} questions have no text and are left out")
        if not self.dev_split:
            notes.append(f"a share {self.dev_share} of {self.train_split}, by a hash, is dev")
        answered, unanswered = with_answers(splits)
        notes += unanswered
        if self.each_answer:
            notes.append(f"each answer of {len(answered['train'])} train questions is learned from")
            answered = answered | {"train": tuple(_answer_by_answer(answered["train"]))}
        return QaData((*passages, *contexts.values()), answered, tuple(notes))

    def _read(self, paths: dict[str, str]) -> Iterator[tuple[str, Question, Passage | None]]:
        """Yields (split, question, its passage)."""
        names = {"train": self.train_split, "dev": self.dev_split, "test": self.test_split}
        for split, name in names.items():
            if not name:
                continue
            for number, example in enumerate(read_examples(self.dataset, name, self.data_dir)):
                where = f"{self.dataset}, {name} example {number}"
                found: dict[str, Any] = {
                    column: field(example, path, where)
                    for column, path in paths.items()
                    if column != "answers"
                }
                answers = [
                    text
                    for path in paths["answers"].split("+")
                    for text in _texts(field(example, path, where), where)
                ]
                passage = None
                if "context" in found:
                    text, title = (
                        _text(found["context"], where),
                        _text(found.get("title", ""), where),
                    )
                    digest = hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=8)
                    passage = Passage(digest.hexdigest(), title, text)
                question = Question(
                    id=_text(found.get("id", f"{name}/{number}"), where),
                    question=_text(found["question"], where),
                    answers=tuple(dict.fromkeys(answers)),
                    positives=() if passage is None else (passage.id,),
                    relation="",
                    entity="",
                )
                share = fraction(f"tfds/{question.question}")
                to_dev = split == "train" and not self.dev_split and share < self.dev_share
                yield "dev" if to_dev else split, question, passage


def _text(value: Any, where: str) -> str:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise UserError(f"{where} has {value!r} where a text is wanted; name another in task.fields.")


def _texts(value: Any, where: str) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [text for item in items if not is_empty(text := _text(item, where))]


def _answer_by_answer(questions: Sequence[Question]) -> Iterator[Question]:
    """A question for each answer of each, with that answer first."""
    for question in questions:
        for number, answer in enumerate(question.answers):
            first = dict.fromkeys((answer, *question.answers))
            yield replace(question, id=f"{question.id}#{number}", answers=tuple(first))
