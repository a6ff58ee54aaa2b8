"""Makes questions to learn from of CuratedTREC, whose answers are regular expressions.

    python experiments/paper/curated_trec.py

It reads runs/paper/curated_trec_{train,dev,test}.tsv, with the columns question and answers (a regular
expression, or a JSON list of several), and what `ragjax index search` has found for each of them,
runs/paper/found/curated_trec_{train,dev,test}.trec. It writes runs/paper/curated_trec/<split>.jsonl and
runs/paper/found/curated_trec.trec, the passages that the runs search.

The answer that is learned from is the text that the expressions match most often in the passages found
(Lewis et al. 2020, appendix). Where they match nothing, it is the expression without its signs, of
several branches the first; the paper makes all of them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ragjax.data.passage_store import PassageStore
from ragjax.data.readers import read_questions
from ragjax.data.trec import read_run, write_run
from ragjax.errors import require
from ragjax.evaluation.matching import answer_pattern
from ragjax.files import write_atomically
from ragjax.types import Question

WORK = Path("runs/paper")
SPLITS = ("train", "dev", "test")
SEARCHED = 100  # passages of a question that the runs search

_BRANCHES = re.compile(r"\((?:\?:)?([^()|]*)(?:\|[^()]*)?\)")
_SIGNS = re.compile(r"\\[a-zA-Z]|\[[^\]]*\]|\{[^}]*\}|[\\^$.?*+|()]")


def most_frequent(patterns: Iterable[str], texts: Iterable[str]) -> str:
    """Returns what patterns match most often in texts, of equals the first; "" if nothing."""
    compiled = [answer_pattern(pattern) for pattern in patterns]
    found = Counter(
        " ".join(match[0].split())
        for text in texts
        for pattern in compiled
        for match in pattern.finditer(text)
    )
    del found[""]
    return found.most_common(1)[0][0] if found else ""


def without_signs(pattern: str) -> str:
    """Returns the text of a regular expression: first branches, and a space for each sign."""
    before = ""
    while before != pattern:
        before, pattern = pattern, _BRANCHES.sub(r"\1", pattern)
    return " ".join(_SIGNS.sub(" ", pattern.partition("|")[0]).split())


def target(question: Question, texts: Iterable[str]) -> tuple[str, bool]:
    """Returns the answer that is learned from, and whether a text holds it.

    Raises:
      UserError: neither texts nor patterns give one.
    """
    answer = most_frequent(question.answers, texts)
    other = without_signs(question.answers[0])
    require(
        bool(answer or other),
        f"Question {question.id!r} has the answer {question.answers[0]!r}, which matches nothing that "
        "is found and has no text of its own; mend it or leave the question out.",
    )
    return answer or other, bool(answer)


def prepare(root: Path, split: str) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Writes the questions of a split; yields the id of each and the passages that are searched."""
    store = PassageStore(root / "index" / "passages")
    source = root / f"curated_trec_{split}.tsv"
    ranking = read_run(root / "found" / f"curated_trec_{split}.trec")
    lines, held = [], 0
    for question, _ in read_questions(source):
        require(
            bool(question.answers), f"{source}: question {question.id!r} has no answer; add one."
        )
        hits = ranking.get(question.id, [])
        rows = store.row_of([name for name, _ in hits])
        answer, is_held = target(question, (store[int(row)].text for row in rows if row >= 0))
        held += is_held
        row = {"id": question.id, "question": question.question, "answers": [answer]}
        lines.append(json.dumps(row | {"patterns": question.answers}, ensure_ascii=False) + "\n")
        yield question.id, hits[:SEARCHED]
    path = root / "curated_trec" / f"{split}.jsonl"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, "".join(lines).encode())
    print(f"{path}: {len(lines)} questions, of which {held} have their answer in a passage found")


def main(root: Path = WORK) -> None:
    """Writes the questions of all splits, and what they search."""
    searched = {name: hits for split in SPLITS for name, hits in prepare(root, split)}
    write_run(root / "found" / "curated_trec.trec", searched)


if __name__ == "__main__":
    main()
