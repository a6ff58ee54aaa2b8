"""Episodes of a policy: their records, recorded runs and the columns of a table made of them."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation.episodes import Episodes, read_episodes
from ragjax.evaluation.plots import learning_curves
from ragjax.evaluation.rendering import render
from ragjax.evaluation.runs import load_runs, record_run
from ragjax.evaluation.statistics import bootstrap_interval, pass_hat
from ragjax.evaluation.tables import (
    Column,
    MarkdownTable,
    Row,
    Table,
    load_table,
    missing_runs,
)

SCORES = (10.0, 20.0, 30.0, 40.0, 1000.0)


def episodes(score):
    """Of which no figure of one mode is that of the other."""
    returns = {"greedy": [score - 1, score + 1], "sampled": [score - 8, score - 2]}
    lengths = {"greedy": [3, 5], "sampled": [2, 8]}
    metrics = {"greedy": {"tries": [None, 2.0]}, "sampled": {"tries": [1.0, 4.0]}}
    return Episodes(returns, lengths, metrics)


def make_run(directory, seed, played=None):
    """A finished run of a policy, as the train command leaves it."""
    directory.mkdir(parents=True)
    played = played or episodes(SCORES[seed])
    played.write(directory / "episodes.jsonl")
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
    episodes(7.0).write(tmp_path / "episodes.jsonl")
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


KINDS = ("known", "unseen", "unseen", "unseen")
REWARDS = {"greedy": [[1, 4, 5, 9], [1, 4, 5, 6]], "sampled": [[0, 3, 3, 3], [2, 3, 3, 3]]}


def listed(seed, ids="abcd", kinds=KINDS):
    """Every question once: of one kind there is one, of the other there are three."""
    return Episodes(
        returns={
            mode: [float(value) for value in values[seed]] for mode, values in REWARDS.items()
        },
        lengths={mode: [1, 2, 2, 2] for mode in REWARDS},
        metrics={mode: {"score_unseen": [None, 1.0, 0.0, float(seed)]} for mode in REWARDS},
        ids=tuple(ids),
        kinds=kinds,
    )


def test_a_mean_over_every_question_is_one_over_kinds(tmp_path):
    listed(0).write(tmp_path / "episodes.jsonl")
    assert json.loads((tmp_path / "episodes.jsonl").read_text().splitlines()[1]) == {
        **{"mode": "greedy", "id": "b", "kind": "unseen", "return": 4.0, "length": 2},
        "score_unseen": 1.0,
    }
    found = read_episodes(tmp_path / "episodes.jsonl")
    assert found == listed(0)
    summary = found.summary()
    assert (summary["episodes"], summary["greedy_return"]) == (4, (1 + 6) / 2)
    variance = (2.5**2 + (0.5**2 + 1.5**2 + 5.5**2) / 3) / 2
    assert summary["greedy_deviation"] == pytest.approx(variance**0.5)
    assert summary["greedy_length"] == 1.5
    assert summary["greedy_score_unseen"] == pytest.approx(1 / 3)
    rows = (tmp_path / "episodes.jsonl").read_text().replace('"b"', '"e"', 1)
    (tmp_path / "episodes.jsonl").write_text(rows)
    with pytest.raises(UserError, match="the modes played different episodes"):
        read_episodes(tmp_path / "episodes.jsonl")


def listed_table(root, *rows):
    """A table of two seeds; each row is (key, seed -> its episodes)."""
    table = Table(
        name="asked",
        title="Rewards",
        rows=tuple(Row(key, f"configs/tiny/{key}.py") for key, _ in rows),
        columns=(
            Column("reward", "sampled_return", scale=1, digits=2),
            Column("minus other", "greedy_return", scale=1, digits=2, against="other"),
            Column("score", "greedy_score_unseen", scale=1, digits=2),
            Column("s", "train_seconds", scale=1),
        ),
        seeds=(0, 1),
        results=root / "experiments" / "results",
    )
    for key, made in rows:
        for seed in table.seeds:
            run = make_run(root / "runs" / key / f"seed_{seed}", seed, made(seed))
            record_run(run, root / "experiments" / "results" / "asked" / key / f"seed_{seed}")
    return table


def test_cells_over_every_question_resample_questions_too(tmp_path):
    table = listed_table(tmp_path, ("ppo", listed), ("other", lambda seed: listed(0)))
    text = render(table)
    kinds = np.array(KINDS)
    reward = bootstrap_interval([np.array(row, float) for row in REWARDS["sampled"]], strata=kinds)
    less = [np.array(row, float) - REWARDS["greedy"][0] for row in REWARDS["greedy"]]
    difference = bootstrap_interval(less, strata=kinds)
    score = bootstrap_interval([np.array([1.0, 0.0, seed]) for seed in (0, 1)])
    cells = [f"{c.mean:.2f} ± {c.half_width:.2f}" for c in (reward, difference, score)]
    assert reward.mean == 2.0
    assert f"| ppo | {' | '.join(cells)} | 1.5 ± 0.0 |" in text
    assert "bootstrap interval over seeds 0, 1 and 4 questions" in text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda seed: listed(seed, ids="abce"),
            "answer different questions, 2 of them in one only",
        ),
        (lambda seed: listed(seed, kinds=KINDS[::-1]), "order or classify the same questions"),
        (lambda seed: episodes(1.0), "has drawn its episodes and"),
    ],
)
def test_rows_over_other_questions_are_refused(tmp_path, other, message):
    with pytest.raises(UserError, match=message):
        render(listed_table(tmp_path, ("ppo", listed), ("other", other)))


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
    (greedy,) = learning_curves({"PPO": runs}, "greedy")
    assert list(greedy.y) == [0.0, 1.0]


def test_a_benchmark_writes_its_own_table(tmp_path):
    path = Path(tmp_path / "benchmark.py")
    path.write_text(
        "from ragjax.evaluation.tables import MarkdownTable\n\n\n"
        'def get_table():\n    return MarkdownTable("Speed", "| a |", "By hand.")\n'
    )
    table = load_table(path)
    assert table == MarkdownTable("Speed", "| a |", "By hand.")
    source = "<details><summary>Source</summary>\n\nBy hand.\n\n</details>"
    assert render(table) == f"**Speed.**\n\n| a |\n\n{source}\n"
    assert missing_runs(table) == []
    with pytest.raises(UserError, match="markdown only"):
        render(table, "csv")


def test_all_of_k_episodes_succeed_as_often_as_subsets_of_the_trials_say():
    trials = (1, 1, 0, 1, 1, 0)
    for k in (1, 2, 4):
        subsets = list(itertools.combinations(trials, k))
        expected = sum(all(subset) for subset in subsets) / len(subsets)
        np.testing.assert_allclose(pass_hat(sum(trials), len(trials), k), expected)
    assert pass_hat(3, 3, 4) is None


def test_an_environment_that_knows_success_has_pass_hat_in_its_summary():
    flat = {"greedy": [1.0] * 6, "sampled": [1.0] * 6}
    lengths = {"greedy": [1] * 6, "sampled": [1] * 6}
    success = {
        "greedy": {"success": [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]},
        "sampled": {"success": [1.0, 0.0, None, 0.0, 1.0, 0.0]},
    }
    summary = Episodes(flat, lengths, success).summary()
    assert summary["greedy_success"] == pytest.approx(4 / 6)
    assert summary["greedy_pass^2"] == pytest.approx(6 / 15)
    assert summary["greedy_pass^4"] == pytest.approx(1 / 15)
    assert summary["greedy_pass^8"] is None
    assert summary["sampled_pass^2"] == pytest.approx(1 / 10)  # of five that are known
    assert "greedy_pass^2" not in Episodes(flat, lengths).summary()
