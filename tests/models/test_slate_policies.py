"""Policies that show slates, in a tiny world in which every slate can be enumerated."""

import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted

from ragjax.envs.base import Environment, timestep
from ragjax.envs.catch import Catch
from ragjax.envs.lookup import Lookup
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.slate_policy import SlatePolicy
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.a2c import A2C
from ragjax.objectives.ppo import PPO
from ragjax.objectives.reinforce import Reinforce
from ragjax.objectives.vtrace import VTrace
from ragjax.training.optimizer import Adam
from ragjax.training.program import train
from ragjax.types import Env

ITEMS, WIDTH, PLACES = 12, 4, 2


@dataclass(frozen=True)
class Shop(Environment):
    """One visit: the user wants one of `WIDTH` kinds; reward 1 for it in the first place, ½ in the next.

    With `offered` the slate is of as many items drawn at the visit, else of the corpus.
    """

    name: ClassVar[str] = "shop"

    time_limit: int = 1
    offered: int = 0

    def build(self) -> Env:
        kinds = np.arange(ITEMS) % WIDTH
        items = jnp.asarray(np.eye(WIDTH, dtype=np.float32)[kinds])

        def reset(params, key):
            want_key, offer_key = jax.random.split(key)
            wanted = jax.random.randint(want_key, (), 0, WIDTH)
            offer = jax.random.permutation(offer_key, ITEMS)[: self.offered]
            seen = jax.nn.one_hot(wanted, WIDTH)
            if self.offered:
                seen = jnp.concatenate([seen, items[offer].reshape(-1)])
            return (wanted, offer), timestep(seen)

        def step(params, key, state, action):
            wanted, offer = state
            shown = offer[action] if self.offered else action
            hits = (jnp.asarray(kinds)[shown] == wanted).astype(jnp.float32)
            reward = jnp.sum(hits * jnp.asarray([1.0, 0.5]))
            width = WIDTH * (1 + self.offered)
            return state, timestep(jnp.zeros(width), reward, terminated=True)

        width = WIDTH * (1 + self.offered)
        low, high = np.zeros(width, np.float32), np.ones(width, np.float32)
        if self.offered:
            parts = {"user": (WIDTH,), "candidates": (self.offered, WIDTH)}
            return Env({}, reset, step, self.offered, low, high, slate=PLACES, parts=parts)
        return Env({}, reset, step, ITEMS, low, high, passages=items, slate=PLACES)


def config(env, policy, algorithm=None, steps=60, **more):
    algorithm = algorithm or PPO(num_envs=32, rollout_length=4, minibatches=2, entropy_coef=0.01)
    return EpisodesConfig(
        env=env,
        policy=policy,
        algorithm=algorithm,
        optimizer=Adam.for_policies(learning_rate=1e-2),
        env_steps=algorithm.batch_size * steps,
        evaluation=EpisodeEvaluation(episodes=64, every=0, during=8),
        **more,
    )


def trained(made):
    """Returns the learner, its state after all steps, and the metrics of every step."""
    learner = made.create()
    key = jax.random.PRNGKey(made.seed)
    state, [curve] = jax.jit(functools.partial(train, learner))(
        key, [None], learner.hyper, learner.data
    )
    return learner, state, curve


@pytest.fixture(scope="module")
def offered():
    env = jitted(Shop(offered=5).vectorise(3))
    policy = jitted(SlatePolicy(hidden=(8,)).build(env))
    return env, policy, policy.init(jax.random.key(0))


