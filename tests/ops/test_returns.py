"""Estimators against recursions over single episodes; whatever crosses an episode's end shows."""

import dataclasses
import itertools

import boundary_cases as cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from ragjax.ops import returns as ops

GRID = list(itertools.product(cases.DISCOUNTS, cases.TRACES))
WINDOW = cases.window()


@jax.jit
def gae(reward, terminated, truncated, values, final_values, discount, trace):
    """Our estimator in the form that `check_estimator` takes."""
    ends = ops.across_resets(reward, terminated, truncated, final_values, discount)
    return ops.generalised_advantages(*ends, values, trace)


@jax.jit
def lambda_returns(reward, terminated, truncated, values, final_values, discount, trace):
    ends = ops.across_resets(reward, terminated, truncated, final_values, discount)
    return ops.lambda_returns(*ends, values, trace)


@jax.jit
def vtrace(reward, terminated, truncated, values, final_values, discount, trace, log_ratio):
    ends = ops.across_resets(reward, terminated, truncated, final_values, discount)
    return ops.vtrace(*ends, values, log_ratio, trace)


def arrays(window=WINDOW):
    names = ("reward", "terminated", "truncated", "values", "final_values")
    return tuple(getattr(window, name) for name in names)


def near(actual, expected, scales):
    """To 1e-5, times an episode's own largest number where that exceeds 1."""
    assert np.all(np.abs(np.asarray(actual, np.float64) - expected) <= 1e-5 * scales)


def test_advantages_conform():
    cases.check_estimator(gae)


@pytest.mark.parametrize(("discount", "trace"), GRID)
def test_lambda_returns_conform(discount, trace):
    for window in (WINDOW, cases.window(cases.true_values(discount))):
        expected, scales = cases.expected(window, lambda e: cases.returns_of(e, discount, trace))
        near(lambda_returns(*arrays(window), discount, trace), expected, scales)


# What goes wrong elsewhere: estimators for one endless trajectory, told about ends in some other way.


@jax.jit
def raw(reward, discount_t, values, trace):
    """rlax as it is."""
    one = lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, trace, v)  # noqa: E731
    return jax.vmap(one, in_axes=1, out_axes=1)(reward, discount_t, values)


def truncation_ignored(reward, terminated, truncated, values, final_values, discount, trace):
    """γ (1 - terminated): the next episode stands for what a time limit cut off."""
    return raw(reward, np.float32(discount) * ~terminated, values, trace)


def truncation_as_termination(reward, terminated, truncated, values, final_values, discount, trace):
    """γ (1 - done): what a time limit cut off is worth nothing."""
    return raw(reward, np.float32(discount) * ~(terminated | truncated), values, trace)


def truncation_over_termination(
    reward, terminated, truncated, values, final_values, discount, trace
):
    """Bootstraps wherever a time limit was reached, also where the task ended in the same step."""
    reward = reward + np.float32(discount) * truncated * final_values
    return truncation_as_termination(
        reward, terminated, truncated, values, final_values, discount, trace
    )


def bootstrap_everywhere(reward, terminated, truncated, values, final_values, discount, trace):
    """Takes every end for a time limit."""
    done = terminated | truncated
    return truncation_over_termination(
        reward, terminated, done, values, final_values, discount, trace
    )


def bootstrap_but_no_cut(reward, terminated, truncated, values, final_values, discount, trace):
    """The right one-step errors, whose sum runs on across a time limit."""
    discount = np.float32(discount)
    following = np.where(truncated, final_values, values[1:])
    errors = reward + discount * ~terminated * following - values[:-1]
    out, total = np.zeros_like(reward), np.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        total = errors[t] + discount * np.float32(trace) * ~terminated[t] * total
        out[t] = total
    return out


TRUNCATIONS = {name for name in WINDOW.names if "trunc" in name} | {
    "an end at every step",
    "two resets, all ordinary",
}
BOTH = {name for name in WINDOW.names if "both" in name} | {"an end at every step"}
TERMINATIONS = {name for name in WINDOW.names if "termin" in name}


