"""Bootstrap intervals of a mean over training seeds and test questions.

A run with seed s scores x[s,q] on question q. Two things vary from one experiment to the next: the
seed and the questions. The point estimate is the mean over seeds of each seed's mean over its
questions,

    m = (1/S) Σ_s (1/M_s) Σ_q x[s,q],

and its interval is the percentile interval (Efron & Tibshirani 1993, section 13.3) of m over
resamples. In each, S seeds are drawn with replacement, then questions with replacement:

- paired (all seeds answer the same M questions): one draw of M questions, common to all seeds,

      m* = (1/SM) Σ_s Σ_q a_s c_q x[s,q],   a ~ Multinomial(S, 1/S),   c ~ Multinomial(M, 1/M).

  Questions are crossed with seeds, not nested in them: a hard question is hard for every seed, so
  more seeds don't shrink the part of the variance that questions bring. This is the pigeonhole
  bootstrap (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2)).
- unpaired (each seed answers its own questions): a fresh draw of M_s questions for every drawn
  seed, the two-stage bootstrap of nested data (Davison & Hinkley 1997, section 3.8).

Where questions come in kinds that count alike, however many questions each has, the mean over questions
is one over kinds of the mean of each kind, and questions are drawn within their kinds (stratified).

What to expect: the paired form is conservative where neither seeds nor questions explain much,
since the rest of the variance enters (2-1/S)(2-1/M)-1 times, at most three. With few seeds the part
that is the seed's is underestimated by (S-1)/S, as in every bootstrap of S things; with one seed it
is left out.

Draws take the raw 64-bit words of PCG64, whose stream NumPy guarantees never to change, so a table
that is printed today is printed byte for byte by a later NumPy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95

_BLOCK = 1 << 21  # question draws held in memory at a time


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds of its bootstrap interval; `single` if it is of one number alone."""

    mean: float
    low: float
    high: float
    single: bool = False

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def bootstrap_interval(
    outcomes: Sequence[np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    paired: bool = True,
    strata: np.ndarray | None = None,
    level: float = LEVEL,
) -> Interval:
    """Returns the mean over seeds and questions with its percentile bootstrap interval.

    Args:
      outcomes: per seed, [M] outcomes of its questions; if paired, in one order of questions.
      resamples: number of bootstrap resamples.
      seed: seed of the resampling; equal arguments give an equal interval.
      paired: whether all seeds answer the same questions, which are then resampled jointly.
      strata: [M] kinds of the questions, which count alike; None if they are of one kind.
      level: coverage aimed at.

    Returns:
      The mean and the interval, in the unit of the outcomes.
    """
    columns = _check(outcomes, resamples, level, paired)
    if strata is None:
        kinds = [slice(None)]
    elif paired and strata.shape == columns[0].shape:
        kinds = [strata == kind for kind in np.unique(strata)]
    else:
        raise ValueError(
            f"strata have shape {strata.shape}: give one to each question of paired runs"
        )
    bits = np.random.PCG64(seed)
    seeds = _draw(bits, (resamples, len(columns)), len(columns))
    if paired:
        values = np.stack(columns)
        means = [_question_means(bits, values[:, kind], resamples) for kind in kinds]
        statistics = np.take_along_axis(np.mean(means, axis=0), seeds, axis=1).mean(axis=1)
    else:
        statistics = _nested_means(bits, columns, seeds)
    observed = np.mean([[column[kind].mean() for kind in kinds] for column in columns])
    return _interval(float(observed), statistics, level)


def interquartile_interval(
    scores: Sequence[np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    level: float = LEVEL,
) -> Interval:
    """Returns the interquartile mean of runs with its stratified bootstrap interval.

    The mean of the middle half of all scores, ⌊n/4⌋ of which are left out at either end; resamples draw
    runs with replacement within each task (Agarwal et al. 2021, arXiv 2108.13264, as in `rliable`).

    Args:
      scores: per task, [S] one score a run.
      resamples: number of bootstrap resamples.
      seed: seed of the resampling; equal arguments give an equal interval.
      level: coverage aimed at.

    Returns:
      The interquartile mean and the interval, in the unit of the scores.
    """
    columns = _check(scores, resamples, level, paired=False)
    bits = np.random.PCG64(seed)
    drawn = [column[_draw(bits, (resamples, column.size), column.size)] for column in columns]
    observed = _interquartile_mean(np.concatenate(columns)[None])[0]
    return _interval(float(observed), _interquartile_mean(np.concatenate(drawn, axis=1)), level)


def _interquartile_mean(values: np.ndarray) -> np.ndarray:
    """[..., n] -> [...] mean without the ⌊n/4⌋ smallest and largest."""
    cut = values.shape[-1] // 4
    ordered = np.sort(values, axis=-1)
    return ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)


def _interval(mean: float, statistics: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def _draw(bits: np.random.PCG64, shape: tuple[int, int], n: int) -> np.ndarray:
    """Returns integers in [0, n): the upper half of a word, times n, over 2^32 (bias < n/2^32)."""
    half = np.uint64(32)
    words = bits.random_raw(shape[0] * shape[1]) >> half
    return (words * np.uint64(n) >> half).astype(np.int64).reshape(shape)


def _question_means(bits: np.random.PCG64, values: np.ndarray, resamples: int) -> np.ndarray:
    """Returns [resamples, S] means of every row of `values` [S,M] over jointly drawn questions."""
    size = values.shape[1]
    rows = max(1, _BLOCK // size)
    means = []
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        cells = _draw(bits, (block, size), size) + size * np.arange(block)[:, None]
        counts = np.bincount(cells.ravel(), minlength=block * size).reshape(block, size)
        means.append(counts @ values.T / size)
    return np.concatenate(means)


def _nested_means(
    bits: np.random.PCG64, columns: Sequence[np.ndarray], seeds: np.ndarray
) -> np.ndarray:
    """Returns [resamples] means over the drawn `seeds` [resamples,S], each with its own draw."""
    means = np.empty(seeds.shape)
    for index, column in enumerate(columns):
        drawn = np.flatnonzero(seeds == index)
        rows = max(1, _BLOCK // column.size)
        for start in range(0, drawn.size, rows):
            block = drawn[start : start + rows]
            picks = _draw(bits, (block.size, column.size), column.size)
            means.flat[block] = column[picks].mean(axis=1)
    return means.mean(axis=1)


def _check(
    outcomes: Sequence[np.ndarray], resamples: int, level: float, paired: bool
) -> list[np.ndarray]:
    """Returns the outcomes as arrays of float64; refuses what no interval can be made of."""
    columns = [np.asarray(column, np.float64) for column in outcomes]
    if not columns:
        raise ValueError("outcomes is empty: an interval needs at least one run")
    if any(column.ndim != 1 or not column.size for column in columns):
        raise ValueError(f"outcomes have shapes {[c.shape for c in columns]}: give [M] with M > 0")
    if paired and len({column.size for column in columns}) > 1:
        raise ValueError(
            f"paired runs have {[c.size for c in columns]} questions: give each the same ones"
        )
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError("outcomes hold a NaN or an infinity: score every question")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples is {resamples} and level {level}: give >= 1 and within (0, 1)")
    return columns


def pass_hat(successes: int, trials: int, k: int) -> float | None:
    """The chance that k of k episodes succeed, without bias from c successes in n trials.

        pass^k = C(c, k) / C(n, k)     (Yao et al. 2024, "τ-bench", arXiv 2406.12045)

    Args:
      successes: c.
      trials: n.
      k: how many.

    Returns:
      The estimate, or None of fewer trials than k.
    """
    return math.comb(successes, k) / math.comb(trials, k) if trials >= k else None
