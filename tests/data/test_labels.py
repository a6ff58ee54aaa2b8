"""Which questions are labelled: by two seeds alone, and how they are dealt to batches."""

import numpy as np
import pytest
from tiny_task import TinyTask

from ragjax.data import stream
from ragjax.data.labels import Labels
from ragjax.data.prepared import PreparedText
from ragjax.data.stream import Phase, QuestionStream
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.errors import UserError
from ragjax.models.retriever import Dense

SPEC = TokenizerSpec(vocab_size=400, question_length=10, passage_length=11, answer_length=3)
LABELS = Labels(share=0.25, seed=7)
PHASES = (
    Phase(steps=2, batch_size=4, labelled=4),
    Phase(steps=3, batch_size=6, labelled=2),
    Phase(steps=4, batch_size=5),
)


@pytest.fixture(scope="module")
def dealt():
    text = PreparedText.make(SPEC, TinyTask().generate())
    return QuestionStream(text, TinyTask().generate().splits["train"], PHASES, Dense(), LABELS)


def test_a_seed_has_one_set_of_labels_and_a_smaller_share_is_a_part_of_it():
    few, many = Labels(0.1), Labels(0.25)
    for seed in range(3):
        labelled, others = many.split(seed, 1000)
        assert len(labelled) == many.count(1000) == 250
        assert sorted([*labelled, *others]) == list(range(1000))
        np.testing.assert_array_equal(labelled, Labels(0.25).split(seed, 1000)[0])
        assert set(few.split(seed, 1000)[0]) < set(labelled)
    sets = [
        tuple(labels.split(seed, 1000)[0]) for labels in (few, Labels(0.1, 1)) for seed in (0, 1)
    ]
    assert len(set(sets)) == 4
    assert Labels(0.001).count(60) == 1
    assert Labels().count(60) == 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 0.0}, r"labels.share is 0.0; it must be above 0 and at most 1"),
        ({"share": 1.1}, r"labels.share is 1.1; it must be above 0"),
        ({"share": float("nan")}, r"labels.share is nan; it must be above 0"),
        ({"seed": -1}, r"labels.seed is -1; it must not be negative"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Labels(**fields)
    for labelled in (0, 5):
        with pytest.raises(UserError, match=rf"phases.labelled is {labelled}; .* batch_size, 4"):
            Phase(steps=1, batch_size=4, labelled=labelled)


def test_a_share_that_leaves_no_question_unlabelled_is_refused():
    data = TinyTask().generate()
    text, asked = PreparedText.make(SPEC, data), data.splits["train"]
    with pytest.raises(
        UserError, match=r"labels.share is 0.999, which labels all 60 .* lower the share"
    ):
        QuestionStream(text, asked, PHASES, Dense(), Labels(0.999))
    QuestionStream(text, asked, (PHASES[0], PHASES[2]), Dense(), Labels(0.999))


def test_batches_hold_as_many_labelled_questions_as_their_phase_says(dealt):
    """Labelled and unlabelled ones are streams of their own, which go on over the phases."""
    labelled, others = LABELS.split(3, 60)
    assert len(labelled) == 15
    rows = [dealt.rows(3, step)[1] for step in range(9)]
    assert [np.isin(of, labelled).sum() for of in rows[:5]] == [4, 4, 2, 2, 2]
    first = np.concatenate([*rows[:2], *(of[:2] for of in rows[2:5])])
    assert len(first) == len(set(first)) == 14  # of the first epoch of 15
    rest = np.concatenate([of[2:] for of in rows[2:5]])
    assert len(rest) == len(set(rest)) == 12
    assert set(rest) <= set(others)
    mixed = np.concatenate(rows[5:])
    assert len(mixed) == len(set(mixed)) == 20
    assert 0 < np.isin(mixed, labelled).sum() < 20


@pytest.mark.parametrize("limit", [stream.ON_DEVICE, 0])
def test_label_weights_make_a_mean_over_the_batch_one_over_its_labelled_questions(
    dealt, limit, monkeypatch
):
    monkeypatch.setattr(stream, "ON_DEVICE", limit)
    vars(dealt).pop("on_device", None)
    labelled, _ = LABELS.split(0, 60)
    values, without = np.arange(60.0), 0
    for step in range(200):
        _, rows = dealt.rows(0, step)
        weight = np.asarray(dealt.feed(0, step).label_weight)
        among = rows[np.isin(rows, labelled)]
        assert weight.dtype == np.float32
        without += not len(among)
        mean = np.mean(values[among]) if len(among) else 0.0
        np.testing.assert_allclose(np.mean(weight * values[rows]), mean, rtol=1e-6)
    assert 0 < without < 100  # batches of the last phase
    vars(dealt).pop("on_device", None)
