"""The words that a run has seen, by which questions are brought into known words.

A word in no passage and no training question has no trained embedding: split into pieces, it is noise
that can outweigh the words around it. It is left out. A word that is known in another case only, as
when a name is typed in lower case, is replaced by that form.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from ragjax.data.tokenizer import Tokenizer


class Lexicon:
    """The known words, each with its leading space as `Tokenizer.words` gives them."""

    def __init__(self, words: Sequence[str]):
        """Takes the known words, the most frequent first."""
        self.words = tuple(words)
        self._known = frozenset(self.words)
        self._by_lower = {word.lower(): word for word in reversed(self.words)}

    @classmethod
    def measure(cls, tokenizer: Tokenizer, texts: Iterable[str]) -> "Lexicon":
        """Collects the words of `texts`."""
        counts = Counter(word for text in texts for word in tokenizer.words(text))
        return cls(
            [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        )

    def known_form(self, tokenizer: Tokenizer, question: str) -> tuple[str, list[str]]:
        """Rewrites a question in known words.

        Args:
          tokenizer: splits it into words.
          question: as it was asked.

        Returns:
          The question in known words, and the words that were left out.
        """
        kept, left_out = [], []
        for word in tokenizer.words(question):
            known = word if word in self._known else self._by_lower.get(word.lower())
            if known is None:
                left_out.append(word.strip())
            else:
                kept.append(known)
        return "".join(kept).strip(), left_out
