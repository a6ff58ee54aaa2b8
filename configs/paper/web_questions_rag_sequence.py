"""RAG-Sequence on WebQuestions, from the model that nq_rag_sequence.py has trained.

    ragjax train configs/paper/web_questions_rag_sequence.py

It begins with what `ragjax export` has written of that run to runs/paper/nq_rag_sequence, and needs what
the index has found for these questions.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config

STEPS = 1000


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("nq_rag_sequence.py"))
    task = replace(
        base.task,
        dataset="web_questions",
        fields="answers=answers",
        ranking="runs/paper/found/web_questions.trec",
        test_split="test",
    )
    asked = replace(base.retriever.query_encoder, source="runs/paper/nq_rag_sequence/query_encoder")
    return replace(
        base,
        task=task,
        retriever=replace(base.retriever, query_encoder=asked),
        reader=replace(base.reader, source="runs/paper/nq_rag_sequence/reader"),
        optimizer=replace(base.optimizer, warmup_steps=STEPS // 10),
        phases=(replace(base.phases[0], steps=STEPS),),
    )
