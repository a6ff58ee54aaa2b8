"""KB-InfoBot over a made table of 428 rows, by its rule of the highest entropy.

    ragjax train configs/kb_infobot/made_rule.py

Nothing is learned. The posterior over rows is the hand-made belief tracker's.

Expected (experiments/kb_infobot.py): reward 0.745 ± 0.013; success 0.756 ± 0.006.
"""

from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.kb_infobot_rules import EntropyRule
from ragjax.envs.dialogue.tables import Generated
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=KBInfoBot(table=Generated(), sees="soft", evidence=10.0),
        algorithm=PPO(num_envs=8, rollout_length=16),
        policy=EntropyRule(),
        env_steps=128,
        evaluation=EpisodeEvaluation(episodes=4000, every=0),
    )
