"""RAG-Token on Natural Questions: nq_rag_sequence.py with a passage for each token.

    ragjax train configs/paper/nq_rag_token.py

Tests read 15 passages, and an answer is decoded greedily by the marginal over them. It needs what
nq_rag_sequence.py needs.

Expected: what your files hold; experiments/paper/open_domain.py has the published figures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.likelihood import RagToken


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("nq_rag_sequence.py"))
    return replace(base, objective=RagToken(), evaluation=replace(base.evaluation, k=15))
