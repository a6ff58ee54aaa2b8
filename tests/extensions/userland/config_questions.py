"""Task, encoder, index and objective of a user, together."""

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.training.optimizer import Adam
from userland.encoder import SumEncoder
from userland.index import TwoStage
from userland.objective import Halfway
from userland.task import Gates


def get_config() -> QuestionsConfig:
    return QuestionsConfig(
        task=Gates(),
        tokenizer=TokenizerSpec(
            vocab_size=300, question_length=10, passage_length=10, answer_length=4
        ),
        retriever=Dense(encoder=SumEncoder(), index=TwoStage(), refresh_every=5),
        reader=TransformerReader(width=16, heads=2, encoder_layers=1, decoder_layers=1),
        objective=Halfway(share=0.25, documents="in_batch"),
        optimizer=Adam(warmup_steps=2),
        phases=(Phase(steps=12, batch_size=6, k=2),),
        evaluation=Evaluation(k=3, every=6),
        log_every=1,
        checkpoint_every=6,
    )
