"""`ragjax sweep` as a user gives it: one process or several, shown, extended, refused."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import PATIENCE, wait_for
from toy_sweep import planned

from ragjax import sweep_command
from ragjax.cli import _parse_with_overrides
from ragjax.config import load_config
from ragjax.sweep import launchers
from ragjax.sweep.spec import load_sweep
from ragjax.sweep.store import Store

SUPPORT = Path(__file__).parents[1] / "support"
CONFIG = SUPPORT / "tiny_policy_config.py"
RATE = "optimizer.learning_rate"
GRID = (*("--env_steps", 4 * 64), *("--vary", f"{RATE}=0.01,0.03"), *("--seeds", 2))

SWEEP_FILE = '''"""Rates and numbers of environments."""

from tiny_policy_config import get_config

from ragjax.sweep.samplers import Grid
from ragjax.sweep.space import Choice, Vary
from ragjax.sweep.spec import Sweep


def get_sweep() -> Sweep:
    return Sweep(
        base=get_config(),
        space=(Vary("optimizer.learning_rate", Choice((0.01, 0.03))),),
        sampler=Grid(),
        metric="sampled_return",
        trials=1,
    )
'''


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The directory of a finished sweep, and what its command printed."""
    directory = tmp_path_factory.mktemp("swept") / "sweep"
    command = ["sweep", str(CONFIG), *map(str, GRID), "--sweep-dir", str(directory)]
    ended = subprocess.run(
        [sys.executable, "-m", "ragjax", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SUPPORT)},
    )
    assert ended.returncode == 0, ended.stderr
    return directory, ended.stdout, command


def results(directory: Path) -> list[str]:
    return sorted(path.parent.name for path in directory.glob("runs/*/result.json"))


def test_the_winner_alone_is_measured_on_test_data(swept):
    directory, printed, _ = swept
    outcomes = {
        path.parent.name: json.loads(path.read_text())["value"]
        for path in directory.glob("runs/*/outcome.json")
    }
    assert len(outcomes) == 4
    [winner] = json.loads((directory / "winner.json").read_text())["winners"]
    assert sorted(winner["runs"]) == results(directory)
    means = [sum(outcomes[name] for name in winner["runs"]) / 2]
    means.append(sum(value for name, value in outcomes.items() if name not in winner["runs"]) / 2)
    assert winner["value"] == pytest.approx(max(means))
    for name in winner["runs"]:
        result = json.loads((directory / "runs" / name / "result.json").read_text())
        assert result["dev"]["greedy_return"] == outcomes[name]
        assert f"{name}: greedy_return {result['greedy_return']:.4g}" in printed
    assert "2 trials of 2 runs each: 2 finished, 0 stopped, 0 failed, 0 open" in printed


def test_the_best_config_is_one_that_train_takes(swept, ragjax):
    directory, _, _ = swept
    best = load_config(directory / "best.json")
    [winner] = json.loads((directory / "winner.json").read_text())["winners"]
    assert (directory / "runs" / winner["runs"][0] / "config.json").read_bytes() == (
        directory / "best.json"
    ).read_bytes()
    code, out, _ = ragjax("config", "show", directory / "best.json", "--seed", "7")
    assert code == 0
    assert f"learning_rate: {best.optimizer.learning_rate}" in out  # pyright: ignore
    assert "seed: 7" in out


