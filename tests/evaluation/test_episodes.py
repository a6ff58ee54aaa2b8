"""Episodes of a policy: their records, recorded runs and the columns of a table made of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation.episodes import Episodes, read_episodes, write_episodes
from ragjax.evaluation.plots import learning_curves
from ragjax.evaluation.runs import load_runs, record_run
from ragjax.evaluation.tables import Column, Row, Table, Written, load_table, missing_runs, render

SCORES = (10.0, 20.0, 30.0, 40.0, 1000.0)


def episodes(score):
    """Of which no figure of one mode is that of the other."""
    returns = {"greedy": [score - 1, score + 1], "sampled": [score - 8, score - 2]}
    lengths = {"greedy": [3, 5], "sampled": [2, 8]}
    metrics = {"greedy": {"tries": [None, 2.0]}, "sampled": {"tries": [1.0, 4.0]}}
    return Episodes(returns, lengths, metrics)


def make_run(directory, seed):
    """A finished run of a policy, as the train command leaves it."""
    directory.mkdir(parents=True)
    played = episodes(SCORES[seed])
    write_episodes(directory / "episodes.jsonl", played)
    curve = {"env_steps": [8, 16], "greedy": [0.0, 1.0], "sampled": [seed, 10 * seed]}
    facts = {"env_steps": 16, "steps": 2, "train_seconds": 1.5, "versions": {}, "curve": curve}
    result = played.summary() | facts | {"seed": seed, "git_commit": "c0ffee"}
    (directory / "result.json").write_text(json.dumps(result))
    (directory / "config.json").write_text(json.dumps({"type": "x", "seed": seed}))
    return directory


@pytest.fixture
def table(tmp_path):
    table = Table(
        name="tiny",
        title="Returns",
        rows=(Row("PPO", "configs/tiny/ppo.py", published={"theirs": "500.0 ± 0.0"}),),
        columns=(
            Column("greedy", "greedy_return", scale=1, digits=2, statistic="iqm"),
            Column("theirs"),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=tmp_path / "experiments" / "results",
        side_by_side=True,
    )
    for row, seed, destination in missing_runs(table):
        record_run(make_run(tmp_path / "runs" / row.directory / f"seed_{seed}", seed), destination)
    return table


def test_records_hold_every_figure(tmp_path):
    write_episodes(tmp_path / "episodes.jsonl", episodes(7.0))
    found = read_episodes(tmp_path / "episodes.jsonl")
    assert found == episodes(7.0)
    assert found.summary() == {
        "episodes": 2,
        **{
            "greedy_return": 7.0,
            "greedy_deviation": 1.0,
            "greedy_length": 4.0,
            "greedy_tries": 2.0,
        },
        **{"sampled_return": 2.0, "sampled_deviation": 3.0, "sampled_length": 5.0},
        "sampled_tries": 2.5,
    }
    (tmp_path / "episodes.jsonl").write_text('{"mode": "greedy"}\n')
    with pytest.raises(UserError, match="evaluate the run again"):
        read_episodes(tmp_path / "episodes.jsonl")


def test_what_is_played_is_recorded_by_mode():
    """An episode that a metric is not about has NaN there; what no episode is about has no mean."""
    of = {"return": np.array([6.0, 8.0]), "length": np.array([3, 5])}
    greedy = of | {"tries": np.array([np.nan, 2.0])}
    sampled = {name: values - 1 for name, values in of.items()} | {"tries": np.full(2, np.nan)}
    found = Episodes.from_played({"sampled": sampled, "greedy": greedy})
    assert found.returns == {"greedy": [6.0, 8.0], "sampled": [5.0, 7.0]}
    assert found.lengths == {"greedy": [3, 5], "sampled": [2, 4]}
    assert found.metrics == {"greedy": {"tries": [None, 2.0]}, "sampled": {"tries": [None, None]}}
    assert found.summary()["greedy_tries"] == 2.0
    assert found.summary()["sampled_tries"] is None


def test_cells_are_interquartile_means_beside_published_figures(table):
    text = render(table)
    assert "| PPO | 30.00 ± " in text  # of 20, 30 and 40: the outlier doesn't count
    assert "| 500.0 ± 0.0 |" in text
    assert "interquartile mean" in text
    assert "each the mean of 2 episodes" in text
    assert not missing_runs(table)


def test_a_result_that_its_episodes_contradict_is_refused(tmp_path):
    run = make_run(tmp_path / "run", 0)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"greedy_return": 500.0}))
    with pytest.raises(UserError, match=r"greedy_return as 500\.0, but episodes\.jsonl"):
        record_run(run, tmp_path / "recorded")


def test_learning_curves_are_bands_of_seeds(table):
    runs = load_runs(table.directory(table.rows[0]), table.seeds)
    (curve,) = learning_curves({"PPO": runs, "nothing": []})
    assert (list(curve.x), list(curve.y)) == ([8, 16], [2.0, 20.0])
    assert (list(curve.low), list(curve.high)) == ([0.0, 0.0], [4.0, 40.0])


def test_a_benchmark_writes_its_own_table(tmp_path):
    path = Path(tmp_path / "benchmark.py")
    path.write_text(
        "from ragjax.evaluation.tables import Written\n\n\n"
        'def get_table():\n    return Written("| a |\\n")\n'
    )
    table = load_table(path)
    assert table == Written("| a |\n")
    assert render(table) == "| a |\n"
    assert missing_runs(table) == []
    with pytest.raises(UserError, match="markdown only"):
        render(table, "csv")
