"""Which answers stand in a corpus, compared with a look at every passage for every question."""

import itertools
import random
import re
import sys
import unicodedata

import numpy as np
import pytest

from ragjax.evaluation.coverage import answers_in_corpus
from ragjax.evaluation.matching import answer_rank, tokenised
from ragjax.text import UNSPACED


def by_brute_force(texts, answers):
    passages = [tokenised(text) for text in texts]
    return [bool(a) and answer_rank(passages, a) is not None for a in answers]


@pytest.mark.parametrize("seed", range(8))
def test_it_equals_brute_force(seed):
    """Few words, so that answers overlap, repeat tokens and begin alike."""
    rng = random.Random(seed)
    words = ["a", "b", "A", "c.", "É", "e\u0301", "d-e", "1,000", "東", "!", "\u200b"][: 4 + seed]

    def text(longest):
        return " ".join(rng.choices(words, k=rng.randrange(longest)))

    found = []
    for _ in range(40):
        texts = [text(9) for _ in range(rng.randrange(6))]
        answers = [[text(6) for _ in range(rng.randrange(4))] for _ in range(rng.randrange(12))]
        held = answers_in_corpus(iter(texts), answers)
        assert held.dtype == bool
        assert held.tolist() == by_brute_force(texts, answers)
        found += held.tolist()
    assert 0.1 < np.mean(found) < 0.95


def test_by_hand():
    texts = ["Paris is in France.", "New York and York New", "U.S. steel"]
    answers = [["paris"], ["Pari"], ["new york city", "in france"], [], [" "], ["U.S."], ["US"]]
    expected = [True, False, True, False, False, True, False]
    assert answers_in_corpus(texts, answers).tolist() == expected
    assert answers_in_corpus([], answers).tolist() == [False] * 7
    assert answers_in_corpus(texts, []).shape == (0,)


def test_the_corpus_is_a_stream_that_is_read_once():
    read = []

    def texts():
        for place in range(1000):
            read.append(place)
            yield f"number {place}"

    assert answers_in_corpus(texts(), [["999"], ["number 5"], ["5 number"]]).tolist() == [1, 1, 0]
    assert read == list(range(1000))


_UNSPACED = re.compile(f"[{UNSPACED}]")


def slowly_tokenised(text):
    def kind(character):
        category = unicodedata.category(character)[0]
        return "word" if category in "LNM" else "blank" if category in "ZC" else "other"

    tokens = []
    for of, run in itertools.groupby(unicodedata.normalize("NFD", text), key=kind):
        if of != "word":
            tokens += run if of == "other" else []
            continue
        word, alone = "", False  # alone: a letter of a script without spaces, with its marks
        for character in run:
            category = unicodedata.category(character)
            unspaced = category != "Nd" and category[0] != "M" and _UNSPACED.match(character)
            if word and (unspaced or (alone and category[0] != "M")):
                tokens, word = [*tokens, word], ""
            word += character
            alone = bool(unspaced) or (alone and category[0] == "M")
        tokens.append(word)
    return " ".join(["", *tokens, ""]).lower() if tokens else " "


def test_tokens_are_those_of_a_walk_over_the_characters():
    rng = random.Random(0)
    for _ in range(2000):
        ends = rng.choices([128, 0x3000, sys.maxunicode], k=12)
        text = "".join(chr(rng.randrange(end)) for end in ends)
        text += "".join(rng.choices("กิ้๒2aカ\u3099北\u0301.", k=6))
        assert tokenised(text) == slowly_tokenised(text)
