"""How well passages were retrieved: by judgements (qrels), and by the answers that the texts hold.

What is computed by judgements is what `ir_measures` computes under these names, for each question:

    recall@k  R@k        share of the question's relevant passages that are among the first k
    hit@k     Success@k  1 if any relevant passage is among the first k, else 0
    mrr       RR         1 / rank of the first relevant passage, 0 where none was retrieved
    mrr@k     RR@k       the same, 0 where that rank exceeds k
    map       AP         Σ of the precision at the rank of each relevant passage retrieved, divided by
                         the number of relevant passages
    ndcg@k    nDCG@k     Σ_{r<=k} grade_r / log2(r + 1), divided by that of the best order

A grade of 1 or more is relevant; a passage without a judgement is not. Gold passages
(`Question.positives`) are judgements of grade 1. recall@k of a question-answering run
(`evaluation.metrics`) is hit@k here; where each question has one gold passage, both are recall@k.

    has_answer@k   1 if any of the first k texts holds an accepted answer, as `matching` tells (DPR)
    coverage       1 if any text of the corpus does

The order in which passages were retrieved is what is measured. `ir_measures` looks at scores alone and
reorders passages of equal score by their ids (RR ascending, RR@k descending), so it is given ranks.

Figures by judgements are means over the questions that have a relevant passage. One of them that
retrieved nothing, or that a run lacks, counts as 0. Other questions are left out and counted. (trec_eval
counts as 0 a question that has judgements but no relevant passage, and by default leaves out one that
the run lacks.) has_answer@k and coverage are means over the questions that have an accepted answer.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from ragjax.data.trec import Qrels, Run, require_ranked
from ragjax.errors import UserError, require
from ragjax.evaluation.coverage import answers_in_corpus
from ragjax.evaluation.matching import answer_rank, tokenised
from ragjax.evaluation.metrics import RECALL_DEPTHS
from ragjax.types import Passage, Question

DEPTHS = (*RECALL_DEPTHS, 100)
FIGURES = (
    *(f"{figure}@{k}" for figure in ("recall", "hit", "has_answer") for k in DEPTHS),
    *("mrr", "mrr@10", "map", "ndcg@10"),
)

DISTINCT_QUESTIONS = 10  # so many that retrieve the same are no chance

_MEASURES = {"recall": "R", "hit": "Success", "mrr": "RR", "map": "AP", "ndcg": "nDCG"}
_FIGURE = re.compile(r"((?:recall|hit|has_answer|ndcg|mrr|map)@[1-9][0-9]*)|mrr|map")
_HIGHEST_GRADE = 1000  # trec_eval takes memory for each grade up to the highest, and wraps around


@dataclass(frozen=True)
class RetrievalOutcomes:
    """What was measured of each question; all columns have one length.

    Attributes:
      ids: [M] question ids.
      columns: figure -> [M] outcomes, NaN of a question that it is not about; None if not measured.
      counts: how many questions and passages are what, see `measure_run` and `measure_retrieval`.
    """

    ids: tuple[str, ...]
    columns: Mapping[str, np.ndarray | None]
    counts: Mapping[str, int | None]

    def figure(self, name: str) -> np.ndarray | None:
        """Returns the outcomes of the questions that a figure is about, None if not measured.

        They are what `statistics.bootstrap_interval` takes. An unknown name raises `KeyError`.
        """
        column = self.columns[name]
        if column is None:
            return None
        about = column[~np.isnan(column)]
        return about if about.size else None

    def mean(self, name: str) -> float | None:
        """Returns the mean over the questions that a figure is about, None if not measured."""
        outcomes = self.figure(name)
        return None if outcomes is None else float(np.mean(outcomes))

    def summary(self) -> dict[str, float | int | None]:
        """Returns the mean of each figure, None where it is not measured, and the counts."""
        return {name: self.mean(name) for name in self.columns} | dict(self.counts)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields {"id", figure: outcome} of each question, None where it is not measured."""
        for place, name in enumerate(self.ids):
            row: dict[str, Any] = {"id": name}
            for figure, column in self.columns.items():
                value = np.nan if column is None else float(column[place])
                row[figure] = None if np.isnan(value) else value
            yield row


def measure_run(run: Run, qrels: Qrels, figures: Sequence[str] = FIGURES) -> RetrievalOutcomes:
    """Measures a run by judgements, see the head of this file.

    A figure at k is not measured where no question has k passages; has_answer@k never is. mrr and map
    look at all that was retrieved.

    Args:
      run: question id -> (passage id, score), best first; of the scores only the order is looked at.
      qrels: question id -> passage id -> grade.
      figures: names from the head of this file.

    Returns:
      The outcomes of all questions of the qrels, then of those of the run alone, and the counts
      `questions`; `gold_questions`, which have a relevant passage; `unjudged_questions`, which have no
      judgement; `irrelevant_questions`, which have judgements, but no relevant passage; and
      `unfound_questions`, for which nothing was retrieved.

    Raises:
      UserError: the ranking of a question is none (`require_ranked`), a grade is beyond ±1000, a figure
        is unknown, there is nothing to measure, or `ir_measures` isn't installed.
    """
    require(bool(run), "the run holds no question; retrieve passages for at least one.")
    for qid, ranking in run.items():
        require_ranked(qid, ranking)
    depth = max(map(len, run.values()))
    return _by_judgements(tuple(dict.fromkeys((*qrels, *run))), run, qrels, figures, depth)


