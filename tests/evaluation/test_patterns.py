"""Accepted answers that regular expressions tell: from the file to the recorded run."""

import json

import pytest

from ragjax.data.report import digests
from ragjax.errors import UserError
from ragjax.evaluation.matching import exact_match, strict_match
from ragjax.evaluation.metrics import read_predictions, summarise, write_predictions
from ragjax.tasks.base import Task
from ragjax.tasks.own_data import OwnData
from ragjax.types import Passage, QaData, Question

LINDBERGH = r"(Charles\s?(A\.?\s?)?)?Lindbergh"


@pytest.mark.parametrize(
    ("prediction", "patterns", "em", "strict_em"),
    [
        ("Charles A. Lindbergh", [LINDBERGH], 1, 1),
        ("lindbergh", [LINDBERGH], 1, 1),
        (" Lindbergh\n", [LINDBERGH], 1, 1),
        # DrQA's script asks for the beginning alone.
        ("Lindbergh, of Detroit", [LINDBERGH], 1, 0),
        ("Mr. Lindbergh", [LINDBERGH], 0, 0),
        ("Charles", [LINDBERGH], 0, 0),
        ("1,400 miles", ["900", r"1,?400(\smiles)?"], 1, 1),
        # Of two branches the second is the longer one.
        ("1865", [r"186|1865"], 1, 1),
        ("Äpfel", ["äpfel"], 1, 1),
        ("", [LINDBERGH], 0, 0),
        # Patterns decide, whatever the answers are.
        ("the mined answer", [LINDBERGH], 0, 0),
        ("ab", ["(?i)AB"], 1, 1),
    ],
)
def test_matches_by_hand(prediction, patterns, em, strict_em):
    answers = ["the mined answer"]
    assert exact_match(prediction, answers, patterns) == em
    assert strict_match(prediction, answers, patterns) == strict_em
    assert exact_match(prediction, [*answers, prediction], patterns) == em


def test_without_patterns_the_answers_decide():
    assert exact_match("The mined answer", ["mined answer"], ()) == 1


def record(**fields):
    return {
        "id": "q",
        "question": "Who flew?",
        "relation": "",
        "entity": "",
        "answers": ["Charles Lindbergh"],
        "positives": [],
        "prediction": "Lindbergh of Detroit",
        "probability": 0.5,
        "em": 1,
        "strict_em": 0,
        "f1": 0.4,
        "retrieved": [],
        "prior": [],
        "posterior": [],
        "patterns": [LINDBERGH],
    } | fields


def test_records_are_scored_by_their_patterns(tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [record()])
    summary = summarise(read_predictions(path))
    assert (summary["em"], summary["strict_em"], summary["f1"]) == (1, 0, 0.4)
    with pytest.raises(UserError, match="records em 1, but its prediction scores 0"):
        summarise([record(patterns=["Wright"])])
    for wrong in ("Wright", ["("], [3]):
        write_predictions(path, [record(patterns=wrong)])
        with pytest.raises(UserError, match="which is not a list of regular expressions"):
            read_predictions(path)


def files(tmp_path, *patterns):
    (tmp_path / "p.jsonl").write_text('{"id": "p", "text": "Lindbergh flew."}\n')
    row = {"question": "Who flew?", "answers": ["Lindbergh"], "patterns": list(patterns)}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    return OwnData(str(tmp_path / "p.jsonl"), str(tmp_path / "q.jsonl"))


def test_a_file_of_questions_brings_patterns(tmp_path):
    data = files(tmp_path, "Lindberg", LINDBERGH).load()
    (question,) = [each for asked in data.splits.values() for each in asked]
    assert question.patterns == ("Lindberg", LINDBERGH)
    with pytest.raises(
        UserError, match=r"question 'q/0' has the pattern '\(', which is no regular"
    ):
        files(tmp_path, "(").load()


def test_questions_without_patterns_have_the_digest_that_they_always_had():
    """So that runs that were made before there were patterns know their questions again."""
    question = Question("a", "b", ("c",), (), "", "")
    data = QaData((Passage("p", "", "x"),), {"test": (question,)})
    assert digests(data)["test"] == "1d594d8a530bb49d"
    other = QaData(data.passages, {"test": (Question("a", "b", ("c",), (), "", "", ("d",)),)})
    assert digests(other)["test"] != digests(data)["test"]


def test_a_task_that_is_kept_on_disk_has_no_place_for_patterns(tmp_path):
    class Kept(Task):
        name = "kept"
        version = "1.0.0"
        cached = True

        def generate(self):
            asked = (Question("a", "b", ("c",), (), "", "", ("d",)),)
            return QaData((Passage("p", "", "x"),), {"test": asked})

    with pytest.raises(UserError, match="Task kept is cached, but has questions with patterns"):
        Kept().load(tmp_path)
