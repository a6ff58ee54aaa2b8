"""What a run on episodes hands to its parts, as they tell of it: see spied_env.py."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import spied_policy_config
import wiring
from wiring import column, left, result_of, rows_of

from ragjax.errors import UserError

RATE, STEPS = 0.1, 8


def plain(rollouts, algorithm, **fields):
    """The config with fields of its algorithm, a constant rate, nothing normalised, nothing measured."""
    config = spied_policy_config.get_config()
    return dataclasses.replace(
        config,
        algorithm=dataclasses.replace(config.algorithm, **algorithm),
        optimizer=wiring.episodes_optimizer(RATE, anneal=False),
        env_steps=16 * rollouts,
        normalise_observations=False,
        normalise_rewards=False,
        evaluation=wiring.EpisodeEvaluation(every=0, episodes=2),
        **fields,
    )


def test_rewards_and_observations_are_normalised(played):
    """Rewards of 100 and observations of 1,000 are cut to 10 at the most; returns stay as they were."""
    assert max(column(played, "reward_size")) <= 10
    assert max(column(played, "observation_size")) <= 10
    assert column(played, "episode_return") == [200] * STEPS


def test_each_measurement_has_its_split(played):
    """The development split while training, the test split at the end."""
    [row] = [
        row
        for row in rows_of(played / "metrics.jsonl")
        if row["step"] == 4 and "eval/greedy_return" in row
    ]
    assert row["eval/greedy_return"] == row["eval/sampled_return"] == 400
    result = result_of(played)
    assert result["greedy_return"] == result["sampled_return"] == 600


def test_the_blind_policy_reads_other_pages(played):
    """One page in eight is that of another by chance, of which a few of eight may be."""
    assert 200 <= column(played, "eval/retrieval_gain")[0] <= 400


def falling(count):
    """Markers before each update, whose rate falls linearly to 0."""
    rates = RATE * (1 - np.arange(count) / count)
    return -np.concatenate([[0], np.cumsum(rates)])


def test_the_rate_falls_to_zero(played):
    np.testing.assert_allclose(column(played, "marker"), falling(STEPS)[:-1], rtol=1e-4)
    marker = left(played).params["policy"]["marker"]
    np.testing.assert_allclose(marker, falling(STEPS)[-1], rtol=1e-4)


def test_the_index_is_embedded_every_third_update(played):
    made_of = falling(STEPS)[[0, 0, 0, 3, 3, 3, 6, 6]]
    np.testing.assert_allclose(column(played, "index_marker"), made_of, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("target_kl", "made"), [(0.0, 4), (1.5, 2)])
def test_a_rollout_is_put_aside_once_the_policy_has_moved_too_far(target_kl, made, tmp_path):
    """The divergence is 0, 1, 2, 3 in the minibatches of two epochs; the rate stays as it is."""
    config = plain(1, {"epochs": 2, "minibatches": 2, "target_kl": target_kl})
    wiring.train(config, tmp_path / "run")
    assert column(tmp_path / "run", "updates_made") == [made / 4]
    marker = left(tmp_path / "run").params["policy"]["marker"]
    np.testing.assert_allclose(marker, -RATE * made, rtol=1e-4)
    # Nothing is normalised unless that is asked for.
    assert column(tmp_path / "run", "reward_size") == [100]
    assert column(tmp_path / "run", "observation_size") == [1000]


def test_a_result_tells_of_its_run(played):
    result, params = result_of(played), left(played).params
    assert (result["seed"], result["environment"], result["steps"]) == (3, "split", STEPS)
    assert result["env_steps"] == column(played, "env_steps")[-1] == STEPS * 16
    rows = [row for row in rows_of(played / "metrics.jsonl") if "eval/greedy_return" in row]
    assert result["curve"] == {
        "env_steps": [16 * row["step"] for row in rows],
        "greedy": [row["eval/greedy_return"] for row in rows],
        "sampled": [row["eval/sampled_return"] for row in rows],
    }
    assert result["parameters"] == {
        group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in params.items()
    }
    assert result["episodes"] == 6
    assert len(rows_of(played / "episodes.jsonl")) == 12


SEEDS = 4


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    """Seeds 5 to 8 in one program, of two updates each."""
    run_dir = tmp_path_factory.mktemp("seeds") / "run"
    wiring.train(plain(2, {}, seed=5, num_seeds=SEEDS), run_dir)
    return run_dir


def test_seeds_leave_each_its_own(side_by_side):
    """Luck is drawn with a seed's first parameters and never changes."""
    found = {}
    for seed in range(5, 5 + SEEDS):
        own = side_by_side / f"seed_{seed}"
        assert result_of(own)["seed"] == seed
        first, last = column(own, "luck")
        assert first == last == pytest.approx(float(left(own).params["policy"]["luck"]))
        found[seed] = first
    assert len(set(found.values())) == SEEDS


def test_one_seeds_nan_stops_all(side_by_side, tmp_path):
    """Also where the others are well: here the least lucky one is poisoned."""
    lucks = sorted(column(side_by_side / f"seed_{seed}", "luck")[0] for seed in range(5, 5 + SEEDS))
    config = plain(1, {"poison": (lucks[0] + lucks[1]) / 2}, seed=5, num_seeds=SEEDS)
    with pytest.raises(UserError, match=r"The loss is .* at step 1 ") as raised:
        wiring.train(config, tmp_path / "run")
    values = re.search(r"\[(.*?)\]", str(raised.value), re.DOTALL).group(1).split()
    assert (values.count("nan"), len(values)) == (1, SEEDS)
