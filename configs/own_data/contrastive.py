"""A retriever by itself from your own files: gold passages against BM25's best others.

    ragjax train configs/own_data/contrastive.py --task.passages P --task.questions Q

Q has to know gold passages (`positives`). The reader stays as it begins, so that only recall says
anything. `ragjax index build P DIR --run RUN` and `ragjax index search DIR "..." --how hybrid` search by
what was learned, with words in common beside it.

Expected: what your files hold; experiments/trained_retrieval.py has figures of SQuADShifts new-wiki.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.objectives.contrastive import Contrastive
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("rag_sequence.py"))
    return replace(
        base,
        objective=Contrastive(likelihood=RagSequence(corrupt_words=0.2), likelihood_weight=0.0),
        phases=(Phase(steps=600, batch_size=64, k=4, candidates=BM25()),),
        evaluation=replace(base.evaluation, every=0),
    )
