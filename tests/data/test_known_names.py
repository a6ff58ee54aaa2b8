"""Names are read as themselves in whatever signs, spaces and normal forms they stand."""

import re
import sys
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from ragjax.data.lexicon import Lexicon
from ragjax.data.tokenizer import Tokenizer
from ragjax.retrieval.bm25 import BM25
from ragjax.tasks.base import Task
from ragjax.text import UNSPACED, plain, with_word_breaks
from ragjax.types import Passage, QaData, Question

NAMES = ("France", "Côte d'Ivoire", "Guinea-Bissau", "São Tomé", "北京")
TEXTS = [
    *(f"What is the capital of {name}?" for name in NAMES),
    "The capital of Côte d'Ivoire is Yamoussoukro. Bissau is another.",
    'They said "France" and (France) and "france" in the same breath, in a quote.',
    "北京は中国の首都です。東京は日本の首都です。",
]
# Signs that a name may stand in: all punctuation and symbols that open a word, not those that join one.
SIGNS = [
    letter
    for letter in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(letter)[0] in "PS" and letter not in "-\u2010\u2011"
]
SPACES = [letter for letter in map(chr, range(0x3001)) if letter.isspace()]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 700)


@pytest.fixture(scope="module")
def read(tokenizer):
    lexicon = Lexicon.measure(tokenizer, TEXTS)

    def words(question):
        """The words that are read, signs aside."""
        form, _ = lexicon.known_form(tokenizer, question)
        return [word for word in tokenizer.words(form) if any(c.isalnum() for c in word)]

    return words


@pytest.mark.parametrize("name", NAMES[:4])
def test_in_any_sign(read, name):
    """Drawn from all punctuation and symbols of Unicode, before and behind."""
    rng = np.random.default_rng(0)
    expected = read(f"capital of {name}")
    drawn = [*rng.choice(SIGNS, 300), *'"“”«»„‚‘’()[]{}<>*_`~|¿¡…']
    for before in drawn:
        behind = rng.choice(SIGNS)
        asked = f"capital of {before}{name}{behind}"
        # A sign that is a letter in its compatible form, such as ™, joins what stands before it.
        if not any(c.isalnum() for c in unicodedata.normalize("NFKC", before + behind)):
            assert read(asked) == expected, (asked, before, behind)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"U+{ord(space):04X}")
def test_after_any_space(read, space):
    assert read(f"capital{space}of{space}{space}France") == read("capital of France")
    assert read(f"{space}France{space}") == read("France") == [" France"]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_in_any_normal_form(read, form):
    for name in NAMES:
        assert read(unicodedata.normalize(form, name)) == read(name)


@dataclass(frozen=True)
class Decomposed(Task):
    """A corpus in one normal form and questions in another."""

    name: ClassVar[str] = "decomposed"
    version: ClassVar[str] = "1.0.0"

    def generate(self):
        text = unicodedata.normalize("NFD", "São Tomé\u00a0is an island.")
        asked = Question("q", "Where is\tSão Tomé?", ("here",), ("p",), "", "")
        return QaData((Passage("p", "", text),), {"train": (asked,)})


def test_a_corpus_in_another_normal_form():
    """All text of a user's task is brought into one form when it is loaded."""
    data = Decomposed().load()
    assert data.passages[0].text == "São Tomé is an island."
    assert data.splits["train"][0].question == "Where is São Tomé?"


HIDDEN = ("Fra\u00adnce", "\ufeffFrance", "Fran\u200bce", "\u202bFrance\u202c")


@pytest.mark.parametrize("asked", [*HIDDEN, "Ｆｒａｎｃｅ", "FRANCE"])
def test_with_what_is_not_seen(read, asked):
    assert read(asked) == read("France")


def test_with_another_apostrophe(read):
    assert read("Côte d\u2019Ivoire") == read("Côte d'Ivoire")


def test_what_stands_behind_an_apostrophe():
    """It belongs to the names that have it, and is no word that a question is asked with."""
    usual = " ".join(
        f"{a}{b}"
        for a in "bcdfghklmn"
        for b in ("a", "e", "i", "o", "u", "ai", "au", "ei", "eu", "ou")
    )
    texts = ["Saint George's is the capital of Grenada", "What is the capital of Grenada?"]
    texts += [usual] * 3
    tokenizer = Tokenizer.train(texts, 500)
    lexicon = Lexicon.measure(tokenizer, texts)
    for asked, known in (
        ("What's the capital of Grenada?", "What the capital of Grenada?"),
        ("Grenada's capital", "Grenada capital"),
        ("Is Saint George's the capital?", "is Saint George's the capital?"),
        ("saint george's", "Saint George's"),
    ):
        assert lexicon.known_form(tokenizer, asked) == (known, [])
    often = Lexicon.measure(tokenizer, [*texts, *["the sky's blue"] * 4])
    assert often.known_form(tokenizer, "What's the capital?") == ("What's the capital?", [])


