"""Action distributions against enumeration in float64, and what the marginal's gradient means."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.ops.distributions import (
    Categorical,
    JointCategorical,
    MarginalCategorical,
    StraightThroughCategorical,
)

B, K, A = 3, 4, 5
NEVER = 2  # the action that `impossible` rules out


def log_softmax(logits):
    """Along the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def tables(seed, count=K):
    """(log_prior [B,K], logits [B,K,A]) in float32."""
    rng = np.random.default_rng(seed)
    prior = log_softmax(rng.normal(size=(B, count)))
    return prior.astype(np.float32), 2 * rng.normal(size=(B, count, A)).astype(np.float32)


def enumerated(log_prior, logits):
    """[B,A] π(a|s), added up one passage and one action at a time."""
    prior, component = np.exp(np.asarray(log_prior, np.float64)), np.exp(log_softmax(logits))
    out = np.zeros((len(prior), logits.shape[-1]))
    for row, k, action in itertools.product(*(range(n) for n in component.shape)):
        out[row, action] += prior[row, k] * component[row, k, action]
    return out


def entropy_of(p):
    return np.array([-sum(x * np.log(x) for x in row if x > 0) for row in p])


def divergence(p, q):
    rows = zip(p, q, strict=True)
    return np.array(
        [sum(x * np.log(x / y) for x, y in zip(*row, strict=True) if x) for row in rows]
    )


@jax.jit
def figures(mine, other):
    """All that two distributions say, by name."""
    actions = jnp.arange(mine.log_probs.shape[-1])
    single = jax.vmap(mine.log_prob, in_axes=1, out_axes=1)
    return {
        "log_probs": mine.log_probs,
        "log_prob": single(jnp.tile(actions, (mine.log_probs.shape[0], 1))),
        "entropy": mine.entropy(),
        "kl": mine.kl(other),
        "kl_to_itself": mine.kl(mine),
        "mode": mine.mode(),
    }


@jax.jit
def slopes(mine, other, action):
    """name -> gradient by all that both distributions hold, summed over the batch."""
    functions = {
        "log_prob": lambda mine, other: mine.log_prob(action),
        "entropy": lambda mine, other: mine.entropy(),
        "kl": lambda mine, other: mine.kl(other),
    }
    return {
        name: jax.grad(lambda mine, other, f=f: jnp.sum(f(mine, other)), (0, 1))(mine, other)
        for name, f in functions.items()
    }


ACTION = np.array([0, 4, 1], np.int32)


def pair(kind, seed):
    """(a distribution [B], its π(a|s) by enumeration)."""
    log_prior, logits = tables(seed)
    if kind == "marginal":
        return MarginalCategorical(log_prior, logits), enumerated(log_prior, logits)
    return Categorical(logits[:, 0]), np.exp(log_softmax(logits[:, 0]))


