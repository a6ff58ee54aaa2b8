"""Modes of JAX that users switch on: what the commands do and find is the same in each of them."""

import json
import math
from pathlib import Path

import pytest
from processes import finish

pytest_plugins = ["tiny_run"]

SCRIPT = Path(__file__).parent / "support" / "all_commands.py"
RUNS = ("text", "policy", "retrieval")
MODES = {
    "plain": {},
    "x64": {"JAX_ENABLE_X64": "1"},
    "debug_nans": {"JAX_DEBUG_NANS": "1"},
}
WARNINGS = ("FutureWarning", "UserWarning", "RuntimeWarning")


@pytest.fixture(scope="module")
def results(processes, tmp_path_factory):
    """mode -> (directory, what the commands said), a process each."""
    found = {}
    for mode, environment in MODES.items():  # one after another: each takes the last one's programs
        directory = tmp_path_factory.mktemp(mode)
        strict = [word for kind in WARNINGS for word in ("-W", f"error::{kind}")]
        finish(processes([directory], (*strict, SCRIPT), **environment))
        found[mode] = directory, json.loads((directory / "results.json").read_text())
    return found


def rows_of(directory, run):
    lines = (directory / run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_modes_were_on(results):
    modes = {name: (said["x64"], said["debug_nans"]) for name, (_, said) in results.items()}
    assert modes == {
        "plain": (False, False),
        "x64": (True, False),
        "debug_nans": (False, True),
    }


@pytest.mark.parametrize("mode", ["x64", "debug_nans"])
@pytest.mark.parametrize("run", RUNS)
def test_a_mode_changes_no_figure(results, run, mode):
    """Every row that was logged while training, and every figure of the evaluation, bit for bit."""
    (plain, expected), (directory, said) = results["plain"], results[mode]
    assert rows_of(directory, run) == rows_of(plain, run)
    assert said[run] == expected[run]
    assert said["answer"] == expected["answer"]


@pytest.mark.parametrize("mode", ["x64", "debug_nans"])
@pytest.mark.parametrize("how", ["hybrid", "rrf"])
def test_a_mode_changes_nothing_that_is_found(results, how, mode):
    assert results["plain"][1][how]["passages"]
    assert results[mode][1][how] == results["plain"][1][how]


def test_the_figures_are_sensible(results):
    directory, said = results["debug_nans"]
    for run in RUNS:
        rows = rows_of(directory, run)
        assert all(math.isfinite(value) for row in rows for value in row.values())
        losses = [row["loss"] for row in rows if "loss" in row]
        assert losses[-1] != losses[0]
    assert 0 <= said["text"]["recall@1"] <= 1
    assert said["answer"]["answer"]
    assert 0 < said["answer"]["probability"] <= 1
    assert 1 <= said["policy"]["sampled_return"] <= 40
    assert 0 <= said["retrieval"]["sampled_return"] <= 3


@pytest.mark.parametrize("run", ["policy", "retrieval"])
def test_what_no_episode_has_is_left_out(results, run):
    """Rows of rollouts in which no episode ended lack its figures; others have them."""
    rows = [row for row in rows_of(results["debug_nans"][0], run) if "loss" in row]
    ended = ["episode_return" in row for row in rows]
    assert any(ended)
    assert not all(ended)
    assert all(("episode_length" in row) == has for row, has in zip(rows, ended, strict=True))
    assert all(row["env_steps"] > 0 for row in rows)
