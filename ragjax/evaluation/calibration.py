"""When to give no answer: how sure a run is of an answer, calibrated on development questions.

An answer comes with three figures: its log probability under the marginal, the similarity of the
question to the best passage, and the share of its words that are known. A logistic regression on them,

    confidence = σ(b + Σ_i w_i (f_i - mean_i) / deviation_i),

is fitted to whether answers are right, on development questions as they are, and on variations of them
that nobody can answer (see `variations`). An answer below the threshold is not given.

The threshold has the greatest gain on these questions, where a right answer counts 1, a wrong one -1
and none 0. SQuAD 2.0 (Rajpurkar et al. 2018) searches its threshold on the null score in the same
manner. Risk and coverage are those of El-Yaniv and Wiener (2010).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ragjax.errors import UserError

FIGURES = ("log_probability", "similarity", "known")
REASONS = {
    "log_probability": "low probability",
    "similarity": "low similarity to the passages",
    "known": "unknown words",
}
_RIDGE = 1e-2  # keeps weights finite where a figure tells right from wrong without fail
_LOW = 0.05  # a figure is low below this share of those of the right answers


@dataclass(frozen=True)
class Calibration:
    """How sure a run has to be.

    Attributes:
      mean: of each of `FIGURES`.
      deviation: of each.
      weights: w.
      bias: b.
      threshold: the least confidence with which an answer is given.
      low: of each figure the value below which it is named as a reason.
      questions: development questions and variations that it was fitted to.
      coverage: the share of the development questions, as they are, that gets an answer.
      accuracy: the share of these answers that is right.
      aurc: area under the curve of risk by coverage over the same questions, thresholds aside.
      refused: the share of the questions that nobody can answer that gets none.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float
    low: tuple[float, ...]
    questions: int
    coverage: float
    accuracy: float | None
    aurc: float
    refused: float

    def confidence(self, figures: np.ndarray) -> np.ndarray:
        """[M,3] `FIGURES` -> [M] confidence."""
        scaled = (np.nan_to_num(figures) - np.array(self.mean)) / np.array(self.deviation)
        return _sigmoid(self.bias + scaled @ np.array(self.weights))

    def reasons(self, figures: np.ndarray) -> list[str]:
        """[3] the figures of an answer -> what speaks against it, the weightiest first."""
        scaled = (np.nan_to_num(figures) - np.array(self.mean)) / np.array(self.deviation)
        order = np.argsort(scaled * np.array(self.weights), kind="stable")
        low = [FIGURES[place] for place in order if figures[place] < self.low[place]]
        return [REASONS[name] for name in low or [FIGURES[order[0]]]]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        """Inverse of `to_json`.

        Raises:
          UserError: fields are missing or malformed.
        """
        try:
            fields: dict[str, Any] = {
                name: tuple(item) if isinstance(item, list) else item
                for name, item in value.items()
            }
            found, figures = cls(**fields), np.zeros(len(FIGURES))
            found.confidence(figures[None])
            found.reasons(figures)
            float(found.threshold)
            return found
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"The run's calibration is malformed ({error}); train the run again."
            ) from error


def calibrate(
    figures: np.ndarray, right: np.ndarray, *, as_asked: np.ndarray, unanswerable: np.ndarray
) -> Calibration:
    """Fits confidence and threshold.

    Args:
      figures: [M,3] the `FIGURES` of each answer.
      right: [M] whether it is right.
      as_asked: [M] whether the question is one of the development split as it is.
      unanswerable: [M] whether it has no answer.

    Returns:
      The calibration.
    """
    figures = np.nan_to_num(figures.astype(float))
    mean, deviation = figures.mean(axis=0), figures.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    bias, weights = _logistic_regression((figures - mean) / deviation, right.astype(float))
    confidence = _sigmoid(bias + ((figures - mean) / deviation) @ weights)
    threshold = best_threshold(confidence, right)
    given = confidence >= threshold
    own = given & as_asked
    good = figures[right.astype(bool)] if right.any() else figures
    refused = ~given[unanswerable]
    return Calibration(
        mean=tuple(map(float, mean)),
        deviation=tuple(map(float, deviation)),
        weights=tuple(map(float, weights)),
        bias=float(bias),
        threshold=float(threshold),
        low=tuple(map(float, np.quantile(good, _LOW, axis=0))),
        questions=len(right),
        coverage=float(own.sum() / max(as_asked.sum(), 1)),
        accuracy=float(right[own].mean()) if own.any() else None,
        aurc=risk_coverage_area(confidence[as_asked], right[as_asked]),
        refused=float(refused.mean()) if len(refused) else 0.0,
    )


def best_threshold(confidence: np.ndarray, right: np.ndarray) -> float:
    """The confidence from which on answers [M] gain most: 1 if right, -1 if wrong.

    Of equal gains it is the higher one. It lies half-way between the last answer that is given and the
    first that is not; above 1 where no answer is worth giving.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, gains = confidence[order], np.cumsum(np.where(right[order], 1.0, -1.0))
    ends = np.append(ranked[1:] < ranked[:-1], True)  # equal confidence is given or not as a whole
    best = int(np.argmax(np.where(ends, gains, -np.inf)))
    if gains[best] <= 0:
        return 1.0 + 1e-6
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def risk_coverage_area(confidence: np.ndarray, right: np.ndarray) -> float:
    """The mean risk over all coverages: of the n surest answers, the share that is wrong, n = 1 ... M.

    Answers of equal confidence count as their mean, whatever their order.
    """
    if len(right) == 0:
        return 0.0
    _, place = np.unique(-confidence, return_inverse=True)
    wrong = np.bincount(place, weights=~right.astype(bool)) / np.bincount(place)
    ranked = wrong[np.sort(place)]
    return float(np.mean(np.cumsum(ranked) / np.arange(1, len(ranked) + 1)))


def variations(words: Sequence[str], rarity: Sequence[int], unknown: str) -> tuple[str, str]:
    """Two variations of a question: one that nobody can answer, and one that means the same.

    Args:
      words: of the question, each with its leading space.
      rarity: how rare each is.
      unknown: a word that is known nowhere.

    Returns:
      The question with its rarest word replaced by the unknown one, as if it asked about something else;
      and with the unknown word added at its end, as a word that adds nothing.
    """
    rarest = int(np.argmax(rarity)) if len(words) else 0
    other = "".join(f" {unknown}" if n == rarest else word for n, word in enumerate(words))
    return other.strip(), f"{''.join(words).strip()} {unknown}"


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _logistic_regression(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Bias and weights that maximise the likelihood of y, less a small ridge; by Newton's method."""
    design = np.column_stack([np.ones(len(x)), x])
    ridge = _RIDGE * np.eye(design.shape[1]) * len(x)
    ridge[0, 0] *= 1e-3
    found = np.zeros(design.shape[1])
    for _ in range(50):
        p = _sigmoid(design @ found)
        gradient = design.T @ (y - p) - ridge @ found
        curvature = (design * (p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, gradient)
        found += step
        if np.abs(step).max() < 1e-9:
            break
    return float(found[0]), found[1:]
