"""The words that a run has seen, by which questions are brought into known words.

A word in no passage and no training question has no trained embedding: split into pieces, it is noise
that can outweigh the words around it. It is left out. A word that is known in another form only, as when
a name is typed in lower case or stands in quotes, is replaced by that form.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ragjax.data.tokenizer import Tokenizer
from ragjax.text import plain, same_word

_COMMON = 100  # so many of the most frequent words tell nothing, whatever they stand behind
_HYPHENS = "-\u2010\u2011"


class Lexicon:
    """The known words, each with its leading space as `Tokenizer.words` gives them.

    Where an apostrophe parts a word, the whole is a known word, too.
    """

    def __init__(self, words: Sequence[str]):
        """Takes the known words, the most frequent first."""
        self.words = tuple(words)
        self._rank = {word: place for place, word in enumerate(self.words)}
        # Words with and without a leading space apart; the most frequent form is the one that stays.
        self._forms = {
            spaced: {
                same_word(word): word
                for word in reversed(self.words)
                if word.startswith(" ") == spaced
            }
            for spaced in (True, False)
        }

    @classmethod
    def measure(cls, tokenizer: Tokenizer, texts: Iterable[str]) -> "Lexicon":
        """Collects the words of `texts`."""
        counts: Counter[str] = Counter()
        for text in texts:
            words = tokenizer.words(text)
            counts.update(words)
            counts.update(word + end for word, end in pairwise(words) if _is_ending(end))
        return cls(
            [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        )

    def rarity(self, word: str) -> int:
        """How many words are more frequent; 0 of a word that is not known."""
        return self._rank.get(word, 0)

    def known_form(self, tokenizer: Tokenizer, question: str) -> tuple[str, list[str]]:
        """Rewrites a question in known words; with a pretrained reader's tokenizer, it stays as it is.

        Args:
          tokenizer: splits it into words.
          question: as it was asked.

        Returns:
          The question in known words, and the words that were left out; signs that are left out with
          them are not told.
        """
        if tokenizer.reads is not None:
            return plain(question).strip(), []
        kept, left_out, opened = [], [], False
        for number, word in enumerate(tokenizer.words(plain(question))):
            known = self._form(word, opened)
            rare = self._rank.get(word, _COMMON) >= _COMMON
            if rare and _is_ending(word) and kept and kept[-1] + word not in self._rank:
                continue  # the 's of "What's", where only names such as "Saint George's" have one
            # After a quote or a bracket begins a word that elsewhere has a space before it.
            opened = _is_sign(word[-1]) and (number == 0 or word.startswith(" ") or opened)
            if known is not None:
                kept.append(known)
            elif any(letter.isalnum() for letter in word):
                left_out.append(word.strip())
        return "".join(kept).strip(), left_out

    def _form(self, word: str, opened: bool) -> str | None:
        """The known form of a word, which may follow a sign that opens, or None."""
        spaced = word.startswith(" ")
        if opened and word[:1].isalnum() and f" {word}" in self._rank:
            return f" {word}"
        if word in self._rank:
            return word
        key = same_word(word)
        if not key:
            return None
        return self._forms[spaced or opened].get(key) or self._forms[True].get(key)


def _is_ending(word: str) -> bool:
    """Whether a word is what stands behind an apostrophe, as in What's."""
    return word[:1] == "'" and word[1:].isalpha()


def _is_sign(letter: str) -> bool:
    """Whether a character is punctuation or a symbol, such as a quote or a bracket, but no hyphen."""
    return unicodedata.category(letter)[0] in "PS" and letter not in _HYPHENS
