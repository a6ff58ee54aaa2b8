"""Figures of a question-answering run, each computed from the records of `predictions.jsonl`.

A record is one JSON object a line:

    {"id", "question", "relation", "entity", "answers": [str], "positives": [passage id],
     "prediction": str, "probability": float, "em": 0 or 1, "strict_em": 0 or 1, "f1": float,
     "retrieved": [passage id, best first], "prior": [float], "posterior": [float],
     "answer_rank": rank, from 1, of the first of these that holds an answer, or null,
     "patterns": [str], of a question whose accepted answers regular expressions tell}

`evaluation.matching` says what exact match, strict exact match, F1 and holding an answer are. Records
without `strict_em` or `answer_rank` can be summarised: the first is made anew of the texts, the second
was not measured.

A question without positives has no gold passage: recall, reciprocal rank and posterior mass are means
over the questions that have one.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.errors import UserError, require
from ragjax.evaluation.matching import exact_match, holds_answer, strict_match, token_f1
from ragjax.files import parse_json, write_atomically

RECALL_DEPTHS = (1, 5, 10, 20)
RELATION_FIGURES = (
    *("em", "strict_em", "f1", "recall@1", "recall@5", "has_answer@1", "has_answer@5"),
)

_TEXT_FIELDS = ("id", "question", "relation", "entity", "prediction")
_ID_FIELDS = ("answers", "positives", "retrieved")
_NUMBER_FIELDS = ("probability", "em", "strict_em", "f1")
_PROBABILITY_FIELDS = ("prior", "posterior")


def first_positive_rank(retrieved: Sequence[str], positives: Sequence[str]) -> int | None:
    """Returns the rank (from 1) of the first retrieved passage that is a positive, or None."""
    if isinstance(positives, str) or not positives:
        raise ValueError(f"positives is {positives!r}: a ranking needs at least one positive")
    gold = set(positives)
    return next((rank for rank, row in enumerate(retrieved, 1) if row in gold), None)


def recall_at_k(retrieved: Sequence[str], positives: Sequence[str], k: int) -> float:
    """Returns 1 if any positive is among the first k retrieved passages, else 0."""
    if k < 1:
        raise ValueError(f"k is {k}: give a number of passages of at least 1")
    rank = first_positive_rank(retrieved, positives)
    return float(rank is not None and rank <= k)


def reciprocal_rank(retrieved: Sequence[str], positives: Sequence[str]) -> float:
    """Returns 1 / the rank of the first positive, 0 where none was retrieved."""
    rank = first_positive_rank(retrieved, positives)
    return 1.0 / rank if rank else 0.0


def positive_mass(
    retrieved: Sequence[str], positives: Sequence[str], posterior: Sequence[float]
) -> float:
    """Returns the posterior p(d|x,y) summed over the retrieved passages that are positives."""
    gold = set(positives)
    return float(sum(p for row, p in zip(retrieved, posterior, strict=True) if row in gold))


@dataclass(frozen=True)
class Outcomes:
    """What became of each question of a run, sorted by question id; all columns have one length.

    Attributes:
      ids: question ids, unique, ascending.
      relations: the relation of each question.
      em: [M] 0 or 1.
      strict_em: [M] 0 or 1; None where it was not recorded.
      f1: [M] token F1.
      contains: [M] 0 or 1, whether the prediction holds an answer; None where it was not recorded.
      rank: [M] rank of the first positive passage, from 1; 0 where none was retrieved.
      mass: [M] posterior mass on positive passages; NaN of a question that has none.
      answer_rank: [M] rank of the first passage that holds an answer, from 1; 0 where none was
        retrieved; None where it was not recorded.
      retrieved: the largest number of passages retrieved for a question; 0 for a closed book.
    """

    ids: tuple[str, ...]
    relations: tuple[str, ...]
    em: np.ndarray
    strict_em: np.ndarray | None
    f1: np.ndarray
    contains: np.ndarray | None
    rank: np.ndarray
    mass: np.ndarray
    answer_rank: np.ndarray | None
    retrieved: int

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> "Outcomes":
        """Scores the records again; raises `UserError` where a record contradicts itself."""
        ordered = sorted(records, key=lambda record: record["id"])
        require(bool(ordered), "there are no records to summarise; evaluate at least one question.")
        for record, following in pairwise(ordered):
            repeated = record["id"] == following["id"]
            require(not repeated, f"question {record['id']!r} occurs twice; record it once.")
        scored = [_score(record) for record in ordered]
        em, strict_em, f1, contains, rank, mass = (
            np.array(column, float) for column in zip(*scored, strict=True)
        )
        return cls(
            ids=tuple(record["id"] for record in ordered),
            relations=tuple(record["relation"] for record in ordered),
            em=em,
            strict_em=strict_em,
            f1=f1,
            contains=contains,
            rank=rank.astype(int),
            mass=mass,
            answer_rank=_answer_ranks(ordered),
            retrieved=max(len(record["retrieved"]) for record in ordered),
        )

    @property
    def gold(self) -> np.ndarray:
        """[M] whether a question has a positive passage."""
        return ~np.isnan(self.mass)

    def figure(self, name: str, relation: str | None = None) -> np.ndarray | None:
        """Returns the outcomes of a figure, of the questions that it is about.

        Recall, mrr and posterior_mass are about the questions that have a gold passage. A figure of
        retrieval isn't measured where nothing was retrieved for any question, nor recall@k and
        has_answer@k where no question has k passages.

        Args:
          name: em, strict_em, f1, contains, recall@<k>, mrr, posterior_mass or has_answer@<k>.
          relation: of these questions alone.

        Returns:
          The outcomes, or None where the run can't measure any. An unknown name raises `KeyError`.
        """
        column = self._column(name)
        if column is None:
            return None
        about = np.ones(len(self.ids), bool) if relation is None else self.of(relation)
        if is_of_gold(name):
            about = about & self.gold
        return column[about] if about.any() else None

    def _column(self, name: str) -> np.ndarray | None:
        """Returns [M] outcomes of a figure, which mean nothing of questions that it is not about."""
        if name in ("em", "strict_em", "f1", "contains"):
            return getattr(self, name)
        if re.fullmatch(r"(recall|has_answer)@[1-9][0-9]*", name):
            of, _, depth = name.partition("@")
            rank, k = self.rank if of == "recall" else self.answer_rank, int(depth)
            if rank is None or k > self.retrieved:
                return None
            return ((rank > 0) & (rank <= k)).astype(float)
        if name == "mrr":
            inverse = np.where(self.rank > 0, 1.0 / np.maximum(self.rank, 1), 0.0)
            return inverse if self.retrieved else None
        if name == "posterior_mass":
            return self.mass if self.retrieved else None
        raise KeyError(name)

    def mean(self, name: str, relation: str | None = None) -> float | None:
        """Returns the mean of a figure over the questions that it is about, None if there are none."""
        outcomes = self.figure(name, relation)
        return None if outcomes is None else float(np.mean(outcomes))

    def of(self, relation: str) -> np.ndarray:
        """Returns [M] whether each question asks for `relation`."""
        return np.array([name == relation for name in self.relations], bool)


def is_of_gold(name: str) -> bool:
    """Whether a figure is about the questions alone that have a gold passage."""
    return name.startswith("recall@") or name in ("mrr", "posterior_mass")


def _score(record: Mapping[str, Any]) -> tuple[int, int, float, int, int, float]:
    """Returns (em, strict_em, f1, contains, rank or 0, mass or NaN) of a record's texts and ids."""
    where = f"question {record['id']!r}"
    remedy = "evaluate the run again"
    require(bool(record["answers"]), f"{where} has no accepted answer; give it one.")
    retrieved, positives, posterior = (record[f] for f in ("retrieved", "positives", "posterior"))
    require(
        len(retrieved) == len(posterior) == len(record["prior"]),
        f"{where} has {len(retrieved)} retrieved passages but {len(record['prior'])} prior and "
        f"{len(posterior)} posterior probabilities; {remedy}.",
    )
    said, patterns = (record["prediction"], record["answers"]), record.get("patterns", ())
    em, strict_em = exact_match(*said, patterns), strict_match(*said, patterns)
    f1 = token_f1(*said)
    for name, value in (("em", em), ("strict_em", strict_em), ("f1", f1)):
        recorded = record.get(name, value)
        require(
            abs(recorded - value) <= 1e-6,
            f"{where} records {name} {recorded}, but its prediction scores {value}; {remedy}.",
        )
    contains = holds_answer(*said)
    if not positives:
        return em, strict_em, f1, contains, 0, np.nan
    rank = first_positive_rank(retrieved, positives) or 0
    return em, strict_em, f1, contains, rank, positive_mass(retrieved, positives, posterior)


