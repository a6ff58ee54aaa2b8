"""What all tasks share: no entity stands in two splits, however its name is written."""

import pathlib

import pytest

from ragjax.tasks import base
from ragjax.tasks.agent_questions import AgentQuestions
from ragjax.tasks.reader_training import ReaderTraining
from ragjax.tasks.two_hop_facts import TwoHopFacts
from ragjax.types import Question


def about(entity):
    return Question(entity, f"Where is {entity}?", ("there",), ("p0",), "place", entity)


def test_questions_are_grouped_by_split_in_their_order():
    splits = base.assemble(
        [("test", about("Oslo")), ("train", about("Bern")), ("test", about("Rom"))]
    )
    assert {name: [q.entity for q in rows] for name, rows in splits.items()} == {
        "train": ["Bern"],
        "dev": [],
        "test": ["Oslo", "Rom"],
    }


@pytest.mark.parametrize(
    "other", ["Guinea-Bissau", "guinea-bissau", "GUINEA-BISSAU", "Guinea Bissau", "GuineaBissau."]
)
def test_a_name_in_two_splits_is_refused(other):
    first = about("Guinea-Bissau")
    base.assemble([("train", first), ("train", about(other)), ("dev", about("Guinea"))])
    with pytest.raises(ValueError, match=f"'{other}' is asked about in both train and dev"):
        base.assemble([("train", first), ("dev", about(other))])


def test_a_fingerprint_covers_the_tasks_that_a_task_extends(monkeypatch):
    """What `TwoHopFacts` inherits of `WorldFacts` stands in another file."""
    before, read = TwoHopFacts().fingerprint(), pathlib.Path.read_bytes
    for name in ("base.py", "world_facts.py", "two_hop_facts.py", "_sources.py"):
        monkeypatch.setattr(
            pathlib.Path, "read_bytes", lambda p, n=name: read(p) + b"#" * (p.name == n)
        )
        assert TwoHopFacts().fingerprint() != before, name


@pytest.mark.parametrize("task", [ReaderTraining(), AgentQuestions()])
def test_a_fingerprint_covers_what_a_task_imports(monkeypatch, task):
    """Their questions of two hops are made in another task's file, which they do not extend."""
    before, read = task.fingerprint(), pathlib.Path.read_bytes
    monkeypatch.setattr(
        pathlib.Path, "read_bytes", lambda p: read(p) + b"#" * (p.name == "two_hop_facts.py")
    )
    assert task.fingerprint() != before
