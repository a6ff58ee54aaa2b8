"""What every task's data must be, looked at in one place before anything is made of it."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence

from ragjax.errors import UserError, require
from ragjax.text import half_character, is_empty, plain
from ragjax.types import Passage, QaData, Question


def checked(data: QaData, task: str) -> QaData:
    """Returns the data of a task after looking at every passage and question, of all splits.

    Ids are unique, texts are texts and not empty, each question has an answer, and gold passages are in
    the corpus.

    Args:
      data: what the task made.
      task: its name, for messages.

    Raises:
      UserError: names the first row that is not as it must be.
    """
    where = f"Task {task}"
    require(len(data.passages) > 0, f"{where} has no passages; a corpus needs at least one.")
    ids: set[str] = set()
    for passage in data.passages:
        name = f"{where}: passage {passage.id!r}"
        _require_texts(name, {"id": passage.id, "text": passage.text})
        _require_texts(name, {"title": passage.title}, empty=True)
        require(passage.id not in ids, f"{name} occurs twice; give each passage an id of its own.")
        ids.add(passage.id)
    asked: set[str] = set()
    for split, questions in data.splits.items():
        for question in questions:
            name = f"{where}: {split} question {question.id!r}"
            _require_texts(name, {"id": question.id, "question": question.question})
            _require_texts(
                name, {"relation": question.relation, "entity": question.entity}, empty=True
            )
            require(
                question.id not in asked,
                f"{name} occurs twice; give each question an id of its own.",
            )
            asked.add(question.id)
            for field in ("answers", "positives", "patterns"):
                require(
                    isinstance(getattr(question, field), tuple | list),
                    f"{name} has {getattr(question, field)!r} for {field}; give a list of texts.",
                )
            require(len(question.answers) > 0, f"{name} has no answer; give it at least one.")
            for answer in question.answers:
                _require_texts(name, {"answers": answer})
            for gold in question.positives:
                _require_texts(name, {"positives": gold})
            for pattern in question.patterns:
                _require_texts(name, {"patterns": pattern})
                _require_pattern(name, pattern)
            _require_gold(name, question.positives, ids)
    return data


def _require_texts(name: str, values: dict[str, object], *, empty: bool = False) -> None:
    for field, value in values.items():
        require(isinstance(value, str), f"{name} has {value!r} for {field}; it must be a text.")
        half = half_character(str(value))
        require(
            not half, f"{name} has {half!r} in its {field}, which is half of a character; mend it."
        )
        require(
            empty or not is_empty(str(value)),
            f"{name} has an empty {field}; fill it in or leave the row out.",
        )


def _require_pattern(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{name} has the pattern {pattern!r}, which is no regular expression ({error}); mend it."
        ) from error


def _require_gold(name: str, positives: Collection[str], ids: set[str]) -> None:
    missing = next((gold for gold in positives if gold not in ids), None)
    if missing is not None:
        raise UserError(
            f"{name} has the gold passage {missing!r}, which is not in the corpus; add that passage, or "
            "leave the gold passages out."
        )


def in_plain_text(data: QaData) -> QaData:
    """Returns the data with all that is read of it in `text.plain`, so that equal words look alike."""
    return QaData(
        tuple(
            Passage(passage.id, plain(passage.title), plain(passage.text))
            for passage in data.passages
        ),
        {
            split: tuple(
                dataclasses.replace(
                    question,
                    question=plain(question.question),
                    answers=tuple(map(plain, question.answers)),
                )
                for question in questions
            )
            for split, questions in data.splits.items()
        },
        data.notes,
    )


def with_answers(
    splits: Mapping[str, Sequence[Question]],
) -> tuple[dict[str, tuple[Question, ...]], list[str]]:
    """Returns the questions of splits that have an answer, and a note on each split that has others."""
    kept = {split: tuple(each for each in asked if each.answers) for split, asked in splits.items()}
    left_out = {split: len(asked) - len(kept[split]) for split, asked in splits.items()}
    return kept, [
        f"{count} of {len(splits[split])} {split} questions have no answer and are left out"
        for split, count in left_out.items()
        if count
    ]


def require_splits(data: QaData, task: str, splits: Collection[str]) -> None:
    """Checks that splits have questions.

    Raises:
      UserError: names the one that has none, and what the task left out.
    """
    noted = f" ({'; '.join(data.notes)})" if data.notes else ""
    for split in splits:
        require(
            len(data.splits.get(split, ())) > 0,
            f"Task {task} has no {split} questions{noted}; give it at least one.",
        )
