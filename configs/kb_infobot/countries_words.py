"""KB-InfoBot over countries by words alone: what the user said is the query, as a question's words are.

    ragjax train configs/kb_infobot/countries_words.py
    ragjax chat runs/kb_infobot/countries_words/seed_0     # takes the user's place

No belief tracker and no posterior made by hand: rows are texts, and the encoder is that of question
answering. Learned by rewards alone.

Expected (experiments/kb_infobot.py): reward 0.823 ± 0.024; success 0.702 ± 0.012.
"""

from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.tables import Countries
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.retriever import Dense
from ragjax.models.row_retrieval import RowRetrieval
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=KBInfoBot(table=Countries(), sees="words"),
        algorithm=PPO(num_envs=128, rollout_length=16, entropy_coef=0.001),
        policy=RowRetrieval(
            k=8,
            hidden=(32,),
            retriever=Dense(BagEncoder(width=128), initial_scale=10.0, refresh_every=1),
        ),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=245_760,
        evaluation=EpisodeEvaluation(episodes=4000, every=30, during=200),
    )
