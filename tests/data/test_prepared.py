"""What a run keeps of its text comes back as it was, and a question is checked as it will be read."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_pretrained import TOKENS, write_tokenizer
from tiny_task import TinyTask

from ragjax.data.prepared import PreparedText
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.retrieval.base import OwnTokens

SPEC = TokenizerSpec(vocab_size=400, question_length=10, passage_length=11, answer_length=3)


@pytest.fixture(scope="module")
def text():
    return PreparedText.make(SPEC, TinyTask().generate())


def test_what_is_saved_comes_back(text, tmp_path):
    text.save(tmp_path / "run")
    loaded = PreparedText.load(SPEC, tmp_path / "run").corpus
    assert loaded.passages == text.corpus.passages
    assert loaded.lexicon.words == text.corpus.lexicon.words
    assert loaded.cut == text.corpus.cut > 0
    np.testing.assert_array_equal(loaded.tokens, text.corpus.tokens)
    jax.tree.map(
        np.testing.assert_array_equal, vars(loaded.vocabulary), vars(text.corpus.vocabulary)
    )


def test_only_what_is_read_can_be_too_long(text):
    """Words that are left out take no room."""
    asked = "Where does Ada live?"
    room = len(text.tokenizer.encode(asked))
    exact = dataclasses.replace(text, spec=dataclasses.replace(SPEC, question_length=room))
    assert exact.check_question(asked) == (asked, [])
    _, notes = exact.check_question("Where does Ada xylophonically live?")
    assert notes == ["unknown words left out: xylophonically"]
    strange = [f"{'xyz'[n % 3]}{'abcdefghij'[n // 3]}q" for n in range(23)]
    _, notes = text.check_question(f"Where does Ada {' '.join(strange * 3)} live?")
    assert notes == [f"unknown words left out: {', '.join(strange[:20])} and 3 more"]
    for asked, known in (("Ada?", True), ("xylophonically", False), ("?!", False)):
        assert exact.has_known_word(asked) == known


def test_what_the_retriever_does_not_read_is_said(tmp_path):
    """Of one with a tokenizer of its own: here six tokens of letters, beside its ends and a prefix."""
    write_tokenizer(tmp_path / "tokenizer.json")
    source = (tmp_path / "tokenizer.json").read_text()
    own = OwnTokens(source, "tokenizer.json", len(TOKENS), (9, 20), ("in ", ""))
    spec = dataclasses.replace(SPEC, question_length=40)
    text = PreparedText.make(spec, TinyTask().generate(), own)
    assert text.check_question("Where does Ada?") == ("Where does Ada?", [])
    asked = "Where does Ada live, in a quiet town?"
    assert text.check_question(asked) == (
        asked,
        ["only 9 tokens are read by the retriever; cut there: , in a quiet town?"],
    )
    # However often it has to be cut, a text counts once.
    assert text.own.passages(["Ada lives in Arles. " * 20, "Ada"])[1] == 1
    row = text.own.questions([asked])[0]
    np.testing.assert_array_equal(row, text.own.questions(["Where does Ada live"])[0])
