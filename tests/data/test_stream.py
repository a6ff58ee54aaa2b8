"""The stream of training questions over phases that take their passages from several sources."""

import jax
import numpy as np
import pytest
from tiny_task import TinyTask

from ragjax.data import stream
from ragjax.data.prepared import PreparedText
from ragjax.data.stream import Phase, QuestionStream
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.models.hybrid import Hybrid
from ragjax.models.retriever import Dense
from ragjax.retrieval.bm25 import BM25

SPEC = TokenizerSpec(vocab_size=400, question_length=10, passage_length=11, answer_length=3)
PHASES = (
    Phase(steps=1, batch_size=2, k=1, candidates=BM25()),
    Phase(steps=1, batch_size=2, k=2),
    Phase(steps=1, batch_size=2, k=3, candidates=BM25()),
)


@pytest.fixture(scope="module")
def text():
    return PreparedText.make(SPEC, TinyTask().generate())


@pytest.fixture(scope="module")
def made(text):
    return QuestionStream(text, TinyTask().generate().splits["train"], PHASES, Dense())


def test_candidates_are_as_many_as_the_deepest_phase_takes(made):
    assert [made.source(phase) for phase in PHASES] == [0, 1, 0]
    assert made.encoded[0].arrays.retrieved.ids.shape == (60, 3)
    assert made.encoded[1].arrays.retrieved is None


def test_a_hybrid_has_its_lexical_hits_beside_any_candidates(text, made, monkeypatch):
    """The same ones in every phase: as many as its depth, whatever a phase reads."""
    data, hybrid = TinyTask().generate(), Hybrid(depth=4)
    stream_ = QuestionStream(text, data.splits["train"], PHASES, hybrid)
    expected = BM25().lookup(data.passages, data.splits["train"], 4)
    for encoded, known in zip(stream_.encoded, made.encoded, strict=True):
        np.testing.assert_array_equal(encoded.arrays.lexical.ids, expected.ids)
        assert known.arrays.lexical is None
        both = encoded.arrays.retrieved, known.arrays.retrieved
        assert jax.tree.structure(both[0]) == jax.tree.structure(both[1])
    monkeypatch.setattr(stream, "ON_DEVICE", 0)
    fed, (_, rows) = stream_.feed(0, 1), stream_.rows(0, 1)
    np.testing.assert_array_equal(fed.lexical.ids, expected.ids[rows])
    np.testing.assert_array_equal(fed.lexical.scores, expected.scores[rows])
    np.testing.assert_array_equal(fed.lexical.valid, expected.valid[rows])


def test_from_the_host_each_phase_is_fed_its_own_candidates(made, monkeypatch):
    monkeypatch.setattr(stream, "ON_DEVICE", 0)
    vars(made).pop("on_device", None)
    fed = [made.feed(0, step) for step in range(3)]
    assert [batch.retrieved is None for batch in fed] == [False, True, False]
    for step, batch in enumerate(fed):
        _, rows = made.rows(0, step)
        np.testing.assert_array_equal(batch.question, made.encoded[0].arrays.question[rows])
    vars(made).pop("on_device")
