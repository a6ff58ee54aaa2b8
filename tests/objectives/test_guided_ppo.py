"""PPO that begins by imitating: whose actions are learned from, by which loss, and what comes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.movie_booking_acts import ACTIONS
from ragjax.envs.dialogue.movie_booking_policies import SCRIPT, MovieBookingBaseline
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.encoder import PerceptronEncoder
from ragjax.models.policy import ActorCritic
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.objectives.guided_ppo import GuidedPPO
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam
from ragjax.training.step import make_step

GUIDE = MovieBookingBaseline()
ALGORITHM = GuidedPPO(guide=GUIDE, guided=24, num_envs=32, rollout_length=8)
RETRIEVER = Dense(PerceptronEncoder(width=8, first=16), initial_scale=5.0)
POLICIES = {
    "plain": (0, ActorCritic(hidden=(32,))),
    "retrieving": (16, RetrievalPolicy(k=2, hidden=(32,), retriever=RETRIEVER)),
}


@pytest.fixture(
    scope="module", params=[pytest.param("plain", marks=pytest.mark.slow), "retrieving"]
)
def learner(request):
    code, policy = POLICIES[request.param]
    config = EpisodesConfig(
        env=MovieBooking(made_rows=40, made_goals=8, code=code),
        algorithm=ALGORITHM,
        policy=policy,
        optimizer=Adam.for_policies(learning_rate=3e-3, schedule="constant"),
        env_steps=32 * ALGORITHM.batch_size,
        evaluation=EpisodeEvaluation(episodes=8, every=0),
    )
    return config.create()


def begun(learner):
    return jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)


def collected(learner, state):
    stage = learner.stages[0]

    @jax.jit
    def collect(state):
        return learner.collect(state, None, stage=stage, hyper=learner.hyper, data=learner.data)

    return collect(state)


def observations(batch):
    return np.asarray(getattr(batch.observation, "observation", batch.observation))


def test_the_first_rollouts_are_the_guide_s(learner):
    state, batch, _ = collected(learner, begun(learner))
    assert bool(state.extra)
    start = 16 if observations(batch).shape[-1] > 272 else 0
    moves = observations(batch)[:, start + 11 + 29 * 2 + 11 + 29 * 3]
    script = [ACTIONS.index(action) for action in SCRIPT]
    np.testing.assert_array_equal(batch.action, np.array(script)[(moves * 5).astype(int)])
    later = begun(learner)
    later = dataclasses.replace(later, step=jnp.asarray(ALGORITHM.guided))
    state, batch, _ = collected(learner, later)
    assert not bool(state.extra)
    assert len(set(np.asarray(batch.action).tolist())) > 20  # of 43, drawn nearly evenly


def test_the_loss_is_the_likelihood_of_the_guide_s_actions(learner):
    """And its gradient that of -log π(a|s) averaged over steps, retriever included."""
    state, batch, _ = collected(learner, begun(learner))
    policy, hyper = learner.policy(learner.data), learner.hyper

    def policy_loss(params):
        extra = state.extra
        made = ALGORITHM.loss(policy, params, jax.random.key(0), batch, hyper, extra=extra)
        return made.metrics["policy_loss"][0]

    def negative_likelihood(params):
        log_probs = policy.apply(params, batch.observation)[0].log_probs
        return -jnp.sum(jnp.take_along_axis(log_probs, batch.action[:, None], axis=-1))

    for ours, theirs in zip(
        jax.tree.leaves(jax.jit(jax.value_and_grad(policy_loss))(state.params)),
        jax.tree.leaves(jax.jit(jax.value_and_grad(negative_likelihood))(state.params)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_later_losses_are_those_of_ppo(learner):
    state = dataclasses.replace(begun(learner), step=jnp.asarray(ALGORITHM.guided))
    state, batch, _ = collected(learner, state)
    policy, key = learner.policy(learner.data), jax.random.key(0)
    # Other parameters than those that acted, so that ratios differ from 1.
    params = jax.tree.map(lambda leaf: leaf * 1.5, state.params)
    fields = {item.name for item in dataclasses.fields(PPO)}
    plain = PPO(**{name: getattr(ALGORITHM, name) for name in fields})
    losses = (
        algorithm.loss(policy, params, key, batch, learner.hyper, extra=state.extra)
        for algorithm in (ALGORITHM, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, *losses)


def test_the_guide_is_imitated(learner):
    """After its rollouts the likeliest actions are the guide's."""
    step = jax.jit(make_step(learner, learner.stages[0]))
    state = begun(learner)
    for _ in range(ALGORITHM.guided):
        state, _ = step(state, None, learner.hyper, learner.data)
    played = jax.jit(lambda state: learner.play(state, 64))(state)["greedy"]
    assert np.mean(np.asarray(played["length"]) == len(SCRIPT)) > 0.95


def test_a_guide_learns_nothing():
    with pytest.raises(UserError, match=r"algorithm\.guide is a ActorCritic, which has to learn; "):
        GuidedPPO(guide=ActorCritic())
    with pytest.raises(UserError, match=r"algorithm\.guided is -1; it must not be negative"):
        GuidedPPO(guide=GUIDE, guided=-1)
