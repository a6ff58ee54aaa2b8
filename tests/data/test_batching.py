"""Batches of one shape, and the endless stream of shuffled epochs."""

import dataclasses

import numpy as np
import pytest
from tiny_task import TinyTask

from ragjax.data.batching import (
    batches_in_order,
    encode_corpus,
    encode_questions,
    stream_rows,
    train_tokenizer,
)
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.errors import UserError
from ragjax.models.retriever import Dense
from ragjax.retrieval.bm25 import BM25
from ragjax.types import EOS_ID, PAD_ID, UNK_ID

SPEC = TokenizerSpec(vocab_size=400, question_length=10, passage_length=11, answer_length=3)


@pytest.fixture(scope="module")
def data():
    return TinyTask().generate()


@pytest.fixture(scope="module")
def tokenizer(data):
    return train_tokenizer(SPEC, data)


@pytest.fixture(scope="module")
def corpus(data, tokenizer):
    return encode_corpus(tokenizer, SPEC, data.passages, data.splits["train"])


@pytest.fixture(scope="module")
def encode(tokenizer, corpus):
    dense = Dense()
    return lambda questions, retriever=dense, k=3: encode_questions(
        tokenizer, SPEC, corpus, questions, retriever, k
    )


def whole_stream(seed, size, count):
    """The definition: one permutation after another."""
    epochs = -(-size // count)
    orders = [np.random.default_rng((seed, epoch)).permutation(count) for epoch in range(epochs)]
    return np.concatenate(orders)[:size]


@pytest.mark.parametrize("count", [1, 7, 60])
@pytest.mark.parametrize("seed", [0, 3])
def test_stream_equals_concatenated_epochs_however_it_is_split(seed, count):
    expected = whole_stream(seed, 200, count)
    sizes = np.random.default_rng(1)
    for _ in range(10):
        position, rows = 0, []
        while position < 200:
            size = min(int(sizes.integers(1, 50)), 200 - position)
            rows.append(stream_rows(seed, position, size, count))
            position += size
        assert np.array_equal(np.concatenate(rows), expected)


def test_every_epoch_holds_every_row_in_another_order():
    epochs = stream_rows(0, 0, 180, 60).reshape(3, 60)
    assert np.array_equal(np.sort(epochs), np.broadcast_to(np.arange(60), (3, 60)))
    orders = {tuple(epoch) for epoch in epochs} | {tuple(stream_rows(1, 0, 60, 60))}
    assert len(orders) == 4


def test_corpus(corpus, data, tokenizer):
    assert corpus.tokens.shape == (30, 11)
    lengths = [len(tokenizer.encode(passage.text)) for passage in data.passages]
    assert corpus.cut == sum(length > 11 for length in lengths) > 0
    shortest = int(np.argmin(lengths))
    assert tokenizer.decode(corpus.tokens[shortest]) == data.passages[shortest].text
    assert " lives" in corpus.lexicon.words
    assert " Which" in corpus.lexicon.words  # of the training questions


def test_titles_are_read_if_asked_for(data):
    spec = dataclasses.replace(SPEC, with_title=True, passage_length=20)
    tokenizer = train_tokenizer(spec, data)
    corpus = encode_corpus(tokenizer, spec, data.passages, data.splits["train"])
    assert tokenizer.decode(corpus.tokens[0]).startswith("Ada Ada lives in Arles")


def test_questions(encode, data, tokenizer):
    encoded = encode(data.splits["train"])
    arrays = encoded.arrays
    assert arrays.question.shape == (60, 10)
    assert arrays.target.shape == (60, 3)
    assert arrays.positives[:, 0].tolist() == [row for row in range(20) for _ in range(3)]
    assert arrays.retrieved is None
    assert (arrays.weight == 1).all()
    whole = [len(tokenizer.encode(question.answers[0])) < 3 for question in data.splits["train"]]
    assert True in whole
    assert False in whole  # what is cut is accepted as no answer
    expected = np.where(np.array(whole)[:, None], arrays.target, 0)
    np.testing.assert_array_equal(arrays.accepted[:, 0], expected)
    assert tokenizer.decode(arrays.question[0]) == "Where does Ada live?"
    for row, question in zip(arrays.target, data.splits["train"], strict=True):
        assert EOS_ID in row
        assert question.answers[0].startswith(tokenizer.decode(row))


def test_several_accepted_answers(encode, data, tokenizer):
    first, second, third = data.splits["train"][:9:3]
    long = "Arles Arles Arles"  # too long to be said in three tokens
    several = dataclasses.replace(first, answers=(*first.answers, long, "Kiel", "York"))
    questions = [second, several, dataclasses.replace(third, answers=(*third.answers, "Ulm"))]
    encoded = encode(questions)
    accepted = encoded.arrays.accepted
    assert accepted.shape == (3, 3, 3)
    assert accepted.dtype == encoded.arrays.target.dtype == np.int32
    np.testing.assert_array_equal(accepted[:, 0], encoded.arrays.target)
    np.testing.assert_array_equal(encode([first]).arrays.target, accepted[1:2, 0])
    given = accepted.any(axis=-1)
    assert given.tolist() == [[True, False, False], [True, True, True], [True, True, False]]
    assert ((accepted == EOS_ID).sum(axis=-1) == given).all()
    assert [tokenizer.decode(row) for row in accepted[1, 1:]] == ["Kiel", "York"]
    assert tokenizer.decode(accepted[2, 1]) == "Ulm"
    picked = encoded.rows(np.array([2, 1]), 3).accepted
    np.testing.assert_array_equal(picked[:2], accepted[[2, 1]])


def test_several_positives(encode, data):
    first, second = data.splits["test"][:2]
    encoded = encode([dataclasses.replace(first, positives=("p3", "p1")), second])
    assert encoded.arrays.positives.tolist() == [[3, 1], [24, -1]]


@pytest.mark.parametrize("size", [1, 5, 12, 64])
def test_batches_in_order(size, encode, data):
    encoded = encode(data.splits["test"], BM25())
    seen = []
    for rows, batch in batches_in_order(encoded, size):
        real = len(rows)
        assert batch.question.shape == (size, 10)
        assert batch.weight.dtype == np.float32
        assert batch.weight.tolist() == [1.0] * real + [0.0] * (size - real)
        for name in ("question", "target", "accepted", "positives"):
            expected = getattr(encoded.arrays, name)[rows]
            assert np.array_equal(getattr(batch, name)[:real], expected)
        assert batch.retrieved.ids.shape == (size, 3)
        assert np.array_equal(batch.retrieved.ids[:real], encoded.arrays.retrieved.ids[rows])
        seen += rows.tolist()
    assert seen == list(range(12))


def test_rows_may_repeat(encode, data):
    batch = encode(data.splits["test"]).rows(np.array([3, 3, 0]))
    assert np.array_equal(batch.question[0], batch.question[1])
    assert not np.array_equal(batch.question[0], batch.question[2])
    assert batch.weight.tolist() == [1, 1, 1]
    assert (batch.question[:, 0] != PAD_ID).all()


def test_what_a_task_may_not_give(encode, data, tokenizer):
    question = data.splits["test"][0]
    with pytest.raises(UserError, match="no questions"):
        encode(())
    with pytest.raises(UserError, match=f"{question.id}.* has no answer"):
        encode([dataclasses.replace(question, answers=())])
    with pytest.raises(UserError, match="names passage 'p99', which is missing"):
        encode([dataclasses.replace(question, positives=("p99",))])
    with pytest.raises(UserError, match="no passages"):
        encode_corpus(tokenizer, SPEC, (), ())


def test_what_counts_as_a_name_is_the_specs_to_say(data, tokenizer):
    for share, some in ((0.0, False), (1.0, True)):
        spec = dataclasses.replace(SPEC, content_below=share)
        corpus = encode_corpus(tokenizer, spec, data.passages, data.splits["train"])
        named = corpus.vocabulary.content[corpus.tokens[corpus.tokens > UNK_ID]]
        assert named.any() == some


def test_the_tokenizer_learns_of_training_questions_alone(data, tokenizer):
    """Those of other splits are unseen; those of training are not."""
    asked = data.splits["train"][0]
    strange = (dataclasses.replace(asked, question="zyx zyx " * 200),)
    for split in ("train", "dev", "test"):
        rows = {**data.splits, split: (*data.splits.get(split, ()), *strange)}
        other = train_tokenizer(SPEC, dataclasses.replace(data, splits=rows))
        same = other._inner.to_str() == tokenizer._inner.to_str()
        assert same == (split != "train"), split


def test_questions_are_read_in_known_words(encode, data, tokenizer):
    asked = dataclasses.replace(data.splits["train"][0], question="where does ADA really live?")
    assert tokenizer.decode(encode([asked]).arrays.question[0]) == "Where does Ada live?"