@pytest.mark.parametrize("kind", ["plain", "marginal"])
def test_everything_is_what_enumeration_gives(kind):
    (mine, p), (other, q) = pair(kind, 0), pair(kind, 1)
    actual = figures(mine, other)
    np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(actual["log_probs"], np.log(p), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(actual["log_prob"], actual["log_probs"])
    np.testing.assert_allclose(actual["entropy"], entropy_of(p), rtol=1e-5)
    np.testing.assert_allclose(actual["kl"], divergence(p, q), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual["kl_to_itself"], 0.0, atol=1e-6)
    np.testing.assert_array_equal(actual["mode"], np.argmax(p, axis=-1))


def test_a_divergence_between_the_two_kinds():
    """PPO compares a table of the behaviour policy with whatever the policy is."""
    (plain, p), (mixed, q) = pair("plain", 0), pair("marginal", 1)
    both = jax.jit(lambda a, b: (a.kl(b), b.kl(a)))(plain, mixed)
    np.testing.assert_allclose(both[0], divergence(p, q), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both[1], divergence(q, p), rtol=1e-5, atol=1e-6)


@jax.jit
def log_posterior(mixture, action):
    return mixture.log_posterior(action)


def posterior_of(log_prior, logits, action):
    """[B,K] p(d_k|s,a) by Bayes' rule in float64."""
    chosen = np.exp(log_softmax(logits))[np.arange(B), :, action]
    joint = np.exp(np.asarray(log_prior, np.float64)) * chosen
    return joint / joint.sum(axis=-1, keepdims=True)


def test_posterior_is_bayes_rule():
    log_prior, logits = tables(0)
    actual = log_posterior(MarginalCategorical(log_prior, logits), ACTION)
    expected = posterior_of(log_prior, logits, ACTION)
    np.testing.assert_allclose(np.exp(actual), expected, rtol=1e-5)


def test_gradient_is_the_posterior_mean_of_the_passages_gradients():
    """∇log π(a|s) = Σ_k p(d_k|s,a) [∇log p(d_k|s) + ∇log π(a|s,d_k)], by a parameter of both."""
    rng = np.random.default_rng(4)
    width = 6
    features = rng.normal(size=(B, width)).astype(np.float32)
    start = {
        "prior": rng.normal(size=(width, K)).astype(np.float32),
        "logits": rng.normal(size=(width, K, A)).astype(np.float32),
    }

    def parts(params, x):
        """([K] log p(d_k|s), [K,A] logits) of one state; half of "prior" moves the logits too."""
        prior = x @ params["prior"]
        moved = jnp.einsum("h,hka->ka", x, params["logits"]) + 0.5 * prior[:, None] * jnp.arange(
            float(A)
        )
        return jax.nn.log_softmax(prior), moved

    @jax.jit
    @jax.vmap
    def both(x, action):
        actual = jax.grad(lambda params: MarginalCategorical(*parts(params, x)).log_prob(action))(
            start
        )

        def passage(params):
            log_prior, logits = parts(params, x)
            return log_prior, jax.nn.log_softmax(logits)[:, action]

        by_prior, by_policy = jax.jacrev(passage)(start)  # [K,...] each
        log_prior, log_policy = passage(start)
        weight = jax.nn.softmax(log_prior + log_policy)
        expected = jax.tree.map(
            lambda prior, policy: jnp.tensordot(weight, prior + policy, 1), by_prior, by_policy
        )
        ours = jnp.exp(MarginalCategorical(*parts(start, x)).log_posterior(action))
        return actual, expected, weight, ours

    actual, expected, weight, ours = both(features, ACTION)
    np.testing.assert_allclose(ours, weight, rtol=1e-5)
    for name in start:
        assert np.abs(actual[name]).max() > 0.1
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-5)


def test_gradient_by_the_prior_is_the_posterior_and_by_the_logits_its_share():
    """The same by the inputs: ∂/∂log p(d_k|s) = p_k, ∂/∂logits_kb = p_k (1[a=b] - π(b|s,d_k))."""
    log_prior, logits = tables(0)
    mixture = MarginalCategorical(log_prior, logits)
    slope = slopes(mixture, mixture, ACTION)["log_prob"][0]
    weight = posterior_of(log_prior, logits, ACTION)
    np.testing.assert_allclose(slope.log_prior, weight, rtol=1e-5)
    chosen = np.eye(A)[ACTION][:, None, :]
    expected = weight[..., None] * (chosen - np.exp(log_softmax(logits)))
    np.testing.assert_allclose(slope.logits, expected, rtol=1e-4, atol=1e-6)