def _answer_ranks(records: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Returns [M] the records' answer ranks, 0 where there is none; None if they lack them."""
    if any("answer_rank" not in record for record in records):
        return None
    for record in records:
        rank, deepest = record["answer_rank"], len(record["retrieved"])
        require(
            rank is None or 1 <= rank <= deepest,
            f"question {record['id']!r} records the answer in passage {rank} of {deepest}; evaluate the "
            "run again.",
        )
    return np.array([record["answer_rank"] or 0 for record in records], int)


def summarise_outcomes(outcomes: Outcomes) -> dict[str, Any]:
    """Returns the figures of `summarise` from outcomes that are already scored."""
    depths = [k for k in RECALL_DEPTHS if k <= max(5, outcomes.retrieved)]
    recalls, holding = ([f"{of}@{k}" for k in depths] for of in ("recall", "has_answer"))
    names = ["em", "strict_em", "f1", "contains", *recalls, "mrr", "posterior_mass", *holding]
    summary: dict[str, Any] = {name: outcomes.mean(name) for name in names}
    summary["questions"] = len(outcomes.ids)
    summary["gold_questions"] = int(outcomes.gold.sum())
    summary["per_relation"] = {
        relation: {
            **{name: outcomes.mean(name, relation) for name in RELATION_FIGURES},
            "questions": outcomes.relations.count(relation),
        }
        for relation in sorted(set(outcomes.relations))
    }
    return summary


def summarise(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Computes every figure of a run from the records of `predictions.jsonl`.

    Args:
      records: the records, in any order; each id once, each with an answer.

    Returns:
      `em`, `strict_em`, `f1`, `contains` (an answer stands in the prediction), `recall@1`, `recall@5`,
      `recall@10` and `recall@20` (the last two where so many were retrieved), `mrr`, `posterior_mass`,
      `has_answer@k` as recall, `questions`, `gold_questions` (those that have a gold passage, which
      recall, mrr and posterior mass are about), and `per_relation` {relation: {em, strict_em, f1,
      recall@1, recall@5, has_answer@1, has_answer@5, questions}}. A figure is None where the run can't
      measure it: retrieval figures of a closed-book run, recall@5 of a run that retrieves fewer than 5,
      recall where no question has a gold passage. Where a run retrieves, a question without hits counts
      as 0.
    """
    return summarise_outcomes(Outcomes.from_records(records))


def drawn_exact_match(records: Iterable[Mapping[str, Any]]) -> float:
    """Returns how often an answer drawn from the model is right, at the least.

    It is the mean of exact match times the probability of the predicted answer: drawn answers that are
    right in another form are not counted. An expected reward where greedy answers are all alike.
    """
    return float(np.mean([record["em"] * record["probability"] for record in records]))


def write_predictions(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records as JSON lines, whole or not at all; a NaN or infinity raises `ValueError`."""
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records]
    write_atomically(Path(path), "".join(line + "\n" for line in lines).encode())


def read_predictions(path: Path) -> list[dict[str, Any]]:
    """Reads records from JSON lines; a malformed line raises `UserError` with its number."""
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror}); evaluate the run to write it."
        ) from error
    require(bool(lines), f"{path} is empty; evaluate the run again to write it anew.")
    records = []
    for number, line in enumerate(lines, 1):
        record: Any = None
        try:
            record = parse_json(line, parse_constant=_refuse_constant)
            fault = _fault(record)
        except ValueError as error:
            fault = f"is not JSON ({error})"
        require(
            not fault, f"{path} line {number} {fault}; evaluate the run again to write it anew."
        )
        records.append(record)
    return records


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _fault(record: Any) -> str:
    """Returns what is wrong with a record's form, "" if nothing is."""
    if not isinstance(record, dict):
        return "is not a JSON object"
    for names, expected, right in (
        (_TEXT_FIELDS, "a text", lambda v: isinstance(v, str)),
        (_NUMBER_FIELDS, "a number", _is_number),
        (_ID_FIELDS, "a list of texts", lambda v: _is_list(v, lambda x: isinstance(x, str))),
        (_PROBABILITY_FIELDS, "a list of numbers", lambda v: _is_list(v, _is_number)),
    ):
        for name in names:
            if name not in record and name != "strict_em":
                return f"lacks the field {name!r}"
            if name in record and not right(record[name]):
                return f"has the field {name!r} of {record[name]!r}, which is not {expected}"
    patterns = record.get("patterns", [])
    if not _is_list(patterns, _is_pattern):
        return (
            f"has the field 'patterns' of {patterns!r}, which is not a list of regular expressions"
        )
    rank = record.get("answer_rank")
    if not (rank is None or isinstance(rank, int)):
        return f"has the field 'answer_rank' of {rank!r}, which is not a whole number or null"
    return ""


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any, is_item: Any) -> bool:
    return isinstance(value, list) and all(is_item(item) for item in value)
