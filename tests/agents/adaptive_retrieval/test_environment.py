"""Adaptive retrieval of four questions: every sequence of decisions against a plain reckoning."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.agents.adaptive_retrieval.decisions import (
    ABSTAIN,
    ACTIONS,
    ANSWER,
    READ,
    REFORMULATE,
    RETRIEVE,
)
from ragjax.agents.adaptive_retrieval.environment import (
    AdaptiveRetrieval,
    PreparedAdaptiveRetrieval,
)
from ragjax.agents.adaptive_retrieval.fixed_policies import FixedPolicy
from ragjax.agents.adaptive_retrieval.questions import FEATURES, QuestionTable, ReadQuestions
from ragjax.agents.adaptive_retrieval.reader import STAGES
from ragjax.envs.to_gymnasium import as_gymnasium
from ragjax.errors import UserError
from ragjax.ops.distributions import Categorical
from ragjax.training.rollout import play_episodes
from ragjax.types import Question

COST, ABSTAINED = 0.1, 0.25
SCORES = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0.5]], np.float32)
KINDS = ("known", "two_hop", "unseen")
KIND = np.array([0, 1, 1, 2])
# Of the reader's answer, from memory and in the two rounds after it.
PROBABILITY = np.array(
    [[0.9, 0.5, 0.5], [0.2, 0.8, 0.5], [0.3, 0.4, 0.9], [0.6, 0.1, 0.1]], np.float32
)


def make_table(scores=SCORES, shift=0.0):
    rng = np.random.default_rng(0)
    features = rng.random((4, STAGES, len(FEATURES))).astype(np.float32)
    features[:, :, FEATURES.index("probability")] = PROBABILITY
    features[:, 1:] += shift
    return jax.tree.map(
        jnp.asarray,
        QuestionTable(
            score=scores,
            features=features,
            question=rng.random((4, 3)).astype(np.float32),
            kind=KIND.astype(np.int32),
            starts=np.array([0, 1, 3], np.int32),
            counts=np.array([1, 2, 1], np.int32),
            kinds=KINDS,
        ),
    )


class Questions(ReadQuestions):
    """The four questions, which no reader has read."""

    def __init__(self, table):
        vars(self)["made"] = table

    def table(self, split):
        return self.made

    def questions(self, split):
        return [
            Question(f"{split}/{row}", "?", ("!",), (), KINDS[kind], "")
            for row, kind in enumerate(KIND)
        ]


def prepared(table=None, **fields):
    spec = AdaptiveRetrieval(cost=COST, abstain=ABSTAINED, **fields)
    questions = Questions(table or make_table())
    return PreparedAdaptiveRetrieval(
        spec.time_limit, spec=spec, questions=questions, reader_dir=Path("reader")
    )


@pytest.fixture(scope="module")
def functions():
    env = prepared().build()
    return env, jax.jit(env.reset), jax.jit(env.step)


def reckon(row, actions):
    """Rewards, stage and end after each action of an episode on a question."""
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


def test_every_sequence_of_three_decisions():
    """By functions that are compiled once, whatever the question and the decision."""
    env = prepared().build()
    with compiled() as programs:
        check_sequences(env, jax.jit(env.reset), jax.jit(env.step))
    assert (programs.count("reset"), programs.count("step")) == (1, 1)


def check_sequences(env, reset, step):
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
            assert int(state.stage) == reached
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


def test_what_was_not_retrieved_is_not_observed():
    """Neither features nor scores: stages that are not reached may hold anything."""
    one, other = prepared().build(), prepared(make_table(SCORES * 0, shift=7.0)).build()
    for seed in range(8):
        key = jax.random.PRNGKey(seed)
        (state, seen), (_, also) = one.reset(one.params, key), other.reset(other.params, key)
        np.testing.assert_array_equal(seen.observation, also.observation)
        _, seen = one.step(one.params, key, state, jnp.int32(RETRIEVE))
        _, also = other.step(other.params, key, state, jnp.int32(RETRIEVE))
        assert not np.array_equal(seen.observation, also.observation)


def test_before_anything_was_retrieved_only_memory_is_observed(functions):
    """What is answered from memory stands there once; the place of what was retrieved is 0."""
    env, reset, _ = functions
    state, shown = reset(env.params, jax.random.PRNGKey(0))
    stage, memory, now, question = np.split(
        shown.observation, STAGES + np.cumsum([0, len(FEATURES), len(FEATURES)])
    )
    np.testing.assert_array_equal(stage, [1, 0, 0])
    np.testing.assert_array_equal(memory, env.params.features[state.row, 0])
    np.testing.assert_array_equal(now, np.zeros(len(FEATURES)))
    np.testing.assert_array_equal(question, env.params.question[state.row])


def test_the_time_limit_truncates_what_never_answers():
    env = prepared(time_limit=3).vectorise(2)
    key = jax.random.PRNGKey(0)
    state, _ = env.reset(env.params, key)
    for number in range(3):
        state, shown = env.step(env.params, key, state, jnp.full((2,), RETRIEVE))
        assert shown.truncated.tolist() == [number == 2] * 2
    assert not shown.terminated.any()


def test_as_a_gymnasium_environment():
    env = as_gymnasium(prepared())
    env.reset(seed=0)
    *_, terminated, truncated, _ = env.step(READ)
    assert terminated
    assert not truncated


@pytest.mark.parametrize(
    ("policy", "retrievals"),
    [
        (FixedPolicy(0), [0, 0, 0, 0]),
        (FixedPolicy(1), [1, 1, 1, 1]),
        (FixedPolicy(2), [2, 2, 2, 2]),
        (FixedPolicy(2, threshold=0.5), [0, 2, 2, 0]),
        (FixedPolicy(2, threshold=0.5, checked="every"), [0, 1, 2, 0]),
        (FixedPolicy(2, threshold=0.35, checked="every"), [0, 1, 1, 0]),
        (FixedPolicy(2, threshold=0.4, checked="every"), [0, 1, 2, 0]),  # 0.4 is not more than 0.4
        (FixedPolicy(1, threshold=0.25), [0, 1, 0, 0]),
    ],
)
def test_fixed_policies(functions, policy, retrievals):
    env, reset, step = functions
    model = policy.build(env)
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


def test_the_random_policy_is_uniform(functions):
    env, reset, _ = functions
    model = FixedPolicy(random=True).build(env)
    _, shown = reset(env.params, jax.random.PRNGKey(0))
    distribution, _ = model.apply(model.init(None), shown.observation)
    np.testing.assert_allclose(np.exp(distribution.log_probs), 0.2, rtol=1e-6)


def test_episodes_report_by_kind():
    env = prepared().vectorise(64)
    model = FixedPolicy(2).build(env)
    params = model.init(None)
    played = play_episodes(
        env, lambda o: model.apply(params, o)[0], jax.random.PRNGKey(0), 6, jnp.ones(64, bool)
    )
    two_hop = np.asarray(played["retrievals_two_hop"])
    assert 0 < np.isnan(two_hop).sum() < 64
    assert np.nanmean(two_hop) == 2
    np.testing.assert_allclose(np.nanmean(played["score_unseen"]), 0.5)
    np.testing.assert_allclose(np.nanmean(played["reward_unseen"]), 0.3, rtol=1e-6)


def test_every_episode_plays_each_question():
    """Once or several times, whatever the key; the mean over kinds is what drawn episodes expect."""
    listed = prepared().on_split("test").every_episode(times=2)
    assert listed.ids == ("test/0", "test/1", "test/2", "test/3")
    assert listed.kinds == ("known", "two_hop", "two_hop", "unseen")
    model = FixedPolicy(1).build(listed.env)
    for seed in range(2):
        played = play_episodes(
            listed.env,
            lambda o: model.apply(model.init(None), o)[0],
            jax.random.PRNGKey(seed),
            6,
            jnp.ones(8, bool),
        )
        np.testing.assert_allclose(played["return"], np.tile(SCORES[:, 1] - COST, 2), rtol=1e-6)
        assert played["length"].tolist() == [2] * 8
        for row, kind in enumerate(KIND):
            known = [name for name in KINDS if not np.isnan(played[f"score_{name}"][row])]
            assert known == [KINDS[kind]]


def test_an_environment_lists_its_episodes_after_all_wrappers():
    """The time limit holds in them, too."""
    listed = prepared(time_limit=3).every_episode()
    never = play_episodes(
        listed.env,
        lambda o: Categorical(jnp.where(jnp.arange(5) == RETRIEVE, 30.0, 0.0) + 0 * o[:, :1]),
        jax.random.PRNGKey(0),
        3,
        jnp.ones(4, bool),
    )
    assert never["length"].tolist() == [3] * 4


def test_the_seed_stands_in_the_name_of_the_reader_s_run():
    assert AdaptiveRetrieval(reader="to/seed_{seed}").reader_dir(3) == Path("to/seed_3")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdaptiveRetrieval(k=0), r"env\.k is 0"),
        (lambda: AdaptiveRetrieval(cost=-0.1), r"env\.cost is -0\.1"),
        (lambda: AdaptiveRetrieval(abstain=1.5), r"env\.abstain is 1\.5"),
        (lambda: AdaptiveRetrieval(history=True), r"env\.history is True"),
        (lambda: AdaptiveRetrieval().build(), r"adaptive_retrieval works with a trained reader"),
        (lambda: FixedPolicy(retrievals=3), r"policy\.retrievals is 3; choose 0 to 2"),
        (lambda: FixedPolicy(threshold=2.0), r"policy\.threshold is 2\.0"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        (
            AdaptiveRetrieval(),
            "measure",
            r"env\.measure is 'bleu'; choose one of em, strict_em, f1",
        ),
        (FixedPolicy(), "checked", r"policy\.checked is 'bleu'; choose memory or every"),
    ],
)
def test_bad_choices_are_named(spec, field, message):
    object.__setattr__(spec, field, "bleu")  # behind the back of the type checker
    with pytest.raises(UserError, match=message):
        spec.__post_init__()


def test_fixed_policies_are_for_this_environment():
    from ragjax.envs.testbed import Testbed

    with pytest.raises(
        UserError, match="policy is a FixedPolicy, which is one of environment adaptive_"
    ):
        FixedPolicy().build(Testbed().build())


def test_a_spec_is_a_frozen_value():
    assert AdaptiveRetrieval() == AdaptiveRetrieval()
    assert hash(AdaptiveRetrieval()) == hash(AdaptiveRetrieval())
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdaptiveRetrieval().k = 3
