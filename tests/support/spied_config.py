"""A run of spied parts on questions: ragjax train tests/support/spied_config.py."""

import wiring
from spied import Mute, SpiedEncoder, Telltale, Told

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.models.retriever import Dense
from ragjax.retrieval.bm25 import BM25


def get_config() -> wiring.QuestionsConfig:
    return wiring.QuestionsConfig(
        task=Telltale(),
        tokenizer=TokenizerSpec(
            vocab_size=400, question_length=8, passage_length=8, answer_length=3
        ),
        retriever=Dense(
            SpiedEncoder(width=8), SpiedEncoder(width=8), initial_scale=1.0, refresh_every=3
        ),
        reader=Mute(width=4, heads=1),
        objective=Told(critic=True, bar=-0.25, rewarded=True),
        optimizer=wiring.questions_optimizer(0.1, average=0.5, accumulate=2),
        phases=(
            wiring.Phase(steps=3, batch_size=4, k=3, candidates=BM25()),
            wiring.Phase(steps=5, batch_size=6, k=2),
        ),
        evaluation=wiring.Evaluation(k=4, batch_size=5, every=3, questions=6),
        compute="bfloat16",
        log_every=1,
        checkpoint_every=4,
    )
