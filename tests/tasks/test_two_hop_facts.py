"""What `two_hop_facts` promises beside what `world_facts` does: two passages, honest splits."""

import pytest

from ragjax.tasks import base
from ragjax.tasks.two_hop_facts import BRIDGES, SECOND_HOPS, TwoHopFacts
from ragjax.tasks.world_facts import WorldFacts

RELATIONS = {f"capital_{second}" for second in SECOND_HOPS if second != "capital"} | {
    f"city_{second}" for second in SECOND_HOPS
}


@pytest.fixture(scope="module")
def data():
    return TwoHopFacts().generate()


@pytest.fixture(scope="module")
def two_hop(data):
    return {s: [q for q in rows if q.relation in RELATIONS] for s, rows in data.splits.items()}


def test_the_rest_is_world_facts(data):
    plain = WorldFacts().generate()
    assert data.passages == plain.passages
    for split, rows in plain.splits.items():
        assert tuple(q for q in data.splits[split] if q.relation not in RELATIONS) == rows


def test_every_relation_is_asked_in_every_split(two_hop):
    for split in base.SPLITS:
        assert {q.relation for q in two_hop[split]} == RELATIONS


def test_ids_are_unique(data):
    ids = [q.id for rows in data.splits.values() for q in rows]
    assert len(ids) == len(set(ids))


def test_hops_lead_from_the_entity_over_the_country_to_the_answer(data, two_hop):
    passages = {p.id: p for p in data.passages}
    for rows in two_hop.values():
        for q in rows:
            first, second = (passages[name] for name in q.positives)
            country = second.title.removeprefix("The ")
            assert q.entity in q.question, q
            assert q.entity in f"{first.title} {first.text}", q
            assert country in f"{first.title} {first.text}", q
            assert q.answers[0] in second.text, q
            # Else one passage would do, and the question would tell the country.
            assert q.answers[0] not in first.text.split(), q
            assert q.entity != country, q


def test_split_is_that_of_the_country(data, two_hop):
    country = {q.positives[0]: q.entity for rows in data.splits.values() for q in rows
               if q.relation in SECOND_HOPS}  # fmt: skip
    for split, rows in two_hop.items():
        assert {base.split_of(country[q.positives[1]]) for q in rows} == {split}


def test_wordings_of_the_bridge_are_held_out(two_hop):
    for kind, ways in BRIDGES.items():
        assert not set(ways["train"]) & (set(ways["dev"]) | set(ways["test"])), kind
        assert not set(ways["dev"]) & set(ways["test"]), kind
    for split, rows in two_hop.items():
        for q in rows:
            ways = BRIDGES[q.relation.split("_")[0]][split]
            assert any(way.format(n=q.entity).lower() in q.question.lower() for way in ways), q
