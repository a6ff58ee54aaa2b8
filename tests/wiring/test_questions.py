"""What a run on questions hands to its parts, as they tell of it: see spied.py."""

import dataclasses

import jax
import numpy as np
import pytest
import spied_config
import wiring
from spied import BUILT, FIRST_HALF, NAMES, size_of
from wiring import column, embedded, left, result_of, rows_of

from ragjax.learners import question_answerer
from ragjax.run_dir import load_run

RATE, STEPS = 0.1, 8
QUESTIONS = range(len(NAMES))


def asked(run_dir, micro_batches=1):
    """The training questions of each step; the figure is their bits' mean over micro-batches."""
    masks = [round(micro_batches * value) for value in column(run_dir, "asked")]
    return [{row for row in QUESTIONS if mask >> row & 1} for mask in masks]


def test_every_epoch_asks_each_question_once(first):
    """Three steps of 4 questions are one epoch, and so are two steps of 6."""
    steps = asked(first, 2)
    assert [len(step) for step in steps] == [4] * 3 + [6] * 5
    for epoch in (steps[:3], steps[3:5], steps[5:7]):
        assert set.union(*epoch) == set(QUESTIONS)
    assert steps[3] != steps[5]


def test_the_order_is_the_seeds_own(first, second):
    one, other = asked(first, 2)[:3], asked(second)[:3]
    assert set.union(*one) == set.union(*other)
    assert one != other


def test_a_phase_has_its_own_shapes(first):
    """Candidates of BM25 are given, with the named passage first; an index is searched else."""
    assert column(first, "k") == [3] * 3 + [2] * 5
    assert column(first, "rows") == [2] * 3 + [3] * 5  # of each of two micro-batches
    assert column(first, "given") == [1] * 3 + [0] * 5
    assert column(first, "given_gold") == [1] * 3


def test_the_index_is_as_old_as_it_says(first):
    """It is embedded anew every third step that searches it, by the parameters before the step."""
    assert column(first, "index_age") == [0, 1, 2, 0, 1]
    error = np.array(column(first, "index_error")[3:])
    np.testing.assert_allclose(error[[0, 3]], 0, atol=1e-6)
    assert (error[[1, 2, 4]] > 0.01).all()


def test_the_model_is_the_configs(first):
    """Two towers, a scale of 1, bfloat16, and a critic that learns."""
    params = left(first).params
    assert params["retriever"].keys() == {"observed", "stored", "log_scale"}
    assert column(first, "marker")[0] == 0
    assert set(BUILT) == {"bfloat16"}
    np.testing.assert_allclose(column(first, "critic_size"), 0.5 * np.arange(STEPS), rtol=1e-4)


def test_an_update_moves_by_the_rate(first):
    np.testing.assert_allclose(column(first, "marker"), -RATE * np.arange(STEPS), rtol=1e-4)
    np.testing.assert_allclose(left(first).params["retriever"]["log_scale"], -RATE * STEPS, 1e-4)


def test_a_sample_of_the_development_split_is_measured_while_training(first):
    """With the averaged parameters, which alone are above the bar, and an index made of these.

    Right answers are those to the split's first half, so that a sample has fewer than half a split. Who
    reads passages other than those that were found gives no right answer: that is the whole gain.
    """
    row, *others = [row for row in rows_of(first / "metrics.jsonl") if "dev/em" in row]
    assert [row["step"], *(other["step"] for other in others)] == [3, 6, STEPS]
    assert [other["dev/em"] for other in others] == [0, 0]  # the average is below the bar, too
    sample = np.random.default_rng(0).permutation(len(NAMES))[:6]  # whatever the seed
    assert row["dev/em"] == np.mean(sample < FIRST_HALF) == row["dev/retrieval_gain"] == 0.5


def test_the_gain_is_that_of_the_questions_asked_twice(second, monkeypatch):
    """Of a sample some are asked with other passages too, which gives no right answer here."""
    monkeypatch.setattr(question_answerer, "GAIN_QUESTIONS", 3)
    run = load_run(second)
    measured = run.learner.measure(run.state)
    right = np.random.default_rng(0).permutation(len(NAMES))[:6] < FIRST_HALF
    assert measured["dev/em"] == np.mean(right)
    assert measured["dev/retrieval_gain"] == pytest.approx(np.mean(right[:3]))
    assert np.mean(right[:3]) != np.mean(right)


def test_the_test_split_is_measured_at_the_end(first, second, average):
    """With the averaged parameters, whose marker is told, and an index made of these: else 5 less."""
    rows = rows_of(first / "predictions.jsonl")
    assert [row["id"] for row in rows] == [f"test{row}" for row in QUESTIONS]
    np.testing.assert_allclose([row["probability"] for row in rows], np.exp(average), rtol=1e-4)
    assert {len(row["retrieved"]) for row in rows} == {4}
    assert result_of(first)["split"] == "test"
    # The second run keeps no average, and has no bar.
    marker = left(second).params["retriever"]["log_scale"]
    for row in rows_of(second / "predictions.jsonl"):
        assert row["probability"] == pytest.approx(np.exp(marker), rel=1e-4)
        assert row["prediction"] == "test"


