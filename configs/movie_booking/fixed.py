"""A policy that learns nothing, booking movie tickets: TC-Bot's rule agent; `--policy.by random`.

    ragjax train configs/movie_booking/fixed.py
    ragjax train configs/movie_booking/fixed.py --env.table TABLE.json --env.goals GOALS.json

Expected (experiments/movie_booking.py): to be recorded.
"""

from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.movie_booking_policies import MovieBookingBaseline
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=MovieBooking(),
        algorithm=PPO(),
        policy=MovieBookingBaseline(),
        evaluation=EpisodeEvaluation(episodes=2000),
    )
