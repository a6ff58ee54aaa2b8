"""The tokenizer of a pretrained encoder, apart from the one that is trained on the corpus."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from ragjax.errors import UserError, require
from ragjax.files import write_atomically
from ragjax.retrieval.base import OwnTokens
from ragjax.text import plain
from ragjax.types import PAD_ID

PADDING = ("[PAD]", "<pad>")


class PretrainedTokenizer:
    """Questions and passages as rows that a pretrained encoder reads, with its special tokens."""

    def __init__(self, reads: OwnTokens, file: Path | None = None):
        """Reads the tokenizer.

        Args:
          reads: of the retriever.
          file: where the tokenizer is, if it is not `reads.json`.

        Raises:
          UserError: the file is missing or malformed, or has more tokens than the encoder.
        """
        self.reads = reads
        path = file or reads.source
        try:
            text = file.read_text("utf-8") if file else reads.json
            self._inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises bare Exception
            raise UserError(
                f"{path} is not a readable tokenizer ({error}); download the model again."
            ) from error
        size = self._inner.get_vocab_size()
        require(
            size <= reads.vocab_size,
            f"{path} has {size} tokens, but the encoder beside it has {reads.vocab_size}; name a "
            "directory in which both belong together.",
        )
        padding, name = self._inner.padding, self._inner.id_to_token(PAD_ID)
        require(
            name in PADDING if padding is None else padding["pad_id"] == PAD_ID,
            f"{path} has {name!r} as token {PAD_ID}, which stands for padding here; choose an encoder "
            "whose token 0 is its padding, as BERT's is.",
        )
        self._inner.no_padding()

    def to_json(self) -> str:
        """All that makes it, as JSON."""
        self._inner.no_truncation()
        return self._inner.to_str()

    def save(self, path: Path) -> None:
        """Writes the tokenizer, whole or not at all."""
        write_atomically(path, self.to_json().encode())

    def questions(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """[n,Q] int32 rows of questions, and how many were cut."""
        return self._rows(texts, 0)

    def cut(self, text: str) -> str:
        """The end of a question that is not read; "" of one that is read as a whole."""
        self._inner.enable_truncation(self.reads.lengths[0])
        given = self.reads.prefixes[0] + plain(text)
        encoding = self._inner.encode(given)
        if not encoding.overflowing:
            return ""
        return given[max(end for _, end in encoding.offsets) :].strip()

    def passages(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """[n,P] int32 rows of passages, and how many were cut."""
        return self._rows(texts, 1)

    def _rows(self, texts: Sequence[str], side: int) -> tuple[np.ndarray, int]:
        length, prefix = self.reads.lengths[side], self.reads.prefixes[side]
        self._inner.enable_truncation(length)
        rows = np.full((len(texts), length), PAD_ID, np.int32)
        cut = 0
        encodings = self._inner.encode_batch([prefix + plain(text) for text in texts])
        for row, encoding in zip(rows, encodings, strict=True):
            row[: len(encoding.ids)] = encoding.ids
            cut += bool(encoding.overflowing)
        return rows, cut