@pytest.mark.parametrize(
    ("estimator", "caught"),
    [
        (truncation_ignored, TRUNCATIONS),
        (truncation_as_termination, TRUNCATIONS),
        (truncation_over_termination, BOTH),
        (bootstrap_everywhere, BOTH | TERMINATIONS | {"two resets, all ordinary"}),
        # At the last step there is no sum left to run on.
        (bootstrap_but_no_cut, TRUNCATIONS - {"truncation at the last step"}),
    ],
)
def test_naive_estimators_fail_at_just_the_ends_they_ignore(estimator, caught):
    with pytest.raises(AssertionError) as failure:
        cases.check_estimator(estimator)
    assert {line.split(":")[0] for line in str(failure.value).splitlines()} == caught


def test_a_nan_fails():
    with pytest.raises(AssertionError, match="no end: step 0 has advantage nan"):
        cases.check_estimator(lambda *args: np.asarray(gae(*args)) * np.nan)


@pytest.mark.parametrize("discount", cases.DISCOUNTS)
def test_the_oracle_knows_the_true_values(discount):
    """With them advantages are 0 and returns are the values, at truncations and the window's end too."""
    window = cases.window(cases.true_values(discount))
    for trace in cases.TRACES:
        made, _ = cases.expected(window, lambda e, t=trace: cases.advantages_of(e, discount, t))
        np.testing.assert_allclose(made[~window.absurd], 0.0, atol=1e-6)
        made, _ = cases.expected(window, lambda e, t=trace: cases.returns_of(e, discount, t))
        ordinary = window.values[:-1][~window.absurd]
        np.testing.assert_allclose(made[~window.absurd], ordinary, atol=1e-6)


def test_the_cases_hold_every_kind_of_end():
    terminated, truncated = WINDOW.terminated, WINDOW.truncated
    for end in (terminated & ~truncated, truncated & ~terminated, terminated & truncated):
        assert end[0].any()  # at the first step, within, and at the last one
        assert end[1:-1].any()
        assert end[-1].any()
    assert not (terminated | truncated)[:, WINDOW.names.index("no end")].any()


