"""RAG-Sequence on TriviaQA: nq_rag_sequence.py with other questions.

    ragjax train configs/paper/trivia_qa_rag_sequence.py

TFDS's unfiltered questions without contexts, of which the validation split is the test of open-domain
work. It learns from the first answer of each question, its value; all aliases are accepted. It needs
what nq_rag_sequence.py needs, and what the index has found for these questions.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("nq_rag_sequence.py"))
    task = replace(
        base.task,
        dataset="trivia_qa/unfiltered.nocontext",
        fields="answers=answer/value+answer/aliases,id=question_id",
        ranking="runs/paper/found/trivia_qa.trec",
        each_answer=False,
    )
    return replace(base, task=task)
