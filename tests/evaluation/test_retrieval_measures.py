"""Figures of retrieval, compared with a computation by hand on drawn runs and judgements."""

import builtins
import dataclasses
import math
import random

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation.matching import answer_rank, tokenised
from ragjax.evaluation.metrics import recall_at_k, reciprocal_rank
from ragjax.evaluation.retrieval_measures import (
    FIGURES,
    measure_retrieval,
    measure_run,
    require_real_results,
)
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.types import Passage, Question

NAMES = (
    *("recall@1", "recall@3", "hit@1", "hit@4", "mrr", "mrr@2", "map", "map@3"),
    *("ndcg@2", "ndcg@10"),
)


def by_hand(name, ranking, grades):
    """A figure of one question; `ranking` are ids, best first."""
    figure, _, depth = name.partition("@")
    gains = [max(grades.get(passage, 0), 0) for passage in ranking[: int(depth or 10**6)]]
    ranks = [rank for rank, gain in enumerate(gains, 1) if gain]
    relevant = sum(grade >= 1 for grade in grades.values())

    def dcg(values):
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(values, 1))

    if figure == "recall":
        return len(ranks) / relevant
    if figure == "hit":
        return float(bool(ranks))
    if figure == "mrr":
        return 1 / ranks[0] if ranks else 0.0
    if figure == "map":
        return sum(n / rank for n, rank in enumerate(ranks, 1)) / relevant
    best = sorted((max(grade, 0) for grade in grades.values()), reverse=True)
    return dcg(gains) / dcg(best[: int(depth)])


def draw(seed, graded):
    """A run with ties and judgements; either may lack a question, lists may be empty."""
    rng = random.Random(seed)
    passages = [f"p{n}" for n in range(15)]
    names = [f"q{n}" for n in range(40)]
    grades = (-1, 0, 1, 2, 5) if graded else (0, 1)
    run = {
        name: [
            (passage, float(score))
            for passage, score in zip(
                rng.sample(passages, size),
                sorted((rng.choice([-1, 0, 0.5, 2]) for _ in range(size)), reverse=True),
                strict=True,
            )
        ]
        for name in names[:36]
        for size in [rng.choice([0, 1, 5, 12])]
    }
    qrels = {
        name: {passage: rng.choice(grades) for passage in rng.sample(passages, rng.randrange(1, 9))}
        for name in names[2:]
    }
    run["q0"] = [(passage, 1.0) for passage in passages[:11]]  # for the depth of 10
    return run, qrels | {"q3": {"p1": 0}, "q39": {"p0": 1, "p9": 0}}


@pytest.mark.parametrize("graded", [True, False], ids=["graded", "binary"])
@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_by_hand(seed, graded):
    run, qrels = draw(seed, graded)
    outcomes = measure_run(run, qrels, NAMES)
    gold = [name for name in qrels if max(qrels[name].values()) >= 1]
    assert set(outcomes.ids) == set(run) | set(qrels)
    assert outcomes.counts == {
        "questions": 40,
        "gold_questions": len(gold),
        "unjudged_questions": 2,  # q0 and q1, in the run alone
        "irrelevant_questions": 38 - len(gold),
        "unfound_questions": sum(not run.get(name) for name in outcomes.ids),
    }
    rows = {row["id"]: row for row in outcomes.rows()}
    ranked = {name: [passage for passage, _ in run.get(name, ())] for name in rows}
    for name in NAMES:
        expected = {q: by_hand(name, ranked[q], qrels[q]) for q in gold}
        assert {q: rows[q][name] for q in rows} == pytest.approx(
            dict.fromkeys(rows) | expected, abs=1e-9
        )
        assert outcomes.mean(name) == pytest.approx(np.mean(list(expected.values())))
        assert 0 < outcomes.mean(name) < 1


