"""Embeddings and words in common on your own files: rag_sequence.py with BM25 added to its scores.

    ragjax train configs/own_data/hybrid.py --task.passages P --task.questions Q

p(d|x) = softmax of τ · (<q(x), e(d)> + λ · BM25(x,d)), λ learned with the rest. BM25 knows names that no
training question has asked for; the embeddings know other wordings. rag_sequence.py and bm25.py, which
have one of the two, are the baselines to hold it against; `config diff` shows where they differ.

Expected: what your files hold.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.models.hybrid import Hybrid
from ragjax.retrieval.bm25 import BM25


def get_config() -> Config:
    dense: Any = load_config(Path(__file__).with_name("rag_sequence.py"))
    return replace(
        dense,
        retriever=Hybrid(dense=dense.retriever, lexical=BM25(), lexical_weight=0.05, depth=32),
        # Words in common count from the first step, so that no phase takes its passages elsewhere.
        phases=(Phase(steps=700, batch_size=32, k=4),),
    )