def test_the_checkpoint_holds_the_average_and_its_index(first, average):
    found = left(first)
    assert found.step == found.index.built_at_step == STEPS
    np.testing.assert_allclose(found.average["retriever"]["log_scale"], average, rtol=1e-4)
    assert not np.array_equal(found.average["reader"]["voice"], found.params["reader"]["voice"])
    for params, same in ((found.average, True), (found.params, False)):
        made = embedded(first, params)
        assert np.allclose(found.index.embeddings, made, atol=1e-5) == same
    assert result_of(first)["index_built_at_step"] == STEPS


def test_a_run_starts_from_the_average_of_another_and_a_new_critic(first, second, average):
    """What is drawn before the two updates of a step is drawn from the parameters that they change."""
    assert column(second, "drawn")[0] == pytest.approx(average, rel=1e-4)
    assert left(first).params["critic"]["bias"] != 0
    # 5 numbers that are 0 at the first update and moved by the rate at the second.
    assert column(second, "critic_size")[0] == pytest.approx(5 * RATE / 2, rel=1e-4)


def test_the_reference_is_what_the_run_began_with(first, second, average):
    references = column(second, "reference")
    assert len(references) == STEPS
    np.testing.assert_allclose(references, average, rtol=1e-4)
    began = {name: left(first).average[name] for name in ("retriever", "reader")}
    np.testing.assert_allclose(column(second, "reference_size"), size_of(began), rtol=1e-5)


def test_the_schedule_counts_updates(second, average):
    """Two a step: update n of N has the rate times 1 - n/N."""
    updates = 2 * STEPS
    moved = RATE * sum(1 - update / updates for update in range(updates))
    marker = left(second).params["retriever"]["log_scale"]
    np.testing.assert_allclose(marker, average - moved, rtol=1e-4)
    drawn = np.array(column(second, "drawn"))
    pairs = RATE * (2 - (4 * np.arange(STEPS - 1) + 1) / updates)
    np.testing.assert_allclose(drawn[:-1] - drawn[1:], pairs, rtol=1e-3)


def test_a_result_tells_of_its_run(first, second):
    result, params = result_of(first), left(first).params
    assert (result["seed"], result_of(second)["seed"]) == (3, 4)
    assert result["steps"] == STEPS
    assert result["curve"] == {
        "step": list(range(1, STEPS + 1)),
        "reward": column(first, "reward"),
    }
    assert "curve" not in result_of(second)  # where nothing is rewarded
    assert result["parameters"] == {
        group: sum(leaf.size for leaf in jax.tree.leaves(tree)) for group, tree in params.items()
    }
    assert result_of(second)["start"]["run"] == str(first)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """spied_config.py with seeds 3 and 4 side by side."""
    run_dir = tmp_path_factory.mktemp("pair") / "run"
    wiring.train(dataclasses.replace(spied_config.get_config(), seed=3, num_seeds=2), run_dir)
    return run_dir


def test_seeds_side_by_side_are_the_single_runs(first, pair):
    """Each asks in its own order, and leaves files of its own."""
    own, other = pair / "seed_3", pair / "seed_4"
    assert (result_of(own)["seed"], result_of(other)["seed"]) == (3, 4)
    assert asked(own, 2) == asked(first, 2) != asked(other, 2)
    logged = [rows_of(run / "metrics.jsonl") for run in (own, first)]
    for mine, theirs in zip(*logged, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    predicted = [rows_of(run / "predictions.jsonl") for run in (own, first)]
    for mine, theirs in zip(*predicted, strict=True):
        assert mine["prediction"] == theirs["prediction"]
        assert mine["probability"] == pytest.approx(theirs["probability"], rel=1e-4)
    jax.tree.map(
        lambda *leaves: np.testing.assert_allclose(*leaves, rtol=1e-4, atol=1e-5),
        left(own).average,
        left(first).average,
    )
    assert left(own).params["reader"]["voice"] != pytest.approx(
        left(other).params["reader"]["voice"]
    )


def test_every_seed_starts_from_its_own_run(pair, following, tmp_path):
    """The reference is what each began with."""
    start, run_dir = f"{pair}/seed_{{seed}}", tmp_path / "run"
    wiring.train(dataclasses.replace(following, seed=3, num_seeds=2, start=start), run_dir)
    sizes = []
    for seed in (3, 4):
        began = {
            name: left(pair / f"seed_{seed}").average[name] for name in ("retriever", "reader")
        }
        own = run_dir / f"seed_{seed}"
        np.testing.assert_allclose(column(own, "reference_size"), size_of(began), rtol=1e-5)
        assert result_of(own)["start"]["run"] == str(pair / f"seed_{seed}")
        sizes.append(float(size_of(began)))
    assert sizes[0] != pytest.approx(sizes[1], rel=1e-3)
