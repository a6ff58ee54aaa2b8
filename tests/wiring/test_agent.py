"""What an agent is given of a trained reader, which here is the run of a spied one."""

import numpy as np
import pytest
from spied import Telltale
from wiring import left

from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.agents.adaptive_retrieval.questions import FEATURES
from ragjax.agents.adaptive_retrieval.reader import FIRST

PROBABILITY = FEATURES.index("probability")


def table(run_dir, split, also="", **fields):
    """The questions of a split, with what the reader answers."""
    spec = AdaptiveRetrieval(reader=str(run_dir), task=Telltale(also=also), k=3, **fields)
    return spec.prepare(seed=0).on_split(split).build().params


def test_a_question_is_seen_by_the_components_of_the_training_questions(second):
    """These have unit deviation, and so other questions do not."""
    for split in ("train", "dev", "test"):
        components = np.asarray(table(second, split).question)[:, 1:]
        assert components.shape == (12, 8)
        deviations = components.std(axis=0)
        assert np.allclose(deviations, 1, rtol=1e-3) == (split == "train")


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_the_questions_are_the_splits(second, split):
    """What the reader answers is right in the first half of the development split alone."""
    found = table(second, split)
    early = np.asarray(found.kind) == found.kinds.index("early")
    np.testing.assert_array_equal(found.score[:, FIRST], early & (split == "dev"))


@pytest.mark.parametrize(
    ("measure", "also", "score"),
    [("em", " too", 0.0), ("f1", " too", 2 / 3), ("em", "!", 1.0), ("strict_em", "+", 0.0)],
)
def test_answers_score_by_the_measure(second, measure, also, score):
    """ "dev" where "dev too" is right is no match, but shares one of one and two words.

    A mark is nothing, but to strict exact match a symbol is something.
    """
    found = table(second, "dev", also=also, measure=measure)
    early = np.asarray(found.kind) == found.kinds.index("early")
    np.testing.assert_allclose(found.score[:, FIRST], np.where(early, score, 0.0), rtol=1e-6)


def test_the_reader_has_the_parameters_that_it_was_measured_with(first, average):
    """The average's marker is told of each answer, on an index of the same parameters: else 5 less."""
    features = np.asarray(table(first, "test").features)
    np.testing.assert_allclose(features[:, FIRST, PROBABILITY], np.exp(average), rtol=1e-4)
    assert left(first).params["retriever"]["log_scale"] < average - 0.05
