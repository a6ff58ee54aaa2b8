"""The records of a run's predictions contradict neither themselves nor the task."""

import dataclasses
import json

import pytest
from ragjax.experiment import load_experiment
from tiny_config import get_config
from tiny_task import TinyTask

from ragjax.evaluation.metrics import exact_match, read_predictions, token_f1
from ragjax.run_dir import CHECKPOINTS
from ragjax.training.checkpoint import Checkpoints

pytest_plugins = ["tiny_run"]


@pytest.fixture(scope="module")
def rows(trained):
    return read_predictions(trained / "predictions.jsonl")


@pytest.fixture(scope="module")
def evaluated(trained):
    """(the run's experiment, its state)."""
    experiment = load_experiment(get_config(), trained)
    return experiment, experiment.load_state(Checkpoints(trained / CHECKPOINTS))[0]


def test_every_question_once_in_order(rows):
    asked = TinyTask().generate().splits["test"]
    assert [row["id"] for row in rows] == [question.id for question in asked]
    for row, question in zip(rows, asked, strict=True):
        for name in ("question", "relation", "entity"):
            assert row[name] == getattr(question, name)
        for name in ("answers", "positives"):
            assert row[name] == list(getattr(question, name))


def test_retrieved_passages(rows):
    known = {passage.id for passage in TinyTask().generate().passages}
    for row in rows:
        assert len(row["retrieved"]) == len(set(row["retrieved"])) == 5
        assert set(row["retrieved"]) <= known


def test_prior_and_posterior_are_distributions(rows):
    for row in rows:
        assert len(row["prior"]) == len(row["posterior"]) == len(row["retrieved"])
        assert all(0 <= p <= 1 for p in row["prior"] + row["posterior"])
        # The prior of this run is over the whole corpus of 30, of which 5 are shown, best first.
        assert 0 < sum(row["prior"]) < 1
        assert row["prior"] == sorted(row["prior"], reverse=True)
        assert sum(row["posterior"]) == pytest.approx(1, abs=1e-5)
        assert 0 < row["probability"] <= 1
    # The answer tells something about the passage.
    assert any(row["prior"][0] / sum(row["prior"]) != row["posterior"][0] for row in rows)


def test_scores_are_those_of_the_prediction(rows):
    for row in rows:
        assert row["em"] == exact_match(row["prediction"], row["answers"])
        assert row["f1"] == pytest.approx(token_f1(row["prediction"], row["answers"]), abs=1e-6)


def test_blind_evaluation_reads_other_passages(evaluated, rows):
    """Passages change their places at random; the questions, and what is made of them, stay."""
    experiment, state = evaluated
    encoded = experiment.encode(TinyTask().generate().splits["test"], 5)
    blind = experiment.evaluate(state, encoded, blind=True)
    exchanged = {}
    for row, other in zip(rows, blind, strict=True):
        assert row["question"] == other["question"]
        assert row["prior"] == pytest.approx(other["prior"], rel=1e-5)
        for passage, instead in zip(row["retrieved"], other["retrieved"], strict=True):
            assert exchanged.setdefault(passage, instead) == instead
    assert len(set(exchanged.values())) == len(exchanged) > 10
    assert sum(passage == instead for passage, instead in exchanged.items()) < 4


def test_splits_that_differ_in_accepted_answers_share_one_program(evaluated, rows):
    experiment, state = evaluated
    first, *others = TinyTask().generate().splits["test"]
    several = dataclasses.replace(first, answers=("York", *first.answers, "Ulm"))
    for questions in ((first, *others), (several, *others)):
        found = experiment.evaluate(state, experiment.encode(questions, 5))
        assert [row["em"] for row in found] == [row["em"] for row in rows]
    assert experiment.answer._cache_size() == 1


def test_seven_digits(rows):
    for line, row in zip(map(json.dumps, rows), rows, strict=True):
        assert json.loads(line) == row
        for value in (*row["prior"], *row["posterior"], row["probability"]):
            assert float(f"{value:.7g}") == value