@pytest.mark.parametrize("order", ["abc", "cba", "bac"])
def test_passages_of_equal_score_are_measured_in_their_order(order):
    """ir_measures by itself takes c first for RR, and a first for RR@k."""
    run = {"q": [(passage, 0.5) for passage in order]}
    outcomes = measure_run(run, {"q": {"b": 1}}, ["mrr", "mrr@3", "map", "hit@1"])
    rank = order.index("b") + 1
    expected = {"mrr": 1 / rank, "mrr@3": 1 / rank, "map": 1 / rank, "hit@1": float(rank == 1)}
    assert next(outcomes.rows()) == {"id": "q"} | expected


def test_scores_too_close_for_a_float_are_measured_in_their_order():
    scores = np.nextafter(1.0, 0.0) ** np.arange(6)  # trec_eval holds them in 32 bits
    run = {"q": [(f"p{n}", float(score)) for n, score in enumerate(scores)]}
    assert measure_run(run, {"q": {"p4": 1}}, ["mrr"]).mean("mrr") == 1 / 5


def test_a_question_that_the_run_lacks_counts_as_0():
    qrels = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}}
    outcomes = measure_run({"a": [("x", 1.0)], "c": []}, qrels, ["mrr", "hit@1"])
    assert outcomes.mean("mrr") == outcomes.mean("hit@1") == 1 / 3
    assert outcomes.counts["unfound_questions"] == 2


def test_what_no_ranking_is_deep_enough_for_is_not_measured():
    run = {"a": [("x", 1.0), ("y", 0.5)], "b": [("x", 1.0)]}
    summary = measure_run(run, {"a": {"y": 1}, "b": {"x": 3}}).summary()
    measured = {name for name in FIGURES if summary[name] is not None}
    assert measured == {"recall@1", "hit@1", "mrr", "map"}
    assert (summary["mrr"], summary["recall@1"]) == (3 / 4, 1 / 2)
    nothing = measure_run(run, {"a": {"y": 0}}).summary()
    assert all(nothing[name] is None for name in FIGURES)
    assert (nothing["irrelevant_questions"], nothing["unjudged_questions"]) == (1, 1)
    assert measure_run({"a": []}, {"a": {"y": 1}}).mean("mrr") is None


