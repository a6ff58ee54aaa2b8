"""Answers the questions of a split and records what is needed to recompute every figure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from ragjax.data.batching import EncodedQuestions, batches_in_order
from ragjax.data.prepared import PreparedText
from ragjax.evaluation.matching import (
    answer_rank,
    exact_match,
    strict_match,
    token_f1,
    tokenised,
)
from ragjax.evaluation.metrics import drawn_exact_match, summarise, write_predictions
from ragjax.objectives.base import Context, Objective
from ragjax.records import Records, ReportTable
from ragjax.types import EOS_ID, PAD_ID, Params, RagBatch, TopK


@dataclass(frozen=True)
class Answers(Records):
    """The answers to the questions of a split, one record each as described in `evaluation.metrics`."""

    FILE: ClassVar[str] = "predictions.jsonl"
    FIGURES: ClassVar[tuple[str, ...]] = ("em", "f1")

    records: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """The figures of `metrics.summarise`, and `metrics.drawn_exact_match`."""
        return summarise(self.records) | {"drawn_em": drawn_exact_match(self.records)}

    def write(self, path: Path) -> None:
        """Writes one JSON line a question."""
        write_predictions(path, self.records)

    @staticmethod
    def report(results: Sequence[Mapping[str, Any]]) -> list[ReportTable]:
        """The figures over all questions and by relation; of several seeds those over all questions.

        How often a passage holds an answer is shown where questions lack a gold passage.
        """
        first = results[0]
        shown = {"em", "strict_em", "f1", "mrr", "recall"}
        if first["gold_questions"] < first["questions"]:
            shown.add("has_answer")
        names = [name for name in first if name.partition("@")[0] in shown]

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
        relations = first["per_relation"]
        rows = [("all", first), *(relations.items() if len(relations) > 1 else ())]
        return [
            ReportTable(
                title,
                ("relation", "questions", *names),
                [(label, str(row["questions"]), *cells(row)) for label, row in rows],
            )
        ]


class Answerer:
    """Answers questions with a composed model, by programs that are compiled once a batch shape."""

    def __init__(
        self,
        objective: Objective,
        context: Context,
        text: PreparedText,
        *,
        corpus: jax.Array,
        batch_size: int,
    ):
        """Compiles nothing yet.

        Args:
          objective: says how to retrieve and how to decode.
          context: the composed model.
          text: turns tokens into text and names the passages.
          corpus: [N,P] passage tokens.
          batch_size: questions at once.
        """
        self._objective, self._context, self._text = objective, context, text
        self._corpus, self._batch_size = corpus, batch_size
        self._tokenised = cache(lambda row: tokenised(text.corpus.passages[row].text))

    @property
    def depth(self) -> int:
        """K, the passages that are retrieved for a question."""
        return self._context.k

    def _answer(
        self,
        params: Params,
        batch: RagBatch,
        corpus: jax.Array,
        index: Any,
        hidden: jax.Array | None = None,
    ):
        """-> (`TopK`, log_prior [B,K], `Decoded`)."""
        return self._objective.answer(
            self._context,
            params,
            batch,
            corpus=corpus,
            index=index,
            length=self._text.spec.answer_length,
            hidden=hidden,
        )

    @cached_property
    def answer(self):
        """The jitted (params, batch, corpus [N,P], index, hidden) -> (`TopK`, log_prior, `Decoded`).

        Passages whose rows are in hidden [B,H] are not read, see `objectives.base.without`.
        """
        return jax.jit(self._answer)

    @cached_property
    def _answer_one(self):
        """The same without XLA's optimisations: compiling takes longer than answering one question."""
        return jax.jit(self._answer, compiler_options={"xla_backend_optimization_level": 0})

    def records(
        self,
        params: Params,
        index: Any,
        encoded: EncodedQuestions,
        *,
        progress: Callable[[int], None] = lambda done: None,
        corpus: jax.Array | None = None,
        hidden: np.ndarray | None = None,
    ) -> list[dict[str, Any]]:
        """Answers every question.

        Args:
          params: the parameters.
          index: of these very parameters.
          encoded: the questions.
          progress: told how many questions are done.
          corpus: [N,P] what is read in place of the passages that are found; they themselves if None.
          hidden: [M,K] rows of passages that are not read for each question, -1 for none; none if None.

        Returns:
          One record a question, as described in `evaluation.metrics`.
        """
        records = []
        passages, decode = self._text.corpus.passages, self._text.tokenizer.decode
        if hidden is None:
            hidden = np.full((len(encoded.questions), self._context.k), -1, np.int32)
        for rows, batch in batches_in_order(encoded, self._batch_size):
            # Splits differ in the shapes of what is accepted, for which nothing shall be compiled anew.
            asked = RagBatch(
                question=batch.question, retrieved=batch.retrieved, lexical=batch.lexical
            )
            read = self._corpus if corpus is None else corpus
            unread = np.full((self._batch_size, hidden.shape[1]), -1, np.int32)
            unread[: len(rows)] = hidden[rows]
            answered = self.answer(params, asked, read, index, unread)
            topk, log_prior, decoded = jax.device_get(answered)
            for place, row in enumerate(rows):
                question = encoded.questions[row]
                answers, patterns = question.answers, question.patterns
                prediction, hits = decode(decoded.tokens[place]), _hits(topk, place)
                posterior = np.exp(decoded.log_posterior[place, hits])
                records.append(
                    {
                        "id": question.id,
                        "question": question.question,
                        "relation": question.relation,
                        "entity": question.entity,
                        "answers": list(answers),
                        "positives": list(question.positives),
                        "prediction": prediction,
                        "probability": _rounded(np.exp(decoded.log_prob[place])),
                        "em": exact_match(prediction, answers, patterns),
                        "strict_em": strict_match(prediction, answers, patterns),
                        "f1": _rounded(token_f1(prediction, answers)),
                        "retrieved": [passages[topk.ids[place, hit]].id for hit in hits],
                        "prior": [_rounded(value) for value in np.exp(log_prior[place, hits])],
                        "posterior": [_rounded(value) for value in posterior],
                        "similarity": _similarity(topk, place),
                        "known": _rounded(self._text.known_share(question.question)),
                        "answer_rank": answer_rank(
                            (self._tokenised(topk.ids[place, hit]) for hit in hits), answers
                        ),
                    }
                    | ({"patterns": list(patterns)} if patterns else {})
                )
            progress(len(records))
        return records

    def answer_text(self, params: Params, index: Any, encoded: EncodedQuestions) -> dict[str, Any]:
        """Answers the one question that is encoded.

        Returns:
          {"answer", "cut" (the tokens of an answer that did not end within them, else 0), "probability",
          "similarity", "passages": [{"id", "title", "text", "prior", "posterior"}]}, the passages in the
          order of their posterior; of a reader that searches by itself also "query", what it has
          searched for last, "" if nothing.
        """
        topk, log_prior, decoded = jax.device_get(
            self._answer_one(params, encoded.arrays, self._corpus, index)
        )
        passages = [
            vars(self._text.corpus.passages[topk.ids[0, hit]])
            | {
                "prior": float(np.exp(log_prior[0, hit])),
                "posterior": float(np.exp(decoded.log_posterior[0, hit])),
            }
            for hit in _hits(topk, 0)
        ]
        decode, asked = self._text.tokenizer.decode, decoded.query
        ended = np.isin(decoded.tokens[0], (EOS_ID, PAD_ID)).any()
        return ({} if asked is None else {"query": decode(asked[0])}) | {
            "answer": decode(decoded.tokens[0]),
            "cut": 0 if ended else len(decoded.tokens[0]),
            "probability": float(np.exp(decoded.log_prob[0])),
            "similarity": _similarity(topk, 0),
            "passages": sorted(passages, key=lambda passage: -passage["posterior"]),
        }


def _hits(topk: TopK, row: int) -> np.ndarray:
    """Places of the passages retrieved; an empty passage (closed book) is read but is none of them."""
    return np.flatnonzero(topk.valid[row] & (topk.ids[row] >= 0))


def _similarity(topk: TopK, row: int) -> float | None:
    """The highest score of a passage; None where nothing was retrieved."""
    hits = _hits(topk, row)
    return _rounded(topk.scores[row, hits].max()) if len(hits) else None


def _rounded(value: float | np.floating) -> float:
    """Seven digits, as many as float32 holds, keep the files small."""
    return float(f"{value:.7g}")
