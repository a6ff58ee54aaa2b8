"""Writes the questions that TFDS has as files that `ragjax index search` reads.

    python experiments/paper/questions.py

It writes runs/paper/questions/<dataset>.jsonl, those of all splits together.
"""

import json
from pathlib import Path
from typing import Any

from ragjax.config import load_config
from ragjax.files import write_atomically
from ragjax.tasks.tfds_questions import TfdsQuestions

WORK = Path("runs/paper")
OF_TFDS = ("nq", "trivia_qa", "web_questions")


def write_questions(task: TfdsQuestions, path: Path) -> int:
    """Writes the questions of a task, and returns how many there are."""
    rows = [
        {"id": each.id, "question": each.question, "answers": list(each.answers)}
        for each in task.asked()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomically(path, "".join(lines).encode())
    return len(rows)


def main() -> None:
    """Writes those of each dataset."""
    for name in OF_TFDS:
        config: Any = load_config(Path(f"configs/paper/{name}_rag_sequence.py"))
        path = WORK / "questions" / f"{name}.jsonl"
        print(f"{path}: {write_questions(config.task, path):,} questions")


if __name__ == "__main__":
    main()
