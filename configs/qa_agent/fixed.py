"""A fixed policy: retrieve once, then read and answer; `--policy.retrievals` 0 is never, 2 twice.

    ragjax train configs/reader_lessons/reader.py      # first, its reader
    ragjax train configs/qa_agent/fixed.py --policy.retrievals 2 --policy.threshold 0.7

A reward of about .51 as it stands, of .69 by that command.
"""

from ragjax.envs.qa_agent import QaAgent
from ragjax.envs.qa_plans import Plan
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.a2c import A2C


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=QaAgent(),
        algorithm=A2C(num_envs=8, rollout_length=4, discount=1.0),
        policy=Plan(retrievals=1),
        env_steps=8 * 4,  # one update, of which the policy learns nothing
        evaluation=EpisodeEvaluation(episodes=3000, every=0),
    )