def _by_judgements(
    ids: tuple[str, ...], run: Run, qrels: Qrels, figures: Sequence[str], depth: int
) -> RetrievalOutcomes:
    """`measure_run` of the questions `ids`, from rankings of at most `depth` passages."""
    names = tuple(dict.fromkeys(figures))
    for name in names:
        require(
            bool(_FIGURE.fullmatch(name)),
            f"figure {name!r} is unknown; choose recall@k, hit@k, has_answer@k, mrr, mrr@k, map, map@k "
            "or ndcg@k, with k from 1.",
        )
    judged = {qid: qrels[qid] for qid in ids if qrels.get(qid)}
    gold = {qid: grades for qid, grades in judged.items() if max(grades.values()) >= 1}
    _require_grades(judged)
    computed = [
        name for name in names if not name.startswith("has_answer") and _depth(name) <= depth
    ]
    columns: dict[str, np.ndarray | None] = dict.fromkeys(names)
    if gold and depth and computed:
        outcomes = _computed(run, gold, computed)
        for name in computed:
            columns[name] = np.array([outcomes[name].get(qid, np.nan) for qid in ids], float)
    counts = {
        "questions": len(ids),
        "gold_questions": len(gold),
        "unjudged_questions": len(ids) - len(judged),
        "irrelevant_questions": len(judged) - len(gold),
        "unfound_questions": sum(not run.get(qid) for qid in ids),
    }
    return RetrievalOutcomes(ids, columns, counts)


def _depth(name: str) -> int:
    """The k of a figure, 0 if it looks at all that was retrieved."""
    return int(name.partition("@")[2] or 0)


def _require_grades(qrels: Qrels) -> None:
    for qid, grades in qrels.items():
        for passage, grade in grades.items():
            require(
                abs(grade) <= _HIGHEST_GRADE,
                f"question {qid!r}: passage {passage!r} has the grade {grade}; give it one from "
                f"-{_HIGHEST_GRADE} to {_HIGHEST_GRADE}.",
            )


def import_ir_measures() -> Any:
    """The package that computes figures by judgements.

    Raises:
      UserError: it isn't installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise UserError(
            "retrieval can't be measured by judgements, for ir_measures isn't installed; run "
            "`pip install 'ragjax[measures]'` in ragjax's environment."
        ) from error
    return ir_measures


def _computed(run: Run, gold: Qrels, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Figure -> question id -> outcome, for each question of `gold`."""
    ir_measures = import_ir_measures()
    measures = {}
    for name in names:
        figure, at, k = name.partition("@")
        measures[ir_measures.parse_measure(_MEASURES[figure] + at + k)] = name
    # Scores from ranks: without ties, whole numbers that trec_eval's floats hold.
    ranked = {
        qid: {passage: float(-rank) for rank, (passage, _) in enumerate(run[qid])}
        for qid in gold
        if run.get(qid)
    }
    judged = {qid: dict(grades) for qid, grades in gold.items()}
    outcomes: dict[str, dict[str, float]] = {name: {} for name in names}
    for found in ir_measures.iter_calc(list(measures), judged, ranked):
        outcomes[measures[found.measure]][found.query_id] = float(found.value)
    return outcomes


def measure_retrieval(
    passages: Sequence[Passage],
    questions: Sequence[Question],
    ids: Integer[np.ndarray, "M K"],
    scores: Float[np.ndarray, "M K"],
    qrels: Qrels | None = None,
    figures: Sequence[str] = FIGURES,
    *,
    coverage: bool = True,
) -> RetrievalOutcomes:
    """Measures what a retriever found for M questions, see the head of this file.

    A figure at k is not measured where k exceeds K. mrr and map look at all K.

    Args:
      passages: the corpus of N passages.
      questions: M questions.
      ids: [M,K] rows of the corpus, best first; -1 marks a miss.
      scores: [M,K], of which only the order is looked at; anything at a miss.
      qrels: question id -> passage id -> grade; if None, the questions' gold passages.
      figures: names from the head of this file, `coverage` apart.
      coverage: whether to look through the whole corpus; if not, the figure `coverage` and the count
        `gold_not_in_corpus` are None.

    Returns:
      The outcomes of the questions, in their order, and the counts of `measure_run`;
      `answered_questions`, which have an accepted answer; `empty_hits`, passages without a text, each
      time that one was retrieved; `unasked_questions`, which only the qrels know and which are not
      measured; and `gold_not_in_corpus`, relevant passages that the corpus lacks, each time that a
      question has one.

    Raises:
      UserError: see `require_real_results` and `measure_run`; or a row is not in the corpus, or two
        questions have one id.
    """
    names = tuple(question.id for question in questions)
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    require(
        repeated is None, f"question {repeated!r} occurs twice; give each one an id of its own."
    )
    require_real_results(passages, questions, ids)
    hits = [row[row >= 0] for row in ids]
    found = {int(row): passages[int(row)] for row in np.unique(np.concatenate(hits))}
    run = {
        name: [
            (found[int(row)].id, float(score))
            for row, score in zip(rows, values, strict=True)
            if row >= 0
        ]
        for name, rows, values in zip(names, ids, scores, strict=True)
    }
    for name, ranking in run.items():
        require_ranked(name, ranking)
    if qrels is None:
        qrels = {q.id: dict.fromkeys(q.positives, 1) for q in questions if q.positives}
    judged = _by_judgements(names, run, qrels, figures, ids.shape[1])
    held = _holding(found, questions, hits, list(judged.columns), ids.shape[1])
    covered, lacking = _look_through(passages, questions, qrels) if coverage else (None, None)
    empty = {row for row, passage in found.items() if not passage.text.strip()}
    counts = {
        "answered_questions": sum(bool(question.answers) for question in questions),
        "empty_hits": sum(int(row) in empty for rows in hits for row in rows),
        "unasked_questions": len(set(qrels) - set(names)),
        "gold_not_in_corpus": lacking,
    }
    columns = {**judged.columns, **held, "coverage": covered}
    return RetrievalOutcomes(names, columns, {**judged.counts, **counts})


