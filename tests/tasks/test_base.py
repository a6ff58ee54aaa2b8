"""What all tasks share: no entity stands in two splits, however its name is written."""

import pytest

from ragjax.tasks import base
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
