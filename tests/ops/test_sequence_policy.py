"""Policy gradients on whole answers, against all answers there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.ops.marginal import rag_sequence
from ragjax.ops.scoring import log_prior_retrieved
from ragjax.ops.sequence_policy import (
    GENERATED,
    PADDING,
    PROMPT,
    RETRIEVED,
    group_normalised,
    leave_one_out,
    marginal_token_entropy,
    marginal_token_logprobs,
    minus_other_questions,
    prefix_posterior,
    sequence_policy_loss,
    token_advantages,
    whitened,
)

B, G, T = 2, 3, 4
K, V, LENGTH = 3, 3, 2  # passages, tokens and length of the enumerable answers
ANSWERS = np.array(list(itertools.product(range(V), repeat=LENGTH)))  # [9,2]


@pytest.fixture(scope="module")
def theta():
    """Scores [K] of the retriever, first-token logits [K,V] and second-token logits [K,V,V]."""
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    shapes = ((K,), (K, V), (K, V, V))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def by_passage(theta, answers):
    """[M,K,T] log p(y_t|d,y_<t) of [M,T] answers."""
    _, first, second = theta
    one = jax.nn.log_softmax(first)[:, answers[:, 0]].T
    two = jax.nn.log_softmax(second)[:, answers[:, 0], answers[:, 1]].T
    return jnp.stack([one, two], axis=-1)


def log_prior(theta):
    return log_prior_retrieved(theta[0][None], jnp.ones((1, K), bool))


def token_logprobs(theta, answers):
    """[M,T] log p(y_t|y_<t) of the marginal."""
    return marginal_token_logprobs(log_prior(theta), by_passage(theta, answers))


def log_marginal(theta, answers):
    prior = jnp.broadcast_to(log_prior(theta), (len(answers), K))
    return rag_sequence(prior, by_passage(theta, answers), jnp.ones(answers.shape, bool))


def close(one, other, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), one, other)


def test_tokens_add_up_to_the_answer(theta):
    tokens = token_logprobs(theta, ANSWERS)
    np.testing.assert_allclose(tokens.sum(axis=-1), log_marginal(theta, ANSWERS), rtol=1e-5)
    np.testing.assert_allclose(np.exp(tokens.sum(axis=-1)).sum(), 1.0, rtol=1e-5)
    # Every token has a distribution of its own, given those before it.
    np.testing.assert_allclose(np.exp(tokens[:V, 1]).sum(), 1.0, rtol=1e-5)


def test_the_entropy_of_tokens_adds_up_to_that_of_answers(theta):
    """H(y) = Σ_t E[H(y_t|y_<t)] over all answers, and so are the gradients, of the retriever too."""

    def by_tokens(theta):
        _, first, second = theta
        table = [
            jnp.broadcast_to(jax.nn.log_softmax(first), (len(ANSWERS), K, V)),
            jnp.moveaxis(jax.nn.log_softmax(second)[:, ANSWERS[:, 0]], 0, 1),
        ]
        weights = prefix_posterior(log_prior(theta), by_passage(theta, ANSWERS))
        entropy = marginal_token_entropy(weights, jnp.stack(table, axis=2))
        return jnp.exp(log_marginal(theta, ANSWERS)) @ jnp.sum(entropy, axis=-1)

    def by_answers(theta):
        found = log_marginal(theta, ANSWERS)
        return -jnp.exp(found) @ found

    close(jax.value_and_grad(by_tokens)(theta), jax.value_and_grad(by_answers)(theta))
    assert np.abs(jax.grad(by_answers)(theta)[0]).max() > 1e-3


def test_the_posterior_before_each_token(theta):
    weights = np.exp(prefix_posterior(log_prior(theta), by_passage(theta, ANSWERS)))
    prior = np.exp(np.asarray(log_prior(theta)))[0]
    first = np.exp(np.asarray(by_passage(theta, ANSWERS)))[:, :, 0] * prior
    np.testing.assert_allclose(weights[:, 0], np.tile(prior, (len(ANSWERS), 1)), rtol=1e-5)
    np.testing.assert_allclose(weights[:, 1], first / first.sum(axis=1, keepdims=True), rtol=1e-5)


def test_a_prior_of_less_than_one_is_paid_by_the_first_token(theta):
    prior = log_prior(theta) - 0.7  # as over a whole index
    found = marginal_token_logprobs(prior, by_passage(theta, ANSWERS))
    np.testing.assert_allclose(found, token_logprobs(theta, ANSWERS), atol=1e-5)


def test_a_miss_changes_nothing(theta):
    prior = jnp.concatenate([log_prior(theta), jnp.full((1, 1), -jnp.inf)], axis=-1)
    tokens = by_passage(theta, ANSWERS)
    tokens = jnp.concatenate([tokens, jnp.full_like(tokens[:, :1], -3.0)], axis=1)
    found = marginal_token_logprobs(prior, tokens)
    np.testing.assert_allclose(found, token_logprobs(theta, ANSWERS), atol=1e-6)


@pytest.mark.parametrize("clip_eps", [None, 10.0])
def test_the_divergence_has_the_gradient_of_its_enumerated_sum(theta, clip_eps):
    """∇ Σ_y p(y) log p(y)/q(y), not that of the reverse; with `clip_eps` answers are those of μ."""
    other = jax.tree.map(lambda leaf: 0.3 * leaf + 0.2 * jnp.cos(7.0 * leaf), theta)
    reference = token_logprobs(other, ANSWERS)
    behaviour = token_logprobs(theta, ANSWERS)
    if (
        clip_eps is not None
    ):  # another distribution of the first token, whose ratio is that of the answer
        retriever, first, second = theta
        theta = retriever, first + 0.5 * jnp.sin(jnp.arange(9.0)).reshape(K, V), second

        def alone(theta):
            return token_logprobs(theta, ANSWERS)[:, :1]

        reference, behaviour, tokens = reference[:, :1], behaviour[:, :1], alone
        chance = jnp.exp(behaviour[:, 0]) / V  # of each second token
    else:
        tokens = lambda theta: token_logprobs(theta, ANSWERS)  # noqa: E731
        chance = jnp.exp(jnp.sum(behaviour, axis=-1))

    def estimated(theta):
        def single(*arrays):
            each = [array[None, None] for array in arrays]
            source = jnp.full(each[0].shape, GENERATED)
            advantage = jnp.zeros(source.shape)
            return sequence_policy_loss(
                *each[:2], advantage, source, clip_eps=clip_eps, reference=each[2]
            ).kl

        return chance @ jax.vmap(single)(tokens(theta), behaviour, reference)

    def exact(theta):
        mine = jnp.sum(tokens(theta), axis=-1)
        weight = jnp.exp(mine) if clip_eps is None else jnp.exp(mine) / V
        return weight @ (mine - jnp.sum(reference, axis=-1))

    close(jax.value_and_grad(estimated)(theta), jax.value_and_grad(exact)(theta))
    assert np.abs(jax.grad(exact)(theta)[0]).max() > 1e-3


@pytest.mark.parametrize("gold", [0, 4, 8])
def test_reward_for_the_right_answer_is_likelihood_in_another_place(theta, gold):
    """∇E[1[y = y*]] = p(y*|x) ∇log p(y*|x), through retriever and reader."""
    reward = jnp.asarray(np.arange(len(ANSWERS)) == gold, jnp.float32)

    def expected_loss(theta):
        """Every answer once, its advantage weighted by its probability: E over samples, enumerated."""
        tokens = token_logprobs(theta, ANSWERS)[None]
        chance = jnp.exp(jax.lax.stop_gradient(jnp.sum(tokens, axis=-1)))
        source = jnp.full(tokens.shape, GENERATED)
        return sequence_policy_loss(tokens, tokens, chance * reward, source).policy

    policy = jax.grad(expected_loss)(theta)
    likelihood = jax.grad(lambda theta: log_marginal(theta, ANSWERS)[gold])(theta)
    chance = jnp.exp(log_marginal(theta, ANSWERS)[gold])
    close(jax.tree.map(jnp.negative, policy), jax.tree.map(lambda leaf: chance * leaf, likelihood))
    assert np.max(np.abs(policy[0])) > 1e-3


@pytest.mark.parametrize("advantages", [leave_one_out, group_normalised])
def test_sampled_gradients_point_where_the_exact_one_does(theta, advantages):
    """RLOO's mean is the exact gradient within its standard error; GRPO's has its direction."""
    reward = jax.random.normal(jax.random.PRNGKey(3), (len(ANSWERS),))
    exact = jax.grad(lambda theta: jnp.sum(jnp.exp(log_marginal(theta, ANSWERS)) * reward))(theta)
    questions, group = 4000, 4

    @jax.jit
    @jax.vmap
    def draw(key):
        rows = jax.random.categorical(key, log_marginal(theta, ANSWERS), shape=(group,))
        advantage = advantages(reward[rows][None])

        def loss(theta):
            tokens = token_logprobs(theta, jnp.asarray(ANSWERS)[rows])[None]
            source = jnp.full(tokens.shape, GENERATED)
            return -sequence_policy_loss(tokens, tokens, advantage, source).policy / group

        return jnp.concatenate([leaf.ravel() for leaf in jax.grad(loss)(theta)])

    drawn = np.asarray(draw(jax.random.split(jax.random.PRNGKey(4), questions)))
    exact = np.concatenate([np.ravel(leaf) for leaf in exact])
    mean = drawn.mean(axis=0)
    if advantages is leave_one_out:
        error = drawn.std(axis=0, ddof=1) / np.sqrt(questions)
        assert np.all(np.abs(mean - exact) < 4.5 * error + 1e-6)
    else:
        assert mean @ exact / np.linalg.norm(mean) / np.linalg.norm(exact) > 0.9


def test_advantages_by_hand():
    reward = jnp.array([[1.0, 0.0, 2.0], [5.0, 5.0, 5.0]])
    np.testing.assert_allclose(leave_one_out(reward), [[0.0, -1.5, 1.5], [0, 0, 0]], atol=1e-6)
    deviation = np.sqrt(2 / 3)
    expected = [[0.0, -1 / deviation, 1 / deviation], [0, 0, 0]]
    np.testing.assert_allclose(group_normalised(reward), expected, atol=1e-5)
    with pytest.raises(ValueError, match="groups have 1 sample"):
        leave_one_out(reward[:, :1])


@pytest.mark.parametrize("advantages", [leave_one_out, group_normalised])
def test_groups_never_mix_questions(advantages):
    reward = jax.random.normal(jax.random.PRNGKey(5), (5, 4))
    alone = jnp.concatenate([advantages(row[None]) for row in reward])
    np.testing.assert_array_equal(advantages(reward), alone)
    other = reward.at[1:].set(100.0 * reward[1:])
    np.testing.assert_array_equal(advantages(other)[0], advantages(reward)[0])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_group_of_equal_rewards_has_a_zero_gradient(value):
    advantage = group_normalised(jnp.full((B, 7), value))
    np.testing.assert_array_equal(advantage, 0)
    gradient = jax.grad(lambda reward: jnp.sum(group_normalised(reward)))(jnp.full((B, 7), value))
    assert np.all(np.isfinite(gradient))


SOURCE = jnp.array(
    [
        [[GENERATED, RETRIEVED, GENERATED, PADDING]] * G,
        [[PROMPT, GENERATED, GENERATED, GENERATED]] * G,
    ]
)


REWARD = jnp.array([[1.0, 0.0, 0.5], [0.2, 0.7, 0.0]])


def losses(differentiated, constants, clip_eps):
    """Every term: the policy's with whitened advantages of a critic, divergence, entropy and value."""
    log_probs, entropy, values = differentiated
    behaviour, reference, old_values = constants
    advantage, target = token_advantages(REWARD, old_values, SOURCE, 0.9)
    return sequence_policy_loss(
        log_probs,
        behaviour,
        whitened(advantage, SOURCE, jnp.ones(B)),
        SOURCE,
        clip_eps=clip_eps,
        reference=reference,
        entropy=entropy,
        critic=(values, target),
    )