@pytest.mark.parametrize(
    ("run", "qrels", "figures", "said"),
    [
        ({}, {"q": {"a": 1}}, ["mrr"], "the run holds no question"),
        ({"q": [("a", 1.0), ("a", 0.0)]}, {}, ["mrr"], "passage 'a' was retrieved twice"),
        ({"q": [("a", 1.0), ("b", 2.0)]}, {}, ["mrr"], "put the best first"),
        ({"q": [("a", math.nan)]}, {}, ["mrr"], "has the score nan"),
        (
            {"q": [("a", 1.0)]},
            {"q": {"a": 2**33}},
            ["mrr"],
            "has the grade 8589934592; give it one",
        ),
        *(
            ({"q": [("a", 1.0)]}, {}, [name], f"figure '{name}' is unknown; choose recall@k, hit@k")
            for name in ("recall", "ndcg", "mrr@0", "hit@x", "p@5", "", "coverage")
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(run, qrels, figures, said):
    with pytest.raises(UserError, match=said):
        measure_run(run, qrels, figures)


def test_a_missing_library_is_named(monkeypatch):
    imported = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "ir_measures":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match="pip install"):
        measure_run({"q": [("a", 1.0)]}, {"q": {"a": 1}})


# What a retriever found


def question(name, answers=(), positives=(), text=None):
    return Question(name, text or f"who is {name}?", answers, positives, "", "")


TOWNS = ("Paris", "Rome", "Oslo", "Bern", "Lima", "Cairo")


def draw_retrieval(seed, passages=30, questions=25, k=12):
    rng = random.Random(seed)
    corpus = [
        Passage(f"p{n}", "t", " ".join(rng.choices(("in", "of", *TOWNS), k=2)) if n % 7 else " ")
        for n in range(passages)
    ]
    asked = [
        question(
            f"q{n}",
            tuple(rng.sample((*TOWNS, "Paris in Rome", "Atlantis"), rng.randrange(3))),
            tuple(f"p{row}" for row in rng.sample(range(passages), rng.randrange(4))),
        )
        for n in range(questions)
    ]
    ids = np.array([rng.sample(range(passages), k) for _ in asked], np.int32)
    scores = np.sort(np.random.default_rng(seed).integers(0, 5, ids.shape))[:, ::-1]
    scores = scores.astype(np.float32)
    missed = np.random.default_rng(seed).random(ids.shape) < 0.3  # also between hits
    missed[0] = True
    return corpus, asked, np.where(missed, -1, ids), np.where(missed, -np.inf, scores)


@pytest.mark.parametrize("seed", range(3))
def test_everything_of_a_retriever_by_hand(seed):
    corpus, asked, ids, scores = draw_retrieval(seed)
    outcomes = measure_retrieval(corpus, asked, ids, scores)
    rows = list(outcomes.rows())
    assert [row["id"] for row in rows] == [q.id for q in asked]
    texts = [tokenised(passage.text) for passage in corpus]
    for row, q, hits in zip(rows, asked, ids, strict=True):
        found = [int(hit) for hit in hits if hit >= 0]
        retrieved, grades = [corpus[hit].id for hit in found], dict.fromkeys(q.positives, 1)
        for name in ("recall@5", "hit@10", "mrr", "mrr@10", "map", "ndcg@10"):
            expected = by_hand(name, retrieved, grades) if q.positives else None
            assert row[name] == (None if expected is None else pytest.approx(expected))
        if q.positives:
            assert row["mrr"] == reciprocal_rank(retrieved, q.positives)
            assert row["hit@10"] == recall_at_k(retrieved, q.positives, 10)
        if not q.answers:
            assert row["has_answer@5"] is row["coverage"] is None
            continue
        rank = answer_rank((texts[hit] for hit in found), q.answers)
        for k in (1, 5, 10):
            assert row[f"has_answer@{k}"] == float(rank is not None and rank <= k)
        assert row["coverage"] == float(answer_rank(texts, q.answers) is not None)
    empty = {row for row, passage in enumerate(corpus) if not passage.text.strip()}
    gold = sum(bool(q.positives) for q in asked)
    assert outcomes.counts == {
        "questions": 25,
        "gold_questions": gold,
        "unjudged_questions": 25 - gold,
        "irrelevant_questions": 0,
        "unfound_questions": sum(not (hits >= 0).any() for hits in ids),
        "answered_questions": sum(bool(q.answers) for q in asked),
        "empty_hits": sum(int(hit) in empty for hit in ids.ravel()),
        "unasked_questions": 0,
        "gold_not_in_corpus": 0,
    }
    assert outcomes.counts["empty_hits"] > 0
    for name in ("recall@20", "hit@100", "has_answer@20"):  # K is 12
        assert outcomes.summary()[name] is None
    assert 0 < outcomes.mean("has_answer@1") < outcomes.mean("has_answer@10")
    assert outcomes.mean("has_answer@10") <= outcomes.mean("coverage") < 1


def test_outcomes_have_intervals():
    outcomes = measure_retrieval(*draw_retrieval(0))
    interval = bootstrap_interval([outcomes.figure("ndcg@10")], 100)
    assert interval.low < outcomes.mean("ndcg@10") == interval.mean < interval.high


def test_judgements_that_are_given_stand_for_gold_passages():
    corpus = [Passage("a", "", "x"), Passage("b", "", "y"), Passage("c", "", "z")]
    asked = [question("q", positives=("a",)), question("r", positives=("b",)), question("s")]
    ids, scores = np.array([[1, 0], [1, 2], [0, 1]]), np.zeros((3, 2))
    qrels = {"q": {"b": 2, "gone": 1}, "r": {"b": 0, "gone": -1}, "elsewhere": {"gone": 1}}
    outcomes = measure_retrieval(corpus, asked, ids, scores, qrels, ["recall@2", "mrr"])
    assert [(row["recall@2"], row["mrr"]) for row in outcomes.rows()] == [
        (0.5, 1.0),
        (None, None),
        (None, None),
    ]
    counts = outcomes.counts
    names = ("gold", "irrelevant", "unjudged", "unasked", "answered")
    assert [counts[f"{name}_questions"] for name in names] == [1, 1, 1, 1, 0]
    assert counts["gold_not_in_corpus"] == 1
    assert outcomes.summary()["coverage"] is None


def test_without_gold_passages_answers_are_measured_alone():
    corpus, asked, ids, scores = draw_retrieval(1)
    bare = [dataclasses.replace(q, positives=()) for q in asked]
    summary = measure_retrieval(corpus, bare, ids, scores, coverage=False).summary()
    full = measure_retrieval(corpus, asked, ids, scores).summary()
    for name in FIGURES:
        assert summary[name] == (full[name] if name.startswith("has_answer") else None)
    assert summary["coverage"] is summary["gold_not_in_corpus"] is None
    assert summary["unjudged_questions"] == 25


# What is no real result


def asked_alike(texts):
    return [question(f"q{n}", text=text) for n, text in enumerate(texts)]


def test_empty_texts_are_no_result():
    corpus, asked, ids, scores = draw_retrieval(0)
    empty = [dataclasses.replace(passage, text=" \n") for passage in corpus]
    said = r"all \d+ passages retrieved for 25 questions have an empty text"
    with pytest.raises(UserError, match=said):
        measure_retrieval(empty, asked, ids, scores)
    found = int(ids.max())
    empty[found] = corpus[1]
    require_real_results(empty, asked, ids)


def test_the_same_for_every_question_is_no_result():
    corpus = [Passage(f"p{n}", "", "text") for n in range(4)]
    same = np.tile([2, 0, -1], (10, 1))
    distinct = [f"question {n}" for n in range(10)]
    said = "10 different questions all retrieved the same 3 of 4 passages in the same order"
    with pytest.raises(UserError, match=said):
        require_real_results(corpus, asked_alike(distinct), same)
    require_real_results(corpus, asked_alike(["question 0", *distinct[:9]]), same)  # 9 of them
    require_real_results(corpus[:3], asked_alike(distinct), same)  # all that there is
    other = same.copy()
    other[7] = [0, 2, -1]
    require_real_results(corpus, asked_alike(distinct), other)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([[-1, -1], [-1, -1]], "no passage was retrieved for any of 2 questions"),
        ([[0, 3], [1, 0]], "the rows retrieved go from 0 to 3, but the corpus has 3 passages"),
        ([[0, -2], [1, 0]], "the rows retrieved go from -2 to 1"),
        ([[0, 1]], "passages were retrieved for 1 questions, but there are 2"),
        ([[0, 0], [1, 2]], "question 'q0', rank 2: passage 'a' was retrieved twice"),
        ([[0, 2], [1, 2]], None),
    ],
)
def test_rows_that_are_none(ids, said):
    corpus, asked = [Passage(name, "", "text") for name in "abc"], asked_alike(["one", "two"])
    ids = np.array(ids)
    if said is None:
        assert measure_retrieval(corpus, asked, ids, np.zeros(ids.shape)).ids == ("q0", "q1")
        return
    with pytest.raises(UserError, match=said):
        measure_retrieval(corpus, asked, ids, np.zeros(ids.shape))


def test_questions_that_are_none():
    corpus = [Passage("a", "", "text")]
    with pytest.raises(UserError, match="no question to retrieve for"):
        measure_retrieval(corpus, [], np.zeros((0, 1), int), np.zeros((0, 1)))
    with pytest.raises(UserError, match="question 'q' occurs twice"):
        measure_retrieval(corpus, [question("q")] * 2, np.zeros((2, 1), int), np.zeros((2, 1)))
    with pytest.raises(UserError, match="question 'q', rank 1: passage 'a' has the score nan"):
        measure_retrieval(corpus, [question("q")], np.zeros((1, 1), int), np.full((1, 1), np.nan))
