"""Writes the questions that TFDS has as files that `ragjax index search` reads.

    python experiments/paper/questions.py

It writes runs/paper/questions/<dataset>.jsonl, those of all splits together, and <dataset>_test.jsonl.
"""

import json
from pathlib import Path
from typing import Any

from ragjax.config import load_config
from ragjax.files import write_atomically
from ragjax.tasks.base import SPLITS
from ragjax.tasks.tfds_questions import TfdsQuestions

WORK = Path("runs/paper")
OF_TFDS = ("nq", "trivia_qa", "web_questions")


def write_questions(task: TfdsQuestions, directory: Path, name: str) -> None:
    """Writes the questions of a task: those of all splits, and those of the test by themselves."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        (
            split,
            json.dumps({"id": each.id, "question": each.question, "answers": each.answers}) + "\n",
        )
        for split, each in task.asked()
    ]
    for file, splits in ((name, SPLITS), (f"{name}_test", ("test",))):
        chosen = [line for split, line in lines if split in splits]
        path = directory / f"{file}.jsonl"
        write_atomically(path, "".join(chosen).encode())
        print(f"{path}: {len(chosen):,} questions")


def main() -> None:
    """Writes those of each dataset."""
    for name in OF_TFDS:
        config: Any = load_config(Path(f"configs/paper/{name}_rag_sequence.py"))
        write_questions(config.task, WORK / "questions", name)


if __name__ == "__main__":
    main()
