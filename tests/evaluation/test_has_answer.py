"""Passages that hold an answer, and questions that name no gold passage."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation import metrics, rendering, runs
from ragjax.evaluation.answers import Answers
from ragjax.evaluation.matching import answer_rank, holds_answer, tokenised
from ragjax.evaluation.tables import Column, Row, Table

pytest_plugins = ["tiny_run"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The St. Lucia's", ["the", "st", ".", "lucia", "'", "s"]),
        ("1,234.5%", ["1", ",", "234", ".", "5", "%"]),
        ("C++\t\u00a0x_y", ["c", "+", "+", "x", "_", "y"]),
        ("\u00c9cole", ["e\u0301cole"]),  # É is E and an accent, which is a mark
        ("東京\u200b都½", ["東", "京", "都", "½"]),  # letters of a script without spaces
        ("第12回 in北京Paris", ["第", "12", "回", "in", "北", "京", "paris"]),
        ("กินได้ ๒๕", ["กิ", "น", "ไ", "ด้", "๒๕"]),  # marks stay with their letter, digits together
        ("ガ", ["カ\u3099"]),
        (" \n", []),
    ],
)
def test_tokens_by_hand(text, tokens):
    assert tokenised(text).split(" ") == ["", *tokens, ""]


@pytest.mark.parametrize(
    ("passage", "answers", "held"),
    [
        ("It is Paris.", ["paris"], True),
        ("It is Parisian.", ["Paris"], False),
        ("New York City", ["York New", "new york"], True),
        ("New or York", ["New York"], False),
        ("the cafe\u0301 there", ["CAF\u00c9"], True),  # one form and the other
        ("E. coli", ["E coli"], False),  # a dot is a token
        ("U.S.A", ["U.S."], True),
        ("4.2 and 1,000", ["42", "1000"], False),
        ("北京は中国の首都です", ["北京"], True),
        ("北京は中国の首都です", ["京北", "東京"], False),
        ("カード", ["ガ", "カド"], False),  # neither another mark, nor a letter left out
        ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", ["ประเทศไทย"], True),
        ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", ["กรงเทพ", "ประเทศลาว"], False),
        ("ທ່ານຢູ່ວຽງຈັນ", ["ວຽງຈັນ"], True),
        ("首都はParisです", ["paris"], True),
        ("首都はParisです", ["Par", "首都Paris"], False),
        ("西暦1980年", ["1980", "1980年"], True),
        ("西暦1980年", ["198"], False),
        ("anything", ["", "  "], False),
        ("", ["a"], False),
    ],
)
def test_a_passage_holds_an_answer_as_a_sequence_of_tokens(passage, answers, held):
    assert answer_rank([tokenised(passage)], answers) == (1 if held else None)
    assert holds_answer(passage, answers) == int(held)  # a prediction likewise


def test_the_rank_is_that_of_the_first_passage_that_holds_any():
    passages = [tokenised(text) for text in ("Rome", "in Lyon", "Paris or Lyon")]
    assert answer_rank(passages, ["Paris"]) == 3
    assert answer_rank(passages, ["Paris", "Lyon"]) == 2
    assert answer_rank(passages, ["Oslo"]) is answer_rank([], ["Rome"]) is None
    with pytest.raises(ValueError, match="answers"):
        answer_rank(passages, "Rome")


# Figures


@pytest.fixture
def partly(records):
    """q0 to q3: gold at 1, 2, nowhere, and none named; the answer in 2, nowhere, in 1, in 5."""
    made = records({"q0"})
    for row, rank in zip(made, (2, None, 1, 5), strict=True):
        row["answer_rank"] = rank
    made[3]["positives"] = []
    return made


def without_gold(rows):
    return [row | {"positives": []} for row in rows]


def test_figures_of_gold_passages_are_means_over_the_questions_that_have_one(partly):
    summary = metrics.summarise(partly)
    assert (summary["questions"], summary["gold_questions"]) == (4, 3)
    assert summary["em"] == 1 / 4
    expected = {
        "recall@1": 1 / 3,
        "recall@5": 2 / 3,
        "mrr": (1 + 1 / 2 + 0) / 3,
        "posterior_mass": (1 / 3 + 1 / 3 + 0) / 3,
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected)
    # q2 is the one question about anthems with gold.
    assert summary["per_relation"]["anthem"]["recall@5"] == 0.0
    assert summary["per_relation"]["anthem"]["questions"] == 2


def test_without_gold_nothing_of_it_is_measured(partly):
    summary = metrics.summarise(without_gold(partly))
    assert summary["gold_questions"] == 0
    for name in ("recall@1", "recall@5", "mrr", "posterior_mass"):
        assert summary[name] is None
    assert summary["per_relation"]["capital"]["recall@1"] is None
    assert (summary["has_answer@1"], summary["has_answer@5"]) == (1 / 4, 3 / 4)
    assert summary["per_relation"]["anthem"]["has_answer@1"] == 1 / 2


def test_depths_are_those_of_recall(records):
    (row,) = records({"q0"}, ids=("q0",))
    for count in (0, 4, 5, 12, 20):
        many = {"prior": [0.0] * count, "posterior": [0.0] * count}
        made = row | many | {"retrieved": [f"p{n}" for n in range(count)]}
        summary = metrics.summarise([made | {"answer_rank": 4 if count else None}])
        deep = {n.partition("@")[2]: summary[n] for n in summary if n.startswith("has_answer@")}
        assert deep.keys() == {n.partition("@")[2] for n in summary if n.startswith("recall@")}
        assert deep["1"] == (0.0 if count else None)
        assert deep["5"] == (1.0 if count >= 5 else None)


def test_records_that_lack_it_have_not_measured_it(partly):
    del partly[2]["answer_rank"]
    summary = metrics.summarise(partly)
    assert summary["has_answer@1"] is summary["has_answer@5"] is None


@pytest.mark.parametrize("rank", [0, 6, -1])
def test_a_rank_beyond_the_passages_is_refused(partly, rank):
    partly[1]["answer_rank"] = rank
    with pytest.raises(UserError, match=f"'q1' records the answer in passage {rank} of 5"):
        metrics.summarise(partly)


@pytest.mark.parametrize("rank", [1.5, "1", [1]])
def test_a_rank_that_is_none_is_named(partly, rank, tmp_path):
    partly[1]["answer_rank"] = rank
    metrics.write_predictions(tmp_path / "p.jsonl", partly)
    with pytest.raises(UserError, match="line 2 has the field 'answer_rank' of "):
        metrics.read_predictions(tmp_path / "p.jsonl")


# Recorded runs, tables and what is printed


def recorded(root, rows, finished_run, seed=0):
    run = finished_run(root / "runs" / str(seed), {"q0"}, seed, result=metrics.summarise(rows))
    metrics.write_predictions(run / "predictions.jsonl", rows)
    return runs.record_run(run, root / "experiments" / "results" / "tiny" / "rag" / f"seed_{seed}")


def declared(root, *columns, seeds=(0,)):
    rows = (Row("RAG", "configs/tiny/rag.py"),)
    results = root / "experiments" / "results"
    return Table("tiny", "Tiny", rows, columns, seeds=seeds, results=results)


def test_a_recorded_run_keeps_what_is_measured(partly, finished_run, tmp_path):
    run = recorded(tmp_path, partly, finished_run)
    columns = json.loads(gzip.decompress((run / "outcomes.json.gz").read_bytes()))
    assert columns["answer_rank"] == [2, None, 1, 5]
    assert columns["posterior_mass"] == [0.333333, 0.333333, 0.0, None]
    (loaded,) = runs.load_runs(run.parent, (0,))
    again, summary = metrics.summarise_outcomes(loaded.outcomes), metrics.summarise(partly)
    assert again.pop("per_relation") == summary.pop("per_relation")
    assert again == pytest.approx(summary, abs=1e-6)
    np.testing.assert_array_equal(loaded.figure("recall@1"), [1, 0, 0])
    np.testing.assert_array_equal(loaded.figure("recall@1", "anthem"), [0])
    np.testing.assert_array_equal(loaded.figure("has_answer@2"), [1, 0, 1, 0])


def test_a_table_says_how_many_questions_have_gold(partly, finished_run, tmp_path):
    recorded(tmp_path, partly, finished_run)
    columns = (Column("EM", "em"), Column("R@5", "recall@5"), Column("held@5", "has_answer@5"))
    text = rendering.render(declared(tmp_path, *columns))
    (cells,) = (line for line in text.splitlines() if line.startswith("| RAG |"))
    assert [cell.split()[0] for cell in cells.split("|")[2:-1]] == ["25.0", "66.7", "75.0"]
    assert (
        'interval over seed 0 and 4 questions (2,000 resamples), of "R@5" over the 3 questions that '
        "name a gold passage." in text
    )
    text = rendering.render(declared(tmp_path, Column("EM", "em")))
    assert "gold" not in text


def test_runs_whose_questions_differ_in_gold_are_not_compared(partly, finished_run, tmp_path):
    recorded(tmp_path, partly, finished_run)
    recorded(tmp_path, without_gold(partly), finished_run, seed=1)
    with pytest.raises(UserError, match="classify the same questions differently"):
        rendering.render(declared(tmp_path, Column("R@5", "recall@5"), seeds=(0, 1)))


def printed(rows):
    (table,) = Answers.report([Answers(rows).summary() | {"split": "test"}])
    return table


def test_what_is_printed_tells_of_answers_where_gold_is_missing(partly, records):
    labels = ("relation", "questions", "em", "strict_em", "f1", "recall@1", "recall@5", "mrr")
    assert printed(records({"q0"})).columns == labels
    table = printed(partly)
    assert table.columns == (*labels, "has_answer@1", "has_answer@5")
    assert table.rows[0][-3:] == ("0.500", "0.250", "0.750")
    assert printed(without_gold(partly)).rows[0][5:8] == ("–", "–", "–")


def test_retrieved_passages_are_looked_at(evaluated):
    """By their text alone: in the tiny task the title is the person, and the text names the town."""
    learner, state = evaluated
    asked = learner.task.splits["test"]
    rows = learner.evaluate(state)[0].records
    texts = {passage.id: passage.text for passage in learner.text.corpus.passages}
    for row in rows:
        held = [f" {row['answers'][0]}," in texts[name] for name in row["retrieved"]]
        assert row["answer_rank"] == (held.index(True) + 1 if any(held) else None)
    assert any(row["answer_rank"] for row in rows)
    people = [dataclasses.replace(q, answers=(q.entity,), positives=()) for q in asked]
    found = learner._records(state, learner.encode(people))
    titled = [
        bool(row["answer_rank"]) == any(row["entity"] in texts[p] for p in row["retrieved"])
        for row in found
    ]
    assert all(titled)


def test_development_figures_without_gold_are_those_of_answers(evaluated, monkeypatch):
    learner, state = evaluated
    sample = learner._development.questions
    gold = learner.measure(state)
    assert gold.keys() >= {"dev/recall@1", "dev/recall@5"}
    assert not any("has_answer" in name for name in gold)
    bare = learner.encode([dataclasses.replace(q, positives=()) for q in sample])
    monkeypatch.setitem(vars(learner), "_development", bare)
    monkeypatch.delitem(vars(learner), "_gain_questions", raising=False)
    found = learner.measure(state)
    assert found["dev/em"] == gold["dev/em"]
    assert found["dev/has_answer@5"] == gold["dev/recall@5"]  # each town is in one passage
    assert not any(name.startswith("dev/recall") for name in found)
