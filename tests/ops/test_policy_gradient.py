"""Weighted sums of policy-gradient losses against hand values, rlax's means and masked garbage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from ragjax.ops import policy_gradient as ops

B, A = 6, 3
CLIP = 0.25
WEIGHT = np.array([1.0, 0.0, 2.0, 1.0, 0.0, 0.5], np.float32)


def batch(seed=0):
    """What the four sums look at, by argument."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    logits = normal(B, A)
    return {
        "log_probs": logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)),
        "advantage": normal(B),
        "log_ratio": 0.5 * normal(B),
        "value": normal(B),
        "target": normal(B),
        "old_value": normal(B),
    }


ACTION = np.array([0, 2, 1, 1, 0, 2], np.int32)


def sums(floats, weight, clip=CLIP):
    """name -> sum."""
    value = floats["value"], floats["target"], weight
    return {
        "policy_gradient": ops.policy_gradient_sum(
            floats["log_probs"], jnp.asarray(ACTION), floats["advantage"], weight
        ),
        "clipped_surrogate": ops.clipped_surrogate_sum(
            floats["log_ratio"], floats["advantage"], clip, weight
        ),
        "entropy": ops.entropy_sum(floats["log_probs"], weight),
        "value": ops.value_sum(*value),
        "clipped_value": ops.value_sum(*value, floats["old_value"], clip),
    }


@jax.jit
def both(floats, weight, clip=CLIP):
    """(name -> sum, name -> its gradient by each argument)."""
    return sums(floats, weight, clip), jax.jacrev(sums)(floats, weight, clip)


NAMES = ("policy_gradient", "clipped_surrogate", "entropy", "value", "clipped_value")


def by_hand(floats, weight, clip=CLIP):
    """The sums one step at a time, in float64."""
    out = dict.fromkeys(NAMES, 0.0)
    for b in range(B):
        row = {name: np.asarray(leaf[b], np.float64) for name, leaf in floats.items()}
        w, ratio, advantage = float(weight[b]), np.exp(row["log_ratio"]), row["advantage"]
        moved = row["old_value"] + np.clip(row["value"] - row["old_value"], -clip, clip)
        plain = 0.5 * (row["value"] - row["target"]) ** 2
        out["policy_gradient"] += -w * row["log_probs"][ACTION[b]] * advantage
        out["clipped_surrogate"] += -w * min(
            ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage
        )
        out["entropy"] += -w * np.sum(np.exp(row["log_probs"]) * row["log_probs"])
        out["value"] += w * plain
        out["clipped_value"] += w * max(plain, 0.5 * (moved - row["target"]) ** 2)
    return out


@pytest.mark.parametrize("weight", [WEIGHT, np.ones(B, np.float32)], ids=["weighted", "all"])
def test_sums_are_those_by_hand(weight):
    for seed in range(3):
        actual, expected = both(batch(seed), weight)[0], by_hand(batch(seed), weight)
        for name in NAMES:
            np.testing.assert_allclose(actual[name], expected[name], rtol=2e-5, err_msg=name)


def test_sums_are_the_number_of_steps_times_rlaxs_means():
    floats = jax.tree.map(jnp.asarray, batch())
    weight, action = jnp.asarray(WEIGHT), jnp.asarray(ACTION)
    means = {
        "policy_gradient": rlax.policy_gradient_loss(
            floats["log_probs"], action, floats["advantage"], weight
        ),
        "clipped_surrogate": rlax.clipped_surrogate_pg_loss(
            jnp.exp(floats["log_ratio"]), floats["advantage"] * weight, jnp.asarray(CLIP)
        ),
        "entropy": -rlax.entropy_loss(floats["log_probs"], weight),
        "value": jnp.mean(weight * rlax.l2_loss(floats["value"], floats["target"])),
    }
    actual, _ = both(batch(), WEIGHT)
    for name, mean in means.items():
        np.testing.assert_allclose(actual[name], B * mean, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
def test_steps_of_weight_zero_may_hold_anything(garbage):
    """Values and gradients are the same bits, and the steps' own gradients are zero."""
    masked = WEIGHT == 0
    spoilt = {}
    for name, leaf in batch().items():
        rows = masked.reshape(B, *[1] * (leaf.ndim - 1))
        spoilt[name] = np.where(rows, np.float32(garbage), leaf)
    values, slopes = both(batch(), WEIGHT)
    actual, actual_slopes = both(spoilt, WEIGHT)
    jax.tree.map(np.testing.assert_array_equal, actual, values)
    jax.tree.map(np.testing.assert_array_equal, actual_slopes, slopes)
    for leaf in jax.tree.leaves(actual_slopes):
        assert np.all(np.asarray(leaf)[masked] == 0)


def test_nothing_counts_if_no_step_does():
    values, slopes = both(batch(), np.zeros(B, np.float32))
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves((values, slopes)))


def test_gradients_flow_to_policy_and_value_alone():
    _, slopes = both(batch(), WEIGHT)
    takes = {
        "policy_gradient": {"log_probs"},
        "clipped_surrogate": {"log_ratio"},
        "entropy": {"log_probs"},
        "value": {"value"},
        "clipped_value": {"value"},
    }
    for name, arguments in takes.items():
        found = {argument for argument, leaf in slopes[name].items() if np.any(leaf)}
        if name == "clipped_value":
            found -= {"old_value"}  # a constant of the batch, never differentiated
        assert found == arguments, name


