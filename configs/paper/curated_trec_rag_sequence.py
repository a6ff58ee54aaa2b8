"""RAG-Sequence on CuratedTREC, from the model that nq_rag_sequence.py has trained.

    ragjax train configs/paper/curated_trec_rag_sequence.py

The questions are in no dataset of TFDS: experiments/paper/curated_trec.py makes the three files of your
own. Their answers are regular expressions: what these match most often in the passages that are found
is learned from, and an answer is right if one of them matches it. Else as
web_questions_rag_sequence.py.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.tasks.own_data import OwnData


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("web_questions_rag_sequence.py"))
    task = OwnData(
        passages=base.task.passages,
        questions="runs/paper/curated_trec/train.jsonl",
        dev="runs/paper/curated_trec/dev.jsonl",
        test="runs/paper/curated_trec/test.jsonl",
        ranking="runs/paper/found/curated_trec.trec",
    )
    return replace(base, task=task)
