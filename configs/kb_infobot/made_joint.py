"""KB-InfoBot over 428 made rows: rows are retrieved, by few labelled turns and by rewards.

    ragjax train configs/kb_infobot/made_joint.py
    ragjax chat runs/kb_infobot/made_joint/seed_0     # takes the user's place

p(d|s) is the hand-made posterior times what is learned, and lists of rows are drawn from it. Turns are
labelled in 1 of 16 dialogues; `--algorithm.share 0` for rewards alone, `--algorithm.reward_coef 0` for
labels alone.

Expected (experiments/kb_infobot.py): reward 0.940 ± 0.014; success 0.825 ± 0.006.
"""

from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.kb_infobot_rules import EntropyRule
from ragjax.envs.dialogue.tables import Generated
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.row_retrieval import RowRetrieval, belief_and_rows
from ragjax.objectives.labelled_turns import LabelledTurns
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=KBInfoBot(table=Generated(), sees="rows"),
        algorithm=LabelledTurns(
            guide=EntropyRule(),
            share=1 / 16,
            label_coef=4.0,
            num_envs=128,
            rollout_length=16,
            entropy_coef=0.001,
        ),
        policy=RowRetrieval(k=8, hidden=(32,), retriever=belief_and_rows(32)),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=245_760,
        evaluation=EpisodeEvaluation(episodes=4000, every=30, during=200),
    )