def _holding(
    found: Mapping[int, Passage],
    questions: Sequence[Question],
    hits: Sequence[np.ndarray],
    names: Sequence[str],
    depth: int,
) -> dict[str, np.ndarray]:
    """The columns of has_answer@k that `depth` passages can measure."""
    measured = {n: _depth(n) for n in names if n.startswith("has_answer") and _depth(n) <= depth}
    if not measured:
        return {}
    text = cache(lambda row: tokenised(found[row].text))
    deepest = max(measured.values())
    ranks = np.full(len(questions), np.nan)  # of a question without answers
    for place, (question, rows) in enumerate(zip(questions, hits, strict=True)):
        if question.answers:
            texts = (text(int(row)) for row in rows[:deepest])
            ranks[place] = answer_rank(texts, question.answers) or np.inf
    return {name: np.where(np.isnan(ranks), np.nan, ranks <= k) for name, k in measured.items()}


def _look_through(
    passages: Sequence[Passage], questions: Sequence[Question], qrels: Qrels
) -> tuple[np.ndarray, int]:
    """Returns the column of coverage, and how many relevant passages the corpus lacks."""
    relevant = [
        passage
        for question in questions
        for passage, grade in qrels.get(question.id, {}).items()
        if grade >= 1
    ]
    missing = set(relevant)

    def texts() -> Iterator[str]:
        for passage in passages:
            missing.discard(passage.id)
            yield passage.text

    held = answers_in_corpus(texts(), [question.answers for question in questions])
    answered = np.array([bool(question.answers) for question in questions])
    return np.where(answered, held, np.nan), sum(passage in missing for passage in relevant)


def require_real_results(
    passages: Sequence[Passage], questions: Sequence[Question], ids: Integer[np.ndarray, "M K"]
) -> None:
    """Checks that a retriever found something, that it can be read, and that it depends on the question.

    The same passages in the same order for all questions are taken for a fault where at least
    `DISTINCT_QUESTIONS` questions differ in their texts and the corpus has more than K passages.

    Args:
      passages: the corpus of N passages.
      questions: M questions.
      ids: [M,K] rows of the corpus, best first; -1 marks a miss.

    Raises:
      UserError: there is no question, M is another number than that of the rows of ids, or a row is not
        in the corpus; nothing was retrieved; no text retrieved holds a character; or all is the same.
    """
    require(len(questions) > 0, "there is no question to retrieve for; give at least one.")
    require(
        len(ids) == len(questions),
        f"passages were retrieved for {len(ids)} questions, but there are {len(questions)}; give one "
        "row of ids to each.",
    )
    hits = np.unique(ids[ids != -1])
    require(
        hits.size > 0,
        f"no passage was retrieved for any of {len(questions)} questions; check that the index holds "
        "the corpus, and that the questions are not empty.",
    )
    require(
        bool(hits[0] >= 0 and hits[-1] < len(passages)),
        f"the rows retrieved go from {hits[0]} to {hits[-1]}, but the corpus has {len(passages)} "
        "passages; retrieve from the corpus that is given.",
    )
    require(
        any(passages[int(row)].text.strip() for row in hits),
        f"all {hits.size} passages retrieved for {len(questions)} questions have an empty text; check "
        "that the corpus was read from the column that holds the texts.",
    )
    places = {question.question.strip(): place for place, question in enumerate(questions)}
    distinct = ids[list(places.values())]
    require(
        len(distinct) < DISTINCT_QUESTIONS
        or ids.shape[1] >= len(passages)
        or bool((distinct != distinct[0]).any()),
        f"{len(distinct)} different questions all retrieved the same {ids.shape[1]} of "
        f"{len(passages)} passages in the same order; check that the retriever reads the questions "
        "and that its parameters are finite and trained.",
    )
