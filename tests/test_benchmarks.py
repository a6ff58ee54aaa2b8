"""The benchmark of PPO on CartPole: its log, its two programs on a small budget, and its table."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ragjax.errors import UserError

ROOT = Path(__file__).parents[1]
FILE = ROOT / "experiments/benchmarks/cartpole_ppo.py"


def load():
    """The experiment file as a module."""
    spec = importlib.util.spec_from_file_location("cartpole_ppo", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["cartpole_ppo"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


benchmark = load()
SMALL = benchmark.Budget(
    env_steps=1_536, seeds=1, sweep_seeds=2, learning_rates=(2.5e-4, 1e-3), episodes=3
)


def row(seed, seconds, target, solved=True):
    """A run of 1,000 steps, set up in 2 seconds."""
    means = {"greedy_return": 500.0, "sampled_return": 480.0 if solved else 100.0}
    run = {"seed": seed, "setup_seconds": 2.0, "seconds": seconds, "steps": 1000}
    return run | {"seconds_to_target": target, "solved": solved} | means


def made_up():
    """What `measure` returns, with round numbers."""
    return {
        "budget": {"env_steps": 1024, "sweep_seeds": 2, "learning_rates": [1e-3], "episodes": 7},
        "cores": 2,
        "ragjax": {
            "probe": {"1": 2000.0, "2": 1000.0},
            "threads": 1,
            "runs": [row(0, 0.5, 0.25), row(1, 0.25, 0.125)],
            "runs_on_all_cores": [],
        },
        "stable-baselines3": {
            "probe": {"1": 20.0, "2": 10.0},
            "threads": 1,
            "runs": [row(0, 60.0, 30.0), row(1, 40.0, 20.0, solved=False)],
            "runs_on_all_cores": [row(0, 100.0, 30.0), row(1, 60.0, 20.0)],
        },
        "sweep": {
            "devices": 2,
            "setup_seconds": 6.0,
            "seconds": 4.0,
            "steps": 2000,
            "runs": [
                {"seed": 0, "learning_rate": 1e-3, "steps_to_target": 512, "solved": True},
                {"seed": 1, "learning_rate": 1e-3, "steps_to_target": None, "solved": False},
            ],
        },
        "recorded": "2026-01-02",
        "hardware": {"cpu": "A CPU", "cores": 4, "memory_gib": 8, "system": "Linux"},
        "versions": {"ragjax": "1.2", "stable-baselines3": "3.4", "python": "3.11.1", "jax": "0.1"},
        "git_commit": "abc",
    }


def cells(table):
    """Label -> cells, of every line of a Markdown text that is a row of a table."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {first: rest for first, *rest in rows}


def test_table_by_hand():
    table = benchmark.render(made_up())
    rows = cells(table)
    # 2,000 and 4,000 steps a second; with set-up 1000 / 2.5 and 1000 / 2.25.
    ours = ["3,000 (2,000 to 4,000)", "422 (400 to 444)"]
    assert rows["ragjax 1.2"][:2] == ours
    assert rows["ragjax 1.2"][2:] == ["0.2 (0.1 to 0.2)", "2.2 (2.1 to 2.2)", "2 of 2"]
    theirs = rows["stable-baselines3 3.4"]
    assert theirs[0] == "21 (17 to 25)"
    # A run that is not solved does not count among the times to the target.
    assert theirs[2:] == ["30.0 (30.0 to 30.0)", "32.0 (32.0 to 32.0)", "1 of 2"]
    assert rows["ratio"][0] == "144.0"  # 3000 / (1000 (1/60 + 1/40) / 2)
    assert rows["ratio"][2] == "160.0"  # 30 / 0.1875
    # 2 runs: 10 s with the compilation, against 2 x 80 s, 2 x 50 s and half of it.
    assert rows["ragjax, one program, compiled in 6.0 s"] == ["10", "200", "1.0"]
    assert rows["stable-baselines3, 2 × 80.0 s, 2 threads each"] == ["160", "12", "16.0"]
    assert rows["stable-baselines3, 2 × 50.0 s, 1 thread each"] == ["100", "20", "10.0"]
    assert rows["stable-baselines3, the same, 2 at a time without loss"] == ["50", "40", "5.0"]
    assert "1 of 2 runs reached 475 in training; after it 1 solve the task" in table
    assert "commit abc" in table
    assert table.endswith("\n")


def test_a_run_that_never_arrives_is_a_dash():
    result = made_up()
    for run in result["ragjax"]["runs"]:
        run["seconds_to_target"] = None
    rows = cells(benchmark.render(result))
    assert rows["ragjax 1.2"][2:4] == ["–", "–"]
    assert rows["ratio"][2:4] == ["–", "–"]


def test_recorded_figures_make_a_table():
    if not benchmark.RESULTS.exists():
        pytest.skip("nothing is recorded yet")
    result = json.loads(benchmark.RESULTS.read_text())
    table = benchmark.render()
    assert table == benchmark.render(result)
    assert len(result["sweep"]["runs"]) == benchmark.Budget().sweep_runs == 128
    assert f"{len(result['sweep']['runs'])} runs" in cells(table)
    assert result["git_commit"] in table
    assert result["budget"] == json.loads(json.dumps(vars(benchmark.Budget())))


