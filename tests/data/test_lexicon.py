"""Questions are brought into known words."""

import pytest

from ragjax.data.lexicon import Lexicon
from ragjax.data.tokenizer import Tokenizer

TEXTS = [
    "Where is Turkey? In Asia.",
    "a turkey is a bird",
    "Turkey is a country, in Asia's west",
    "the UK and the uk and the UK",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 350)


@pytest.fixture(scope="module")
def lexicon(tokenizer):
    return Lexicon.measure(tokenizer, TEXTS)


def test_words_by_frequency(lexicon):
    assert lexicon.words[:3] == (" a", " is", " the")  # 3 each; ties by the alphabet
    assert set(lexicon.words) >= {" Turkey", " turkey", "?", "."}
    assert len(set(lexicon.words)) == len(lexicon.words)


def test_order_of_texts_does_not_matter(lexicon, tokenizer):
    assert Lexicon.measure(tokenizer, TEXTS[::-1]).words == lexicon.words


@pytest.mark.parametrize("text", TEXTS)
def test_known_questions_stay_as_they_are(text, lexicon, tokenizer):
    assert lexicon.known_form(tokenizer, text) == (text, [])


@pytest.mark.parametrize(
    ("asked", "known", "left_out"),
    [
        pytest.param("where is asia?", "Where is Asia?", [], id="lower case typed"),
        pytest.param("WHERE IS ASIA?", "Where is Asia?", [], id="upper case typed"),
        pytest.param("a turkey", "a turkey", [], id="a known form is kept"),
        pytest.param("TURKEY", "Turkey", [], id="the most frequent form is chosen"),
        pytest.param("uK", "UK", [], id="and here too"),
        pytest.param("Where exactly is Turkey?", "Where is Turkey?", ["exactly"], id="left out"),
        pytest.param("Wakanda", "", ["Wakanda"], id="nothing known"),
        pytest.param("", "", [], id="empty"),
        pytest.param("  is   Turkey ", "is Turkey", None, id="blanks"),
    ],
)
def test_known_form(asked, known, left_out, lexicon, tokenizer):
    form, missing = lexicon.known_form(tokenizer, asked)
    assert form.split() == known.split()
    if left_out is not None:
        assert missing == left_out


def test_known_form_is_stable(lexicon, tokenizer):
    form, _ = lexicon.known_form(tokenizer, "is wakanda IN ASIA")
    assert lexicon.known_form(tokenizer, form) == (form, [])