def test_a_finished_sweep_is_shown_and_not_made_again(swept, ragjax):
    directory, _, command = swept
    before = {path: path.stat().st_mtime_ns for path in directory.glob("runs/*/*.json")}
    for words in (
        command,
        ["sweep", directory],
        [*command, "--show"],
        ["sweep", directory, "--show"],
    ):
        code, out, _ = ragjax(*words)
        assert code == 0
        assert "2 trials of 2 runs each: 2 finished" in out
        assert RATE in out
    assert {path: path.stat().st_mtime_ns for path in directory.glob("runs/*/*.json")} == before
    for name in ("slices", "parallel"):
        assert (directory / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_file_is_extended(ragjax, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SUPPORT))
    file = tmp_path / "rates.py"
    file.write_text(SWEEP_FILE)
    words = ("sweep", file, "--env_steps", 2 * 64, "--sweep-dir", tmp_path / "sweep")
    code, out, _ = ragjax(*words)
    assert code == 0
    assert "1 trials: 1 finished" in out
    code, out, err = ragjax(*words, "--trials", 2)
    assert code == 0
    assert "the sweep is extended; it differs in trials" in err
    assert "2 trials: 2 finished" in out
    assert 1 <= len(results(tmp_path / "sweep")) <= 2  # of each winner
    code, out, err = ragjax(*words, "--metric", "greedy_return")
    assert code == 2
    assert "begun with another metric" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((CONFIG,), "nothing is varied; add --vary FIELD=VALUES"),
        ((CONFIG, "--vary", "optimizer.rate=1,2"), "--optimizer.rate is not a field of the config"),
        ((CONFIG, "--vary", f"{RATE}=0.1,0.2", "--metric", "test.em"), "of the test split"),
        (
            (CONFIG, "--vary", f"{RATE}=0.1,0.2", "--metric", "em"),
            "metric is 'em', which these runs",
        ),
        ((CONFIG, "--vary", f"{RATE}=log:0..1"), "low end is 0.0; give one above 0"),
        ((CONFIG, "--vary", f"{RATE}=log:1e-3..1", "--sampler", "grid"), "can't list every value"),
        ((CONFIG, "--vary", f"{RATE}=0.1,0.2", "--rungs", "a"), "--rungs is 'a'; give numbers"),
        ((CONFIG, "--vary", f"{RATE}=0.1,0.2", "--rungs", "2"), "give ascending shares"),
        ((CONFIG, "--vary", f"{RATE}=0.1,0.2", "--workers", "0"), "--workers is 0"),
        ((CONFIG, "--vary", f"{RATE}=0.1,0.2", "--seeds", "0"), "seeds is 0"),
        (
            (CONFIG, "--vary", f"{RATE}=0.1,0.2", "--num-seeds", "2"),
            "num_seeds is 2; leave it at 1",
        ),
        (
            (
                CONFIG,
                "--vary",
                f"{RATE}=0.1,0.2",
                "--launcher",
                "local",
                "--launcher-options",
                "a=1",
            ),
            "names a, but local has none",
        ),
        (
            (CONFIG, "--vary", f"{RATE}=0.1,0.2", "--launcher", "slurm", "--launcher-options", "a"),
            "write NAME=VALUE",
        ),
        (
            (CONFIG, "--vary", f"{RATE}=0.1,0.2", "--launcher", "slurm"),
            "The launcher slurm can't submit",
        ),
        (
            (CONFIG, "--vary", "optimizer.b1=0.5,2"),
            "The space has optimizer.b1=2.0, which the config",
        ),
        (
            (
                *(CONFIG, "--vary", "algorithm.num_envs=4,7"),
                *("--vary", "algorithm.minibatches=1,7"),
            ),
            "refuses 1 of 4 points of the grid, such as algorithm.num_envs=4, algorithm.minibatches=7 (",
        ),
        ((CONFIG, "--show"), "or name a sweep file or the directory of a sweep"),
        (("missing.py", "--vary", "a=1"), "missing.py does not exist"),
        (("missing", "--show"), "missing does not exist; name a sweep file, a config"),
        ((CONFIG, "--vary", f"{RATE}=0.1,0.2", "--sweep-dir", CONFIG), "which is a file; name a"),
        ((SUPPORT,), "so that this is no sweep"),
    ],
)
def test_what_is_no_sweep(words, message, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("sweep", *words)
    if "--launcher" not in words:
        assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_name_scatters_nothing(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch()
    said = refused("sweep", CONFIG, *GRID, "--sweep-dir", "")
    assert "--sweep-dir is the current directory, which holds other files" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_shown_is_the_sweep_that_was_asked_for(swept, refused):
    directory, _, command = swept
    assert "differs in metric" in refused(*command, "--show", "--metric", "sampled_return")
    assert "leave out --trials" in refused("sweep", directory, "--show", "--trials", "8")


def test_test_figures_that_are_gone_are_measured_again(swept, ragjax, tmp_path):
    directory = Path(shutil.copytree(swept[0], tmp_path / "sweep"))
    [winner] = json.loads((directory / "winner.json").read_text())["winners"]
    gone = directory / "runs" / winner["runs"][0] / "result.json"
    before = json.loads(gone.read_text())["greedy_return"]
    gone.unlink()
    assert "(its result is gone)" in ragjax("sweep", directory, "--show")[1]
    code, out, err = ragjax("sweep", directory)
    assert code == 0
    assert f"measuring the best, trial {winner['trial']}, on test data" in err
    assert "gone" not in out
    assert json.loads(gone.read_text())["greedy_return"] == before


def test_a_sweep_s_directory_says_all_of_it(swept, refused):
    directory, _, _ = swept
    assert "leave out --seeds" in refused("sweep", directory, "--seeds", "4")
    assert "leave out --seed" in refused("sweep", directory, "--seed", "4")


def test_a_directory_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").touch()
    words = ("sweep", CONFIG, *GRID, "--sweep-dir", tmp_path / "file" / "sweep")
    assert str(tmp_path / "file") in refused(*words)


def test_stopped_by_ctrl_c_it_goes_on(ragjax, tmp_path, monkeypatch):
    record = Store.record

    def stopped(store, run, outcome):
        record(store, run, outcome)
        signal.raise_signal(signal.SIGINT)

    words = ("sweep", CONFIG, *GRID, "--sweep-dir", tmp_path / "sweep", "--side-by-side", 1)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "record", stopped)
        code, _, err = ragjax(*words)
    assert code == 130
    assert f"stopped; go on by: ragjax sweep {tmp_path / 'sweep'}" in err
    assert len(list((tmp_path / "sweep").glob("runs/*/outcome.json"))) == 1
    code, out, _ = ragjax("sweep", tmp_path / "sweep")
    assert code == 0
    assert "2 finished" in out


def test_failed_trials_are_tried_again_if_asked_for(ragjax, tmp_path):
    words = ("sweep", CONFIG, "--env_steps", 2 * 64, "--vary", f"{RATE}=1e35,0.01")
    words = (*words, "--sweep-dir", tmp_path / "sweep")
    code, out, _ = ragjax(*words)
    assert code == 0
    assert "2 trials: 1 finished, 0 stopped, 1 failed, 0 open" in out
    assert "lower the learning rate" in " ".join(out.split())
    [failed] = [
        path
        for path in (tmp_path / "sweep").glob("runs/*/outcome.json")
        if json.loads(path.read_text())["status"] == "failed"
    ]
    before = failed.stat().st_mtime_ns
    ragjax(*words)
    assert failed.stat().st_mtime_ns == before
    ragjax(*words, "--retry")
    assert failed.stat().st_mtime_ns > before


# Launchers


def until(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive_workers(directory: Path) -> list[int]:
    return [int(path.name.partition("-")[0]) for path in directory.glob("workers/*")]


@pytest.fixture
def start():
    """(directory, options) -> the process of a sweep of twelve runs, each by itself."""
    begun = []

    def run(directory, *options):
        begun.append(started(directory, *options))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def started(directory: Path, *options: str) -> subprocess.Popen:
    words = ["sweep", str(CONFIG), "--env_steps", str(20 * 64), "--side-by-side", "1"]
    words += ["--vary", f"{RATE}=0.01,0.02,0.03,0.04,0.05,0.06", "--seeds", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "ragjax", *words, "--sweep-dir", str(directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), str(Path.cwd())])},
    )


