"""Every question of a run with its answer and passages, as far as a page of bearable size holds them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragjax.data.prepared import PASSAGES
from ragjax.evaluation.metrics import Outcomes, first_positive_rank
from ragjax.files import parse_json
from ragjax.report.blocks import Block, Explorer, Section, Words
from ragjax.report.runs import FoundRun, Group
from ragjax.text import counted, shortened

BYTES = 3_500_000  # of all questions and passages of a page
DEPTH = 10  # passages of a question
LETTERS = 600  # of a passage
DIGITS = 4  # significant digits of probabilities

COLUMNS = (
    *("id", "question", "relation", "answers", "prediction", "probability", "right", "f1"),
    *("gold", "found", "rank", "mass", "passages", "prior", "posterior", "omitted"),
)

Texts = Mapping[str, tuple[str, str]]


class PassageList:
    """The passages of all runs, each once."""

    def __init__(self):
        """Begins empty."""
        self.rows: list[tuple[str, str, str | None]] = []
        self._places: dict[tuple[str, str, str | None], int] = {}

    def place(self, name: str, texts: Texts) -> int:
        """The number of a passage."""
        title, text = texts.get(name, ("", None))
        row = (name, title, None if text is None else shortened(text, LETTERS))
        if row not in self._places:
            self._places[row] = len(self.rows)
            self.rows.append(row)
        return self._places[row]


def explorer_section(groups: Sequence[Group]) -> Section:
    """Questions, to be looked at one by one."""
    runs = [(group.label, run) for group in groups for run in group.runs if run.records]
    textless = [
        group.label
        for group in groups
        if not any(run.records for run in group.runs)
        and any(isinstance(run.outcomes, Outcomes) for run in group.runs)
    ]
    blocks: list[Block] = []
    if runs:
        blocks.append(explorer([(_label(label, run), run) for label, run in runs]))
    if textless:
        said = f"Of {', '.join(textless)} the figures of each question are recorded, but no texts."
        blocks.append(Words([said], note=True))
    return Section("Questions", blocks)


def _label(label: str, run: FoundRun) -> str:
    return label if run.seed is None else f"{label}, seed {run.seed}"


def explorer(runs: Sequence[tuple[str, FoundRun]], limit: int = BYTES) -> Explorer:
    """The questions of runs, in their order.

    Where all are more than the limit, each run keeps the same share of its own, at equal distances.

    Args:
      runs: (label, run) of each.
      limit: bytes of all.
    """
    texts = [_texts(run.directory) for _, run in runs]
    share = 1.0
    while True:
        passages, shown = PassageList(), []
        for (label, run), known in zip(runs, texts, strict=True):
            chosen = list(_spread(run.records, share))
            rows = [_row(record, known, passages) for record in chosen]
            shown.append({"label": label, "note": _note(run, chosen, known), "rows": rows})
        found = Explorer(passages.rows, shown, COLUMNS)
        size = len(json.dumps(found.to_json(), ensure_ascii=False).encode())
        if size <= limit or not any(of["rows"] for of in shown):
            return found
        share *= min(0.98, 0.98 * limit / size)


def _spread(records: Sequence[Any], share: float) -> Iterator[Any]:
    """A share of records, at equal distances."""
    count = int(len(records) * share)
    return (records[place * len(records) // count] for place in range(count))


def _note(run: FoundRun, chosen: Sequence[Mapping[str, Any]], texts: Texts) -> str:
    """What of a run's questions is left out or not recorded."""
    notes = []
    if len(chosen) < len(run.records):
        left = len(run.records) - len(chosen)
        notes.append(
            f"{left:,} of {len(run.records):,} questions are left out, so that the page stays small; "
            f"all are in {run.directory}."
        )
    deep = sum(len(record["retrieved"]) > DEPTH for record in chosen)
    if deep:
        notes.append(f"Of {counted(deep, 'question')} the first {DEPTH} passages are shown.")
    names = {name for record in chosen for name in record["retrieved"]}
    lacking = len(names - texts.keys())
    if lacking:
        notes.append(
            f"Of {counted(lacking, 'passage')} the text is not in {run.directory / PASSAGES}."
        )
    cut = sum(len(texts[name][1]) > LETTERS + 30 for name in names & texts.keys())
    if cut:
        notes.append(f"Of {counted(cut, 'passage')} the beginning is shown, and what is left out.")
    return " ".join(notes)


def _texts(run_dir: Path) -> dict[str, tuple[str, str]]:
    """Id -> (title, text) of a run's passages; empty if they can't be read."""
    try:
        lines = (run_dir / PASSAGES).read_bytes().decode().split("\n")
        rows = [parse_json(line) for line in lines if line]
        return {str(row["id"]): (str(row["title"]), str(row["text"])) for row in rows}
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # which the explorer says of each passage


def _row(record: Mapping[str, Any], texts: Texts, passages: PassageList) -> list[Any]:
    """A question by `COLUMNS`.

    `found` is whether a gold passage was retrieved, or one that holds an answer where none is gold; None
    where that is not known. `omitted` counts the passages beyond the first, and sums their posterior.
    """
    names, gold = record["retrieved"], record["positives"]
    rank = (first_positive_rank(names, gold) if gold else record.get("answer_rank")) or 0
    known = bool(names) and (bool(gold) or "answer_rank" in record)
    posterior = record["posterior"]
    mass = sum(p for name, p in zip(names, posterior, strict=True) if name in gold)
    return [
        *(record[name] for name in ("id", "question", "relation", "answers", "prediction")),
        *(_rounded(record["probability"]), int(record["em"]), _rounded(record["f1"])),
        [passages.place(name, texts) for name in gold],
        int(rank > 0) if known else None,
        rank,
        _rounded(mass) if gold else None,
        [passages.place(name, texts) for name in names[:DEPTH]],
        [_rounded(value) for value in record["prior"][:DEPTH]],
        [_rounded(value) for value in posterior[:DEPTH]],
        [len(names[DEPTH:]), _rounded(sum(posterior[DEPTH:]))],
    ]


def _rounded(value: int | float) -> float:
    return float(f"{value:.{DIGITS}g}")
