"""Reports of sweeps and of experiments."""

import json
import math
import time

import pytest
from report_runs import blocks_of, data_of, write_policy_run
from toy_sweep import planned, toy, toy_sweep

from ragjax.printing import PlainConsole
from ragjax.sweep.store import Outcome, Store
from ragjax.sweep.worker import Worker


@pytest.fixture
def swept(tmp_path):
    """(trials, made) -> the store of a sweep of which only some trials are made."""

    def make(trials, made=toy):
        store = Store(tmp_path / "sweep")
        store.begin(toy_sweep(trials), planned)
        Worker(store, PlainConsole(quiet=True)).work(made)
        return store

    return make


def report(ragjax, tmp_path, what):
    code, _, err = ragjax("report", what, "-o", tmp_path / "page.html")
    assert code == 0, err
    return data_of((tmp_path / "page.html").read_text())


def test_a_sweep_of_a_hundred_runs_is_quick(swept, ragjax, tmp_path):
    store = swept(100)
    began = time.monotonic()
    page = report(ragjax, tmp_path, store.directory)
    assert time.monotonic() - began < 10
    assert [section["title"] for section in page["sections"]] == ["Sweep sweep", "Fields", "Trials"]
    best, everything = blocks_of(page, "table")
    assert len(best["rows"]) == 10
    assert len(everything["rows"]) == 100
    values = {row[0]: float(row[2]) for row in everything["rows"]}
    ten = sorted(values.values(), reverse=True)[:10]
    assert [values[row[0]] for row in best["rows"]] == ten
    (importance,) = blocks_of(page, "bars")
    assert importance["names"][0] == "optimizer.learning_rate"
    rate, number = blocks_of(page, "chart")
    assert (rate["title"], rate["log"], rate["points"]) == ("optimizer.learning_rate", True, True)
    assert (number["title"], number["log"]) == ("number", False)
    assert len(rate["lines"][0]["x"]) == 100
    assert rate["lines"][0]["y"][0] == pytest.approx(ten[0], abs=1e-5)
    (parallel,) = blocks_of(page, "parallel")
    assert [axis[0] for axis in parallel["axes"]] == ["optimizer.learning_rate", "number", "em"]
    assert parallel["lines"][0][-1] == 1.0
    assert all(0 <= height <= 1 for line in parallel["lines"] for height in line)


def test_failed_trials_and_values_that_are_not_finite_are_told(swept, ragjax, tmp_path):
    def made(batch, store, plan, check_lease):
        for run in batch.runs:
            place = len(list(store.directory.glob("runs/*/outcome.json")))
            outcome = Outcome("finished", (0.5, -math.inf, 0.25)[place % 3])
            store.record(run, Outcome("failed", why="it is too hot") if place == 3 else outcome)

    page = report(ragjax, tmp_path, swept(5, made).directory)
    words = [text for block in blocks_of(page, "words") for text in block["paragraphs"]]
    assert "5 trials: 4 finished, 0 stopped, 1 failed, 0 open" in words
    assert "1 failed: it is too hot" in words
    assert any("is told once 8 trials have finished" in text for text in words)
    assert len(blocks_of(page, "chart")[0]["lines"][0]["x"]) == 2


def test_a_sweep_that_has_just_begun(ragjax, tmp_path):
    store = Store(tmp_path / "sweep")
    store.begin(toy_sweep(4), planned)
    page = report(ragjax, tmp_path, store.directory)
    assert [section["title"] for section in page["sections"]] == ["Sweep sweep", "Trials"]


def test_the_runs_of_the_winner_are_shown(swept, ragjax, tmp_path):
    store = swept(3)
    (winner,) = planned(store).trials[1].runs
    kept = (store.run_dir(winner) / "outcome.json").read_bytes()
    (store.run_dir(winner) / "outcome.json").unlink()
    store.run_dir(winner).rmdir()
    write_policy_run(store.run_dir(winner))
    (store.run_dir(winner) / "outcome.json").write_bytes(kept)
    won = {"winners": [{"trial": 1, "value": 0.5, "runs": [winner.name]}]}
    (store.directory / "winner.json").write_text(json.dumps(won))
    page = report(ragjax, tmp_path, store.directory)
    runs = next(block for block in blocks_of(page, "table") if block["title"] == "1 run")
    assert runs["rows"][0][0] == "trial 1"
    assert "Episodes" in [section["title"] for section in page["sections"]]


