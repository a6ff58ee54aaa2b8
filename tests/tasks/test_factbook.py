"""What `factbook` promises: short passages of real prose, and questions that they answer."""

import re
from collections import Counter

import pytest

from ragjax.errors import UserError
from ragjax.tasks import base
from ragjax.tasks._factbook_relations import RELATIONS
from ragjax.tasks.factbook import Factbook


@pytest.fixture(scope="module")
def data():
    return Factbook().generate()


@pytest.fixture(scope="module")
def questions(data):
    return [question for split in data.splits.values() for question in split]


def test_size(data):
    assert 10_000 <= len(data.passages) <= 15_000
    assert len(data.splits["train"]) >= 5_000
    assert len(data.splits["test"]) >= 1_500
    assert len(RELATIONS) >= 12


def test_every_relation_is_asked(data):
    for split in base.SPLITS:
        assert {q.relation for q in data.splits[split]} == set(RELATIONS)


def test_passages_are_short_and_clean(data):
    for p in data.passages:
        assert 0 < len(p.text.split()) <= 130, p.id
        assert not re.search(r"</?[a-z]|&\w+;|\s\s", p.text), p.id
        assert " – " in p.title
        assert " › " in p.title
        assert p.text.startswith(p.title.split(" – ")[0]), p.id


def test_passage_words_is_obeyed():
    assert max(len(p.text.split()) for p in Factbook(passage_words=60).generate().passages) <= 60


def test_passage_words_is_checked():
    with pytest.raises(UserError, match="passage_words"):
        Factbook(passage_words=5)


def test_no_word_of_the_source_is_lost(data):
    text = " ".join(p.text for p in data.passages if p.title.startswith("France – Geography"))
    for piece in ("Mont Blanc 4,810", "375 m", "largest Western European nation", "mistral"):
        assert piece in text


def test_answer_stands_in_every_positive(data, questions):
    passages = {p.id: p for p in data.passages}
    for q in questions:
        assert q.positives
        for positive in q.positives:
            stated = rf"(?<![\w.,]){re.escape(q.answers[0])}(?!\w|[.,]\d)"
            assert re.search(stated, passages[positive].text), q
            assert passages[positive].title.startswith(f"{q.entity} – "), q


def test_positives_are_of_the_field_asked_for(data):
    text = {p.id: p.text for p in data.passages}
    for q in data.splits["test"]:
        assert all(f"{RELATIONS[q.relation].path[1]}:" in text[p] for p in q.positives), q


def test_answers_are_short_and_no_question_tells_them(questions):
    for q in questions:
        assert len(q.answers[0].split()) <= 8, q
        assert q.answers[0] not in q.question, q


def test_few_answers_can_be_guessed(data):
    for relation in RELATIONS:
        rows = [q.answers[0] for q in data.splits["test"] if q.relation == relation]
        assert Counter(rows).most_common(1)[0][1] / len(rows) < 0.2, relation


def test_splits_share_no_entity(data):
    names = {split: {q.entity.casefold() for q in rows} for split, rows in data.splits.items()}
    assert not names["train"] & names["test"]
    assert not names["train"] & names["dev"]
    assert not names["dev"] & names["test"]
    assert "france" in names["test"]
    assert all(base.split_of(q.entity) == "test" for q in data.splits["test"])


def test_test_phrasings_are_unseen():
    for relation in RELATIONS.values():
        assert len(set(relation.train)) >= 3
        assert len(set(relation.test)) >= 2
        assert not set(relation.test) & {*relation.train, *relation.dev}
        assert not set(relation.dev) & set(relation.train)


def test_development_entities_are_asked_in_training_phrasings_too(data):
    """So that the split tells unseen entities from unseen wordings."""
    kinds = {split: {q.id.split("/")[-1].split("-")[0] for q in rows} for split, rows in
             data.splits.items()}  # fmt: skip
    assert kinds == {"train": {"train"}, "dev": {"train", "dev"}, "test": {"test"}}


def test_ids_are_unique(data, questions):
    assert len({p.id for p in data.passages}) == len(data.passages)
    assert len({q.id for q in questions}) == len(questions)


@pytest.mark.parametrize(
    ("relation", "answer"),
    [
        ("capital", "Paris"),
        ("highest_point", "Mont Blanc"),
        ("mean_elevation", "375 m"),
        ("anthem", "La Marseillaise"),
        ("internet_code", ".fr"),
        ("population", "68,512,806"),
        ("life_expectancy", "82.6 years"),
    ],
)
def test_france(data, relation, answer):
    found = [q for q in data.splits["test"] if q.entity == "France" and q.relation == relation]
    assert {q.answers[0] for q in found} == {answer}


def test_same_on_every_call(data):
    assert Factbook().generate() == data
