"""QaAgent on a book of four questions: every sequence of decisions against a plain reckoning."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.qa_agent import (
    ABSTAIN,
    ACTIONS,
    ANSWER,
    READ,
    REFORMULATE,
    RETRIEVE,
    ROUNDS,
    SHOWN,
    Book,
    BoundQaAgent,
    QaAgent,
)
from ragjax.envs.qa_plans import Plan
from ragjax.envs.to_gymnasium import as_gymnasium
from ragjax.errors import UserError
from ragjax.training.rollout import play_episodes

COST, ABSTAINED = 0.1, 0.25
SCORES = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0.5]], np.float32)
KINDS = ("known", "two_hop", "unseen")
KIND = np.array([0, 1, 1, 2])
# Of the reader's answer, from memory and in the two rounds after it.
PROBABILITY = np.array(
    [[0.9, 0.5, 0.5], [0.2, 0.8, 0.5], [0.3, 0.4, 0.9], [0.6, 0.1, 0.1]], np.float32
)


def make_book(scores=SCORES, shift=0.0):
    rng = np.random.default_rng(0)
    shown = rng.random((4, ROUNDS, len(SHOWN))).astype(np.float32)
    shown[:, :, SHOWN.index("probability")] = PROBABILITY
    shown[:, 1:] += shift
    return jax.tree.map(
        jnp.asarray,
        Book(
            score=scores,
            shown=shown,
            question=rng.random((4, 3)).astype(np.float32),
            kind=KIND.astype(np.int32),
            starts=np.array([0, 1, 3], np.int32),
            counts=np.array([1, 2, 1], np.int32),
            kinds=KINDS,
        ),
    )


def bound(book=None, **fields):
    spec = QaAgent(cost=COST, abstain=ABSTAINED, **fields)
    return BoundQaAgent(spec.time_limit, book=book or make_book(), spec=spec)


@pytest.fixture(scope="module")
def functions():
    env = bound().build()
    return env, jax.jit(env.reset), jax.jit(env.step)


def reckon(row, actions):
    """Rewards, round and end after each action of an episode on a question."""
    reached, made = 0, []
    for action in actions:
        if action == RETRIEVE:
            reached, reward = 1, -COST
        elif action == REFORMULATE:
            reached, reward = min(reached + 1, 2), -COST
        else:
            reward = {ANSWER: SCORES[row, 0], READ: SCORES[row, reached], ABSTAIN: ABSTAINED}[
                action
            ]
        ended = action in (ANSWER, READ, ABSTAIN)
        made.append((reward, reached, ended))
        if ended:
            break
    return made


def test_every_sequence_of_three_decisions(functions):
    env, reset, step = functions
    rows = set()
    for seed, actions in enumerate(itertools.product(range(len(ACTIONS)), repeat=3)):
        key = jax.random.PRNGKey(seed)
        state, shown = reset(env.params, key)
        row = int(state.row)
        rows.add(row)
        assert float(shown.metrics[f"episode_retrievals_{KINDS[KIND[row]]}"]) == 0
        total, retrievals = 0.0, 0
        for action, (reward, reached, ended) in zip(actions, reckon(row, actions), strict=False):
            state, shown = step(env.params, key, state, jnp.int32(action))
            total += reward
            retrievals += action in (RETRIEVE, REFORMULATE)
            assert float(shown.reward) == pytest.approx(reward)
            assert int(state.round) == reached
            assert bool(shown.terminated) == ended
            assert not shown.truncated
            for number, kind in enumerate(KINDS):
                told = [float(shown.metrics[f"episode_{name}_{kind}"]) for name in
                        ("retrievals", "reward")]  # fmt: skip
                if number == KIND[row]:
                    assert told == pytest.approx([retrievals, total])
                else:
                    assert np.isnan(told).all()
    assert rows == {0, 1, 2, 3}
    assert (reset._cache_size(), step._cache_size()) == (1, 1)


def test_an_answer_scores_and_an_abstention_does_not(functions):
    env, reset, step = functions
    key = next(
        k for k in map(jax.random.PRNGKey, range(50)) if int(reset(env.params, k)[0].row) == 0
    )
    state, _ = reset(env.params, key)
    for action, score in ((ANSWER, 1.0), (ABSTAIN, 0.0)):
        _, shown = step(env.params, key, state, jnp.int32(action))
        assert float(shown.metrics["episode_score_known"]) == score


def test_kinds_are_drawn_equally_often(functions):
    env, reset, _ = functions
    states, _ = jax.vmap(reset, (None, 0))(
        env.params, jax.random.split(jax.random.PRNGKey(0), 3000)
    )
    shares = np.bincount(np.asarray(states.row), minlength=4) / 3000
    np.testing.assert_allclose(shares, [1 / 3, 1 / 6, 1 / 6, 1 / 3], atol=0.03)


def test_what_was_not_retrieved_is_not_seen():
    """Neither in what is shown nor in scores: rounds that are not reached may hold anything."""
    one, other = bound().build(), bound(make_book(SCORES * 0, shift=7.0)).build()
    for seed in range(8):
        key = jax.random.PRNGKey(seed)
        (state, seen), (_, also) = one.reset(one.params, key), other.reset(other.params, key)
        np.testing.assert_array_equal(seen.observation, also.observation)
        _, seen = one.step(one.params, key, state, jnp.int32(RETRIEVE))
        _, also = other.step(other.params, key, state, jnp.int32(RETRIEVE))
        assert not np.array_equal(seen.observation, also.observation)


def test_the_time_limit_truncates_what_never_answers():
    env = bound(time_limit=3).vectorise(2)
    key = jax.random.PRNGKey(0)
    state, _ = env.reset(env.params, key)
    for number in range(3):
        state, shown = env.step(env.params, key, state, jnp.full((2,), RETRIEVE))
        assert shown.truncated.tolist() == [number == 2] * 2
    assert not shown.terminated.any()


def test_as_a_gymnasium_environment():
    env = as_gymnasium(bound())
    env.reset(seed=0)
    *_, terminated, truncated, _ = env.step(READ)
    assert terminated
    assert not truncated


@pytest.mark.parametrize(
    ("plan", "retrievals"),
    [
        (Plan(0), [0, 0, 0, 0]),
        (Plan(1), [1, 1, 1, 1]),
        (Plan(2), [2, 2, 2, 2]),
        (Plan(2, threshold=0.5), [0, 2, 2, 0]),
        (Plan(2, threshold=0.5, doubts="every"), [0, 1, 2, 0]),
        (Plan(2, threshold=0.35, doubts="every"), [0, 1, 1, 0]),
        (Plan(1, threshold=0.25), [0, 1, 0, 0]),
    ],
)
def test_plans(functions, plan, retrievals):
    env, reset, step = functions
    model = plan.build(env)
    params = model.init(jax.random.PRNGKey(0))
    for seed in range(12):
        key = jax.random.PRNGKey(seed)
        state, shown = reset(env.params, key)
        for _ in range(4):
            distribution, value = model.apply(params, shown.observation)
            assert value == 0
            action = distribution.mode()
            assert float(distribution.log_probs[action]) > -1e-6
            state, shown = step(env.params, key, state, action)
            if shown.terminated:
                break
        assert shown.terminated
        assert int(state.retrievals) == retrievals[int(state.row)]


def test_the_random_plan_is_uniform(functions):
    env, reset, _ = functions
    model = Plan(random=True).build(env)
    _, shown = reset(env.params, jax.random.PRNGKey(0))
    distribution, _ = model.apply(model.init(None), shown.observation)
    np.testing.assert_allclose(np.exp(distribution.log_probs), 0.2, rtol=1e-6)


def test_episodes_report_by_kind():
    env = bound().vectorise(64)
    model = Plan(2).build(env)
    params = model.init(None)
    played = play_episodes(
        env, lambda o: model.apply(params, o)[0], jax.random.PRNGKey(0), 6, jnp.ones(64, bool)
    )
    two_hop = np.asarray(played["retrievals_two_hop"])
    assert 0 < np.isnan(two_hop).sum() < 64
    assert np.nanmean(two_hop) == 2
    np.testing.assert_allclose(np.nanmean(played["score_unseen"]), 0.5)
    np.testing.assert_allclose(np.nanmean(played["reward_unseen"]), 0.3, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QaAgent(k=0), r"env\.k is 0"),
        (lambda: QaAgent(cost=-0.1), r"env\.cost is -0\.1"),
        (lambda: QaAgent(abstain=1.5), r"env\.abstain is 1\.5"),
        (lambda: QaAgent(history=True), r"env\.history is True"),
        (lambda: QaAgent().build(), r"qa_agent works with a trained reader"),
        (lambda: Plan(retrievals=3), r"policy\.retrievals is 3; choose 0 to 2"),
        (lambda: Plan(threshold=2.0), r"policy\.threshold is 2\.0"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        (QaAgent(), "measure", r"env\.measure is 'bleu'; choose one of em, f1"),
        (Plan(), "doubts", r"policy\.doubts is 'bleu'; choose memory or every"),
    ],
)
def test_bad_choices_are_named(spec, field, message):
    object.__setattr__(spec, field, "bleu")  # behind the back of the type checker
    with pytest.raises(UserError, match=message):
        spec.__post_init__()


def test_plans_are_for_this_environment():
    from ragjax.envs.testbed import Testbed

    with pytest.raises(UserError, match="policy is a Plan, which is one of environment qa_agent"):
        Plan().build(Testbed().build())


def test_a_spec_is_a_frozen_value():
    assert QaAgent() == QaAgent()
    assert hash(QaAgent()) == hash(QaAgent())
    with pytest.raises(dataclasses.FrozenInstanceError):
        QaAgent().k = 3
