"""Contrastive on factbook: gold passages against BM25's and the index's best others, for 300 steps.

    ragjax train configs/factbook/contrastive.py

Expected (experiments/retriever_objectives.py): EM 27.8 ± 1.9; strict EM 27.8 ± 1.9.

The only one that is told which passage is right. The reader is trained beside it by its likelihood.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.contrastive import Contrastive


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("small.py"))
    return replace(base, objective=Contrastive(likelihood=base.objective, likelihood_weight=1.0))
