"""BM25 against the formula, computed by hand for a tiny corpus."""

import math

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.retrieval.bm25 import BM25
from ragjax.types import Passage, Question

PASSAGES = (
    Passage("0", "Paris", "paris capital france"),
    Passage("1", "Rome", "rome capital italy"),
    Passage("2", "Oslo", "oslo fjord"),
    Passage("3", "Rome", "rome capital italy"),  # a duplicate: a tie
)


def ask(*texts):
    return [Question(str(n), text, ("!",), ("0",), "r", "e") for n, text in enumerate(texts)]


def by_hand(words, passage, k1=1.5, b=0.75):
    """Lucene's BM25: Σ ln(1 + (N - n + ½) / (n + ½)) · f / (f + k1 (1 - b + b |d| / mean |d|))."""
    texts = [f"{p.title} {p.text}".lower().split() for p in PASSAGES]
    mean = sum(map(len, texts)) / len(texts)
    total = 0.0
    for word in words:
        n = sum(word in text for text in texts)
        frequency = texts[passage].count(word)
        norm = k1 * (1 - b + b * len(texts[passage]) / mean)
        total += math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) * frequency / (frequency + norm)
    return total


def test_scores_by_hand_and_misses():
    found = BM25().lookup(PASSAGES, ask("Capital of Paris", "fjord", "capital"), 3)
    assert found.ids.tolist() == [[0, 1, 3], [2, -1, -1], [0, 1, 3]]
    assert found.valid.tolist() == [[True] * 3, [True, False, False], [True] * 3]
    expected = [
        [by_hand(["capital", "paris"], 0)] + [by_hand(["capital"], 1)] * 2,
        [by_hand(["fjord"], 2), -np.inf, -np.inf],
        [by_hand(["capital"], 0)] * 3,
    ]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert (found.ids.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_parameters_reach_the_formula():
    found = BM25(k1=0.5, b=0.1).lookup(PASSAGES, ask("paris"), 1)
    np.testing.assert_allclose(found.scores, [[by_hand(["paris"], 0, 0.5, 0.1)]], rtol=1e-5)


def test_a_tie_at_the_cut_goes_to_the_lower_row():
    found = BM25().lookup(PASSAGES, ask("rome", "italy"), 1)
    assert found.ids.tolist() == [[1], [1]]


def test_a_question_without_any_hit_gets_an_empty_passage():
    found = BM25().lookup(PASSAGES, ask("zebra", "fjord"), 2)
    assert found.ids.tolist() == [[-1, -1], [2, -1]]
    assert found.valid.tolist() == [[True, False], [True, False]]
    assert found.scores[0].tolist() == [0.0, -np.inf]


@pytest.mark.parametrize("text", ["!!!", "the of", "a", ""])
def test_a_corpus_without_a_word_has_no_hit(text):
    passages = [Passage("a", "", text), Passage("b", "", text)]
    topk = BM25().lookup(passages, ask("the zebra !!!", "of"), 2)
    assert topk.ids.tolist() == [[-1, -1]] * 2
    assert topk.valid.tolist() == [[True, False]] * 2


def test_a_k_beyond_the_corpus_is_named():
    with pytest.raises(UserError, match="k is 5, but there are 4 passages"):
        BM25().lookup(PASSAGES, ask("rome"), 5)


def test_a_corpus_is_indexed_once(monkeypatch):
    """Told by its content, and no longer kept than the spec and the next corpus."""
    import bm25s

    indexed = []
    index = bm25s.BM25.index

    def counted(self, corpus, **options):
        indexed.append(self)
        return index(self, corpus, **options)

    monkeypatch.setattr(bm25s.BM25, "index", counted)
    retriever = BM25()
    first = retriever.lookup(PASSAGES, ask("rome", "italy"), 2)
    alone = retriever.lookup(list(PASSAGES), ask("italy"), 2)
    np.testing.assert_array_equal(alone.ids[0], first.ids[1])
    assert len(indexed) == 1
    backwards = retriever.lookup(PASSAGES[::-1], ask("fjord"), 1)
    assert backwards.ids.tolist() == [[1]]
    assert retriever.lookup(PASSAGES, ask("fjord"), 1).ids.tolist() == [[2]]
    assert len(indexed) == 3
    assert retriever == BM25()
    assert hash(retriever) == hash(BM25())


@pytest.mark.parametrize(
    ("fields", "message"), [({"k1": -1.0}, "k1 is -1"), ({"b": 1.5}, "b is 1.5")]
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        BM25(**fields)
