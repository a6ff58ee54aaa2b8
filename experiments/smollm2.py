"""A pretrained language model over a stranger's passages: as it comes, and after training.

`python experiments/smollm2.py` writes the questions that are asked to runs/smollm2; then
`ragjax table experiments/smollm2.py --run` makes the runs.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ragjax.data.rows import read_rows
from ragjax.evaluation.tables import Column, Row, Table

DATA, WORK = Path("/data/squadshifts_newwiki"), Path("runs/smollm2")
DEV, TEST = 40, 200
FILES = (
    *("--task.passages", str(DATA / "passages.jsonl.gz")),
    *("--task.questions", str(WORK / "train.jsonl")),
    *("--task.dev", str(WORK / "dev.jsonl")),
    *("--task.test", str(WORK / "test.jsonl")),
)


def number(text: str) -> int:
    """A number of chance that belongs to a text."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def write_files() -> None:
    """Writes the splits: `TEST` and `DEV` questions of every fifth title, and all of the others."""
    titles = {row["id"]: row["title"] for _, row in read_rows(DATA / "passages.jsonl.gz")}
    held_out: list[dict[str, Any]] = []
    train: list[dict[str, Any]] = []
    for _, row in read_rows(DATA / "questions.jsonl.gz"):
        asked = number(titles[row["positives"][0]]) % 5 == 0
        (held_out if asked else train).append(row)
    held_out.sort(key=lambda row: number(row["id"]))
    splits = {"train": train, "test": held_out[:TEST], "dev": held_out[TEST : TEST + DEV]}
    WORK.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        (WORK / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def get_table() -> Table:
    """Declares the table; its runs can be made where the files lie under these names."""
    return Table(
        name="smollm2",
        title="Pretrained weights on your files: SmolLM2-135M with MiniLM, before and after training",
        notes="The data is SQuADShifts new-wiki (Miller et al. 2020, CC BY 4.0), which you bring: 1,581 "
        "Wikipedia paragraphs. The 200 questions are about titles that no training question is about. "
        "The weights come from two packages, the reader's in four bits (Q4_1); it answers in sentences "
        "of at most 32 tokens, so that its exact match says little before training.",
        caption="Share of answers that contain an accepted answer, exact match, token F1 and recall in "
        "per cent, and the process's peak memory.",
        rows=(
            Row("No passage", "configs/pretrained/smollm2_closed_book.py", FILES),
            Row("Gold passage", "configs/pretrained/smollm2_oracle.py", FILES),
            Row("Three passages of MiniLM", "configs/pretrained/smollm2.py", FILES),
            Row("then LoRA by likelihood", "configs/pretrained/smollm2_lora.py", FILES),
        ),
        columns=(
            Column("contains", "contains"),
            Column("EM", "em"),
            Column("F1", "f1"),
            Column("R@1", "recall@1"),
            Column("memory, MB", "peak_memory_mb", scale=1, digits=0),
        ),
        seeds=(0,),
        results=Path(__file__).parent / "results",
    )


if __name__ == "__main__":
    write_files()