def test_the_policy_gradient_is_the_score_times_the_advantage():
    """By logits: w_b A_b (π(b) - 1[a=b]); the softmax within is that of log-probabilities already."""
    floats = batch()
    slope = np.asarray(both(floats, WEIGHT)[1]["policy_gradient"]["log_probs"])
    probs = np.exp(floats["log_probs"])
    expected = (WEIGHT * floats["advantage"])[:, None] * (probs - np.eye(A)[ACTION])
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_the_clipped_surrogate_has_no_gradient_beyond_its_clip():
    """Where the ratio has moved the way the advantage pushes, and only there."""
    ratio = np.array([1.5, 0.5, 1.5, 0.5, 1.1, 0.9], np.float32)
    floats = batch() | {
        "log_ratio": np.log(ratio),
        "advantage": np.array([2.0, -2.0, -2.0, 2.0, 2.0, -2.0], np.float32),
    }
    values, slopes = both(floats, np.ones(B, np.float32))
    expected = -ratio * floats["advantage"] * [0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(slopes["clipped_surrogate"]["log_ratio"], expected, rtol=1e-5)
    # 1.25 and -0.75 where clipped.
    expected = -2 * (1.25 - 0.75 - 1.5 + 0.5 + 1.1 - 0.9)
    np.testing.assert_allclose(values["clipped_surrogate"], expected, rtol=1e-5)


def test_at_ratio_one_it_is_the_policy_gradient():
    """The first update of a rollout: the gradient of log π is the ratio's."""
    floats = batch() | {"log_ratio": np.zeros(B, np.float32)}
    _, slopes = both(floats, WEIGHT)
    np.testing.assert_allclose(
        slopes["clipped_surrogate"]["log_ratio"], -WEIGHT * floats["advantage"], rtol=1e-6
    )


def test_value_clipping():
    """The larger of both errors; without gradient where that is the clipped one."""
    floats = batch() | {
        "old_value": np.zeros(B, np.float32),
        "value": np.array([1.0, 1.0, 0.1, -1.0, -1.0, 0.1], np.float32),
        "target": np.array([2.0, 0.0, 2.0, -2.0, 0.0, -2.0], np.float32),
    }
    values, slopes = both(floats, np.ones(B, np.float32))
    # The first and fourth have moved towards the target beyond ±0.25: there the clipped one is larger.
    errors = np.array([1.75, 1.0, 1.9, 1.75, 1.0, 2.1])
    np.testing.assert_allclose(values["clipped_value"], np.sum(errors**2) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        slopes["clipped_value"]["value"], [0.0, 1.0, -1.9, 0.0, -1.0, 2.1], rtol=1e-5
    )
    np.testing.assert_allclose(slopes["value"]["value"], floats["value"] - floats["target"])


def test_a_clip_of_zero_or_without_bounds():
    """An unbounded clip is no clip; with none at all the surrogate never moves past a good ratio."""
    floats = batch()
    values, _ = both(floats, WEIGHT, 1e9)
    np.testing.assert_allclose(values["clipped_value"], values["value"], rtol=1e-5)
    unclipped = -np.sum(WEIGHT * np.exp(floats["log_ratio"]) * floats["advantage"])
    np.testing.assert_allclose(values["clipped_surrogate"], unclipped, rtol=1e-5)
    expected = by_hand(floats, WEIGHT, 0.0)["clipped_surrogate"]
    np.testing.assert_allclose(
        both(floats, WEIGHT, 0.0)[0]["clipped_surrogate"], expected, rtol=1e-5
    )


def test_entropy_is_positive_and_largest_where_the_policy_is_flat():
    flat = np.full((B, A), -np.log(A), np.float32)
    values, slopes = both(batch() | {"log_probs": flat}, WEIGHT)
    np.testing.assert_allclose(values["entropy"], WEIGHT.sum() * np.log(A), rtol=1e-6)
    np.testing.assert_allclose(slopes["entropy"]["log_probs"], 0.0, atol=1e-6)
    assert 0 < both(batch(), WEIGHT)[0]["entropy"] < values["entropy"]
    # Its gradient points towards the flat policy: down for the likeliest action.
    slope = np.asarray(both(batch(), np.ones(B, np.float32))[1]["entropy"]["log_probs"])
    assert np.all(slope[np.arange(B), batch()["log_probs"].argmax(axis=-1)] < 0)


def test_impossible_actions_that_were_not_taken():
    """log π = -inf leaves entropy, loss and gradient finite."""
    floats = batch()
    never = (ACTION + 1) % A
    floats["log_probs"][np.arange(B), never] = -np.inf
    floats["log_probs"] = np.asarray(jax.nn.log_softmax(floats["log_probs"]))
    values, slopes = both(floats, WEIGHT)
    probs = np.exp(floats["log_probs"])
    kept = np.where(probs > 0, floats["log_probs"], 0)
    np.testing.assert_allclose(
        values["entropy"], -np.sum(WEIGHT[:, None] * probs * kept), rtol=1e-5
    )
    for leaf in jax.tree.leaves((values, slopes)):
        assert np.all(np.isfinite(leaf))