def arrays(seed=6):
    keys = jax.random.split(jax.random.PRNGKey(seed), 6)
    return [jax.random.normal(key, (B, G, T)) for key in keys]


@pytest.mark.parametrize("clip_eps", [None, 0.2])
@pytest.mark.parametrize("junk", [7.0, np.nan, np.inf])
def test_what_other_tokens_hold_changes_no_bit(clip_eps, junk):
    """Of every array: log-probabilities of policy, behaviour and reference, entropies and values."""

    @jax.jit
    def both(arrays):
        def total(differentiated):
            found = losses(differentiated, arrays[3:], clip_eps)
            return found.policy + 0.1 * found.kl - 0.1 * found.entropy + found.value, found

        return jax.value_and_grad(total, has_aux=True)(arrays[:3])

    clean = arrays()
    spoilt = [jnp.where(SOURCE == GENERATED, leaf, junk) for leaf in clean]
    (_, expected), gradient = both(clean)
    (_, found), other = both(spoilt)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found.count == int(jnp.sum(SOURCE == GENERATED)) == 5 * G
    for number, (one, two) in enumerate(zip(gradient, other, strict=True)):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(two[SOURCE != GENERATED], 0)
        if clip_eps is None or number > 0:
            assert np.all(np.asarray(two)[SOURCE == GENERATED] != 0)
    assert min(abs(float(found.entropy)), float(found.value), float(found.kl)) > 1e-3


