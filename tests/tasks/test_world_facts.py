"""What `world_facts` promises: facts that can't be guessed, honest splits, clean text."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from ragjax.tasks import base
from ragjax.tasks._world_facts_text import PASSAGES, QUESTIONS
from ragjax.tasks.world_facts import WorldFacts, wordings

RELATIONS = {
    "capital", "currency", "highest_point", "anthem", "calling_code", "city_country",
    "element_number", "number_element",
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return WorldFacts().generate()


@pytest.fixture(scope="module")
def questions(data):
    return [question for split in data.splits.values() for question in split]


def _name(entity: str) -> str:
    return "".join(c for c in entity.casefold() if c.isalnum())


def _phrasings(questions) -> set[str]:
    found = set()
    for q in questions:
        found.add(re.sub(rf"(?i)\b(the )?{re.escape(q.entity)}(?!\w)", "{}", q.question, count=1))
    return found


def test_size(data):
    assert 1_000 <= len(data.passages) <= 1_600
    assert len(data.splits["train"]) >= 4_000
    assert len(data.splits["dev"]) >= 300
    assert len(data.splits["test"]) >= 1_400


def test_every_relation_is_asked_in_every_split(data):
    for split in base.SPLITS:
        assert {q.relation for q in data.splits[split]} == RELATIONS


def test_phrasings_are_several_and_used(data):
    for relation, phrasings in PASSAGES.items():
        assert len(set(phrasings)) >= 4
        heads = Counter(
            i
            for p in data.passages
            if p.id.startswith(f"{relation}/")
            for i, phrasing in enumerate(phrasings)
            if _matches(phrasing, p.text)
        )
        assert len(heads) == len(phrasings), f"{relation}: only {sorted(heads)} are used"
    for relation in QUESTIONS:
        kinds = wordings(relation)
        assert len(set(kinds["train"])) >= 4, relation
        assert len(set(kinds["test"])) >= 3, relation


def _matches(phrasing: str, text: str) -> bool:
    return re.match(re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrasing)), text) is not None


def test_a_training_fact_is_asked_in_five_phrasings(data):
    """Or in all of them, where there are fewer."""
    asked = Counter((q.relation, q.entity) for q in data.splits["train"])
    for (relation, entity), number in asked.items():
        assert number == min(5, len(wordings(relation)["train"])), (relation, entity)


def test_splits_share_no_entity_name(data):
    names = {split: {_name(q.entity) for q in rows} for split, rows in data.splits.items()}
    assert not names["train"] & names["dev"]
    assert not names["train"] & names["test"]
    assert not names["dev"] & names["test"]


def test_share_of_test_entities(data):
    entities = {split: {q.entity for q in rows} for split, rows in data.splits.items()}
    share = len(entities["test"]) / sum(map(len, entities.values()))
    assert 0.18 < share < 0.30


def test_city_is_in_the_split_of_its_country(data):
    for split, rows in data.splits.items():
        for q in rows:
            if q.relation == "city_country":
                assert base.split_of(q.answers[0]) == split, q


def test_city_names_are_unique(data):
    cities = [p.title for p in data.passages if p.id.startswith("city_country/")]
    others = {p.title for p in data.passages if p.id.startswith(("capital/", "currency/"))}
    assert len(cities) == len(set(cities))
    assert not set(cities) & others
    assert not {"Valencia", "Singapore", "San Jose"} & set(cities)


def test_test_phrasings_are_unseen(data):
    phrasings = {split: _phrasings(rows) for split, rows in data.splits.items()}
    assert not any("{}" not in phrasing for phrasing in phrasings["test"])
    assert not phrasings["test"] & phrasings["train"]
    assert not phrasings["test"] & phrasings["dev"]
    assert phrasings["dev"] - phrasings["train"]


def test_answer_stands_alone_in_its_passage(data, questions):
    text = {p.id: p.text for p in data.passages}
    for q in questions:
        assert q.positives
        for positive in q.positives:
            assert re.search(rf"(?<= ){re.escape(q.answers[0])}(?=[ .,])", text[positive]), q


def test_passage_names_its_entity(data, questions):
    text = {p.id: p.text for p in data.passages}
    for q in questions:
        assert q.entity in text[q.positives[0]], q


def test_answers_are_short_and_clean(questions):
    for q in questions:
        assert len(q.answers[0].split()) <= 6, q
        assert re.fullmatch(r"[A-Za-z' -]+|K2|\+?\d+", q.answers[0]), q
        assert len(set(q.answers)) == len(q.answers), q


def test_text_is_clean(data):
    for p in data.passages:
        assert p.text.isascii(), p
        assert not re.search(r"[<>&;()\[\]\"{}]|  |note|unnamed|none", p.text), p
        assert p.text.endswith(".")
        assert len(p.text.split()) <= 28, p


def test_no_question_tells_its_answer(questions):
    for q in questions:
        assert q.answers[0].casefold() != q.entity.casefold(), q


def test_no_answer_is_frequent_enough_to_guess(data):
    for relation in RELATIONS:
        answers = Counter(q.answers[0] for q in data.splits["train"] if q.relation == relation)
        assert max(answers.values()) / sum(answers.values()) < 0.2, relation


def test_ids_are_unique(data, questions):
    assert len({p.id for p in data.passages}) == len(data.passages)
    assert len({p.text for p in data.passages}) == len(data.passages)
    assert len({q.id for q in questions}) == len(questions)


@pytest.mark.parametrize(
    ("relation", "answer"),
    [
        ("capital", "Paris"),
        ("currency", "euro"),
        ("highest_point", "Mont Blanc"),
        ("anthem", "La Marseillaise"),
        ("calling_code", "+33"),
    ],
)
def test_france_is_in_the_test_split(data, relation, answer):
    found = [q for q in data.splits["test"] if q.entity == "France" and q.relation == relation]
    assert found
    assert {q.answers[0] for q in found} == {answer}
    assert found[0].positives == (f"{relation}/france",)


def test_elements(data, questions):
    asked = {(q.relation, q.entity): q.answers for q in questions}
    assert asked["element_number", "iron"] == ("26",)
    assert asked["number_element", "26"] == ("iron",)
    assert asked["number_element", "13"] == ("aluminum", "aluminium")
    assert len({entity for relation, entity in asked if relation == "element_number"}) == 118


def test_same_on_every_call(data):
    assert WorldFacts().generate() == data


@pytest.mark.parametrize("seed", ["0", "1"])
def test_same_under_another_hash_seed(data, seed):
    code = (
        "import hashlib; from ragjax.tasks.world_facts import WorldFacts;"
        "print(hashlib.sha256(repr(WorldFacts().generate()).encode()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == hashlib.sha256(repr(data).encode()).hexdigest()


def test_assemble_refuses_an_entity_in_two_splits(data):
    question = data.splits["train"][0]
    with pytest.raises(ValueError, match="both train and test"):
        base.assemble([("train", question), ("test", question)])
