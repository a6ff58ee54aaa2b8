"""SmolLM2 answers without passages: what it knows by heart, against smollm2.py.

    ragjax train configs/pretrained/smollm2_closed_book.py --task.passages P --task.questions Q

Nothing is trained.

Expected: what your files hold.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.retrieval.fixed import ClosedBook


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("smollm2.py"))
    return replace(base, retriever=ClosedBook())
