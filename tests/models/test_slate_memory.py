"""What an episode's responses are remembered as, and what a policy makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted

from ragjax.envs.recommendation.interest_evolution import TOPIC_QUALITY, InterestEvolution
from ragjax.errors import UserError
from ragjax.models.slate_memory import SlateMemory
from ragjax.models.slate_policy import split

CAPACITY, ENVS = 8, 3
SPEC = InterestEvolution(candidates=5, slate=2, memory=CAPACITY, dealt=True)


@pytest.fixture(scope="module")
def played():
    """The environments and what they showed in six steps, [7,E,O]; slates of the first candidates."""
    env = jitted(SPEC.vectorise(ENVS))
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, made = reset(env.params, jax.random.key(0))
    seen = [made.observation]
    for number in range(6):
        action = jnp.tile(jnp.asarray([0, 3], jnp.int32), (ENVS, 1))
        state, made = step(env.params, jax.random.key(1 + number), state, action)
        seen.append(made.observation)
    return env, jnp.stack(seen), state


def test_the_newest_responses_of_the_episode_are_seen(played):
    env, seen, _ = played
    parts = {name: np.asarray(part) for name, part in split(env, seen).items()}
    assert list(parts)[-2:] == ["memory", "candidates"]
    assert parts["memory"].shape == (7, ENVS, CAPACITY, 24)
    assert not parts["memory"][0].any()
    for e in range(ENVS):
        responses = parts["responses"][1:, e].reshape(-1, 23)
        for t in range(1, 7):
            rows = parts["memory"][t, e]
            known = rows[:, -1] > 0
            assert known.sum() == min(2 * t, CAPACITY)
            newest = responses[: 2 * t][-CAPACITY:]
            np.testing.assert_array_equal(
                sorted(map(tuple, rows[known, :-1])), sorted(map(tuple, newest))
            )


def test_qualities_are_dealt_out_anew_for_each_episode(played):
    env, seen, state = played
    responses = np.asarray(split(env, seen)["responses"])[1:]
    while not hasattr(state, "offered"):
        state = state.inner
    dealt = np.asarray(state.user.dealt)
    assert len({tuple(row) for row in dealt}) == ENVS
    topics = responses[..., 3:].argmax(axis=-1)
    for e in range(ENVS):
        assert sorted(dealt[e]) == list(range(20))
        mean = TOPIC_QUALITY[dealt[e][topics[:, e]]]
        assert np.abs(responses[:, e, :, 2] - mean).max() < 0.6  # drawn with deviation 0.1


def test_a_candidate_is_scored_by_the_marginal_over_what_is_recalled(played):
    env, seen, _ = played
    spec = SlateMemory(k=3, width=6, hidden=(7,))
    policy = jitted(spec.build(env))
    params = policy.init(jax.random.key(2))
    params["retriever"]["unknown"] = jnp.asarray(0.7)
    observation = seen[4]
    scores = np.asarray(policy.apply(params, observation)[0].scores)
    parts = {name: np.asarray(part, np.float64) for name, part in split(env, observation).items()}
    kernel = np.asarray(params["retriever"]["embedder"]["kernel"], np.float64)
    layers = [params["policy"][name] for name in sorted(params["policy"])]

    def f(row):
        hidden = np.tanh(row @ layers[0]["kernel"] + layers[0]["bias"])
        return float((hidden @ layers[1]["kernel"] + layers[1]["bias"])[0])

    def unit(x):
        return x @ kernel / np.linalg.norm(x @ kernel)

    for e in range(ENVS):
        rows = parts["memory"][e]
        rows = rows[rows[:, -1] > 0]
        user = np.concatenate([parts["user"][e], parts["responses"][e].reshape(-1)])
        for c, candidate in enumerate(parts["candidates"][e]):
            alike = np.array([10.0 * unit(candidate) @ unit(row[3:-1]) for row in rows])
            best = np.argsort(-alike, kind="stable")[:3]
            weights = np.exp([*alike[best], 0.7])
            reads = [f(np.concatenate([user, candidate, rows[m, :3]])) for m in best]
            reads.append(f(np.concatenate([user, candidate, np.zeros(3)])))
            expected = np.log(weights / weights.sum() @ np.exp(reads))
            np.testing.assert_allclose(scores[e, c], expected, rtol=2e-3, atol=2e-5)


def test_before_anything_is_shown_nothing_is_recalled(played):
    env, seen, _ = played
    policy = jitted(SlateMemory(k=3).build(env))
    params = policy.init(jax.random.key(3))

    def total(params, observation):
        distribution, value = policy.apply(params, observation)
        return jnp.sum(distribution.scores) + jnp.sum(value)

    slope = jax.jit(jax.grad(total))(params, seen[0])
    for leaf in jax.tree.leaves(slope):
        assert np.all(np.isfinite(leaf))
    assert not np.any(slope["retriever"]["embedder"]["kernel"])
    later = jax.jit(jax.grad(total))(params, seen[5])
    assert np.any(later["retriever"]["embedder"]["kernel"])


@pytest.mark.parametrize(
    ("spec", "policy", "named"),
    [
        (InterestEvolution(), SlateMemory(), "memory"),
        (InterestEvolution(memory=4), SlateMemory(k=5), "policy.k is 5"),
    ],
)
def test_a_policy_without_a_memory_to_recall_is_refused(spec, policy, named):
    with pytest.raises(UserError, match=named):
        policy.build(spec.vectorise(2))


@pytest.mark.parametrize("memory", [-1, 1])
def test_a_memory_that_cannot_hold_a_slate_is_refused(memory):
    with pytest.raises(UserError, match=r"env\.memory is"):
        InterestEvolution(slate=2, memory=memory)


@pytest.mark.parametrize("corpus", [0, 6])
def test_a_memory_begins_with_what_earlier_users_met_with(corpus):
    """Each was shown one slate, in the world of the episode; it and its user are as without them."""
    earlier = 40
    spec = dataclasses.replace(SPEC, memory=48, earlier=earlier, corpus=corpus)
    env, plain = jitted(spec.vectorise(ENVS)), jitted(SPEC.vectorise(ENVS))
    state, made = env.reset(env.params, jax.random.key(0))
    seen = {name: np.asarray(part) for name, part in split(env, made.observation).items()}
    alone = split(plain, plain.reset(plain.params, jax.random.key(0))[1].observation)
    np.testing.assert_array_equal(seen["user"], alone["user"])
    memory = seen["memory"]
    np.testing.assert_array_equal(memory[..., -1], np.arange(48) < earlier * np.ones((ENVS, 1)))
    assert not memory[:, earlier:].any()
    clicks = memory[:, :earlier, 0].reshape(ENVS, -1, spec.slate).sum(axis=-1)
    assert set(np.unique(clicks)) == {0.0, 1.0}
    inner = state
    while not hasattr(inner, "offered"):
        inner = inner.inner
    dealt = np.asarray(inner.user.dealt)
    topics = memory[:, :earlier, 3:-1].argmax(axis=-1)
    mean = np.take_along_axis(np.asarray(TOPIC_QUALITY)[dealt], topics, axis=-1)
    assert np.max(np.abs(memory[:, :earlier, 2] - mean)) < 0.6  # the deviation of a quality is 0.1
    assert len(np.unique(topics)) == (len(np.unique(env.params.corpus.topic)) if corpus else 20)
    # What the episode itself meets with is written after them.
    action = jnp.tile(jnp.asarray([0, 3], jnp.int32), (ENVS, 1))
    _, made = env.step(env.params, jax.random.key(1), state, action)
    after = split(env, made.observation)["memory"]
    np.testing.assert_array_equal(after[:, :earlier], memory[:, :earlier])
    np.testing.assert_array_equal(after[..., -1].sum(axis=-1), earlier + spec.slate)


@pytest.mark.parametrize(("memory", "earlier"), [(0, 2), (8, 3), (8, 10), (8, -2)])
def test_earlier_responses_that_do_not_fit_are_refused(memory, earlier):
    with pytest.raises(UserError, match=rf"env\.earlier is {earlier}"):
        InterestEvolution(slate=2, memory=memory, earlier=earlier)
