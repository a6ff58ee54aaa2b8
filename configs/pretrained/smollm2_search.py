"""SmolLM2 searches in its own text: it writes a query, reads what MiniLM finds, and answers.

    ragjax train configs/pretrained/smollm2_search.py --task.passages P --task.questions Q

Low-rank adapters learn from token F1 of its answers when to search, and with which words. A line that
ends is a query; what is found for it goes on in the text. SmolLM2 was never taught that,
and has to learn it.

Expected: what your files hold. A step writes and reads eight texts by a model of 135 million parameters.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.models.pretrained.searching import SearchWords
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.rewards import TokenF1
from ragjax.objectives.search_reward import SearchReward

WORDS = SearchWords(
    prompt="<|im_start|>user\nQuestion:{question}\nWrite a search query for the encyclopedia in one "
    "line. Then read what it says, and give the answer in a few words.<|im_end|>\n"
    "<|im_start|>assistant\nSearch:",
    found="Encyclopedia:{passage}\nAnswer:",
    marker="Ċ",  # the end of a line, as the tokenizer writes it
)


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("smollm2_lora.py"))
    return replace(
        base,
        reader=replace(base.reader, search=WORDS),
        objective=SearchReward(
            reward=AnswerReward(samples=4, reward=TokenF1(), kl_coef=0.05), searches=1
        ),
        phases=(Phase(steps=20, batch_size=2, k=1),),
        evaluation=replace(base.evaluation, k=1),
    )
