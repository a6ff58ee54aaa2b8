"""Products that a policy retrieves by a user's views, on RecoGym with 1,000 products: 614,400 steps.

    ragjax train configs/recommendation/recogym.py

Expected (experiments/recogym.py): clicks, % of shown 2.07 ± 0.04; drawn, % 2.09 ± 0.02.
"""

from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.history_encoder import HistoryEncoder
from ragjax.models.retriever import Dense
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    encoder = HistoryEncoder(seen=16, width=128)
    return EpisodesConfig(
        env=RecoGym(products=1000, views=16, sigma_mu_organic=1.0, passage_seed=1),
        algorithm=PPO(num_envs=128, rollout_length=32, discount=0.0, minibatches=4, epochs=2),
        policy=SlateRetrieval(
            k=20,
            explored=5,
            reranks=False,
            retriever=Dense(encoder, initial_scale=15.0, refresh_every=1),
        ),
        optimizer=Adam.for_policies(learning_rate=3e-3),
        env_steps=614_400,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=200, every=75, during=40),
    )
