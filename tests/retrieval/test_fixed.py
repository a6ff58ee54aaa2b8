"""Retrievers that need no search."""

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.retrieval.base import Retriever
from ragjax.retrieval.dense import Dense
from ragjax.retrieval.fixed import ClosedBook, Oracle
from ragjax.types import Passage, Question

PASSAGES = tuple(Passage(name, "", name) for name in "abc")
QUESTIONS = tuple(
    Question(str(n), "?", ("!",), positives, "r", "e")
    for n, positives in enumerate([("c", "b"), ("a",), ("b",)])
)


def test_oracle_gives_the_first_gold_passage():
    found = Oracle().lookup(PASSAGES, QUESTIONS, 4)
    assert found.ids.tolist() == [[2], [0], [1]]
    assert found.ids.dtype == np.int32
    assert found.scores.tolist() == [[0.0]] * 3
    assert np.all(found.valid)
    assert Oracle().passages_per_question(4) == 1


def test_closed_book_gives_one_empty_passage_that_counts():
    found = ClosedBook().lookup(PASSAGES, QUESTIONS, 4)
    assert found.ids.tolist() == [[-1]] * 3
    assert found.scores.tolist() == [[0.0]] * 3
    assert np.all(found.valid)
    assert ClosedBook().passages_per_question(4) == 1


def test_only_the_dense_retriever_is_searched_in_the_step():
    assert Dense().learned
    assert not Oracle().learned
    assert not ClosedBook().learned
    assert Dense().passages_per_question(4) == 4
    with pytest.raises(NotImplementedError, match="Retriever is searched inside"):
        Retriever().lookup(PASSAGES, QUESTIONS, 1)


def test_bad_fields_are_named():
    with pytest.raises(UserError, match="refresh_every is 0"):
        Dense(refresh_every=0)
