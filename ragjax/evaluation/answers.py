"""Answers the questions of a split and records what is needed to recompute every figure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from ragjax.data.batching import EncodedQuestions, batches_in_order
from ragjax.data.prepared import PreparedText
from ragjax.decoding.marginal import Decoded
from ragjax.evaluation.metrics import (
    drawn_exact_match,
    exact_match,
    summarise,
    token_f1,
    write_predictions,
)
from ragjax.objectives.base import Context, Objective
from ragjax.records import Records, ReportTable
from ragjax.retrieval.corpus import gather_passages
from ragjax.types import RagBatch, TopK


@dataclass(frozen=True)
class Answers(Records):
    """The answers to the questions of a split, one record each as described in `evaluation.metrics`."""

    FILE: ClassVar[str] = "predictions.jsonl"

    records: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """The figures of `metrics.summarise`, and `metrics.drawn_exact_match`."""
        return summarise(self.records) | {"drawn_em": drawn_exact_match(self.records)}

    def write(self, path: Path) -> None:
        """Writes one JSON line a question."""
        write_predictions(path, self.records)

    @staticmethod
    def report(results: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
        """The figures over all questions and by relation; of several seeds those over all questions."""
        first = results[0]
        names = [n for n in first if n in ("em", "f1", "mrr") or n.startswith("recall@")]

        def cells(figures):
            values = [figures.get(name) for name in names]
            return ["–" if value is None else f"{value:.3f}" for value in values]

        title = f"{first['split']} questions"
        if len(results) > 1:
            rows = [
                (f"seed {result['seed']}", str(result["questions"]), *cells(result))
                for result in results
            ]
            return [ReportTable(title, ("", "questions", *names), rows)]
        rows = [("all", first), *first["per_relation"].items()]
        return [
            ReportTable(
                title,
                ("relation", "questions", *names),
                [(label, str(row["questions"]), *cells(row)) for label, row in rows],
            )
        ]


AnswerFunction = Callable[..., tuple[TopK, jax.Array, Decoded]]


def make_answer_function(
    objective: Objective, context: Context, *, length: int, quickly_compiled: bool = False
) -> AnswerFunction:
    """Builds the jitted function that answers a batch.

    Args:
      objective: says how to retrieve and how to decode.
      context: the composed model.
      length: T.
      quickly_compiled: leave out XLA's optimisations, for a program that answers few questions.

    Returns:
      (params, batch, corpus [N,P], index) -> (`TopK`, log_prior [B,K], `Decoded`).
    """

    def answer(params, batch: RagBatch, corpus, index):
        topk, log_prior = objective.retrieve(context, params, batch, corpus=corpus, index=index)
        passages = gather_passages(corpus, topk.ids)
        decoded = objective.decode(
            context.model,
            params,
            batch.question,
            passages=passages,
            log_prior=log_prior,
            length=length,
        )
        return topk, log_prior, decoded

    options = {"xla_backend_optimization_level": 0} if quickly_compiled else None
    return jax.jit(answer, compiler_options=options)


def evaluate_questions(
    answer: AnswerFunction,
    params: Any,
    text: PreparedText,
    device_corpus: jax.Array,
    index: Any,
    encoded: EncodedQuestions,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Answers every question.

    Args:
      answer: from `make_answer_function`.
      params: the parameters.
      text: turns tokens into text and names the passages.
      device_corpus: [N,P] its tokens.
      index: the fresh index.
      encoded: the questions.
      batch_size: questions at once.
      progress: told how many questions are done.

    Returns:
      One record a question, as described in `evaluation.metrics`.
    """
    records = []
    for rows, batch in batches_in_order(encoded, batch_size):
        # Splits differ in the shapes of what is accepted, for which nothing shall be compiled anew.
        asked = RagBatch(question=batch.question, retrieved=batch.retrieved)
        topk, log_prior, decoded = jax.device_get(answer(params, asked, device_corpus, index))
        for place, row in enumerate(rows):
            question = encoded.questions[row]
            prediction = text.tokenizer.decode(decoded.tokens[place])
            # An empty passage (closed book) has row -1: it is read but it is no passage retrieved.
            hits = np.flatnonzero(topk.valid[place] & (topk.ids[place] >= 0))
            records.append(
                {
                    "id": question.id,
                    "question": question.question,
                    "relation": question.relation,
                    "entity": question.entity,
                    "answers": list(question.answers),
                    "positives": list(question.positives),
                    "prediction": prediction,
                    "probability": _rounded(np.exp(decoded.log_prob[place])),
                    "em": exact_match(prediction, question.answers),
                    "f1": _rounded(token_f1(prediction, question.answers)),
                    "retrieved": [text.corpus.passages[topk.ids[place, hit]].id for hit in hits],
                    "prior": [_rounded(np.exp(log_prior[place, hit])) for hit in hits],
                    "posterior": [
                        _rounded(np.exp(decoded.log_posterior[place, hit])) for hit in hits
                    ],
                }
            )
        progress(len(records))
    return records


def _rounded(value: float | np.floating) -> float:
    """Seven digits, as many as float32 holds, keep the files small."""
    return float(f"{value:.7g}")
