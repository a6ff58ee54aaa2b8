"""KB-InfoBot over a made table of 428 rows, by PPO that sees the posterior's entropy.

    ragjax train configs/kb_infobot/made_ppo.py   # --env.sees none or hard for less

Lists of rows are those of the hand-made posterior, whatever is learned.

Expected (experiments/kb_infobot.py): reward 0.761 ± 0.024; success 0.768 ± 0.008.
"""

from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.tables import Generated
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=KBInfoBot(table=Generated(), sees="soft"),
        algorithm=PPO(num_envs=128, rollout_length=16, entropy_coef=0.001),
        policy=ActorCritic(hidden=(64,)),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=245_760,
        evaluation=EpisodeEvaluation(episodes=4000, every=30, during=200),
    )
