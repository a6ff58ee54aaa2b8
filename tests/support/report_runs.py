"""Small runs as they lie in their directories, for tests of reports: written, not trained."""

import json
import re
from pathlib import Path
from typing import Any

from ragjax.evaluation import metrics
from ragjax.evaluation.episodes import Episodes
from ragjax.evaluation.matching import exact_match, strict_match, token_f1

# What breaks out of a page that is careless, or turns it upside down.
HOSTILE = (
    *("</script><script>window.harmed = 1</script>", "<!--<script>", "]]>", "{{x}} ${x} `x`"),
    *("<img src=x onerror='window.harmed = 1'>", "&lt;b&gt; \" '", "\u2028\u2029", "\u202eabc"),
    *("\x1b[31m", "\ud800", "日本語 😀 نص"),
)


def questions(count: int = 6, *, wrong: tuple[int, ...] = (1, 4), depth: int = 3) -> list[Any]:
    """Records of questions about towns: every third is of another relation; the fifth finds nothing."""
    made = []
    for number in range(count):
        answers = [f"Town {number}"]
        said = "Nowhere" if number in wrong else answers[0]
        retrieved = [f"p{(number + k) % count}" for k in range(depth)]
        if number == 4:
            retrieved = [f"x{k}" for k in range(depth)]
        made.append(
            {
                "id": f"q{number}",
                "question": f"Where is number {number}?",
                "relation": "rare" if number % 3 == 2 else "home",
                "entity": f"number {number}",
                "answers": answers,
                "positives": [f"p{number}"],
                "prediction": said,
                "probability": 0.9 - number / 100,
                "em": exact_match(said, answers),
                "strict_em": strict_match(said, answers),
                "f1": token_f1(said, answers),
                "retrieved": retrieved,
                "prior": [0.5, *[0.5 / (depth - 1)] * (depth - 1)],
                "posterior": [0.8, *[0.2 / (depth - 1)] * (depth - 1)],
            }
        )
    return made


def write_questions_run(
    directory: Path, seed: int = 0, records: list[Any] | None = None, **fields: Any
) -> Path:
    """A finished run that answers questions, with passages p0, p1 ... and what it logged."""
    records = questions() if records is None else records
    _write(
        directory, {"type": "questions.Config", "k": 5} | fields, seed, metrics.summarise(records)
    )
    metrics.write_predictions(directory / "predictions.jsonl", records)
    names = [f"p{number}" for number in range(len(records))]
    rows = [{"id": name, "title": f"Title {name}", "text": f"Text of {name}."} for name in names]
    (directory / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def write_policy_run(directory: Path, seed: int = 0, **fields: Any) -> Path:
    """A finished run of a policy, without checkpoints."""
    returns = {"greedy": [1.0, 0.0, 1.0 + seed], "sampled": [0.5, 0.0, 1.0]}
    episodes = Episodes(returns, {"greedy": [1, 2, 3], "sampled": [3, 3, 3]})
    _write(directory, {"type": "episodes.Config"} | fields, seed, episodes.summary())
    episodes.write(directory / "episodes.jsonl")
    return directory


def _write(directory: Path, config: dict, seed: int, figures: dict) -> None:
    directory.mkdir(parents=True)
    facts = {"seed": seed, "steps": 30, "train_seconds": 1.5, "git_commit": "c0ffee"} | figures
    rows = [{"step": step, "loss": 1 / step + seed, "odd": step} for step in (10, 20, 30)]
    (directory / "config.json").write_text(json.dumps(config | {"seed": seed}))
    (directory / "result.json").write_text(json.dumps(facts))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def data_of(page: str) -> Any:
    """What a page's scripts draw it from."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def blocks_of(page: Any, kind: str) -> list[Any]:
    """Every block of a kind, also within others."""
    found, left = [], [block for section in page["sections"] for block in section["blocks"]]
    while left:
        block = left.pop(0)
        found += [block] * (block["kind"] == kind)
        left = block.get("blocks", []) + left
    return found
