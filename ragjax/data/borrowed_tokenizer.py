"""The tokenizer that a pretrained reader brings, in the numbers and the manner of `Tokenizer`."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from ragjax.data.tokenizer import Tokenizer
from ragjax.errors import UserError
from ragjax.files import write_atomically
from ragjax.models.pretrained.vocabulary import NOTHING, ReaderTokens, numbers_here
from ragjax.text import plain
from ragjax.types import EOS_ID, PAD_ID


class BorrowedTokenizer(Tokenizer):
    """Questions, passages and answers in the tokens of a pretrained reader.

    Text that looks like a special token, such as "</s>", is read as the letters that it is made of.
    """

    def __init__(self, reads: ReaderTokens, json: str | None = None):
        """Reads the tokenizer.

        Args:
          reads: of the reader.
          json: the tokenizer, if it is not `reads.json`.

        Raises:
          UserError: it is malformed.
        """
        try:
            inner = tokenizers.Tokenizer.from_str(reads.json if json is None else json)
        except Exception as error:  # the package raises bare Exception
            raise UserError(
                f"{reads.source} has no readable tokenizer ({error}); download the model again."
            ) from error
        super().__init__(inner)
        self.reads, self._json = reads, inner.to_str()
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        self._order, self._numbers = reads.order, numbers_here(reads.order)

    @classmethod
    def load_saved(cls, path: Path, reads: ReaderTokens) -> "BorrowedTokenizer":
        """Reads what `save` wrote.

        Raises:
          UserError: the file is missing or malformed.
        """
        try:
            return cls(reads, path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, UserError) as error:
            raise UserError(
                f"{path} is not a readable tokenizer ({error}); train the run again."
            ) from error

    def to_json(self) -> str:
        """All that makes it, as JSON."""
        return self._json

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON, whole or not at all."""
        write_atomically(path, self._json.encode())

    @property
    def vocab_size(self) -> int:
        """V, of the model: the tokenizer may have fewer."""
        return len(self._order)

    def _led(self, text: str, *, end: bool) -> str:
        """What stands within a text, as passages and questions do, begins with a space, no answer."""
        return text if end or not text else f" {text}"

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        found = super()._ids([plain(text) for text in texts])
        return [self._numbers[ids].tolist() for ids in found]

    def _vocabulary(self) -> dict[str, int]:
        return {token: int(self._numbers[own]) for token, own in self._inner.get_vocab().items()}

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Text of the ids up to the first end-of-sequence token."""
        kept = []
        for token in ids:
            if token == EOS_ID:
                break
            if self._order[token] != NOTHING and token != PAD_ID:
                kept.append(int(self._order[token]))
        return self._inner.decode(kept, skip_special_tokens=True).strip()

    def words(self, text: str) -> list[str]:
        """The words of a text, each with the white space before it."""
        return re.findall(r"\s*\S+", text)