EXPERIMENT = '''"""How small it is."""

from pathlib import Path

from ragjax.evaluation.plots import Curve, Line, Plot
from ragjax.evaluation.tables import Claim, Column, Reference, Row, Table


def get_table():
    return Table(
        name="tiny",
        title="Tiny",
        rows=(Row("First", "configs/first.py"), Row("Second", "configs/second.py")),
        columns=(Column("return", "greedy_return", scale=1), Column("other")),
        seeds=(0, 1),
        results=Path(__file__).parent / "results",
        notes="One `idea`.",
        references=(Reference("Theirs", "a book", {"other": "7"}),),
        claims=(Claim("first", "return", 0.1, source="none"),),
    )


def get_plots():
    curves = (
        Curve("$2^{-13}$", (0, 1), (0, 1)),
        Curve("b", (0, 1), (1, 0), style="dashed", like="$2^{-13}$"),
    )
    lines = (Line("limit", 2, "a book"),)
    return (Plot("slope", "Slope", "x", "y", curves, lines, x_names={0: "no", 1: "yes"}),)
'''


def test_an_experiment_s_table_and_plots(ragjax, tmp_path):
    from ragjax.evaluation.runs import record_run

    path = tmp_path / "experiments" / "tiny.py"
    path.parent.mkdir()
    path.write_text(EXPERIMENT)
    facts = {"env_steps": 10, "versions": {}}
    for row, seed in (("first", 0), ("first", 1), ("second", 0)):
        run = write_policy_run(tmp_path / f"{row}_{seed}", seed, row=row)
        result = json.loads((run / "result.json").read_text()) | facts
        (run / "result.json").write_text(json.dumps(result))
        record_run(run, path.parent / "results" / "tiny" / row / f"seed_{seed}")
    page = report(ragjax, tmp_path, path)
    assert [section["title"] for section in page["sections"]] == ["Tiny", "Plots", "Runs"]
    table = next(block for block in blocks_of(page, "table") if block["title"] == "Tiny")
    assert [row[0] for row in table["rows"]] == ["First", "Second", "Theirs (published: a book)"]
    assert table["rows"][0][1].startswith("0.8 ± ")
    assert table["rows"][1][1].endswith("(1 seed)")
    assert table["rows"][2] == ["Theirs (published: a book)", "–", "7"]
    words = [text for block in blocks_of(page, "words") for text in block["paragraphs"]]
    assert "How small it is." in words
    assert "One `idea`." in words
    assert "1 of the 4 runs that the table declares are not recorded." in words
    (slope,) = blocks_of(page, "chart")
    assert [(line["label"], line["color"]) for line in slope["lines"]] == [("2⁻¹³", 0), ("b", 0)]
    assert (slope["lines"][1]["dash"], slope["names"]) == ("dashed", [[0, "no"], [1, "yes"]])
    assert slope["marks"] == [["limit (a book)", 2]]
    differs = next(
        block for block in blocks_of(page, "table") if block["title"].startswith("What differs")
    )
    assert differs["rows"] == [["row", '"first"', '"second"']]


def test_a_table_in_markdown_is_a_table(ragjax, tmp_path):
    path = tmp_path / "speed.py"
    path.write_text(
        '"""Speed."""\nfrom ragjax.evaluation.tables import MarkdownTable\n\n'
        'def get_table():\n    body = "| a | b |\\n|---|---:|\\n| x \\\\| y | 2 |\\n\\nWords."\n'
        '    return MarkdownTable("Speed", body, "By hand.", "**Fast.**")\n'
    )
    page = report(ragjax, tmp_path, path)
    (table,) = blocks_of(page, "table")
    assert (table["columns"], table["rows"]) == (["a", "b"], [["x | y", "2"]])
    words = [text for block in blocks_of(page, "words") for text in block["paragraphs"]]
    assert words == ["Speed.", "Words.", "**Fast.**", "By hand."]
