"""When no answer is given: what is hidden, how questions are varied, and what an answer says."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from tiny_task import TinyTask

from ragjax.data.prepared import PreparedText
from ragjax.evaluation.calibration import Calibration
from ragjax.learners import abstention
from ragjax.objectives.base import without
from ragjax.types import Passage, QaData, TopK

CALIBRATION = Calibration(
    mean=(0.0, 0.0, 0.0),
    deviation=(1.0, 1.0, 1.0),
    weights=(1.0, 1.0, 0.0),
    bias=0.0,
    threshold=0.5,
    low=(-1.0, 0.2, 1.0),
    questions=4,
    coverage=1.0,
    accuracy=1.0,
    aurc=0.0,
    refused=1.0,
)


@pytest.fixture(scope="module")
def text():
    return PreparedText.make(tiny_config.get_config().tokenizer, TinyTask().generate())


def test_what_is_hidden_is_not_read():
    """p(d|x) over what is left; nothing left is the empty passage; nothing hidden changes nothing."""
    ids = jnp.array([[4, 2, 7], [4, 2, 7], [4, 2, -1], [-1, -1, -1]])
    log_prior = jnp.log(jnp.array([[0.5, 0.3, 0.2]] * 2 + [[0.6, 0.4, 0.0], [1.0, 0.0, 0.0]]))
    scores = jnp.where(ids >= 0, jnp.array([3.0, 2.0, 1.0]), -jnp.inf)
    valid = (ids >= 0).at[3, 0].set(True)
    hidden = jnp.array([[2, -1], [-1, -1], [2, 4], [-1, -1]])
    topk, prior = without(TopK(ids, scores, valid), log_prior, hidden)
    np.testing.assert_allclose(jnp.exp(prior[0]), [0.5 / 0.7, 0.0, 0.2 / 0.7], rtol=1e-6)
    np.testing.assert_array_equal(topk.ids[0], [4, -1, 7])
    np.testing.assert_array_equal(topk.valid[0], [True, False, True])
    for row in (1, 3):
        np.testing.assert_array_equal(prior[row], log_prior[row])
        np.testing.assert_array_equal(topk.ids[row], ids[row])
        np.testing.assert_array_equal(topk.valid[row], valid[row])
    np.testing.assert_allclose(jnp.exp(prior[2]), [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(topk.ids[2], [-1, -1, -1])
    np.testing.assert_array_equal(topk.valid[2], [True, False, False])


def record(**fields):
    common = {"answers": ["Arles"], "positives": [], "retrieved": ["p0", "p1"], "em": 1}
    return common | {"probability": 0.5, "similarity": 0.7, "known": 1.0} | fields


def test_passages_with_the_answer_are_hidden(text):
    records = [
        record(),  # "Ada lives in Arles, a quiet town."
        record(answers=["arles,"], retrieved=["p1", "p0"]),
        record(answers=["Arl"]),  # no part of a word
        record(answers=["nowhere"], positives=["p1"]),
        record(answers=["Ben"], positives=["p9"]),  # its title
        record(retrieved=[]),
    ]
    found = abstention._rows_with_answer(text, records, 3)
    assert found.tolist() == [
        *([0, -1, -1], [-1, 0, -1], [-1, -1, -1], [-1, 1, -1], [-1, 1, -1], [-1, -1, -1]),
    ]


def test_a_passage_whose_title_alone_is_the_answer_is_hidden():
    passages = (Passage("p0", "Arles", "A quiet town."), Passage("p1", "Bonn", "Another."))
    data = QaData(passages, TinyTask().generate().splits | {"dev": (), "test": ()})
    text = PreparedText.make(tiny_config.get_config().tokenizer, data)
    assert abstention._rows_with_answer(text, [record()], 2).tolist() == [[0, -1]]


def test_a_question_about_something_unknown(text):
    """The rarest word goes, which is the name; signs are none."""
    question = dataclasses.replace(TinyTask().generate().splits["train"][0])
    assert question.question == "Where does Ada live?"
    other, same = abstention._variations(text, question)
    assert other.question == "Where does zzyzx live?"
    assert same.question == "Where does Ada live? zzyzx"
    assert text.known_words(other.question) == ("Where does live?", ["zzyzx"])
    assert text.known_share(other.question) == 0.75
    assert text.known_share(same.question) == 0.8
    assert text.known_share("?!") == 1
    assert (other.answers, other.id) == (question.answers, question.id)


def test_figures_of_an_answer():
    figures = abstention.figures_of(record(similarity=None, probability=0.0))
    np.testing.assert_allclose(figures, [np.log(1e-30), np.nan, 1.0])
    np.testing.assert_allclose(abstention.figures_of(record())[:2], [np.log(0.5), 0.7])


def test_selective_figures_by_hand():
    rows = [
        record(similarity=2.0),
        record(similarity=1.0, em=0),
        record(similarity=-2.0, em=0),
        record(similarity=-3.0),
    ]
    found = abstention.selective_figures(CALIBRATION, rows)
    risks = [0, 1 / 2, 2 / 3, 2 / 4]
    assert found == {
        "threshold": 0.5,
        "coverage": 0.5,
        "accuracy": 0.5,
        "aurc": pytest.approx(np.mean(risks)),
    }
    none = abstention.selective_figures(CALIBRATION, rows[2:])
    assert (none["coverage"], none["accuracy"]) == (0.0, None)


def test_an_answer_below_the_threshold_is_held_back():
    told = {"answer": "Arles", "probability": 1.0, "similarity": -1.0, "known": 1.0}
    kept = abstention.abstained(told, CALIBRATION, force=False)
    assert kept["answer"] is None
    assert kept["confidence"] == pytest.approx(1 / (1 + np.e))
    assert kept["reasons"] == ["low similarity to the passages"]
    assert abstention.abstained(told, CALIBRATION, force=True) == kept | {"answer": "Arles"}
    sure = abstention.abstained(told | {"similarity": 1.0}, CALIBRATION, force=False)
    assert (sure["answer"], sure["reasons"]) == ("Arles", [])


def test_a_run_is_calibrated_on_four_variations(text):
    """A run that answers what it knows, with a high similarity, is told from one that guesses."""
    questions = TinyTask().generate().splits["dev"]
    asked = []

    def answer(encoded, hidden):
        asked.append((encoded, hidden))
        lost = [hidden is not None or q.entity not in q.question for q in encoded]
        return [
            record(
                em=int(not missing),
                answers=list(question.answers),
                similarity=0.1 if missing else 0.9,
                retrieved=[*question.positives],
            )
            for question, missing in zip(encoded, lost, strict=True)
        ]

    found = abstention.calibrate_run(text, questions, encode=list, answer=answer, k=2)
    assert found.questions == 4 * len(questions)
    assert (found.coverage, found.accuracy, found.refused, found.aurc) == (1, 1, 1, 0)
    assert [hidden is not None for _, hidden in asked] == [False, True, False, False]
    rows = [int(question.positives[0][1:]) for question in questions]
    assert asked[1][1][:, 0].tolist() == rows
