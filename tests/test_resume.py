"""A run that was killed, wherever it stood, ends as one that was not: bit for bit.

Every run is a process of its own. A killed one gets SIGKILL, which nothing can catch.
"""

import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import PATIENCE, finish, kill, wait_for

from ragjax.config import read_json
from ragjax.run_dir import CHECKPOINTS, CONFIG, load_run
from ragjax.training.checkpoint import Checkpoints

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parent / "support"
DOCUMENTS = ("index", "in_batch")  # the second chooses passages from an index that ages


def train(run_dir, documents, *, resume=False):
    words = ["train", SUPPORT / "tiny_config.py", "--run-dir", run_dir]
    return [*words, "--objective.documents", documents, *["--resume"] * resume]


@pytest.fixture(scope="module")
def reference(processes, tmp_path_factory):
    """documents -> the directory of an uninterrupted run; all of them run side by side."""
    runs = {documents: tmp_path_factory.mktemp(f"reference_{documents}") for documents in DOCUMENTS}
    for process in [processes(train(runs[documents], documents)) for documents in DOCUMENTS]:
        finish(process)
    return runs


def final_state(run_dir):
    """Name -> array of everything in the last checkpoint, and its step."""
    run = load_run(run_dir)
    assert not run.damaged
    leaves, _ = jax.tree_util.tree_flatten_with_path(run.state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}, run.step


def assert_same_run(run_dir, expected_dir):
    state, step = final_state(run_dir)
    expected, expected_step = final_state(expected_dir)
    assert step == expected_step == read_json(run_dir / CONFIG).steps
    assert state.keys() == expected.keys()
    for part in (
        ".params",
        ".opt_state",
        ".key",
        ".index.embeddings",
        ".index.built_at_step",
        ".step",
    ):
        assert any(part in name for name in state), part
    for name, value in expected.items():
        assert value.dtype == state[name].dtype
        assert value.tobytes() == state[name].tobytes(), name
    for name in ("metrics.jsonl", "predictions.jsonl"):
        assert (run_dir / name).read_bytes() == (expected_dir / name).read_bytes(), name
    assert [path.name for path in (run_dir / CHECKPOINTS).glob("partial-*")] == []


def test_reference_run_is_worth_comparing(reference):
    rows = {}
    for documents in DOCUMENTS:
        lines = (reference[documents] / "metrics.jsonl").read_text().splitlines()
        rows[documents] = [json.loads(line) for line in lines]
    losses = [row["loss"] for row in rows["in_batch"] if "loss" in row]
    assert len(losses) == len(set(losses)) == 11
    assert [row["step"] for row in rows["in_batch"] if "dev/em" in row] == [4, 8, 11]
    # The index ages between two refreshes, and checkpoints fall between them.
    ages = [row["index_age"] for row in rows["in_batch"] if "loss" in row]
    assert ages == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert "index_age" not in rows["index"][0]


@pytest.mark.parametrize(
    ("documents", "moments"),
    [
        # What was killed and where: (moment of paused.py, its step, whole checkpoints by then).
        pytest.param(
            "index", [("row", 7, [4]), ("manifest", 11, [4, 8])], id="index", marks=pytest.mark.slow
        ),
        pytest.param(
            "in_batch",
            [("state", 8, [4]), ("evaluate", 8, [4]), ("result", 11, [8, 11])],
            id="in_batch",
        ),
    ],
)
def test_killed_again_and_again(documents, moments, processes, reference, tmp_path):
    run_dir, marker = tmp_path / "run", tmp_path / "there"
    process = processes(train(run_dir, documents))
    wait_for(process, run_dir / CHECKPOINTS / "4")
    kill(process)  # somewhere after the first checkpoint, wherever that is
    for where, step, whole in moments:
        marker.unlink(missing_ok=True)
        program = (SUPPORT / "paused.py", where, step, marker)
        process = processes(train(run_dir, documents, resume=True), program)
        wait_for(process, marker)
        assert Checkpoints(run_dir / CHECKPOINTS).steps() == whole
        if where in ("state", "manifest"):
            assert list((run_dir / CHECKPOINTS).glob("partial-*"))
        kill(process)
    assert not (run_dir / "result.json").exists()
    errors = finish(processes(train(run_dir, documents, resume=True)))
    assert f"continuing at step {whole[-1]} of 11" in errors
    assert_same_run(run_dir, reference[documents])
    assert json.loads((run_dir / "result.json").read_text())["resumed_at"] == whole[-1]


@pytest.mark.slow
def test_interrupted_within_a_step(processes, reference, tmp_path):
    """The state is donated by then: what is saved is the state after the step."""
    run_dir, marker, step = tmp_path / "run", tmp_path / "there", 6
    program = (SUPPORT / "paused.py", "step", step, marker)
    process = processes(train(run_dir, "in_batch"), program, PAUSE_SECONDS="1")
    wait_for(process, marker)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in errors
    said = errors.splitlines()[-1]
    assert said.startswith("stopped; continue with: ragjax train ")
    assert said.endswith("--resume")
    assert Checkpoints(run_dir / CHECKPOINTS).steps() == [4, step]
    resumed = said.partition("ragjax ")[2].split()
    errors = finish(processes(resumed))
    assert f"continuing at step {step} of 11" in errors
    assert_same_run(run_dir, reference["in_batch"])
