"""What the explorer holds of each question, and what is cut when there is too much."""

import json

import pytest
from report_runs import questions, write_questions_run

from ragjax.report.questions import DEPTH, LETTERS, explorer
from ragjax.report.runs import read_run


@pytest.fixture
def explored(tmp_path):
    """(records) -> the explorer of a run of them, and its questions by id."""

    def make(records):
        run = read_run(write_questions_run(tmp_path / "run", records=records))
        found = explorer([("run", run)])
        rows = [dict(zip(found.columns, row, strict=True)) for row in found.runs[0]["rows"]]
        return found, {row["id"]: row for row in rows}

    return make


def test_a_question_with_its_passages(explored):
    found, rows = explored(questions())
    row = rows["q0"]
    assert (row["question"], row["answers"], row["prediction"]) == (
        *("Where is number 0?", ["Town 0"]),
        "Town 0",
    )
    assert [found.passages[place][0] for place in row["passages"]] == ["p0", "p1", "p2"]
    assert found.passages[row["passages"][0]] == ("p0", "Title p0", "Text of p0.")
    assert (row["prior"], row["posterior"]) == ([0.5, 0.25, 0.25], [0.8, 0.1, 0.1])
    assert (row["gold"], row["found"], row["rank"], row["mass"]) == (row["passages"][:1], 1, 1, 0.8)
    assert row["omitted"] == [0, 0.0]


def test_right_wrong_and_missed(explored):
    _, rows = explored(questions())
    assert [row["right"] for row in rows.values()] == [1, 0, 1, 1, 0, 1]
    assert [row["found"] for row in rows.values()] == [1, 1, 1, 1, 0, 1]
    assert (rows["q4"]["rank"], rows["q4"]["mass"]) == (0, 0.0)


def test_without_gold_passages_an_answer_has_to_be_held(explored):
    records = questions()
    for record in records:
        record["positives"] = []
    records[0]["answer_rank"], records[1]["answer_rank"] = 2, None
    _, rows = explored(records)
    assert [rows[name]["found"] for name in ("q0", "q1", "q2")] == [1, 0, None]
    assert (rows["q0"]["rank"], rows["q0"]["mass"]) == (2, None)


def test_a_closed_book_misses_nothing(explored):
    records = questions()
    for record in records:
        record["retrieved"] = record["prior"] = record["posterior"] = []
    _, rows = explored(records)
    assert {row["found"] for row in rows.values()} == {None}


def test_passages_beyond_the_first_are_counted(explored):
    found, rows = explored(questions(30, depth=DEPTH + 5))
    assert len(rows["q0"]["passages"]) == DEPTH
    assert rows["q0"]["omitted"][0] == 5
    kept, left = sum(rows["q0"]["posterior"]), rows["q0"]["omitted"][1]
    assert kept + left == pytest.approx(1.0, abs=1e-3)
    assert f"Of 30 questions the first {DEPTH} passages are shown." in found.runs[0]["note"]


def test_long_passages_are_cut_and_counted(tmp_path):
    run = write_questions_run(tmp_path / "run")
    row = {"id": "p0", "title": "", "text": "word " * LETTERS}
    (run / "passages.jsonl").write_text(json.dumps(row) + "\n")
    found = explorer([("run", read_run(run))])
    (text,) = [text for name, _, text in found.passages if name == "p0"]
    assert "letters more)" in text
    assert len(text) < LETTERS + 40
    note = found.runs[0]["note"]
    assert "Of 1 passage the beginning is shown, and what is left out." in note
    assert "Of 8 passages the text is not in" in note


def test_too_many_questions_are_cut_evenly_and_counted(explored, tmp_path):
    records = questions(400)
    whole, _ = explored(records)
    limit = len(json.dumps(whole.to_json())) // 3
    found = explorer([("run", read_run(tmp_path / "run"))], limit=limit)
    kept = found.runs[0]["rows"]
    assert len(json.dumps(found.to_json())) <= limit
    assert 90 < len(kept) < 140
    numbers = [int(row[0][1:]) for row in kept]
    assert numbers[0] == 0
    assert numbers[-1] > 390
    assert f"{400 - len(kept)} of 400 questions are left out" in found.runs[0]["note"]