def test_scripts_without_spaces(read, tokenizer):
    """A letter is a word, and an answer comes back as it was written."""
    assert read("中国の首都は北京?") == list("中国の首都は北京")
    for text in ("北京", "東京は日本の首都です", "in 北京 now", "ประเทศไทย"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


UNSPACED_SCRIPTS = (
    *("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "KATAKANA LETTER"),
    *("HALFWIDTH KATAKANA", "HENTAIGANA LETTER", "BOPOMOFO", "THAI", "LAO", "MYANMAR", "KHMER"),
    *("TAI LE", "NEW TAI LUE", "TAI THAM", "TAI VIET", "YI SYLLABLE"),
)


def test_every_letter_of_a_script_without_spaces_is_known():
    """And none of another script, by what Unicode calls them; signs that stand in such text aside."""
    known = re.compile(f"[{UNSPACED}]")
    letters = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "L"]
    named = {c: unicodedata.name(c, "") for c in letters}
    assert [
        n for c, n in named.items() if n.startswith(UNSPACED_SCRIPTS) and not known.match(c)
    ] == []
    others = {n.split()[0] for c, n in named.items() if known.match(c)}
    others -= {name.split()[0] for name in UNSPACED_SCRIPTS}
    assert others == {
        "IDEOGRAPHIC",
        "MASU",
        "VERTICAL",
        "KATAKANA-HIRAGANA",
    }  # signs that stand in such text


# A text, a word in it, and another text.
SENTENCES = {
    "Thai": ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "ประเทศไทย", "ไทยกินข้าว"),
    "Lao": ("ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ", "ວຽງຈັນ", "ຈັນທະບູລີຢູ່ໃນເມືອງ"),
    "Burmese": ("နေပြည်တော်သည်မြန်မာနိုင်ငံ၏မြို့တော်ဖြစ်သည်", "မြန်မာ", "ကခဂ"),
    "Khmer": ("ភ្នំពេញជារាជធានីនៃប្រទេសកម្ពុជា", "កម្ពុជា", "ជាពុម្ពក"),
    "Yi": ("ꆈꌠꁱꂷꌋꆀ", "ꁱꂷ", "ꂷꀀꁱ"),
    "Tai Le": ("ᥖᥭᥰᥖᥬᥳᥑᥨᥒᥰ", "ᥑᥨᥒ", "ᥒᥨᥑ"),
    "bopomofo": ("ㄓㄨㄥㄍㄨㄛㄅㄟ", "ㄍㄨㄛ", "ㄛㄨㄍ"),
}


@pytest.mark.parametrize("script", SENTENCES)
def test_a_word_within_a_text_is_found(script):
    """By BM25, and it is made of known words."""
    text, word, other = SENTENCES[script]
    passages = [Passage("other", "", f"{other} {other}"), Passage("held", "", text)]
    asked = Question("q", f"{word}?", ("",), (), "", "")
    assert BM25().lookup(passages, [asked], 1).ids.tolist() == [[1]]
    tokenizer = Tokenizer.train([text, other], 400)
    lexicon = Lexicon.measure(tokenizer, [text])
    assert "".join(tokenizer.words(word)) == word
    assert lexicon.known_form(tokenizer, word) == (word, [])
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert set(tokenizer.encode(word)) <= set(tokenizer.encode(text))


def test_bm25_reads_them_too():
    texts = [
        "北京は中国の首都です。",
        "東京は日本の首都です。",
        "São Tomé is an island",
        "Ghent is a town",
    ]
    passages = [Passage(str(row), "", text) for row, text in enumerate(texts)]
    asked = ["中国の首都?", "日本の首都", "日", unicodedata.normalize("NFD", "são tomé"), '"Ghent"']
    questions = [Question(text, text, ("",), (), "", "") for text in asked]
    assert BM25().lookup(passages, questions, 2).ids[:, 0].tolist() == [0, 1, 1, 2, 3]


def test_text_with_spaces_stays_as_it_is():
    for text in (*TEXTS[:3], "", "x", "a  b", "$5 – é"):
        assert plain(text) == with_word_breaks(text) == text
