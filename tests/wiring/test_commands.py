"""The options of the commands, as the files and figures of spied runs tell: see spied.py."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import spied_policy_config
import wiring
from spied import FIRST_HALF, NAMES
from spied_env import REWARDS
from wiring import left, result_of, rows_of

from ragjax.cli import main
from ragjax.errors import UserError
from ragjax.run_dir import load_run

SUPPORT = Path(__file__).parents[1] / "support"
CONFIG, POLICY = SUPPORT / "spied_config.py", SUPPORT / "spied_policy_config.py"
STEPS = 8


@pytest.fixture
def told(capfd):
    """(words) -> what a command prints as JSON."""

    def run(*words):
        capfd.readouterr()
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capfd.readouterr().out)

    return run


def snapshot(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


# --run-dir


@pytest.mark.parametrize("run", ["first", "played"])
def test_a_run_is_where_it_is_told_to_be(run, request):
    """It was made in another directory, in which it left nothing."""
    run_dir = request.getfixturevalue(run)
    assert result_of(run_dir)["steps"] == STEPS
    assert list((run_dir.parent / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("config", "place"),
    [(CONFIG, "telltale/spied_config"), (POLICY, "split/spied_policy_config")],
    ids=["questions", "episodes"],
)
def test_else_it_is_where_task_config_and_seed_say(config, place, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, last in (([], "seed_5"), (["--num-seeds", 3], "seed_5_to_7")):
        message = refused("train", config, "--seed", 5, *words, "--resume")
        assert f"runs/{place}/{last} holds no run to resume" in message


# --split, --episodes, --output


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_is_evaluated(split, second, told, tmp_path):
    """Half of the development split is answered well, and nothing else."""
    before, output = snapshot(second), tmp_path / "said.jsonl"
    figures = told("evaluate", second, "--split", split, "--output", output)
    rows = rows_of(output)
    assert [row["id"] for row in rows] == [f"{split}{row}" for row in range(len(NAMES))]
    assert [row["prediction"] for row in rows] == [split] * len(NAMES)
    assert (figures["split"], figures["questions"]) == (split, len(NAMES))
    assert figures["em"] == (FIRST_HALF / len(NAMES) if split == "dev" else 0.0)
    assert snapshot(second) == before


def test_the_test_split_unless_another_is_named(first, told, tmp_path, monkeypatch):
    """By the averaged parameters, as the run itself; nothing is written unless that is asked for."""
    monkeypatch.chdir(tmp_path)
    before = snapshot(first)
    figures, result = told("evaluate", first), result_of(first)
    assert (figures["split"], figures["step"]) == ("test", STEPS)
    for name in figures.keys() - {"split", "step"}:
        assert figures[name] == result[name], name
    assert snapshot(first) == before
    assert list(tmp_path.iterdir()) == []
    told("evaluate", first, "--output", "said.jsonl")
    assert Path("said.jsonl").read_bytes() == (first / "predictions.jsonl").read_bytes()


def test_a_result_holds_figures_of_the_development_split(second, played):
    """Half of the development questions are answered well; a policy is paid 200 twice there."""
    dev = result_of(second)["dev"]
    assert (dev["questions"], dev["em"]) == (len(NAMES), FIRST_HALF / len(NAMES))
    assert result_of(second)["em"] == 0.0
    for mode in ("greedy", "sampled"):
        assert result_of(played)["dev"][f"{mode}_return"] == 2 * REWARDS["dev"]
        assert result_of(played)[f"{mode}_return"] == 2 * REWARDS["test"]
    assert result_of(played)["dev"]["source"] == "the development split"


@pytest.mark.parametrize("split", [None, "train", "dev"])
def test_a_policy_plays_on_a_split(split, played, told, tmp_path):
    words = ["--split", split] if split else []
    before, output = snapshot(played), tmp_path / "made.jsonl"
    figures = told("evaluate", played, "--episodes", 5, "--output", output, *words)
    assert (figures["episodes"], figures["seed"], figures["step"]) == (5, 3, STEPS)
    assert figures["split"] == (split or "test")
    rows = rows_of(output)
    assert len(rows) == 10
    for mode in ("greedy", "sampled"):
        assert figures[f"{mode}_return"] == 2 * REWARDS[split or "test"]
        own = [row["return"] for row in rows if row["mode"] == mode]
        assert own == [2 * REWARDS[split or "test"]] * 5
    assert snapshot(played) == before


def test_a_question_is_answered_by_the_averaged_parameters(first, told, average):
    answer = told("answer", first, f"where is {NAMES[2]}?")
    assert answer["probability"] == pytest.approx(np.exp(average), rel=1e-4)
    assert len(answer["passages"]) == 4


# --resume


def resumed(config, run_dir, step, expected):
    """Continues a run; it ends as the one that it was copied from, and keeps what was written before."""
    log = run_dir / "metrics.jsonl"
    marked = log.read_text().replace('"step": 1,', '"step": 1, "mark": 1.0,')
    log.write_text(marked)
    wiring.train(config, run_dir, resume=True)
    result, before = result_of(run_dir), result_of(expected)
    assert result["resumed_at"] == step
    assert log.read_text() == marked
    for name in ("predictions.jsonl", "episodes.jsonl"):
        if (expected / name).exists():
            assert (run_dir / name).read_bytes() == (expected / name).read_bytes()
    timed = {"train_seconds", "train_cpu_seconds", "total_seconds", "peak_memory_mb"}
    changing = timed | {"resumed_at", "git_commit"}
    assert result.keys() == before.keys()
    for name in result.keys() - changing:
        assert result[name] == before[name], name
    state, other = left(run_dir), left(expected)
    assert state.step == other.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)


def test_a_run_with_a_reference_is_resumed(second, following, begun):
    run_dir, step = begun(second)
    resumed(following, run_dir, step, second)


def test_a_policys_run_is_resumed(played, begun):
    run_dir, step = begun(played)
    config = dataclasses.replace(spied_policy_config.get_config(), seed=3)
    resumed(config, run_dir, step, played)


def test_a_run_that_was_cut_short_is_loaded_with_an_index_of_its_own(first, begun):
    """That of its checkpoint is of older parameters."""
    run_dir, step = begun(first)
    found, run = left(run_dir), load_run(run_dir)
    assert found.index.built_at_step < step == run.step
    assert run.state.index.built_at_step == step
    made = wiring.embedded(run_dir, found.average)
    np.testing.assert_allclose(run.state.index.embeddings, made, atol=1e-5)


def test_the_option_resumes(first, begun, refused):
    run_dir, step = begun(first)
    words = ["train", CONFIG, "--seed", 3, "--run-dir", run_dir]
    before = snapshot(run_dir)
    assert "already holds a run; add --resume" in refused(*words)
    for config, fields in (
        (CONFIG, {"--objective.bar": "-0.5", "--evaluation.k": "2"}),
        (CONFIG, {"--seed": "4"}),
        (POLICY, {"--seed": "3"}),
    ):
        other = ["train", config, "--run-dir", run_dir, "--resume"]
        message = refused(*other, *(word for pair in fields.items() for word in pair))
        assert "was made by another config; it differs in" in message
        if config == CONFIG and "--seed" in fields:
            assert "differs in seed;" in message
    assert snapshot(run_dir) == before
    assert main([*map(str, words), "--resume"]) == 0
    assert result_of(run_dir)["resumed_at"] == step


def test_a_policys_other_config_is_refused(played, refused):
    before = snapshot(played)
    words = ["train", POLICY, "--run-dir", played, "--resume", "--seed", 3, "--policy.k", 2]
    assert "differs in policy.k;" in refused(*words)
    assert snapshot(played) == before


def other_passages(run_dir):
    """Changes one word of what a run keeps of its passages."""
    path = run_dir / "passages.jsonl"
    assert "Ada is here" in path.read_text()
    path.write_text(path.read_text().replace("Ada is here", "Ada is near"))


def test_a_run_of_other_passages_is_not_resumed(first, begun, refused):
    run_dir, _ = begun(first)
    other_passages(run_dir)
    words = ["train", CONFIG, "--seed", 3, "--run-dir", run_dir, "--resume"]
    assert f"The passages of {run_dir} are not those that it began with" in refused(*words)
    assert not (run_dir / "result.json").exists()


def test_no_run_starts_from_one_of_other_passages(first, following, begun, tmp_path):
    run_dir, _ = begun(first)
    other_passages(run_dir)
    (run_dir / "result.json").write_bytes((first / "result.json").read_bytes())
    config = dataclasses.replace(following, start=str(run_dir))
    with pytest.raises(UserError, match="are not those that it began with"):
        wiring.train(config, tmp_path / "run")
