"""The tokenizer that a pretrained reader brings, in the numbers and the manner of `Tokenizer`."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from ragjax.data.tokenizer import SPECIAL_TOKENS, Tokenizer
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

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without special tokens."""
        return self._ids([text])[0]

    def encode_batch(
        self, texts: Sequence[str], length: int, *, end: bool = False
    ) -> tuple[np.ndarray, int]:
        """Encodes texts to one fixed shape, see `Tokenizer.encode_batch`.

        What stands within a text, as passages and questions do, begins with a space; answers, which
        `end`, do not.
        """
        room = length - int(end)
        rows = np.full((len(texts), length), PAD_ID, np.int32)
        cut = 0
        given = list(texts) if end else [f" {text}" if text else text for text in texts]
        for row, ids in zip(rows, self._ids(given), strict=True):
            cut += len(ids) > room
            ids = ids[:room] + ([EOS_ID] if end else [])
            row[: len(ids)] = ids
        return rows, cut

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._inner.encode_batch(
            [plain(text) for text in texts], add_special_tokens=False
        )
        return [self._numbers[encoding.ids].tolist() for encoding in encodings]

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

    def fold_map(self) -> np.ndarray:
        """[V] id of each token's lower-case form, or its own id where the form is no token."""
        vocabulary = self._inner.get_vocab()
        fold = np.arange(self.vocab_size, dtype=np.int32)
        for token, index in vocabulary.items():
            lowered = re.sub("[A-Z]", lambda match: match.group().lower(), token)
            fold[self._numbers[index]] = self._numbers[vocabulary.get(lowered, index)]
        fold[: len(SPECIAL_TOKENS)] = np.arange(len(SPECIAL_TOKENS))
        return fold
