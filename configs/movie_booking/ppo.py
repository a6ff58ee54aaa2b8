"""Booking movie tickets by PPO after a warm start by the rule agent: 450,000 exchanges.

    ragjax train configs/movie_booking/ppo.py
    ragjax train configs/movie_booking/ppo.py --env.users split   # measured on goals that were held out
    ragjax train configs/movie_booking/ppo.py --env.table TABLE.json --env.goals GOALS.json

Expected (experiments/movie_booking.py): to be recorded.
"""

from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.movie_booking_policies import MovieBookingBaseline
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.guided_ppo import GuidedPPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=MovieBooking(),
        algorithm=GuidedPPO(
            guide=MovieBookingBaseline(),
            guided=5,
            num_envs=128,
            rollout_length=32,
            discount=0.95,
            entropy_coef=0.01,
            epochs=4,
            minibatches=8,
        ),
        policy=ActorCritic(hidden=(128,)),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=450_000,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=2000, every=10, during=200),
    )
