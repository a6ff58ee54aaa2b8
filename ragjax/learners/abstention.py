"""When a run of questions gives no answer: calibration on its development split, and what it says."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.data.batching import EncodedQuestions
from ragjax.data.prepared import PreparedText
from ragjax.errors import require
from ragjax.evaluation.calibration import (
    REASONS,
    Calibration,
    calibrate,
    risk_coverage_area,
    variations,
)
from ragjax.evaluation.matching import answer_rank, tokenised
from ragjax.files import read_json_object
from ragjax.run_dir import RESULT
from ragjax.types import Question

DIGEST = "digest"
QUESTIONS = 256  # of the development split, each in four variations

Records = list[dict[str, Any]]
Answering = Callable[[EncodedQuestions, np.ndarray | None], Records]


def calibrate_run(
    text: PreparedText,
    questions: Sequence[Question],
    *,
    encode: Callable[[Sequence[Question]], EncodedQuestions],
    answer: Answering,
    k: int,
) -> Calibration:
    """Calibrates a run on development questions and variations of them.

    Each is asked four times: as it is; without the passages that hold its answer; about something that
    no passage knows; and with one more word that nobody knows. The second and the third have no answer.

    Args:
      text: tokenizer and corpus.
      questions: of the development split, at most `QUESTIONS` of them.
      encode: tokenises questions.
      answer: (questions, hidden [M,K]) -> records, see `Answerer.records`.
      k: passages retrieved for each.
    """
    encoded = encode(questions)
    plain = answer(encoded, None)
    blind = answer(encoded, _rows_with_answer(text, plain, k))
    other, same = zip(*(_variations(text, question) for question in questions), strict=True)
    asked_of_nothing, asked_in_more_words = answer(encode(other), None), answer(encode(same), None)
    answered = (plain, asked_in_more_words, blind, asked_of_nothing)
    figures = [figures_of(record) for records in answered for record in records]
    right = [bool(record["em"]) for records in answered[:2] for record in records]
    place = np.arange(len(figures)) // len(plain)
    return calibrate(
        np.array(figures),
        np.array(right + [False] * (len(figures) - len(right))),
        as_asked=place == 0,
        unanswerable=place >= 2,
    )


def calibration_json(calibration: Calibration | None) -> dict[str, Any] | None:
    """What result.json holds of a calibration: its fields, and a hash of them."""
    if calibration is None:
        return None
    return calibration.to_json() | {DIGEST: _digest_of(calibration)}


def _digest_of(calibration: Calibration) -> str:
    return hashlib.sha256(json.dumps(calibration.to_json()).encode()).hexdigest()[:16]


def recorded_calibration(run_dir: Path) -> Calibration | None:
    """The calibration in a run's result.json; None of a run that has no result, or none in it.

    Raises:
      UserError: it can't be read, or was edited.
    """
    if not (run_dir / RESULT).exists():
        return None
    value = read_json_object(run_dir / RESULT, "train the run again.").get("calibration")
    require(
        value is None or isinstance(value, dict),
        f"The calibration in {run_dir / RESULT} is malformed ({value!r}); train the run again.",
    )
    if value is None:
        return None
    digest = value.pop(DIGEST, None)  # runs of older versions have none
    calibration = Calibration.from_json(value)
    require(
        digest in (None, _digest_of(calibration)),
        f"The calibration in {run_dir / RESULT} was edited; restore the file or train the run again.",
    )
    return calibration


def figures_of(record: dict[str, Any]) -> np.ndarray:
    """[3] the `calibration.FIGURES` of a record or an answer."""
    probability, similarity = record["probability"], record["similarity"]
    values = (np.log(max(probability, 1e-30)), similarity, record["known"])
    return np.array([np.nan if value is None else value for value in values])


def selective_figures(calibration: Calibration, records: Records) -> dict[str, Any]:
    """Coverage and accuracy at the threshold, and the area under the curve of risk, of a split."""
    confidence = calibration.confidence(np.array([figures_of(record) for record in records]))
    right = np.array([bool(record["em"]) for record in records])
    given = confidence >= calibration.threshold
    return {
        "threshold": calibration.threshold,
        "coverage": float(given.mean()),
        "accuracy": float(right[given].mean()) if given.any() else None,
        "aurc": risk_coverage_area(confidence, right),
    }


def nothing_known(calibration: Calibration | None) -> dict[str, Any]:
    """What is said of a question without a known word: as `abstained`, but nothing was read or guessed.

    Args:
      calibration: of the run; without one there is no confidence.
    """
    told = {"answer": None, "probability": None, "similarity": None, "passages": [], "known": 0.0}
    if calibration is None:
        return told
    sure = {"confidence": 0.0, "threshold": calibration.threshold}
    return told | sure | {"reasons": [REASONS["known"]]}


def abstained(answer: dict[str, Any], calibration: Calibration, force: bool) -> dict[str, Any]:
    """An answer with its confidence, and None in its place where that is below the threshold.

    Args:
      answer: from `Answerer.answer_text`, with "known".
      calibration: of the run.
      force: whether it is given all the same.

    Returns:
      The answer with "confidence" and "reasons", why it was not given or would not be.
    """
    figures = figures_of(answer)
    confidence = float(calibration.confidence(figures[None])[0])
    sure = confidence >= calibration.threshold
    return answer | {
        "answer": answer["answer"] if sure or force else None,
        "confidence": confidence,
        "threshold": calibration.threshold,
        "reasons": [] if sure else calibration.reasons(figures),
    }


def _rows_with_answer(text: PreparedText, records: Records, k: int) -> np.ndarray:
    """[M,K] rows of the passages retrieved that are gold or have an accepted answer in them."""
    rows = {passage.id: row for row, passage in enumerate(text.corpus.passages)}
    found = np.full((len(records), k), -1, np.int32)
    for hidden, record in zip(found, records, strict=True):
        gold = set(record["positives"])
        for place, name in enumerate(record["retrieved"][:k]):
            passage = text.corpus.passages[rows[name]]
            said = tokenised(f"{passage.title} {passage.text}")
            if name in gold or answer_rank([said], record["answers"]):
                hidden[place] = rows[name]
    return found


def _variations(text: PreparedText, question: Question) -> tuple[Question, Question]:
    """The question about something unknown, and the question with an unknown word more."""
    known, _ = text.known_words(question.question)
    words, unknown = text.tokenizer.words(known), "zzyzx"
    while text.tokenizer.reads is None and text.known_words(unknown)[0]:
        unknown += "z"
    rarity = [
        text.corpus.lexicon.rarity(word) if any(letter.isalnum() for letter in word) else 0
        for word in words
    ]
    other, same = variations(words, rarity, unknown)
    return (
        dataclasses.replace(question, question=other),
        dataclasses.replace(question, question=same),
    )
