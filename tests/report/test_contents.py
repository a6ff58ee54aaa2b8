"""What a report says of runs, finished or not, of policies and questions, and what it refuses."""

import json
import re

import pytest
from report_runs import (
    blocks_of,
    data_of,
    questions,
    write_policy_run,
    write_questions_run,
)


@pytest.fixture
def report(ragjax, tmp_path):
    """(paths) -> the data of their page."""

    def make(*paths):
        code, _, err = ragjax("report", *paths, "-o", tmp_path / "page.html")
        assert code == 0, err
        return data_of((tmp_path / "page.html").read_text())

    return make


def table(page, title):
    return next(block for block in blocks_of(page, "table") if block["title"] == title)


def notes(page):
    return [
        text for block in blocks_of(page, "words") if block["note"] for text in block["paragraphs"]
    ]


def titles(page):
    return [section["title"] for section in page["sections"]]


def test_runs_that_differ_in_their_seeds_are_one_group(report, tmp_path):
    for seed in (0, 1):
        write_questions_run(tmp_path / "rag" / f"seed_{seed}", seed)
    write_questions_run(tmp_path / "other", k=8)
    page = report(tmp_path / "rag", tmp_path / "other")
    assert page["title"] == "rag, other"
    assert [row[:2] for row in table(page, "3 runs")["rows"]] == [
        ["rag", "0"],
        ["rag", "1"],
        ["other", "0"],
    ]
    assert table(page, "What differs between the configs")["rows"] == [["k", "5", "8"]]
    loss = next(chart for chart in blocks_of(page, "chart") if chart["title"] == "loss")
    rag, other = loss["lines"]
    assert (rag["label"], rag["x"]) == ("rag", [10, 20, 30])
    assert (rag["y"], rag["low"], rag["high"]) == (
        [0.6, 0.55, 0.533333],
        [0.1, 0.05, 0.0333333],
        [1.1, 1.05, 1.03333],
    )
    assert (other["label"], other["low"]) == ("other", None)
    assert "the band reaches from the lowest seed to the highest" in loss["note"]


def test_figures_stand_with_their_intervals(report, tmp_path):
    page = report(write_questions_run(tmp_path / "run"))
    found = table(page, "All questions")
    row = dict(zip(found["columns"], found["rows"][0], strict=True))
    assert (row["seeds"], row["questions"]) == ("1", "6")
    assert row["em"].startswith("66.7 ± ")
    assert row["recall@1"].startswith("83.3 ± ")
    assert "recall@5" not in row  # of a run that retrieves three
    (relations,) = [block for block in blocks_of(page, "table") if "relation" in block["columns"]]
    assert [cells[:2] for cells in relations["rows"]] == [["home", "4"], ["rare", "2"]]
    assert "95% bootstrap interval over seeds and questions (2,000 resamples)" in found["note"]


def test_policies_and_questions_stand_on_one_page(report, tmp_path):
    runs = [write_questions_run(tmp_path / "text")]
    runs += [write_policy_run(tmp_path / "policy" / f"seed_{seed}", seed) for seed in (0, 2)]
    page = report(*runs)
    assert titles(page) == ["Runs", "Answers", "Episodes", "Curves", "Questions", "Decisions"]
    means = table(page, "policy: mean of an episode, 2 of 2 seeds")
    assert means["rows"][0][0] == "return"
    assert means["rows"][0][1].startswith("1.000 ± ")
    (bars,) = blocks_of(page, "bars")
    assert bars["names"] == ["0", "0.5", "1", "3"]
    assert bars["values"] == [[2, 0, 3, 1], [2, 2, 2, 0]]
    assert "has no checkpoints, so that its policy plays no episode here" in " ".join(notes(page))