def test_a_miss_has_no_weight_and_no_gradient():
    log_prior, logits = tables(0)
    other = MarginalCategorical(*tables(1))
    wide = MarginalCategorical(
        np.pad(log_prior, ((0, 0), (0, 1)), constant_values=-np.inf),
        np.pad(logits, ((0, 0), (0, 1), (0, 0)), constant_values=1e6),
    )
    narrow = MarginalCategorical(log_prior, logits)
    actual, expected = figures(wide, other), figures(narrow, other)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-6, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(np.exp(log_posterior(wide, ACTION))[:, K], 0.0)
    of_wide, of_narrow = slopes(wide, other, ACTION), slopes(narrow, other, ACTION)
    for name, (expected, _) in of_narrow.items():
        actual = of_wide[name][0]
        assert np.all(np.asarray(actual.log_prior)[:, K] == 0), name
        assert np.all(np.asarray(actual.logits)[:, K] == 0), name
        np.testing.assert_allclose(
            actual.log_prior[:, :K], expected.log_prior, rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(actual.logits[:, :K], expected.logits, rtol=1e-4, atol=1e-6)


def test_one_passage_is_no_mixture():
    _, logits = tables(0, count=1)
    _, others = tables(1, count=1)
    sure = np.zeros((B, 1), np.float32)
    plain, mixed = Categorical(logits[:, 0]), MarginalCategorical(sure, logits)
    other_plain, other_mixed = Categorical(others[:, 0]), MarginalCategorical(sure, others)
    expected, actual = figures(plain, other_plain), figures(mixed, other_mixed)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(log_posterior(mixed, ACTION), 0.0)
    expected, actual = slopes(plain, other_plain, ACTION), slopes(mixed, other_mixed, ACTION)
    for name in expected:
        for ours, theirs in zip(actual[name], expected[name], strict=True):
            np.testing.assert_allclose(ours.logits[:, 0], theirs.logits, rtol=1e-4, atol=1e-6)


def test_order_of_passages_does_not_matter():
    log_prior, logits = tables(0)
    other = MarginalCategorical(*tables(1))
    order = np.array([2, 0, 3, 1])
    expected = figures(MarginalCategorical(log_prior, logits), other)
    permuted = MarginalCategorical(log_prior[:, order], logits[:, order])
    for name, value in figures(permuted, other).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    posterior = log_posterior(MarginalCategorical(log_prior, logits), ACTION)
    np.testing.assert_allclose(log_posterior(permuted, ACTION), posterior[:, order], rtol=1e-5)


def impossible(kind, seed):
    """`pair` where one action has logit -inf, with every passage."""
    log_prior, logits = tables(seed)
    logits[..., NEVER] = -np.inf
    if kind == "marginal":
        return MarginalCategorical(log_prior, logits), enumerated(log_prior, logits)
    return Categorical(logits[:, 0]), np.exp(log_softmax(logits[:, 0]))


@pytest.mark.parametrize("kind", ["plain", "marginal"])
def test_an_impossible_action_leaves_everything_finite(kind):
    (mine, p), (other, q) = impossible(kind, 0), impossible(kind, 1)
    everywhere, r = pair(kind, 2)
    actual = figures(mine, other)
    assert np.all(np.isneginf(np.asarray(actual["log_probs"])[:, NEVER]))
    np.testing.assert_allclose(np.exp(actual["log_probs"]), p, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(actual["entropy"], entropy_of(p), rtol=1e-5)
    np.testing.assert_allclose(actual["kl"], divergence(p, q), rtol=1e-5, atol=1e-6)
    # Against a policy that can do more the divergence is finite, the other way round it isn't.
    np.testing.assert_allclose(figures(mine, everywhere)["kl"], divergence(p, r), rtol=1e-5)
    assert np.all(np.isposinf(figures(everywhere, mine)["kl"]))
    for name, gradients in slopes(mine, other, ACTION).items():
        for leaf in jax.tree.leaves(gradients):
            assert np.all(np.isfinite(leaf)), name
        for side in gradients:
            assert np.all(np.asarray(side.logits)[..., NEVER] == 0), name
    for leaf in jax.tree.leaves(slopes(mine, everywhere, ACTION)):
        assert np.all(np.isfinite(leaf))


def test_an_action_impossible_with_some_passages_only():
    """Its gradient is that of the others; the posterior of the former is zero."""
    log_prior, logits = tables(0)
    logits[:, :2, NEVER] = -np.inf
    mixture, p = MarginalCategorical(log_prior, logits), enumerated(log_prior, logits)
    np.testing.assert_allclose(np.exp(figures(mixture, mixture)["log_probs"]), p, rtol=1e-5)
    action = np.full(B, NEVER, np.int32)
    posterior = np.exp(log_posterior(mixture, action))
    np.testing.assert_array_equal(posterior[:, :2], 0.0)
    np.testing.assert_allclose(posterior.sum(axis=-1), 1.0, rtol=1e-6)
    slope = slopes(mixture, mixture, action)
    np.testing.assert_allclose(slope["log_prob"][0].log_prior, posterior, rtol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("kind", ["plain", "marginal"])
def test_sampled_frequencies(kind):
    """Within 4.5 standard errors of π(a|s): 15 frequencies, so one run in 10^4 would fail by chance."""
    draws = 20_000
    distribution, p = pair(kind, 3)
    sample = jax.jit(jax.vmap(type(distribution).sample, (None, 0)))
    actions = np.asarray(sample(distribution, jax.random.split(jax.random.key(0), draws)))
    assert actions.dtype == np.int32
    frequency = np.stack([(actions == action).mean(axis=0) for action in range(A)], axis=-1)
    assert np.all(np.abs(frequency - p) < 4.5 * np.sqrt(p * (1 - p) / draws))


@pytest.mark.parametrize("kind", ["plain", "marginal"])
def test_an_impossible_action_is_never_drawn_nor_likeliest(kind):
    distribution, _ = impossible(kind, 0)
    keys = jax.random.split(jax.random.key(1), 500)
    actions = jax.jit(jax.vmap(type(distribution).sample, (None, 0)))(distribution, keys)
    assert not np.any(actions == NEVER)
    assert not np.any(distribution.mode() == NEVER)


def test_leading_axes_are_free():
    """[B,...] leading, or more, or none at all."""
    log_prior, logits = tables(0)
    batch = MarginalCategorical(log_prior, logits)
    whole = MarginalCategorical(log_prior[:, None], logits[:, None])
    single = MarginalCategorical(log_prior[1], logits[1])
    say = jax.jit(lambda mixture, a: (mixture.log_prob(a), mixture.log_posterior(a)))
    log_prob, posterior = say(batch, ACTION)
    for actual, expected in [
        (say(whole, ACTION[:, None]), (log_prob[:, None], posterior[:, None])),
        (say(single, ACTION[1]), (log_prob[1], posterior[1])),
    ]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), actual, expected)


def test_a_joint_choice_is_a_passage_and_an_action():
    prior, logits = tables(0)
    joint = JointCategorical(prior, logits)
    table = np.exp(np.asarray(prior, np.float64))[..., None] * np.exp(log_softmax(logits))
    np.testing.assert_allclose(np.exp(joint.log_probs), table.reshape(B, -1), rtol=2e-6)
    # Summed over passages it is the marginal, whose likeliest action is the mode.
    marginal = MarginalCategorical(prior, logits)
    summed = np.exp(joint.log_probs).reshape(B, K, A).sum(axis=1)
    np.testing.assert_allclose(summed, np.exp(marginal.log_probs), rtol=2e-6)
    np.testing.assert_array_equal(joint.executed(joint.mode()), marginal.mode())
    choices = jnp.arange(K * A)
    np.testing.assert_array_equal(joint.executed(choices), np.tile(np.arange(A), K))


def test_a_joint_choice_never_names_a_miss():
    prior, logits = tables(1)
    prior[:, 2] = -np.inf
    joint = JointCategorical(prior, logits)
    np.testing.assert_array_equal(np.exp(joint.log_probs).reshape(B, K, A)[:, 2], 0)
    assert np.all(np.isfinite(joint.entropy()))
    gradient = jax.grad(lambda logits: jnp.sum(JointCategorical(prior, logits).entropy()))(logits)
    assert np.all(np.isfinite(gradient))


def test_the_joint_score_is_on_average_that_of_the_marginal():
    """Σ_k p(d_k|s,a) ∇log p(d_k,a|s) = ∇log π(a|s), by enumeration."""
    prior, logits = tables(2)
    action = 3

    def joint(theta):
        log_probs = JointCategorical(*theta).log_probs.reshape(B, K, A)
        return jnp.sum(posterior * log_probs[..., action])

    def marginal(theta):
        return jnp.sum(MarginalCategorical(*theta).log_probs[:, action])

    theta = (jnp.asarray(prior), jnp.asarray(logits))
    posterior = jnp.exp(MarginalCategorical(*theta).log_posterior(jnp.full((B,), action)))
    for one, other in zip(jax.grad(joint)(theta), jax.grad(marginal)(theta), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("count", [2, 5, 10, 50])
def test_the_sampled_passage_never_has_less_variance(count):
    """Both gradients' moments are enumerated, for 20 policies and rewards: equal means, Var ≥ Var."""

    @jax.jit
    def moments(key):
        keys = jax.random.split(key, 3)
        scores, logits = (
            jax.random.normal(keys[0], (count,)),
            jax.random.normal(keys[1], (count, A)),
        )
        reward = jax.random.normal(keys[2], (A,))

        def of(kind, choices):
            def score(scores, logits, choice):
                return kind(jax.nn.log_softmax(scores), logits).log_prob(choice)

            def single(choice):
                gradient = jax.grad(score, argnums=(0, 1))(scores, logits, choice)
                gain = reward[kind(scores, logits).executed(choice)]
                chance = jnp.exp(score(scores, logits, choice))
                return chance, gain * jnp.concatenate([leaf.ravel() for leaf in gradient])

            chance, gradients = jax.vmap(single)(jnp.arange(choices))
            mean = chance @ gradients
            return mean, chance @ jnp.sum(jnp.square(gradients - mean), axis=-1)

        return of(MarginalCategorical, A), of(JointCategorical, count * A)

    for seed in range(20):
        (mean, least), (same, more) = moments(jax.random.PRNGKey(seed))
        np.testing.assert_allclose(mean, same, atol=1e-5)
        assert more > 1.1 * least > 0


@pytest.mark.parametrize("drawn", [1, 2, K])
def test_straight_through_reads_the_drawn_passages(drawn):
    prior, logits = tables(3)
    noise = np.random.default_rng(4).gumbel(size=prior.shape).astype(np.float32)
    given = (jnp.asarray(table) for table in (prior, logits, noise))
    found = StraightThroughCategorical(*given, drawn, 0.5).log_probs
    weights = np.zeros((B, K))
    for row, best in enumerate(np.argsort(-(prior + noise), axis=-1)[:, :drawn]):
        weights[row, best] = np.exp(prior[row, best]) / np.exp(prior[row, best]).sum()
    expected = np.einsum("bk,bka->ba", weights, np.exp(log_softmax(logits)))
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)


@pytest.mark.parametrize("drawn", [1, 2])
def test_straight_through_has_the_gradient_of_the_relaxed_weights(drawn):
    """And of no others: the weights that several drawn passages share are constants."""
    prior, logits = tables(5)
    noise = np.random.default_rng(6).gumbel(size=prior.shape).astype(np.float32)
    temperature, action = 0.7, 1

    def hard(prior):
        found = StraightThroughCategorical(prior, logits, noise, drawn, temperature)
        return jnp.sum(found.log_probs[:, action])

    components = np.exp(log_softmax(logits))[..., action]  # [B,K]
    chosen = np.argsort(-(prior + noise), axis=-1)[:, :drawn]
    weight = np.exp(log_softmax(np.take_along_axis(prior, chosen, -1)))
    value = np.sum(weight * np.take_along_axis(components, chosen, -1), axis=-1)
    soft = np.exp(log_softmax((prior + noise) / temperature))
    slope = components / value[:, None]
    expected = soft * (slope - np.sum(soft * slope, axis=-1, keepdims=True)) / temperature
    np.testing.assert_allclose(jax.grad(hard)(jnp.asarray(prior)), expected, atol=1e-5)


def test_straight_through_passes_over_misses():
    prior, logits = tables(7)
    prior[:, 0] = -np.inf
    noise = jnp.zeros(prior.shape).at[:, 0].set(100.0)
    logits = jnp.asarray(logits)

    def total(prior):
        return jnp.sum(StraightThroughCategorical(prior, logits, noise, 2, 1.0).log_probs)

    gradient = np.asarray(jax.grad(total)(jnp.asarray(prior)))
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[:, 0], 0)
    found = StraightThroughCategorical(jnp.asarray(prior), logits, noise, 2, 1.0).log_probs
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, rtol=1e-5)