def test_the_clipped_surrogate_and_the_divergence_by_hand():
    source = jnp.array([[[GENERATED, GENERATED]]])
    log_probs, behaviour = jnp.log(jnp.array([[[0.6, 0.2]]])), jnp.log(jnp.array([[[0.4, 0.4]]]))
    reference = jnp.log(jnp.array([[[0.3, 0.4]]]))
    found = sequence_policy_loss(
        log_probs, behaviour, jnp.array([[1.0]]), source, clip_eps=0.2, reference=reference
    )
    assert found.policy == pytest.approx(-(1.2 + 0.5), rel=1e-6)  # ratios 1.5, clipped, and 0.5
    assert found.clipped == 1
    expected = 1.5 * (0.5 - np.log(0.5) - 1) + 0.5 * (2.0 - np.log(2.0) - 1)  # ratio times k3
    assert found.kl == pytest.approx(expected, rel=1e-5)


def test_whitening_is_over_generated_tokens_alone():
    values = arrays()[2]
    kept = np.asarray(SOURCE == GENERATED)
    found = np.asarray(whitened(values, SOURCE, jnp.ones(B)))
    assert found[kept].mean() == pytest.approx(0, abs=1e-6)
    assert found[kept].std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(found[~kept], 0)
    other = whitened(jnp.where(SOURCE == GENERATED, values, 1e6), SOURCE, jnp.ones(B))
    np.testing.assert_array_equal(other, found)
    # A row that weighs nothing is no part of the mean.
    first = np.asarray(whitened(values.at[1].set(50.0), SOURCE, jnp.array([1.0, 0.0])))
    assert first[0][kept[0]].mean() == pytest.approx(0, abs=1e-6)


