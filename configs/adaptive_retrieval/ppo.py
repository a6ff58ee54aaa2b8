"""When to retrieve, learned by PPO: answer from memory, retrieve, retrieve again, or abstain.

    ragjax train configs/reader_training/reader.py      # first, its reader
    ragjax train configs/adaptive_retrieval/ppo.py

Expected (experiments/adaptive_retrieval.py): reward 0.751 ± 0.017; retrievals, known 0.41 ± 0.04.
"""

from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=AdaptiveRetrieval(),
        algorithm=PPO(
            num_envs=256,
            rollout_length=8,
            discount=1.0,
            entropy_coef=0.01,
            epochs=4,
            minibatches=4,
        ),
        policy=ActorCritic(hidden=(64, 64)),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=256 * 8 * 150,
        evaluation=EpisodeEvaluation(every=10, during=1000),
        log_every=50,
        checkpoint_every=150,
    )
