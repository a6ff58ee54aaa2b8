"""Confidence, threshold and the figures of risk and coverage, by hand and against exhaustive search."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation.calibration import (
    FIGURES,
    Calibration,
    best_threshold,
    calibrate,
    risk_coverage_area,
    variations,
)

GIVEN = Calibration(
    mean=(1.0, 2.0, 0.5),
    deviation=(2.0, 1.0, 0.5),
    weights=(1.0, 2.0, -1.0),
    bias=0.5,
    threshold=0.4,
    low=(-1.0, 1.5, 0.9),
    questions=4,
    coverage=0.5,
    accuracy=1.0,
    aurc=0.25,
    refused=1.0,
)


def test_confidence_by_hand():
    logits = [0.5 + 1.0 + 2.0 * -2.0 - 1.0, 0.5]
    found = GIVEN.confidence(np.array([[3.0, 0.0, 1.0], [1.0, 2.0, 0.5]]))
    np.testing.assert_allclose(found, [1 / (1 + math.exp(-x)) for x in logits])


def test_reasons_are_what_is_low_the_weightiest_first():
    assert GIVEN.reasons(np.array([-3.0, 1.0, 1.0])) == [
        *("low probability", "low similarity to the passages"),
    ]
    assert GIVEN.reasons(np.array([-1.5, -1.0, 0.2])) == [
        *("low similarity to the passages", "low probability", "unknown words"),
    ]
    # Where none is low, the one that tells most against the answer.
    assert GIVEN.reasons(np.array([5.0, 1.6, 1.0])) == ["unknown words"]


def test_json_and_back():
    assert Calibration.from_json(json.loads(json.dumps(GIVEN.to_json()))) == GIVEN
    with pytest.raises(UserError, match="calibration is malformed"):
        Calibration.from_json({"mean": [1.0]})


def test_best_threshold_by_hand():
    right = np.array([1, 1, 0, 1, 0, 0], bool)
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert best_threshold(confidence, right) == pytest.approx(0.75)  # a tie with 0.55: the higher
    assert best_threshold(confidence[:2], right[:2]) == pytest.approx(0.4)
    assert best_threshold(confidence, ~right) > 1  # all together gain nothing
    assert best_threshold(confidence[2:3], right[2:3]) > 1  # no answer is worth giving


@pytest.mark.parametrize("seed", range(20))
def test_best_threshold_against_all_thresholds(seed):
    """With ties: a threshold can't tell answers of equal confidence apart."""
    rng = np.random.default_rng(seed)
    confidence, right = rng.integers(0, 6, 12) / 6, rng.random(12) < 0.5
    gain = lambda at: np.where(right, 1, -1)[confidence >= at].sum()  # noqa: E731
    found = best_threshold(confidence, right)
    assert gain(found) == max(gain(at) for at in [*confidence, 2.0])


def test_area_by_hand():
    right = np.array([True, False, True])
    assert risk_coverage_area(np.array([0.9, 0.5, 0.1]), right) == pytest.approx(
        (0 + 1 / 2 + 1 / 3) / 3
    )
    tied = risk_coverage_area(np.array([0.5, 0.5, 0.1]), right)
    assert tied == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert tied == risk_coverage_area(np.array([0.5, 0.5, 0.1]), right[[1, 0, 2]])
    assert risk_coverage_area(np.array([0.3, 0.2]), np.array([True, True])) == 0
    assert risk_coverage_area(np.array([]), np.array([], bool)) == 0


def drawn(count=4000):
    """Figures whose log odds of a right answer are known: 1 + 2 f_0 - f_1, and f_2 tells nothing."""
    rng = np.random.default_rng(0)
    figures = rng.standard_normal((count, 3)) * [1.0, 3.0, 0.0] + [0.0, 1.0, 1.0]
    odds = 1 + 2 * figures[:, 0] - figures[:, 1]
    return figures, rng.random(count) < 1 / (1 + np.exp(-odds)), odds


def calibrated(figures, right):
    """All questions as they were asked."""
    everything = np.ones(len(right), bool)
    return calibrate(figures, right, as_asked=everything, unanswerable=~everything)


def test_the_regression_finds_the_odds():
    figures, right, odds = drawn()
    found = calibrated(figures, right)
    confidence = found.confidence(figures)
    assert np.abs(confidence - 1 / (1 + np.exp(-odds))).max() < 0.12
    assert found.threshold == pytest.approx(
        0.5, abs=0.12
    )  # a right answer gains as a wrong one costs
    assert found.weights[2] == 0
    assert found.questions == len(right)
    given = confidence >= found.threshold
    assert found.coverage == given.mean()
    assert found.accuracy == right[given].mean()


def test_coverage_is_of_questions_as_they_are():
    figures, right, _ = drawn(400)
    answerable = np.arange(400) < 300
    found = calibrate(figures, right & answerable, as_asked=answerable, unanswerable=~answerable)
    given = found.confidence(figures) >= found.threshold
    assert found.coverage == given[:300].mean()
    assert found.accuracy == right[:300][given[:300]].mean()
    assert found.refused == pytest.approx(1 - given[300:].mean())
    assert found.aurc == risk_coverage_area(found.confidence(figures[:300]), right[:300])


@pytest.mark.parametrize("all_right", [True, False])
def test_answers_that_are_all_right_or_all_wrong(all_right):
    figures = np.random.default_rng(0).standard_normal((50, 3))
    found = calibrated(figures, np.full(50, all_right))
    assert all(map(math.isfinite, (*found.weights, found.bias, found.threshold)))
    assert found.coverage == (1.0 if all_right else 0.0)
    assert found.accuracy == (1.0 if all_right else None)


def test_figures_that_are_missing_count_as_zero():
    figures = np.array([[0.0, np.nan, 1.0], [-5.0, np.nan, 1.0]] * 20)
    found = calibrated(figures, np.array([True, False] * 20))
    assert (found.coverage, found.accuracy) == (0.5, 1.0)
    low = dataclasses.replace(found, low=(-9.0, -1.0, 0.0))
    assert low.reasons(np.array([-5.0, np.nan, 1.0])) == ["low probability"]


def test_variations():
    words, rarity = ["What", " is", " Wakanda", "?"], [2, 1, 7, 0]
    assert variations(words, rarity, "zz") == ("What is zz?", "What is Wakanda? zz")
    assert len(FIGURES) == 3
