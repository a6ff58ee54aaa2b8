"""The stream of training questions over phases that take their passages from several sources."""

import numpy as np
import pytest
from tiny_task import TinyTask

from ragjax.data import stream
from ragjax.data.prepared import PreparedText
from ragjax.data.stream import Phase, QuestionStream
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.models.retriever import Dense
from ragjax.retrieval.bm25 import BM25

SPEC = TokenizerSpec(vocab_size=400, question_length=10, passage_length=11, answer_length=3)
PHASES = (
    Phase(steps=1, batch_size=2, k=1, candidates=BM25()),
    Phase(steps=1, batch_size=2, k=2),
    Phase(steps=1, batch_size=2, k=3, candidates=BM25()),
)


@pytest.fixture(scope="module")
def made():
    data = TinyTask().generate()
    text = PreparedText.make(SPEC, data)
    return QuestionStream(text, data.splits["train"], PHASES, Dense())


def test_candidates_are_as_many_as_the_deepest_phase_takes(made):
    assert [made.source(phase) for phase in PHASES] == [0, 1, 0]
    assert made.encoded[0].arrays.retrieved.ids.shape == (60, 3)
    assert made.encoded[1].arrays.retrieved is None


def test_from_the_host_each_phase_is_fed_its_own_candidates(made, monkeypatch):
    monkeypatch.setattr(stream, "ON_DEVICE", 0)
    vars(made).pop("on_device", None)
    fed = [made.feed(0, step) for step in range(3)]
    assert [batch.retrieved is None for batch in fed] == [False, True, False]
    for step, batch in enumerate(fed):
        _, rows = made.rows(0, step)
        np.testing.assert_array_equal(batch.question, made.encoded[0].arrays.question[rows])
    vars(made).pop("on_device")
