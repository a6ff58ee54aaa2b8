"""Recording finished runs: what is kept, what is refused, and that nothing is half-written."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ragjax.errors import UserError
from ragjax.evaluation import metrics, runs


def test_a_recorded_run_keeps_the_outcomes_and_nothing_large(tmp_path, record, records):
    run = record(tmp_path, "rag", 0, {"q0", "q3"})
    assert sorted(file.name for file in run.iterdir()) == sorted(runs._FILES)
    packed = (run / "outcomes.json.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # no time of writing, so that equal outcomes give equal bytes
    columns = json.loads(gzip.decompress(packed))
    assert columns == {
        "retrieved": 5,
        "id": ["q0", "q1", "q2", "q3"],
        "relation": ["capital", "capital", "anthem", "anthem"],
        "em": [1, 0, 0, 1],
        "strict_em": [1, 0, 0, 1],
        "f1": [1.0, 0.0, 0.0, 1.0],
        "contains": [1, 0, 0, 1],
        "rank": [1, 2, None, 5],
        "posterior_mass": [0.333333, 0.333333, 0.0, 0.111111],
    }
    (loaded,) = runs.load_runs(run.parent, (0,))
    summary = metrics.summarise(records({"q0", "q3"}))
    again = metrics.summarise_outcomes(loaded.outcomes)
    assert again.pop("posterior_mass") == pytest.approx(summary.pop("posterior_mass"), abs=1e-6)
    assert again == summary
    assert loaded.result["git_commit"] == "c0ffee"


def test_recording_twice_gives_equal_bytes_and_needs_permission(tmp_path, record):
    run = record(tmp_path, "rag", 0, {"q0"})
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    source = tmp_path / "runs" / "rag_0"
    with pytest.raises(UserError, match="already holds a recorded run"):
        runs.record_run(source, run)
    assert runs.record_run(source, run, overwrite=True) == run
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert [child.name for child in run.parent.iterdir()] == ["seed_0"]


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ({"em": 0.25 + 2e-6}, "gives em as 0.250002, but predictions.jsonl beside it gives 0.25"),
        ({"recall@5": None}, "gives recall@5 as None"),
        ({"f1": "high"}, "gives f1 as high"),
        ({"em": float("nan")}, "gives em as nan"),
        ({"mrr": 0.5}, "gives mrr as 0.5"),
        ({"questions": 5}, "gives questions as 5"),
        ({"per_relation": {"capital": {"em": 0.9}}}, "gives per_relation.capital.em as 0.9"),
        ({"seed": 3}, "has seed 0 in config.json but 3 in result.json"),
    ],
)
def test_recording_refuses_a_result_that_disagrees(tmp_path, result, sentence, finished_run):
    run = finished_run(tmp_path / "run", {"q0"}, result=result)
    with pytest.raises(UserError) as caught:
        runs.record_run(run, tmp_path / "results" / "seed_0")
    assert sentence in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_recording_accepts_a_difference_in_the_last_digits(tmp_path, finished_run):
    run = finished_run(tmp_path / "run", {"q0"}, result={"em": 0.25 + 5e-7})
    assert runs.record_run(run, tmp_path / "results" / "seed_0").is_dir()


@pytest.mark.parametrize("name", ["result.json", "config.json", "predictions.jsonl"])
def test_recording_refuses_an_unfinished_run(tmp_path, name, finished_run):
    run = finished_run(tmp_path / "run", {"q0"})
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"has no {name}, so the run isn't finished"):
        runs.record_run(run, tmp_path / "results" / "seed_0")
    with pytest.raises(UserError, match="nowhere doesn't exist"):
        runs.record_run(tmp_path / "nowhere", tmp_path / "results" / "seed_0")


@pytest.mark.parametrize("fact", ["em", "recall@1", "train_seconds", "versions"])
def test_recording_refuses_a_result_without_what_it_must_have(tmp_path, fact, finished_run):
    run = finished_run(tmp_path / "run", {"q0"})
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    del result[fact]
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(UserError, match=rf"result\.json lacks {fact}"):
        runs.record_run(run, tmp_path / "results" / "seed_0")


def test_a_failed_recording_leaves_nothing_new(tmp_path, monkeypatch, record):
    run = record(tmp_path, "rag", 0, {"q0"})
    before = {file.name: file.read_bytes() for file in run.iterdir()}

    def full(outcomes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "_pack", full)
    with pytest.raises(UserError, match=r"can't be written \(No space left on device\)"):
        runs.record_run(tmp_path / "runs" / "rag_0", run, overwrite=True)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before
    assert [child.name for child in run.parent.iterdir()] == ["seed_0"]


def test_a_failed_replacement_restores_the_old_run(tmp_path, monkeypatch, record):
    run = record(tmp_path, "rag", 0, {"q0"})
    rename = Path.rename

    def failing(self, target):
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UserError, match="Input/output error"):
        runs.record_run(tmp_path / "runs" / "rag_0", run, overwrite=True)
    assert sorted(file.name for file in run.iterdir()) == sorted(runs._FILES)


@pytest.mark.parametrize("field", ["ids", "relations"])
def test_questions_in_another_order_or_class_are_refused(tmp_path, field, record):
    first = runs.load_runs(record(tmp_path, "rag", 0, {"q0"}).parent, (0,))[0]
    turned = tuple(reversed(getattr(first.outcomes, field)))
    second = replace(first, outcomes=replace(first.outcomes, **{field: turned}))
    runs.require_same_questions([first, first])
    with pytest.raises(UserError, match="order or classify the same questions differently"):
        runs.require_same_questions([first, second])


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_runs_of_different_configs_are_no_row(tmp_path, odd, record):
    """Whichever of three seeds it is that differs."""
    for seed in range(3):
        row = record(tmp_path, "rag", seed, {"q0"}, config={"k": 9 if seed == odd else 5}).parent
    with pytest.raises(UserError, match=r"differ in k \(. against .\), so they are no runs of one"):
        runs.load_runs(row, (0, 1, 2))


def test_runs_may_differ_in_their_seed(tmp_path, record):
    for seed in range(3):
        row = record(tmp_path, "rag", seed, {"q0"}).parent
    assert [run.seed for run in runs.load_runs(row, (0, 1, 2))] == [0, 1, 2]
