"""Your own passages and questions, from files.

    ragjax train configs/own_data/rag_sequence.py --task.passages P --task.questions Q

P is a file of JSON lines, CSV or TSV with `text`, and `id` and `title` where there are any; or a
folder of text or Markdown files. Q is a file of JSON lines, CSV or TSV with `question` and `answers`,
and `positives` (the ids of gold passages) where they are known. `tasks/own_data.py` says how questions
are split.

Expected: what your files hold; the run prints what of them is cut or left out before it trains.
"""

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25
from ragjax.tasks.own_data import OwnData
from ragjax.training.optimizer import Adam


def get_config() -> QuestionsConfig:
    return QuestionsConfig(
        task=OwnData(),
        tokenizer=TokenizerSpec(
            vocab_size=12000,
            question_length=32,
            passage_length=192,
            answer_length=16,
            with_title=True,
        ),
        retriever=Dense(
            encoder=BagEncoder(width=1024, leading=16), initial_scale=20.0, refresh_every=100
        ),
        reader=TransformerReader(width=64, heads=4, encoder_layers=2, decoder_layers=1),
        objective=RagSequence(
            documents="in_batch", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
        ),
        optimizer=Adam(retriever_rate=1e-2, reader_rate=5e-3, warmup_steps=100),
        # The index of an untrained encoder finds too little; the words in common are a start.
        phases=(
            Phase(steps=250, batch_size=32, k=4, candidates=BM25()),
            Phase(steps=450, batch_size=32, k=4),
        ),
        evaluation=Evaluation(k=10, batch_size=32, every=100, questions=256),
        checkpoint_every=200,
    )
