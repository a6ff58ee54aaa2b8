"""What SmolLM2-135M-Instruct answers without training, over gold, retrieved and no passages.

`ragjax plot experiments/smollm2.py --run` measures. It needs the packages that
configs/pretrained/smollm2.py names, and the data under the name below. The questions are those of the
test split, an eightieth of all, which a hash of their words chooses. The template was chosen among five on
32 other questions.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ragjax.config import load_config
from ragjax.evaluation.matching import answer_rank, tokenised
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.evaluation.tables import MarkdownTable
from ragjax.precision import single_precision
from ragjax.retrieval.fixed import ClosedBook, Oracle
from ragjax.run_dir import peak_memory_mb
from ragjax.tasks.own_data import OwnData
from ragjax.training.program import starting_state

DATA = Path("/data/squadshifts_newwiki")
CONFIG = Path("configs/pretrained/smollm2.py")
WAYS: dict[str, Any] = {
    "the gold passage": Oracle(),
    "three passages that MiniLM finds": None,
    "no passage": ClosedBook(),
}
FIGURES = {"contains": "contains the answer", "em": "EM", "f1": "F1"}


@single_precision
def measure() -> dict[str, Any]:
    """Figures and their intervals for each way, the questions, seconds, and the peak memory."""
    base: Any = load_config(CONFIG)
    files: dict[str, Any] = {
        name: str(DATA / f"{name}.jsonl.gz") for name in ("passages", "questions")
    }
    base = replace(base, task=OwnData(**files, dev_share=0.01, test_share=0.0125))
    rows: dict[str, dict[str, Any]] = {}
    questions, cut = 0, []
    for name, retriever in WAYS.items():
        config = base if retriever is None else replace(base, retriever=retriever)
        learner = config.create()
        state = learner.finish(starting_state(learner, (0,)))
        begun = time.perf_counter()
        answers, _ = learner.evaluate(state, "test")
        outcomes: dict[str, list[float]] = {figure: [] for figure in FIGURES}
        for record in answers.records:
            found = answer_rank([tokenised(record["prediction"])], record["answers"])
            outcomes["contains"].append(found is not None)
            outcomes["em"].append(record["em"])
            outcomes["f1"].append(record["f1"])
        questions, cut = len(outcomes["em"]), learner.notes()
        rows[name] = {"seconds": time.perf_counter() - begun}
        for figure, values in outcomes.items():
            interval = bootstrap_interval([np.array(values, float)])
            rows[name][figure] = [interval.mean, interval.low, interval.high]
        print(name, rows[name], flush=True)
    return {"rows": rows, "questions": questions, "notes": cut, "peak_memory_mb": peak_memory_mb()}


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = [f"|  | {' | '.join(FIGURES.values())} |", f"| --- |{' ---: |' * len(FIGURES)}"]
    for name, row in numbers["rows"].items():
        cells = [
            f"{100 * mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            for mean, low, high in (row[figure] for figure in FIGURES)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Per cent of {numbers['questions']} questions about Wikipedia paragraphs, with 95% bootstrap "
        "intervals; at most 32 tokens, greedily under RAG-Token. The data is SQuADShifts new-wiki "
        "(Miller et al. 2020, CC BY 4.0), which you bring. Memory at its peak: "
        f"{numbers['peak_memory_mb'] / 1000:.1f} GB.",
    ]
    return MarkdownTable(
        title="A pretrained language model without any training: SmolLM2-135M-Instruct, 4 bits a weight",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/smollm2.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
