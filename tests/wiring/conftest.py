"""The runs of spied parts that the tests of the wiring read; none of them may be changed."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import spied_config
import wiring
from spied import Told

from ragjax.cli import main

SUPPORT = Path(__file__).parents[1] / "support"
RATE, STEPS = 0.1, 8


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(words) -> the directory of a run that was made by the command line, elsewhere."""

    def make(*words):
        base = tmp_path_factory.mktemp("made")
        (base / "elsewhere").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(base / "elsewhere")
            assert main(["train", *map(str, words), "--run-dir", str(base / "run")]) == 0
        return base / "run"

    return make


@pytest.fixture(scope="session")
def first(made):
    """spied_config.py with seed 3."""
    return made(SUPPORT / "spied_config.py", "--seed", 3)


@pytest.fixture(scope="session")
def following(first):
    """A config of seed 4 that starts from `first`: two updates a step, and a reference."""
    return dataclasses.replace(
        spied_config.get_config(),
        objective=Told(updates=2, needs_reference=True, critic=True),
        optimizer=wiring.questions_optimizer(RATE, schedule="linear", final_fraction=0.0),
        seed=4,
        start=str(first),
    )


@pytest.fixture(scope="session")
def second(following, tmp_path_factory):
    """The run of `following`."""
    run_dir = tmp_path_factory.mktemp("second") / "run"
    wiring.train(following, run_dir)
    return run_dir


@pytest.fixture(scope="session")
def played(made):
    """spied_policy_config.py with seed 3."""
    return made(SUPPORT / "spied_policy_config.py", "--seed", 3)


@pytest.fixture
def begun(tmp_path):
    """(run) -> a copy of it that stands at its last checkpoint but one, as if killed after that."""

    def begin(run_dir):
        copy = Path(shutil.copytree(run_dir, tmp_path / "begun"))
        *_, before, last = sorted(int(path.name) for path in (copy / "checkpoints").iterdir())
        shutil.rmtree(copy / "checkpoints" / str(last))
        for name in ("result.json", "predictions.jsonl", "episodes.jsonl"):
            (copy / name).unlink(missing_ok=True)
        return copy, before

    return begin


@pytest.fixture(scope="session")
def average():
    """The marker that `first` is measured with: a_n = (a_{n-1} + θ_n) / 2 with θ_n = -n · RATE."""
    value = 0.0
    for update in range(1, STEPS + 1):
        value = (value - update * RATE) / 2
    return value
