"""Text to tokens and back, on a corpus with what breaks tokenizers."""

import dataclasses

import numpy as np
import pytest

from ragjax.data.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerSpec, measure_vocabulary
from ragjax.errors import UserError
from ragjax.evaluation.matching import exact_match, normalise_answer
from ragjax.types import BOS_ID, EOS_ID, PAD_ID, UNK_ID

TEXTS = [
    "The capital of France is Paris.",
    "the anthem of São Tomé and Príncipe is “Independência total”.",
    "La Réunion – 2,512 km² (970 sq mi), +262",
    "日本 and Ελλάδα; Åland's flag 🇦🇽",
    "Paris paris PARIS",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS * 3, 400)


def test_special_tokens(tokenizer):
    vocabulary = tokenizer._inner.get_vocab()
    expected = {"<pad>": PAD_ID, "<bos>": BOS_ID, "<eos>": EOS_ID, "<unk>": UNK_ID}
    assert {name: vocabulary[name] for name in SPECIAL_TOKENS} == expected


@pytest.mark.parametrize("text", [*TEXTS, "never seen: Ξωκη žluťoučký 🎉", "a", "tab\there"])
def test_round_trip(text, tokenizer):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert all(
        len(SPECIAL_TOKENS) <= token < tokenizer.vocab_size for token in tokenizer.encode(text)
    )


def test_special_tokens_in_a_text_are_text(tokenizer):
    # A user who types "<eos>" must not end the question.
    rows, _ = tokenizer.encode_batch(["Paris is"], 8)
    assert EOS_ID not in rows


def test_training_is_deterministic_and_bounded():
    first, second = (Tokenizer.train(TEXTS, 350) for _ in range(2))
    assert first._inner.to_str() == second._inner.to_str()
    assert first.vocab_size <= 350


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded._inner.to_str() == tokenizer._inner.to_str()
    assert [loaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.parametrize("content", [None, "", "{}", "half a fi"])
def test_unreadable_file(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="is not a readable tokenizer") as error:
        Tokenizer.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("end", [False, True])
def test_rows_are_padded_cut_and_counted(end, tokenizer):
    lengths = [len(tokenizer.encode(text)) for text in TEXTS]
    for length in range(2, max(lengths) + 3):
        rows, cut = tokenizer.encode_batch(TEXTS, length, end=end)
        assert rows.shape == (len(TEXTS), length)
        assert rows.dtype == np.int32
        assert cut == sum(size > length - end for size in lengths)
        for row, text in zip(rows, TEXTS, strict=True):
            ids = tokenizer.encode(text)[: length - end] + [EOS_ID] * end
            assert row.tolist() == ids + [PAD_ID] * (length - len(ids))


def test_an_answer_that_is_cut_counts_as_right_only_by_losing_punctuation(tokenizer):
    """So that answers that can't be given whole may stay among those that are accepted."""
    rng = np.random.default_rng(0)
    atoms = (
        "Paris",
        " Paris",
        " São",
        "U.",
        "S.",
        "-",
        ", ",
        "2,512",
        " km²",
        ".",
        '"',
        "!",
        "'s",
        "ö",
    )
    right = 0
    for _ in range(300):
        answer = "".join(rng.choice(atoms, rng.integers(1, 7)))
        ids = tokenizer.encode(answer)
        for end in range(1, len(ids)):
            given, lost = tokenizer.decode(ids[:end]), tokenizer.decode(ids[end:])
            if normalise_answer(answer) and exact_match(given, [answer]):
                right += 1
                assert not normalise_answer(lost), (given, lost)
    assert right > 50


def test_decoding_stops_at_the_end(tokenizer):
    ids = tokenizer.encode("Paris is")
    assert tokenizer.decode([BOS_ID, *ids, EOS_ID, *ids]) == "Paris is"
    assert tokenizer.decode(np.array([*ids, PAD_ID, PAD_ID], np.int32)) == "Paris is"
    assert tokenizer.decode([EOS_ID]) == ""


@pytest.mark.parametrize("text", TEXTS)
def test_words_join_to_the_text(text, tokenizer):
    words = tokenizer.words(text)
    start = (
        "" if text[0] == "日" else " "
    )  # a script without spaces has none before its words, either
    assert "".join(words) == start + text
    # BPE never crosses a word: each encodes alone as it does within.
    assert [t for word in words for t in tokenizer._inner.encode(word).ids] or not words
    assert len(words) >= len(text.split())


def test_fold_map(tokenizer):
    fold, vocabulary = tokenizer.fold_map(), tokenizer._inner.get_vocab()
    assert fold.shape == (tokenizer.vocab_size,)
    assert np.array_equal(fold[fold], fold)  # a folded form is its own
    assert np.array_equal(fold[:4], np.arange(4))
    for token, index in vocabulary.items():
        if token.isascii() and token.lower() in vocabulary:
            assert fold[index] == vocabulary[token.lower()]
        if fold[index] != index:
            other = next(name for name, place in vocabulary.items() if place == fold[index])
            assert other.lower() == token.lower() != token
    (upper,), (lower,) = tokenizer.encode("Paris"), tokenizer.encode("paris")
    assert upper != lower
    assert fold[upper] == fold[lower] == lower
    # Bytes above ASCII are no letters: folding them would turn é into another character.
    for text in ("É", "Å", "Ω", "日"):
        for token in tokenizer.encode(text)[-2:]:
            assert fold[token] == token


def test_vocabulary_is_measured(tokenizer):
    passages, _ = tokenizer.encode_batch(["Paris is", "Paris and", "the paris is is"], 6)
    questions, _ = tokenizer.encode_batch(["the capital", "the flag"], 6)
    vocabulary = measure_vocabulary(tokenizer, passages, questions, content_below=0.5)
    (upper,), (lower,), (article,), (verb,) = map(tokenizer.encode, ("Paris", "paris", "the", "is"))
    # Five texts; Paris stands in three (its case aside), "the" in three, "is" in two of them.
    for token, count in ((lower, 3), (article, 3), (verb, 2)):
        assert vocabulary.idf[token] == pytest.approx(np.log(6 / (count + 1)))
    assert vocabulary.idf[upper] == 0  # counted under its folded form
    unseen = tokenizer.encode("日本")
    assert not vocabulary.idf[unseen].any()
    # "is" stands in 2/3 of the passages, "the" in all questions: template. "and" in 1/3: a name.
    assert not vocabulary.content[[upper, lower, article, verb]].any()
    assert vocabulary.content[tokenizer.encode("and")].all()
    assert not vocabulary.content[:4].any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("vocab_size", 299),
            ("question_length", 1),
            ("passage_length", 0),
            ("answer_length", -1),
        ),
        *(("content_below", 1.5), ("content_below", -0.1), ("content_below", float("nan"))),
    ],
)
def test_spec_is_checked(field, value):
    with pytest.raises(UserError, match=rf"tokenizer\.{field} is {value}; "):
        dataclasses.replace(TokenizerSpec(), **{field: value})
