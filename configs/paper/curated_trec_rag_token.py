"""RAG-Token on CuratedTREC, from the model that nq_rag_token.py has trained.

    ragjax train configs/paper/curated_trec_rag_token.py

As curated_trec_rag_sequence.py, from the model of which `ragjax export` has written
runs/paper/nq_rag_token.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("web_questions_rag_token.py"))
    questions: Any = load_config(Path(__file__).with_name("curated_trec_rag_sequence.py"))
    return replace(base, task=questions.task)