def test_the_target_is_reached_by_the_last_hundred_episodes():
    ends = np.arange(1.0, 301.0)
    returns = np.concatenate([np.full(100, 20.0), np.full(200, 500.0)])
    # The mean of the last hundred is 475 once 95 of them returned 500: (95 * 500 + 5 * 20) / 100 = 476.
    assert benchmark.seconds_to_target(ends, returns, np.ones(300)) == 195.0
    assert benchmark.seconds_to_target(ends[:194], returns[:194], np.ones(194)) is None
    # Updates in which no episode ended say NaN and change nothing but the clock.
    counts = np.tile([0.0, 2.0], 150)
    sparse = np.where(counts > 0, np.repeat(returns[::2], 2), np.nan)
    assert benchmark.seconds_to_target(ends, sparse, counts) == 196.0
    # Fewer than a hundred episodes are not enough, however good.
    assert benchmark.seconds_to_target(ends[:99], np.full(99, 500.0), np.ones(99)) is None
    assert benchmark.seconds_to_target([], [], []) is None


def test_the_log_of_a_run_counts_every_episode():
    """Return times number is a whole number of steps, and all steps belong to some episode."""
    learner = benchmark.get_config(SMALL.env_steps).create()
    assert learner.config.steps == 3

    def run(key):
        state, log = benchmark.train(learner, key, learner.hyper)
        return state.carry.env_state.length, log

    running, (returns, counts) = jax.jit(run)(jax.random.PRNGKey(0))
    assert np.all(
        np.asarray(counts) > 10
    )  # an episode of a fresh policy takes some 20 of 512 steps
    np.testing.assert_array_equal(counts, np.round(counts))
    total = np.asarray(returns, np.float64) * np.asarray(counts)
    np.testing.assert_allclose(total, np.round(total), atol=1e-3)
    assert np.sum(np.round(total)) + int(np.sum(running)) == 1_536


@pytest.mark.slow
def test_single_runs_and_sweep_on_a_small_budget():
    """Both programs run, and a run of the sweep is the single run of the same seed and rate."""
    (single,) = benchmark.measure_single(SMALL)["runs"]
    sweep = benchmark.measure_sweep(SMALL)
    assert single["steps"] == 1_536
    assert sweep["steps"] == 4 * 1_536
    assert sweep["devices"] == 2  # those of the tests
    given = [(run["seed"], run["learning_rate"]) for run in sweep["runs"]]
    assert given == [(0, 2.5e-4), (0, 1e-3), (1, 2.5e-4), (1, 1e-3)]
    for name in ("greedy_return", "sampled_return"):
        assert sweep["runs"][0][name] == pytest.approx(single[name], rel=0.2)
        assert len({run[name] for run in sweep["runs"]}) > 1
    for run in (single, *sweep["runs"]):
        assert not run["solved"]
        json.dumps(run)
    assert sweep["setup_seconds"] > 0


def test_the_other_side_gets_the_same_hyperparameters():
    config = benchmark.get_config(500_000)
    given = benchmark.settings(config, seed=3, threads=2, episodes=5)
    assert given["env_steps"] == 976 * 512
    expected = {
        "num_envs": 4,
        "rollout_length": 128,
        "epochs": 4,
        "minibatches": 4,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "clip_eps": 0.2,
        "clip_value": True,
        "normalise_advantage": True,
        "entropy_coef": 0.01,
        "value_coef": 0.5,
        "learning_rate": 2.5e-4,
        "anneal": True,
        "epsilon": 1e-5,
        "max_grad_norm": 0.5,
        "hidden": [64, 64],
        "seed": 3,
        "threads": 2,
    }
    assert {name: given[name] for name in expected} == expected
    assert config.algorithm.target_kl == 0.0
    assert 2.5e-4 in benchmark.RATES


@pytest.mark.parametrize(("seeds", "available", "devices"), [(16, 2, 2), (16, 3, 2), (2, 8, 2)])
def test_seeds_are_dealt_evenly(seeds, available, devices):
    assert benchmark.most_devices(seeds, available) == devices


def test_bad_input_is_one_sentence(monkeypatch):
    cores = len(benchmark.os.sched_getaffinity(0))
    with pytest.raises(UserError, match=rf"--threads is 0; choose 1 to {cores}, the cores"):
        benchmark.main(["--threads", "0"])
    with pytest.raises(UserError, match=r"invalid int value: 'two'; --help lists the options"):
        benchmark.main(["--threads", "two"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"stable-baselines3 isn't installed; run pip install -e '.\[benchmarks\]'"
    ):
        benchmark.main(["--threads", "1"])
    monkeypatch.setattr(benchmark, "RESULTS", FILE.parent / "nothing.json")
    with pytest.raises(UserError, match=r"nothing.json can't be read .* run python experiments/"):
        benchmark.render()


def test_a_worker_that_fails_is_one_sentence(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match=r"broken.py ended with exit code 3; see what it says"):
        benchmark.worker([str(script)], cores=[min(benchmark.os.sched_getaffinity(0))])


def test_a_worker_runs_on_its_cores():
    cores = sorted(benchmark.os.sched_getaffinity(0))[:1]
    script = "import os, json; print('noise'); print(json.dumps(sorted(os.sched_getaffinity(0))))"
    assert benchmark.worker(["-c", script], cores) == cores
    assert benchmark.os.sched_getaffinity(0) >= set(cores)


def test_the_command_says_what_is_wrong():
    """One sentence on stderr, and exit code 2."""
    command = [sys.executable, str(FILE), "--threads", "-1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("cartpole_ppo.py: --threads is -1;")
    assert len(done.stderr.splitlines()) == 1
