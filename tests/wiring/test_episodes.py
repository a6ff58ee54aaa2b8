"""What a run on episodes hands to its parts, as they tell of it: see spied_env.py."""

import dataclasses

import jax
import numpy as np
import pytest
import spied_policy_config
import wiring
from wiring import column, left, result_of, rows_of

from ragjax.training.loop import NonFiniteLossError

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
    rows = [row for row in rows_of(played / "metrics.jsonl") if "eval/greedy_return" in row]
    assert [row["step"] for row in rows] == [3, 6, STEPS]
    for row in rows:
        assert row["eval/greedy_return"] == row["eval/sampled_return"] == 400
    result = result_of(played)
    assert result["split"] == "test"
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


def test_the_rate_falls_with_every_update_where_it_counts_updates(tmp_path):
    """Two rollouts of two epochs in two minibatches are eight."""
    optimizer = dataclasses.replace(wiring.episodes_optimizer(RATE, anneal=True), counts="updates")
    config = dataclasses.replace(plain(2, {"epochs": 2, "minibatches": 2}), optimizer=optimizer)
    wiring.train(config, tmp_path / "run")
    marker = left(tmp_path / "run").params["policy"]["marker"]
    np.testing.assert_allclose(marker, falling(8)[-1], rtol=1e-4)


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


SEEDS = range(5, 9)


def side_by_side(run_dir, *, resume=False, **algorithm):
    """Seeds 5 to 8 in one program, of three updates each."""
    config = plain(3, algorithm, seed=SEEDS[0], num_seeds=len(SEEDS))
    wiring.train(config, run_dir, resume=resume)


@pytest.fixture(scope="module")
def well(tmp_path_factory):
    """Seeds side by side that are all well."""
    run_dir = tmp_path_factory.mktemp("seeds") / "run"
    side_by_side(run_dir)
    return run_dir


def test_seeds_leave_each_its_own(well):
    """Luck is drawn with a seed's first parameters and never changes."""
    found = {}
    for seed in SEEDS:
        own = well / f"seed_{seed}"
        assert result_of(own)["seed"] == seed
        luck, *later = column(own, "luck")
        assert later == [luck, luck]
        assert luck == pytest.approx(float(left(own).params["policy"]["luck"]))
        found[seed] = luck
    assert len(set(found.values())) == len(SEEDS)


def test_one_seeds_nan_stops_it_alone(well, tmp_path):
    """The least lucky one is poisoned after its first update; the others end as without it."""
    luck = {seed: column(well / f"seed_{seed}", "luck")[0] for seed in SEEDS}
    ill, next_one, *_ = sorted(SEEDS, key=luck.__getitem__)
    run_dir, poison = tmp_path / "run", (luck[ill] + luck[next_one]) / 2
    with pytest.raises(NonFiniteLossError) as raised:
        side_by_side(run_dir, poison=poison)
    said = str(raised.value)
    assert f"The loss of seed {ill} is nan at step 2 (last good checkpoint: none);" in said
    assert said.count("seed ") == 1
    for seed in SEEDS:
        own = run_dir / f"seed_{seed}"
        rows = rows_of(own / "metrics.jsonl")
        if seed == ill:
            assert [row["step"] for row in rows] == [1]
            assert sorted(path.name for path in own.iterdir() if path.is_file()) == [
                "config.json",
                "metrics.jsonl",
                "origin.json",
            ]
            assert not list(own.rglob("checkpoints/*"))
        else:
            healthy = well / f"seed_{seed}"
            assert rows == rows_of(healthy / "metrics.jsonl")
            assert len(rows) == 3
            result, other = result_of(own), result_of(healthy)
            for name in ("seed", "steps", "greedy_return", "sampled_return", "parameters"):
                assert result[name] == other[name]
            jax.tree.map(np.testing.assert_array_equal, left(own).params, left(healthy).params)
    # What has failed stays so.
    with pytest.raises(NonFiniteLossError, match=f"^Seed {ill} has failed before step 3, "):
        side_by_side(run_dir, resume=True, poison=poison)
    assert not (run_dir / f"seed_{ill}" / "result.json").exists()