@pytest.mark.parametrize(
    "launcher",
    ["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ray", "slurm"))],
)
def test_two_workers_one_of_which_is_killed(launcher, start, tmp_path):
    """The other makes what is left; Ray starts a killed one again."""
    directory = tmp_path / "sweep"
    options = ["--workers", "2", "--launcher", launcher]
    if launcher == "slurm":
        options += ["--launcher-options", "cluster=local,timeout_min=10"]
    process = start(directory, *options)
    until(lambda: len(list(directory.glob("runs/*/outcome.json"))) >= 1, process)
    until(lambda: len(alive_workers(directory)) == 2, process)
    os.kill(alive_workers(directory)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "6 trials of 2 runs each: 6 finished" in out, err
    assert len(results(directory)) == 2
    assert not list(directory.glob("runs/*/lock.*"))


def test_a_worker_that_cannot_work_says_why(tmp_path, capsys):
    assert launchers.run_worker(str(tmp_path)) == 2
    assert "no sweep" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_two_commands_share_a_sweep(start, tmp_path):
    """The second one joins in, and neither does what the other one does."""
    directory = tmp_path / "sweep"
    first = start(directory)
    wait_for(first, directory / "sweep.json")
    second = start(directory)
    for process in (first, second):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert "6 finished" in out
    assert len(results(directory)) == 2


README = (Path(__file__).parents[2] / "ragjax" / "sweep" / "README.md").read_text()


def test_the_sweep_file_of_the_guide_is_one(tmp_path):
    file = tmp_path / "guide.py"
    file.write_text(README.split("```python\n")[1].split("```")[0])
    sweep = load_sweep(file)
    store = Store(tmp_path / "sweep")
    store.begin(sweep, planned)
    again = Store(tmp_path / "sweep")
    again.open()
    assert again.sweep == sweep


@pytest.mark.parametrize("line", re.findall(r"^ragjax sweep (.+ --vary .+)$", README, re.MULTILINE))
def test_commands_of_the_guide_are_parsed(line):
    options, overrides = _parse_with_overrides(
        sweep_command.Sweep, shlex.split(line), "ragjax sweep"
    )
    _, asked = sweep_command._asked(options, overrides)
    assert len(asked.space) == line.count("--vary")
    assert asked.seeds == 3