def test_scores_follow_the_candidates_whatever_their_order(offered):
    env, policy, params = offered
    _, first = env.reset(env.params, jax.random.key(1))
    seen = first.observation
    order = np.array([3, 0, 4, 1, 2])
    moved = seen.at[:, WIDTH:].set(seen[:, WIDTH:].reshape(3, 5, WIDTH)[:, order].reshape(3, -1))
    one, value = policy.apply(params, seen)
    two, again = policy.apply(params, moved)
    np.testing.assert_allclose(np.asarray(one.scores)[:, order], two.scores, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(value, again, rtol=1e-5)
    assert np.ptp(np.asarray(one.scores)) > 0


def test_what_was_explored_is_shown_while_drawing_alone():
    env = jitted(Shop().vectorise(64))
    policy = jitted(SlateRetrieval(k=3, explored=4).build(env))
    params = policy.init(jax.random.key(0))
    index = policy.embed(params)
    _, first = env.reset(env.params, jax.random.key(1))
    found = policy.retrieve(params, index, None, first.observation)
    assert found.ids.shape == (64, 3)
    drawn = policy.retrieve(params, index, jax.random.key(2), first.observation)
    ids = np.asarray(drawn.ids)
    np.testing.assert_array_equal(ids[:, :3], found.ids)
    for row in ids:
        kept = row[row >= 0]
        assert len(set(kept)) == len(kept)  # none twice
    assert len(np.unique(ids)) == ITEMS + 1  # all items come up, and some were found anyway
    likeliest = dataclasses.replace(drawn, noise=jnp.zeros_like(drawn.noise))
    alone, _ = policy.apply(params, found)
    same, _ = policy.apply(params, likeliest)
    np.testing.assert_allclose(np.asarray(same.log_probs)[:, :3], alone.log_probs, rtol=1e-5)
    assert np.all(np.exp(same.log_probs)[:, 3:] == 0)
    more, _ = policy.apply(params, drawn)
    shown = np.exp(more.log_probs)
    np.testing.assert_array_equal(shown > 0, ids >= 0)
    executed = np.asarray(more.executed(more.sample(jax.random.key(3))))
    assert executed.min() >= 0
    assert np.all(executed[:, 0] != executed[:, 1])


def test_gradient_of_the_retrieved_slate_equals_enumeration():
    """∇ Σ_slates π(slate|s) r(slate), by the loss over all slates and by differentiating the sum."""
    env = jitted(Shop().vectorise(3))
    policy = jitted(SlateRetrieval(k=4, hidden=(6,)).build(env))
    params = policy.init(jax.random.key(3))
    _, first = env.reset(env.params, jax.random.key(4))
    seen = policy.retrieve(params, policy.embed(params), None, first.observation)
    slates = jnp.asarray(list(itertools.permutations(range(4), PLACES)), jnp.int32)
    reward = jnp.asarray(np.random.default_rng(5).normal(size=(3, len(slates))), jnp.float32)

    def expected(params):
        distribution, _ = policy.apply(params, seen)
        table = jax.vmap(lambda slate: distribution.log_prob(jnp.tile(slate, (3, 1))))(slates)
        return jnp.sum(jnp.exp(table).T * reward), jnp.exp(table).T

    exact, chance = jax.jit(jax.grad(expected, has_aux=True))(params)

    def surrogate(params):
        total = 0.0
        for number, slate in enumerate(slates):
            distribution, _ = policy.apply(params, seen)
            advantage = chance[:, number] * reward[:, number]
            total -= distribution.policy_gradient_sum(
                jnp.tile(slate, (3, 1)), advantage, jnp.ones(3)
            )
        return total

    found = jax.jit(jax.grad(surrogate))(params)
    for group in ("policy", "retriever"):
        moved = 0.0
        for one, two in zip(
            jax.tree.leaves(found[group]), jax.tree.leaves(exact[group]), strict=True
        ):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
            moved += float(jnp.sum(jnp.abs(one)))
        assert moved > 1e-2, group


@pytest.mark.parametrize(
    ("env", "policy", "named"),
    [
        (Shop(), ActorCritic(), "slates"),
        (Shop(), RetrievalPolicy(), "slates"),
        (Shop(), SlatePolicy(), "SlateRetrieval"),
        (Shop(offered=5), SlateRetrieval(k=3), "no passages"),
        (Shop(), SlateRetrieval(k=13), "policy.k is 13"),
        (Shop(), SlateRetrieval(k=1), "policy.k is 1"),
        (Lookup(), SlateRetrieval(), "single actions"),
        (Catch(), SlatePolicy(), "single actions"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_policies_of_another_kind_are_refused_in_one_sentence(env, policy, named):
    with pytest.raises(UserError, match=named) as raised:
        policy.build(env.vectorise(2))
    assert "\n" not in str(raised.value)


def test_history_of_slates_is_refused():
    with pytest.raises(UserError, match=r"env\.history"):
        Shop(history=True).vectorise(2)


@pytest.mark.parametrize(
    "algorithm",
    [
        PPO(num_envs=32, rollout_length=4, minibatches=2, entropy_coef=0.01),
        pytest.param(A2C(num_envs=32, rollout_length=4), marks=pytest.mark.slow),
        VTrace(num_envs=32, rollout_length=4),
        Reinforce(num_envs=64, rollout_length=1),
    ],
    ids=lambda of: type(of).__name__,
)
def test_every_algorithm_learns_to_retrieve_slates(algorithm):
    """The best slate earns 1.5, two items at random 0.375; both are found by a search in 12 items."""
    policy = SlateRetrieval(k=4, explored=4, hidden=(16,), reranks=False)
    learner, state, curve = trained(config(Shop(), policy, algorithm, steps=150))
    assert float(curve["episode_return"].value[0]) < 0.8
    played, _ = learner.evaluate(state)
    assert played.summary()["greedy_return"] > 1.4


def test_slates_of_offered_candidates_are_learned():
    learner, state, curve = trained(config(Shop(offered=5), SlatePolicy(hidden=(16,)), steps=100))
    best = learner.evaluate(state)[0].summary()["greedy_return"]
    # The first visit's candidates hold a wanted item with chance 1 - (9 choose 5)/(12 choose 5).
    assert best > 0.9
    divergence = np.asarray(curve["kl"])
    assert np.all(np.isfinite(divergence))
    assert divergence.max() > 0


def test_what_is_learned_among_some_items_plays_among_others():
    """Slates are of passages, of which there may be more; not of as many places or in other numbers."""
    config = EpisodesConfig(
        env=InterestEvolution(corpus=30, slate=2),
        algorithm=A2C(num_envs=2, rollout_length=2),
        policy=SlateRetrieval(k=4, hidden=(4,)),
        env_steps=4,
        evaluation=EpisodeEvaluation(episodes=2),
    )
    learner = config.create()
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)
    more = config.in_environment(InterestEvolution(corpus=50, slate=2))
    assert more.raw_env.num_actions == 50
    episodes, _ = more.evaluate(state)
    assert len(episodes.returns["greedy"]) == 2
    for other in (InterestEvolution(corpus=30), InterestEvolution(corpus=30, slate=2, tokens=True)):
        with pytest.raises(UserError, match="observations, actions and passages of shapes"):
            config.in_environment(other)
