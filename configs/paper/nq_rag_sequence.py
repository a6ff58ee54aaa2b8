"""RAG-Sequence on Natural Questions, as Lewis et al. 2020 train it: BART, and DPR over Wikipedia.

    ragjax train configs/paper/nq_rag_sequence.py

DPR's encoder of questions and BART are trained by the marginal over 5 passages; DPR's encoder of
passages is not, so that the index is embedded once. Tests read 50 passages and score every proposed
answer under each of them ("thorough decoding"). It needs the files of experiments/paper/README.md under
runs/paper, and a device of 80 GB for up to about 4 million passages that the search of DPR's index has
found: each takes some 5 KB there, and twice that while the index is made. `--mesh.devices 0` trains on
all devices, each with its part of the passages; one of them measures and saves with all.

Steps, batch, rates and lengths are of our choosing, and have not been run at this size.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.pretrained.reader import PretrainedReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.tasks.tfds_questions import TfdsQuestions
from ragjax.training.optimizer import Adam


def get_config() -> QuestionsConfig:
    lengths = {"question_length": 64, "passage_length": 256, "title_separator": " [SEP] "}
    return QuestionsConfig(
        task=TfdsQuestions(
            dataset="natural_questions_open",
            fields="answers=answer",
            passages="runs/paper/psgs_w100.tsv.gz",
            ranking="runs/paper/found/nq.trec",
            each_answer=True,
        ),
        tokenizer=TokenizerSpec(
            question_length=64,
            passage_length=256,
            answer_length=24,
            with_title=True,
            title_separator=" / ",
        ),
        retriever=Dense(
            encoder=PretrainedEncoder("runs/paper/models/dpr_passages", **lengths),
            query_encoder=PretrainedEncoder("runs/paper/models/dpr_questions", **lengths),
            initial_scale=1.0,
            train_passages=False,
        ),
        reader=PretrainedReader("runs/paper/models/bart_large", remat=True),
        objective=RagSequence(rescore_all=True),
        optimizer=Adam(
            retriever_rate=1e-5,
            reader_rate=3e-5,
            schedule="linear",
            warmup_steps=500,
            accumulate=8,
        ),
        phases=(Phase(steps=10_000, batch_size=64, k=5),),
        evaluation=Evaluation(k=50, batch_size=4, every=0),
        compute="bfloat16",
        checkpoint_every=1000,
    )
