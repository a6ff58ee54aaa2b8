"""RAG-Token on WebQuestions, from the model that nq_rag_token.py has trained.

    ragjax train configs/paper/web_questions_rag_token.py

It begins with what `ragjax export` has written of that run to runs/paper/nq_rag_token. Else as
web_questions_rag_sequence.py.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("web_questions_rag_sequence.py"))
    token: Any = load_config(Path(__file__).with_name("nq_rag_token.py"))
    asked = replace(base.retriever.query_encoder, source="runs/paper/nq_rag_token/query_encoder")
    return replace(
        base,
        retriever=replace(base.retriever, query_encoder=asked),
        reader=replace(base.reader, source="runs/paper/nq_rag_token/reader"),
        objective=token.objective,
        evaluation=token.evaluation,
    )
