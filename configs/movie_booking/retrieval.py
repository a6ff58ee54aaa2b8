"""Booking movie tickets by a policy that retrieves rows of the table, π(a|s) = Σ_d p(d|s) π(a|s,d).

    ragjax train configs/movie_booking/retrieval.py

What is known and what a row has are embedded by one matrix, so that rows that agree are found from the
start. The warm start is by the likelihood of the rule agent's actions, summed over the rows as well.

Expected (experiments/movie_booking.py): to be recorded.
"""

from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.movie_booking_policies import MovieBookingBaseline
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.encoder import PerceptronEncoder
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.objectives.guided_ppo import GuidedPPO
from ragjax.training.optimizer import Adam

CODE = 32  # numbers of an observation, and of a row, that say which values there are


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=MovieBooking(code=CODE),
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
        policy=RetrievalPolicy(
            k=4,
            hidden=(64,),
            retriever=Dense(
                PerceptronEncoder(width=32, first=CODE), initial_scale=10.0, refresh_every=1
            ),
        ),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=450_000,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=2000, every=10, during=200),
    )
