"""The questions of an agent: what is new in a split is new, what is known was taught."""

import pytest

from ragjax.tasks import base
from ragjax.tasks.agent_questions import AgentQuestions
from ragjax.tasks.reader_training import ReaderTraining

KINDS = {"known", "unseen", "two_hop"}


@pytest.fixture(scope="module")
def data():
    return AgentQuestions().generate()


@pytest.fixture(scope="module")
def training():
    return ReaderTraining().generate()


def test_every_kind_is_in_every_split(data):
    for split in base.SPLITS:
        assert {q.relation for q in data.splits[split]} == KINDS


def test_ids_are_unique_within_a_split(data):
    for rows in data.splits.values():
        assert len({q.id for q in rows}) == len(rows)


def test_known_facts_were_taught_and_others_were_not(data, training):
    taught = {(q.entity, q.answers) for q in training.splits["train"] if q.relation == "memory"}
    for rows in data.splits.values():
        for q in rows:
            assert ((q.entity, q.answers) in taught) == (q.relation == "known"), q


def test_no_question_of_a_held_out_split_was_trained_on(data, training):
    asked = {q.question for q in training.splits["train"]}
    for split in ("dev", "test"):
        assert not asked & {q.question for q in data.splits[split]}


def test_held_out_facts_are_those_of_the_split(data):
    trained = {q.positives for q in data.splits["train"]}
    for split in ("dev", "test"):
        fresh = [q for q in data.splits[split] if q.relation != "known"]
        assert not trained & {q.positives for q in fresh}