def test_rewards_and_discounts_by_hand():
    """The four rows of the module's table."""
    terminated, truncated = np.array([[0, 1, 0, 1], [0, 0, 1, 1]], bool)[:, None]
    final = np.array([[np.nan, np.inf, 3.0, -np.inf]], np.float32)
    reward = np.array([[1.0, 2.0, 4.0, 8.0]], np.float32)
    actual, discount = ops.across_resets(
        *map(jnp.asarray, (reward, terminated, truncated, final)), 0.5
    )
    np.testing.assert_array_equal(actual, [[1.0, 2.0, 5.5, 8.0]])
    np.testing.assert_array_equal(discount, [[0.5, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_final_values_matter_only_where_an_episode_was_cut_short(garbage):
    cut_short = WINDOW.truncated & ~WINDOW.terminated
    spoilt = np.where(cut_short, WINDOW.final_values, np.float32(garbage))
    other = dataclasses.replace(WINDOW, final_values=spoilt)
    log_ratio = np.zeros_like(WINDOW.reward)
    for estimator, more in [(gae, ()), (lambda_returns, ()), (vtrace, (log_ratio,))]:
        actual = estimator(*arrays(other), 0.9, 0.95, *more)
        jax.tree.map(np.testing.assert_array_equal, actual, estimator(*arrays(), 0.9, 0.95, *more))


@pytest.mark.parametrize(("discount", "trace"), GRID)
def test_lambda_returns_are_advantages_plus_values(discount, trace):
    _, scales = cases.expected(WINDOW, lambda e: e.values)
    returns = lambda_returns(*arrays(), discount, trace)
    near(returns - WINDOW.values[:-1], gae(*arrays(), discount, trace), scales)


@pytest.mark.parametrize(("discount", "trace"), GRID)
def test_vtrace_on_policy_is_lambda_returns_and_advantages(discount, trace):
    _, scales = cases.expected(WINDOW, lambda e: e.values)
    actual = vtrace(*arrays(), discount, trace, np.zeros_like(WINDOW.reward))
    near(actual.value_target, lambda_returns(*arrays(), discount, trace), scales)
    near(actual.advantage, gae(*arrays(), discount, trace), scales)


LOG_RATIO = np.random.default_rng(0).normal(scale=1.0, size=WINDOW.reward.shape)


def vtrace_sums(episode, discount, trace):
    """(advantages, targets) of one episode by the paper's sums, its equations 1 and 4.

        v_s = V(x_s) + Σ_{t>=s} γ^(t-s) (Π_{i=s}^{t-1} c_i) δ_t V
        δ_t V = ρ_t (r_t + γ V(x_{t+1}) - V(x_t))
        A_s = ρ_s (r_s + γ v_{s+1} - V(x_s))

    with ρ_t = min(1, π/μ) and c_i = λ ρ_i; λ < 1 mixes V(x_{s+1}) into the v_{s+1} of A_s.
    """
    ratio = np.exp(LOG_RATIO[episode.steps, episode.column])
    rho = [min(1.0, float(x)) for x in ratio]
    length, following = len(rho), [*episode.values[1:], episode.tail]
    delta = [
        rho[t] * (episode.rewards[t] + discount * following[t] - episode.values[t])
        for t in range(length)
    ]
    targets = [
        episode.values[s]
        + sum(
            discount ** (t - s) * np.prod([trace * rho[i] for i in range(s, t)]) * delta[t]
            for t in range(s, length)
        )
        for s in range(length)
    ]
    after = [
        trace * target + (1 - trace) * value
        for target, value in zip([*targets[1:], episode.tail], following, strict=True)
    ]
    advantages = [
        rho[s] * (episode.rewards[s] + discount * after[s] - episode.values[s])
        for s in range(length)
    ]
    return advantages, targets


@pytest.mark.parametrize(("discount", "trace"), GRID)
def test_vtrace_is_the_papers_sums_episode_by_episode(discount, trace):
    assert (LOG_RATIO > 0).any()
    assert (LOG_RATIO < -0.5).any()
    for window in (WINDOW, cases.window(cases.true_values(discount))):
        actual = vtrace(*arrays(window), discount, trace, LOG_RATIO.astype(np.float32))
        for part, name in enumerate(actual._fields):
            expected, scales = cases.expected(
                window, lambda e, part=part: vtrace_sums(e, discount, trace)[part]
            )
            near(getattr(actual, name), expected, scales)


def test_vtrace_bears_any_ratio():
    """A ratio beyond 1 counts as 1, however large; one of 0 leaves the critic's value as the target."""
    plain = vtrace(*arrays(), 0.9, 0.95, np.zeros_like(WINDOW.reward))
    huge = vtrace(*arrays(), 0.9, 0.95, np.full_like(WINDOW.reward, 1e4))
    jax.tree.map(np.testing.assert_array_equal, huge, plain)
    never = vtrace(*arrays(), 0.9, 0.95, np.full_like(WINDOW.reward, -np.inf))
    np.testing.assert_array_equal(never.advantage, 0.0)
    np.testing.assert_array_equal(never.value_target, WINDOW.values[:-1])


def test_no_gradient_flows():
    reward, terminated, truncated, values, final_values = arrays()

    def total(floats, which):
        reward, values, final_values, discount, trace, log_ratio = floats
        args = (reward, terminated, truncated, values, final_values, discount, trace)
        out = [gae(*args), lambda_returns(*args), *vtrace(*args, log_ratio)][which]
        return jnp.sum(out)

    floats = (reward, values, final_values, 0.9, 0.95, LOG_RATIO.astype(np.float32))
    for which in range(4):
        for leaf in jax.tree.leaves(jax.grad(total)(floats, which)):
            np.testing.assert_array_equal(leaf, 0.0)
