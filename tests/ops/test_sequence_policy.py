"""Policy gradients on whole answers, against all answers there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.ops.marginal import rag_sequence
from ragjax.ops.policy_gradient import standardised
from ragjax.ops.scoring import log_prior_retrieved
from ragjax.ops.sequence_policy import (
    GENERATED,
    PADDING,
    PROMPT,
    RETRIEVED,
    group_normalised,
    leave_one_out,
    marginal_token_logprobs,
    minus_other_questions,
    sequence_policy_loss,
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


@pytest.mark.parametrize("gold", [0, 4, 8])
def test_reward_for_the_right_answer_is_likelihood_in_another_place(theta, gold):
    """∇E[1[y = y*]] = p(y*|x) ∇log p(y*|x), through retriever and generator."""
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


def losses(arrays, clip):
    log_probs, behaviour, advantage, reference = arrays
    advantage = standardised(advantage, (SOURCE == GENERATED).astype(jnp.float32))
    return sequence_policy_loss(
        log_probs, behaviour, advantage, SOURCE, clip=clip, reference=reference
    )


def arrays(seed=6):
    keys = jax.random.split(jax.random.PRNGKey(seed), 4)
    return [jax.random.normal(key, (B, G, T)) for key in keys]


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("junk", [7.0, np.nan, np.inf])
def test_what_other_tokens_hold_changes_no_bit(clip, junk):
    """Of every array: log-probabilities of policy, behaviour and reference, and advantages."""

    @jax.jit
    def both(arrays):
        def total(log_probs):
            found = losses([log_probs, *arrays[1:]], clip)
            return found.policy + 0.1 * found.kl, found

        return jax.value_and_grad(total, has_aux=True)(arrays[0])

    clean = arrays()
    spoilt = [jnp.where(SOURCE == GENERATED, leaf, junk) for leaf in clean]
    (_, expected), gradient = both(clean)
    (_, found), other = both(spoilt)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(gradient, other)
    assert found.count == int(jnp.sum(SOURCE == GENERATED)) == 5 * G
    np.testing.assert_array_equal(other[SOURCE != GENERATED], 0)
    if clip is None:
        assert np.all(np.asarray(other)[SOURCE == GENERATED] != 0)


def test_the_clipped_surrogate_and_the_divergence_by_hand():
    source = jnp.array([[[GENERATED, GENERATED]]])
    log_probs, behaviour = jnp.log(jnp.array([[[0.6, 0.2]]])), jnp.log(jnp.array([[[0.4, 0.4]]]))
    reference = jnp.log(jnp.array([[[0.3, 0.4]]]))
    found = sequence_policy_loss(
        log_probs, behaviour, jnp.array([[1.0]]), source, clip=0.2, reference=reference
    )
    assert found.policy == pytest.approx(-(1.2 + 0.5), rel=1e-6)  # ratios 1.5, clipped, and 0.5
    assert found.clipped == 1
    expected = (0.5 - np.log(0.5) - 1) + (2.0 - np.log(2.0) - 1)
    assert found.kl == pytest.approx(expected, rel=1e-5)


def test_whitening_is_over_generated_tokens_alone():
    values = arrays()[2]
    kept = np.asarray(SOURCE == GENERATED)
    found = np.asarray(standardised(values, jnp.asarray(kept, jnp.float32)))
    assert found[kept].mean() == pytest.approx(0, abs=1e-6)
    assert found[kept].std() == pytest.approx(1, rel=1e-5)
    other = standardised(
        jnp.where(SOURCE == GENERATED, values, 1e6), jnp.asarray(kept, jnp.float32)
    )
    np.testing.assert_array_equal(np.asarray(other)[kept], found[kept])


def test_the_other_questions_are_the_baseline():
    reward = jnp.array([[1.0, 0.0], [1.0, 1.0], [jnp.nan, 5.0], [0.0, 0.0]])
    advantage = minus_other_questions(reward, jnp.array([1.0, 1.0, 0.0, 1.0]))
    np.testing.assert_allclose(advantage[0], [0.5, -0.5])  # others: 1 and 0
    np.testing.assert_allclose(advantage[1], [0.75, 0.75])  # others: .5 and 0
    np.testing.assert_allclose(advantage[3], [-0.75, -0.75])
    alone = minus_other_questions(reward[:1], jnp.ones(1))
    np.testing.assert_allclose(alone, reward[:1])
