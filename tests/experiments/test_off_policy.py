"""The experiment on Open Bandit, over made logs of its form whose value is known."""

from pathlib import Path

import numpy as np
import pytest
from command_line import the_sentence

from ragjax.errors import UserError
from ragjax.evaluation.plots import record_figures
from ragjax.files import load_module

EXPERIMENT = Path(__file__).parents[2] / "experiments/off_policy.py"
ITEMS, ROUNDS = 4, 3000
CLICKED = np.array([0.05, 0.1, 0.3, 0.5])
SHOWN = {"random": np.full(ITEMS, 1 / ITEMS), "bts": np.array([0.1, 0.1, 0.3, 0.5])}


def write_log(folder, name, items=ITEMS, places=3, clicks=1):
    rng = np.random.default_rng(len(name))
    columns = [f"user-item_affinity_{item}" for item in range(ITEMS)]
    head = ["", "item_id", "position", "click", "propensity_score", "user_feature_0", *columns]
    lines = [",".join(head)]
    for number in range(ROUNDS):
        item = min(rng.choice(ITEMS, p=SHOWN[name]), items - 1)
        click, user = clicks * (rng.uniform() < CLICKED[item]), rng.choice(["one", "two"])
        row = [
            number,
            item,
            rng.integers(1, places + 1),
            click,
            SHOWN[name][item],
            user,
            *[0.0] * ITEMS,
        ]
        lines.append(",".join(map(str, row)))
    path = folder / name / "men/men.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def experiment(monkeypatch):
    module = load_module(EXPERIMENT, "off_policy_experiment")
    monkeypatch.setattr(module, "RESAMPLES", 50)
    return module


def test_made_logs(experiment, tmp_path, monkeypatch):
    for name in SHOWN:
        write_log(tmp_path, name)
    monkeypatch.setenv("OPEN_BANDIT", str(tmp_path))
    numbers = experiment.measure()
    assert numbers["rounds"] == {"random": ROUNDS, "bts": ROUNDS}
    for name in SHOWN:
        value = SHOWN[name] @ CLICKED
        for by, row in numbers[name].items():
            error = 0.01 if by == experiment.DIRECT else row["standard_error"]
            bias = 0.03 * ("up to" in by)
            assert abs(row["value"] - value) < 4 * error + bias, (name, by)
            assert row["low"] < row["value"] < row["high"]
    assert numbers["random"]["IPS"]["largest_weight"] == pytest.approx(2.5)
    # The table is made of what was measured alone.
    monkeypatch.setattr(experiment, "results_of", lambda path: tmp_path / "results/off_policy")
    origin = {"git_commit": "0" * 40, "git_dirty": False}
    record_figures(tmp_path / "results/off_policy", numbers | origin)
    body = experiment.get_table().body
    assert body.count("\n| ") == 2 * len(numbers["bts"]) + 1
    assert "Of 5 intervals for random" in body


@pytest.fixture
def refusal(ragjax):
    """() -> the one sentence that measuring stops with."""

    def run():
        code, out, err = ragjax("plot", EXPERIMENT, "--run")
        assert (code, out) == (2, "")
        begun, _, rest = err.partition("\n")
        assert begun == f"measuring {EXPERIMENT}"
        return the_sentence(rest)

    return run


def test_a_log_that_does_not_show_all_items_is_refused(tmp_path, monkeypatch, refusal):
    for name in SHOWN:
        write_log(tmp_path, name, items=ITEMS - 1)
    monkeypatch.setenv("OPEN_BANDIT", str(tmp_path))
    assert "shows 3 of 4 items; take a log in which all are shown." in refusal()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"places": 4}, "men.csv has an item at position 4 of 3; name a log of three."),
        ({"clicks": 2}, "men.csv has rewards that are neither 0 nor 1; name a log of clicks."),
    ],
)
def test_a_log_of_something_else_is_refused(tmp_path, monkeypatch, refusal, wrong, sentence):
    write_log(tmp_path, "random", **wrong)
    monkeypatch.setenv("OPEN_BANDIT", str(tmp_path))
    assert sentence in refusal()


def test_a_log_that_does_not_fit_memory_is_refused(experiment, tmp_path, monkeypatch):
    write_log(tmp_path, "random")
    monkeypatch.setenv("OPEN_BANDIT", str(tmp_path))
    monkeypatch.setattr(experiment, "MOST_ROUNDS", ROUNDS - 1)
    with pytest.raises(UserError, match=r"men.csv has more than 2,999 rounds; name the dataset's"):
        experiment.measure()
    monkeypatch.setattr(experiment, "MOST_ROUNDS", ROUNDS)
    with pytest.raises(UserError, match=r"holds no bts/men/men\.csv"):
        experiment.measure()


def test_without_the_dataset_it_is_one_sentence(tmp_path, monkeypatch, refusal):
    monkeypatch.delenv("OPEN_BANDIT", raising=False)
    assert refusal().startswith("OPEN_BANDIT is not set; set it to")
    monkeypatch.setenv("OPEN_BANDIT", str(tmp_path))
    assert f"OPEN_BANDIT is {tmp_path}, which holds no random/men/men.csv" in refusal()


def test_an_impossible_propensity_is_one_sentence(tmp_path, monkeypatch, refusal):
    path = write_log(tmp_path, "random")
    path.write_text(path.read_text().replace(",0.25,", ",0,", 1))
    monkeypatch.setenv("OPEN_BANDIT", str(tmp_path))
    assert "men.csv, line 2: 'propensity' is 0;" in refusal()