def test_many_returns_are_counted_in_equal_intervals(report, tmp_path):
    run = write_policy_run(tmp_path / "policy")
    rows = [
        {"mode": mode, "return": place / 7, "length": 1}
        for mode in ("greedy", "sampled")
        for place in range(50)
    ]
    (run / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (bars,) = blocks_of(report(run), "bars")
    assert [sum(of) for of in bars["values"]] == [50, 50]
    assert len(bars["names"]) == 20
    assert all(2 <= value <= 3 for value in bars["values"][0])


def test_an_unfinished_run_is_shown_with_what_it_has(report, tmp_path):
    run = write_questions_run(tmp_path / "run")
    for name in ("result.json", "predictions.jsonl"):
        (run / name).unlink()
    page = report(run)
    assert titles(page) == ["Runs", "Curves"]
    assert table(page, "1 run")["rows"][0][2:4] == ["not finished", "30"]
    said = notes(page)
    assert f"{run} is not finished: it has no result.json." in said
    assert f"{run} has no records of questions or episodes." in said


def test_a_run_that_has_just_begun(report, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"seed": 3}')
    page = report(run)
    assert titles(page) == ["Runs"]
    assert any("has no curves" in said for said in notes(page))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("predictions.jsonl", "{}\n", "predictions.jsonl line 1 lacks the field 'id'"),
        ("result.json", "[", "result.json is not JSON"),
        ("metrics.jsonl", "{}\n{}\n", "has no row of metrics in line 1"),
        ("passages.jsonl", "[]\n", "Of 9 passages the text is not in .*passages.jsonl"),
    ],
)
def test_a_damaged_file_costs_its_own_part_alone(name, text, said, report, tmp_path):
    run = write_questions_run(tmp_path / "run")
    (run / name).write_text(text)
    page = report(run)
    told = [*notes(page), *(of["note"] for b in blocks_of(page, "explorer") for of in b["runs"])]
    assert any(re.search(said, note) for note in told), told
    assert "Runs" in titles(page)


def test_runs_that_were_asked_other_questions_are_not_averaged(report, tmp_path):
    write_questions_run(tmp_path / "rag" / "seed_0", 0)
    write_questions_run(tmp_path / "rag" / "seed_1", 1, questions(5))
    page = report(tmp_path / "rag")
    assert [row[2] for row in table(page, "All questions")["rows"]] == ["6", "5"]
    words = [text for block in blocks_of(page, "words") for text in block["paragraphs"]]
    assert "The configs differ in no field; the runs were asked other questions." in words


def test_many_configs_are_rows_of_what_differs(report, tmp_path):
    runs = [write_questions_run(tmp_path / f"k{k}", k=k) for k in range(8)]
    found = table(report(*runs), "What differs between the configs")
    assert found["columns"] == ["run", "k"]
    assert found["rows"] == [[f"k{k}", str(k)] for k in range(8)]


def test_long_curves_keep_their_last_point(report, tmp_path):
    run = write_questions_run(tmp_path / "run")
    rows = [{"step": step, "loss": step} for step in range(1, 1004)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (chart,) = blocks_of(report(run), "chart")
    (line,) = chart["lines"]
    assert len(line["x"]) <= 400
    assert (line["x"][-1], line["y"][-1]) == (1003, 1003)
    assert chart["note"] == f"run: {len(line['x'])} of 1,003 points are drawn."


# What is refused


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_questions_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").mkdir()
    (tmp_path / "plain.py").write_text("x = 1\n")
    (tmp_path / "text.txt").touch()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "There is nothing to report; name runs, a sweep or an experiment's file."),
        (("nowhere",), "nowhere does not exist; name a run, a sweep or an experiment's file."),
        (("empty",), "empty is no run, sweep or experiment; name the directory of one"),
        (("text.txt",), "text.txt is no run, sweep or experiment; name the directory of one"),
        (("plain.py",), "plain.py has neither get_table() nor get_plots(), so it is no experiment"),
        (("run", "run"), "run is given more than once; give it once."),
        (("run", "-o", "page.html"), "--output is page.html, which is no file; name a file."),
        (("run", "-o", "page.pdf"), "--output is page.pdf; give the page a name in .html."),
        (("run", "-o", "no/page.html"), "--output is no/page.html, but no is not a directory"),
        (("run", "--episodes", "-1"), "--episodes is -1; give 0 or more."),
    ],
)
@pytest.mark.usefixtures("places")
def test_bad_words(words, said, refused):
    assert refused("report", *words).startswith(said)
