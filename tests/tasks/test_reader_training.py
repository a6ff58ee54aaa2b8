"""What an agent's reader is taught can be answered from what it is shown, or is to be known by heart."""

import pytest

from ragjax.errors import UserError
from ragjax.tasks import base, world_facts
from ragjax.tasks.reader_training import REWRITE, ReaderTraining, known_by_heart, query_for
from ragjax.tasks.two_hop_facts import two_hop_questions
from ragjax.tasks.world_facts import WorldFacts

FURTHER = ("memory", "query", "rewrite")


@pytest.fixture(scope="module")
def data():
    return ReaderTraining().generate()


def test_the_rest_is_world_facts(data):
    plain = WorldFacts().generate()
    assert data.passages == plain.passages
    for split, rows in plain.splits.items():
        assert tuple(q for q in data.splits[split] if q.relation not in FURTHER) == rows


def test_ids_are_unique(data):
    ids = [q.id for rows in data.splits.values() for q in rows]
    assert len(ids) == len(set(ids))


def test_only_training_facts_are_learned_by_heart_and_without_a_passage(data):
    memory = {
        split: [q for q in rows if q.relation == "memory"] for split, rows in data.splits.items()
    }
    assert not memory["dev"]
    assert not memory["test"]
    assert all(not q.positives for q in memory["train"])
    facts = [fact for fact in world_facts.all_facts() if fact.split == "train"]
    known = [fact for fact in facts if known_by_heart(fact, 0.2)]
    assert 0.15 < len(known) / len(facts) < 0.25
    assert {(q.entity, q.answers) for q in memory["train"]} == {
        (fact.subject, fact.answers) for fact in known
    }
    others = [q for rows in data.splits.values() for q in rows if q.relation != "memory"]
    assert all(q.positives for q in others)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_share_known_by_heart_can_be_nothing_or_all(share):
    facts = [fact for fact in world_facts.all_facts() if fact.split == "train"]
    assert {known_by_heart(fact, share) for fact in facts} == {bool(share)}


def test_a_share_outside_is_refused():
    with pytest.raises(UserError, match=r"task\.by_heart is 1\.5; it is a share, 0 to 1\."):
        ReaderTraining(by_heart=1.5)


def test_rewriting_a_two_hop_question_needs_its_first_passage_alone(data):
    passages = {passage.id: passage for passage in data.passages}
    rewritings = {q.id: q for rows in data.splits.values() for q in rows if q.relation == "rewrite"}
    for hops in two_hop_questions():
        asked = rewritings[f"rewrite/{hops.question.id}"]
        assert asked.question == f"{REWRITE} {hops.question.question}"
        assert asked.positives == hops.question.positives[:1]
        assert asked.answers == (query_for(hops.second),)
        country = hops.second.phrase.removeprefix("the ")
        assert asked.answers[0].endswith(country)
        shown = passages[asked.positives[0]]
        assert country in f"{shown.title} {shown.text}"


def test_queries_are_asked_as_questions_about_the_same_fact(data):
    queries = {
        (split, q.entity, q.answers): q.question
        for split, rows in data.splits.items()
        for q in rows
        if q.relation == "query"
    }
    facts = list(world_facts.all_facts())
    assert len(queries) == len(facts)
    for fact in facts:
        assert queries[fact.split, fact.subject, fact.answers] == query_for(fact)
    assert set(data.splits) == set(base.SPLITS)