def test_token_advantages_by_hand():
    """A retrieved token in between is no step: the values on its two sides follow one another."""
    source = jnp.array([[[GENERATED, RETRIEVED, GENERATED, GENERATED, PADDING]]])
    values = jnp.array([[[0.1, 9.0, 0.4, 0.2, 9.0]]])
    found = token_advantages(jnp.array([[1.0]]), values, source, 0.5)
    third = 1.0 - 0.2
    second = (0.2 - 0.4) + 0.5 * third
    first = (0.4 - 0.1) + 0.5 * second
    np.testing.assert_allclose(found.advantage[0, 0], [first, 0, second, third, 0], atol=1e-6)
    targets = np.asarray(found.target)[0, 0, [0, 2, 3]]
    np.testing.assert_allclose(targets, [first + 0.1, second + 0.4, 1.0], atol=1e-6)


def test_with_full_traces_each_token_has_the_reward_minus_its_value():
    values = arrays()[2]
    found = token_advantages(REWARD, values, SOURCE, 1.0)
    kept = np.asarray(SOURCE == GENERATED)
    expected = np.asarray(REWARD[..., None] - values)
    np.testing.assert_allclose(np.asarray(found.advantage)[kept], expected[kept], atol=1e-5)
    targets = np.asarray(found.target)[kept]
    np.testing.assert_allclose(
        targets, np.broadcast_to(REWARD[..., None], SOURCE.shape)[kept], atol=1e-5
    )


def test_the_other_questions_are_the_baseline():
    reward = jnp.array([[1.0, 0.0], [1.0, 1.0], [jnp.nan, 5.0], [0.0, 0.0]])
    advantage = minus_other_questions(reward, jnp.array([1.0, 1.0, 0.0, 1.0]))
    np.testing.assert_allclose(advantage[0], [0.5, -0.5])  # others: 1 and 0
    np.testing.assert_allclose(advantage[1], [0.75, 0.75])  # others: .5 and 0
    np.testing.assert_allclose(advantage[3], [-0.75, -0.75])
    alone = minus_other_questions(reward[:1], jnp.ones(1))
    np.testing.assert_allclose(alone, reward[:1])
