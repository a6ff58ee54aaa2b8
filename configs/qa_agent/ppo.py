"""When to retrieve, learned by PPO: answer from memory, retrieve, retrieve again, or abstain.

    ragjax train configs/reader_lessons/reader.py      # first, its reader
    ragjax train configs/qa_agent/ppo.py

Expected (experiments/adaptive_retrieval.py): reward 0.751 ± 0.028; retrievals, known 0.42 ± 0.07.
"""

from ragjax.envs.qa_agent import QaAgent
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.policy_config import EpisodeEvaluation, PolicyConfig
from ragjax.training.optimizer import TracedAdam


def get_config() -> PolicyConfig:
    return PolicyConfig(
        env=QaAgent(),
        algorithm=PPO(
            num_envs=256,
            rollout_length=8,
            discount=1.0,
            entropy_cost=0.01,
            epochs=4,
            minibatches=4,
        ),
        policy=ActorCritic(hidden=(64, 64)),
        optimizer=TracedAdam(learning_rate=1e-3, anneal=True),
        env_steps=256 * 8 * 150,
        evaluation=EpisodeEvaluation(episodes=3000, every=10, during=1000),
        log_every=50,
        checkpoint_every=150,
    )
