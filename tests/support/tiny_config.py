"""A run of seconds on a user's own task: ragjax train tests/support/tiny_config.py."""

from tiny_task import TinyTask

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.training.optimizer import Adam


def get_config() -> QuestionsConfig:
    return QuestionsConfig(
        task=TinyTask(),
        tokenizer=TokenizerSpec(
            vocab_size=400, question_length=10, passage_length=12, answer_length=4
        ),
        retriever=Dense(encoder=BagEncoder(width=16), refresh_every=3),
        reader=TransformerReader(width=16, heads=2, encoder_layers=1, decoder_layers=1),
        objective=RagSequence(
            documents="index", rename_reader=0.5, rename_retriever=0.5, corrupt_words=0.2
        ),
        optimizer=Adam(warmup_steps=2, average=0.5),
        phases=(Phase(steps=5, batch_size=6, k=3), Phase(steps=6, batch_size=8, k=2)),
        evaluation=Evaluation(k=5, batch_size=8, every=4, questions=8),
        log_every=1,
        checkpoint_every=4,
    )
