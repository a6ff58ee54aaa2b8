"""KB-InfoBot over the countries of the World Factbook, by PPO that sees the posterior's entropy.

    ragjax train configs/kb_infobot/countries_ppo.py   # --env.sees none or hard for less

Lists of rows are those of the hand-made posterior, whatever is learned.

Expected (experiments/kb_infobot.py): reward 0.598 ± 0.015; success 0.628 ± 0.010.
"""

from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.tables import Countries
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=KBInfoBot(table=Countries(), sees="soft"),
        algorithm=PPO(num_envs=128, rollout_length=16, entropy_coef=0.001),
        policy=ActorCritic(hidden=(64,)),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=245_760,
        evaluation=EpisodeEvaluation(episodes=4000, every=30, during=200),
    )
