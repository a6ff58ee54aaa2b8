"""The records of a run's predictions contradict neither themselves nor the task."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled
from tiny_task import TinyTask

from ragjax.evaluation.matching import exact_match, strict_match, token_f1
from ragjax.evaluation.metrics import read_predictions
from ragjax.training.optimizer import evaluation_params
from ragjax.types import RagBatch

pytest_plugins = ["tiny_run"]


@pytest.fixture(scope="module")
def rows(trained):
    return read_predictions(trained / "predictions.jsonl")


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
        assert row["strict_em"] == strict_match(row["prediction"], row["answers"])
        assert row["f1"] == pytest.approx(token_f1(row["prediction"], row["answers"]), abs=1e-6)


def test_blind_evaluation_reads_other_passages(evaluated, rows):
    """Passages change their places at random; what is found and how it is scored stays."""
    learner, state = evaluated
    encoded = learner.encode(TinyTask().generate().splits["test"])
    exchanged, corpus = np.asarray(learner._exchanged), np.asarray(learner.corpus)
    blind = learner._records(state, encoded, corpus=learner._exchanged)
    for row, other in zip(rows, blind, strict=True):
        for name in ("question", "retrieved"):
            assert row[name] == other[name]
        assert row["prior"] == pytest.approx(other["prior"], rel=1e-5)
    # Every passage is read in the place of one other.
    [instead] = [np.argmax(np.all(exchanged[:, None] == corpus, axis=-1), axis=-1)]
    np.testing.assert_array_equal(corpus[instead], exchanged)
    assert sorted(instead) == list(range(30))
    assert np.sum(instead == np.arange(30)) < 4
    # The answers are those that are read there.
    params = evaluation_params(state.params, state.opt_state)
    asked = RagBatch(question=encoded.arrays.question)
    topk, log_prior, own = learner.answerer.answer(
        params, asked, learner.corpus, state.index.embeddings
    )
    decoded = learner.config.objective.decode(
        learner.model,
        params,
        jnp.asarray(asked.question),
        passages=jnp.asarray(corpus[instead[topk.ids]]),
        log_prior=log_prior,
        length=4,
    )
    expected = [learner.text.tokenizer.decode(tokens) for tokens in np.asarray(decoded.tokens)]
    assert [row["prediction"] for row in blind] == expected
    found = [row["probability"] for row in blind]
    np.testing.assert_allclose(found, np.exp(decoded.log_prob), rtol=1e-4)
    assert np.abs(np.exp(own.log_prob) - found).max() > 1e-3


def test_what_is_hidden_of_each_question_is_not_read(evaluated, rows):
    """In every batch."""
    learner, state = evaluated
    questions = TinyTask().generate().splits["test"] * 2
    assert learner.config.evaluation.batch_size < len(questions)
    places = {passage.id: row for row, passage in enumerate(learner.text.corpus.passages)}
    best = [row["retrieved"][0] for row in rows] * 2
    best[: len(rows)] = [row["retrieved"][1] for row in rows]  # of the first, another one
    hidden = np.full((len(questions), 5), -1, np.int32)
    hidden[:, 0] = [places[name] for name in best]
    found = learner._records(state, learner.encode(questions), hidden=hidden)
    for row, name, plain in zip(found, best, rows * 2, strict=True):
        assert row["retrieved"] == [other for other in plain["retrieved"] if other != name]


def test_splits_that_differ_in_accepted_answers_share_one_program(evaluated, rows):
    learner, state = evaluated
    first, *others = TinyTask().generate().splits["test"]
    several = dataclasses.replace(first, answers=("York", *first.answers, "Ulm"))
    compiled = set()
    for questions in ((first, *others), (several, *others)):
        found = learner._records(state, learner.encode(questions))
        assert [row["em"] for row in found] == [row["em"] for row in rows]
        compiled.add(learner.answerer.answer._cache_size())
    assert len(compiled) == 1


def test_the_development_split_is_measured_by_the_same_program_and_without_the_test_split(
    evaluated, rows, monkeypatch
):
    learner, state = evaluated
    learner.evaluate(state)  # compiles, unless another test has done so

    class WithoutTest(dict):
        def __getitem__(self, name):
            assert name != "test", "the test split was looked at"
            return super().__getitem__(name)

    task = dataclasses.replace(learner.task, splits=WithoutTest(learner.task.splits))
    monkeypatch.setitem(vars(learner), "task", task)
    told = []
    with compiled() as programs:
        figures = learner.development(
            state, progress=lambda done, total: told.append((done, total))
        )
    assert programs == []
    assert told == [(8, 12), (12, 12)]
    records, _ = learner.evaluate(state, "dev")
    assert figures["em"] == np.mean([row["em"] for row in records.records])
    assert figures["questions"] == 12
    assert "per_relation" not in figures


def test_records_are_counted_while_they_are_made(evaluated, rows):
    """In batches of 8, of whose last one only the questions count."""
    learner, state = evaluated
    told = []
    records, facts = learner.evaluate(
        state, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(8, 12), (12, 12)]
    assert records.records == rows
    assert facts.keys() == {"split", "selective"}
    assert facts["split"] == "test"


def test_seven_digits(rows):
    for line, row in zip(map(json.dumps, rows), rows, strict=True):
        assert json.loads(line) == row
        for value in (*row["prior"], *row["posterior"], row["probability"]):
            assert float(f"{value:.7g}") == value
