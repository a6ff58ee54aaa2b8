"""Runs that go on beyond the end that they had."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from wiring import left, result_of

from ragjax import run_training
from ragjax.cli import main

SUPPORT = Path(__file__).parents[1] / "support"
TEXT, POLICY = SUPPORT / "spied_config.py", SUPPORT / "tiny_policy_config.py"
BATCH = 64  # environment steps of a rollout of tiny_policy_config.py


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """(steps, more words) -> the directory of a policy's run with a constant rate."""

    def run(steps, *words, run_dir=None):
        run_dir = run_dir or tmp_path_factory.mktemp("played") / "run"
        words = [*words, "--optimizer.schedule", "constant", "--env_steps", steps * BATCH]
        words += ["--checkpoint_every", 3]
        assert main(["train", str(POLICY), "--run-dir", str(run_dir), *map(str, words)]) == 0
        return run_dir

    return run


@pytest.fixture(scope="module")
def short(play):
    return play(4)


def require_same(run_dir, whole, records):
    """Parameters, rows and records to the bit: nothing of the former end is left."""
    state, other = left(run_dir), left(whole)
    assert state.step == other.step
    jax.tree.map(np.testing.assert_array_equal, state.params, other.params)
    for name in ("metrics.jsonl", "config.json", records):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()


def test_a_lengthened_run_is_as_long_a_run(play, short, tmp_path):
    run_dir = Path(shutil.copytree(short, tmp_path / "run"))
    play(8, "--resume", run_dir=run_dir)
    require_same(run_dir, play(8), "episodes.jsonl")
    result = result_of(run_dir)
    assert (result["steps"], result["resumed_at"]) == (8, 3)


def test_a_refused_lengthening_leaves_the_run_as_it_was(play, short, tmp_path):
    run_dir = Path(shutil.copytree(short, tmp_path / "run"))
    (run_dir / "origin.json").unlink()
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(AssertionError):
        play(8, "--resume", run_dir=run_dir)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_the_time_before_is_added(play, short, tmp_path):
    """What a checkpoint says that it took, counts for the run that continues from it."""
    run_dir = Path(shutil.copytree(short, tmp_path / "run"))
    before = result_of(short)
    for manifest in run_dir.glob("checkpoints/*/manifest.json"):
        content = json.loads(manifest.read_text())
        assert 0 < content["spent"]["train_seconds"] <= before["train_seconds"]
        content["spent"] = {"train_seconds": 5000.0, "train_cpu_seconds": 7000.0}
        manifest.write_text(json.dumps(content))
    play(4, "--resume", run_dir=run_dir)  # which only measures again what it has trained
    result = result_of(run_dir)
    assert (result["train_seconds"], result["train_cpu_seconds"]) == (5000, 7000)
    assert 5000 < result["total_seconds"] < 5600
    play(6, "--resume", run_dir=run_dir)
    result = result_of(run_dir)
    assert 5000 < result["train_seconds"] < result["total_seconds"] < 5600
    assert 7000 < result["train_cpu_seconds"] < 7600


def test_the_last_phase_of_a_text_s_run_goes_on(first, made, tmp_path):
    """From before its end, since the index of its end is that of the averaged parameters."""
    run_dir = Path(shutil.copytree(first, tmp_path / "run"))
    words = [TEXT, "--seed", "3", "--phases.1.steps", "7"]
    assert main(["train", *map(str, words), "--run-dir", str(run_dir), "--resume"]) == 0
    result = result_of(run_dir)
    assert (result["steps"], result["resumed_at"]) == (10, 4)
    require_same(run_dir, made(*words), "predictions.jsonl")


def test_the_result_of_the_shorter_run_is_gone_while_it_is_lengthened(
    play, short, tmp_path, monkeypatch
):
    run_dir = Path(shutil.copytree(short, tmp_path / "run"))

    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_training, "fit", stopped)
    with pytest.raises(AssertionError):
        play(8, "--resume", run_dir=run_dir)
    assert not (run_dir / "result.json").exists()
    assert json.loads((run_dir / "config.json").read_text())["env_steps"] == 8 * BATCH


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env_steps", 3 * BATCH], "differs in env_steps; give the same values"),
        (["--env_steps", 8 * BATCH, "--seed", 1], "differs in seed, env_steps; give the same"),
    ],
)
def test_a_run_is_neither_shortened_nor_changed(short, refused, words, message):
    before = (short / "config.json").read_bytes()
    said = refused(
        *("train", POLICY, "--run-dir", short, "--resume", "--optimizer.schedule", "constant"),
        *("--checkpoint_every", 3),
        *words,
    )
    assert message in said
    assert "lengthened" not in said
    assert (short / "config.json").read_bytes() == before
    assert (short / "result.json").exists()


def test_a_schedule_that_knows_the_end_is_not_lengthened(short, refused, tmp_path):
    run_dir = Path(shutil.copytree(short, tmp_path / "run"))
    config = json.loads((run_dir / "config.json").read_text())
    config["optimizer"]["schedule"] = "linear"
    (run_dir / "config.json").write_text(json.dumps(config))
    words = ["train", POLICY, "--run-dir", run_dir, "--resume", "--env_steps", 8 * BATCH]
    words += ["--checkpoint_every", 3]
    assert "a run is lengthened only where optimizer.schedule is constant" in refused(*words)
    assert (run_dir / "result.json").exists()
