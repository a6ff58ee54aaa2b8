"""RAG-Token on TriviaQA: nq_rag_token.py with other questions.

    ragjax train configs/paper/trivia_qa_rag_token.py

It needs what trivia_qa_rag_sequence.py needs.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("nq_rag_token.py"))
    questions: Any = load_config(Path(__file__).with_name("trivia_qa_rag_sequence.py"))
    return replace(base, task=questions.task)
