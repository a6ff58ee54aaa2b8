"""Byte-level BPE trained on the corpus, and the token statistics that the model needs."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from jaxtyping import Float, Int
from tokenizers import decoders, models, pre_tokenizers, trainers

from ragjax.errors import UserError, require
from ragjax.files import write_atomically
from ragjax.models.pretrained.vocabulary import ReaderTokens
from ragjax.text import UNSPACED
from ragjax.types import EOS_ID, PAD_ID, UNK_ID, Vocabulary

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")  # in the order of the ids in types.py
_UNSPACED_START = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True)
class TokenizerSpec:
    """How text becomes arrays of a fixed shape.

    Attributes:
      vocab_size: entries asked of BPE; the corpus may yield fewer.
      question_length: Q; longer questions are cut on the right.
      passage_length: P; longer passages are cut on the right.
      answer_length: T, the end-of-sequence token included.
      with_title: whether a passage is read as "title text" rather than as its text alone.
      title_separator: what stands between the two; RAG models learned with " / ".
      content_below: a token that occurs in fewer than this share of the passages and training
        questions carries a name, and may be renamed by anonymisation.
    """

    vocab_size: int = 6000
    question_length: int = 16
    passage_length: int = 32
    answer_length: int = 8
    with_title: bool = False
    title_separator: str = " "
    content_below: float = 0.01

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.vocab_size >= 300,
            f"tokenizer.vocab_size is {self.vocab_size}; it must be at least 300, to hold all bytes.",
        )
        for name in ("question_length", "passage_length", "answer_length"):
            value = getattr(self, name)
            require(value >= 2, f"tokenizer.{name} is {value}; it must be at least 2.")
        require(
            0 <= self.content_below <= 1,
            f"tokenizer.content_below is {self.content_below}; it is a share between 0 and 1.",
        )


def _spaced(text: str) -> str:
    """The text with a space before its first word, unless that is of a script without spaces."""
    return text if not text or text[0].isspace() or _UNSPACED_START.match(text) else f" {text}"


class Tokenizer:
    """Text to token ids and back. Every word carries its leading space, as in GPT-2.

    A letter of a script without spaces is a word by itself.

    Attributes:
      reads: of the reader that it came with, to which no word is unknown; None if it was trained.
    """

    reads: ReaderTokens | None = None

    def __init__(self, inner: tokenizers.Tokenizer):
        """Wraps a tokenizer of the `tokenizers` package."""
        self._inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Trains byte-level BPE on `texts`; deterministic."""
        inner = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS[UNK_ID]))
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(f"[{UNSPACED}]"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(map(_spaced, texts), trainer)
        return cls(inner)

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
          UserError: the file is missing or malformed.
        """
        try:
            return cls(tokenizers.Tokenizer.from_str(path.read_text("utf-8")))
        except Exception as error:  # the package raises bare Exception
            raise UserError(
                f"{path} is not a readable tokenizer ({error}); train the run again."
            ) from error

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON, whole or not at all."""
        write_atomically(path, self._inner.to_str(pretty=True).encode())

    def to_json(self) -> str:
        """All that makes it, as JSON."""
        return self._inner.to_str()

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._inner.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of one text, without special tokens."""
        return self._ids([self._led(text, end=True)])[0]

    def _led(self, text: str, *, end: bool) -> str:
        """A text as its words are split, with the space before the first; `end` says of an answer."""
        del end
        return _spaced(text)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts as they are."""
        encodings = self._inner.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return self._inner.get_vocab()

    def encode_batch(
        self, texts: Sequence[str], length: int, *, end: bool = False
    ) -> tuple[np.ndarray, int]:
        """Encodes texts to one fixed shape.

        Args:
          texts: n texts.
          length: tokens a row; shorter rows are padded, longer ones cut on the right.
          end: whether each row closes with the end-of-sequence token (within `length`).

        Returns:
          [n,length] int32 ids, and how many texts were cut.
        """
        room = length - int(end)
        rows = np.full((len(texts), length), PAD_ID, np.int32)
        cut = 0
        led = [self._led(text, end=end) for text in texts]
        for row, ids in zip(rows, self._ids(led), strict=True):
            cut += len(ids) > room
            ids = ids[:room] + ([EOS_ID] if end else [])
            row[: len(ids)] = ids
        return rows, cut

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Text of the ids up to the first end-of-sequence token."""
        kept = []
        for token in ids:
            if token == EOS_ID:
                break
            if token >= len(SPECIAL_TOKENS):
                kept.append(int(token))
        return self._inner.decode(kept).strip()

    def words(self, text: str) -> list[str]:
        """The words that BPE never crosses, each with its leading space, which joined give the text."""
        pieces = self._inner.pre_tokenizer.pre_tokenize_str(_spaced(text))
        return [self._inner.decoder.decode([piece]) for piece, _ in pieces]

    def fold_map(self) -> np.ndarray:
        """[V] id of each token's lower-case form, or its own id where the form is no token."""
        vocabulary = self._vocabulary()
        fold = np.arange(self.vocab_size, dtype=np.int32)
        for token, index in vocabulary.items():
            # Only ASCII is folded: other letters of a byte-level token are bytes, not characters.
            lowered = re.sub("[A-Z]", lambda match: match.group().lower(), token)
            fold[index] = vocabulary.get(lowered, index)
        fold[: len(SPECIAL_TOKENS)] = np.arange(len(SPECIAL_TOKENS))
        return fold


def measure_vocabulary(
    tokenizer: Tokenizer, passages: np.ndarray, questions: np.ndarray, content_below: float
) -> Vocabulary:
    """Measures the token statistics of a corpus.

    Args:
      tokenizer: gives V and the case folding.
      passages: [N,P] passage tokens.
      questions: [M,Q] training questions; documents as well, so that their words have an idf.
      content_below: share of texts under which a token counts as content.

    Returns:
      The vocabulary, in NumPy arrays.
    """
    fold = tokenizer.fold_map()
    held, asked = document_frequency(fold, passages), document_frequency(fold, questions)
    idf = inverse_document_frequency(held + asked, len(passages) + len(questions))
    share = np.maximum(held / max(len(passages), 1), asked / max(len(questions), 1))
    content = (share < content_below)[fold]
    content[: len(SPECIAL_TOKENS)] = False
    return Vocabulary(fold=fold, idf=idf, content=content)


def document_frequency(
    fold: Int[np.ndarray, "V"], rows: Int[np.ndarray, "n P"]
) -> Int[np.ndarray, "V"]:
    """In how many of the texts [n,P] each folded token occurs; padding counts as a token."""
    folded = np.sort(fold[rows], axis=1)
    first = np.ones(folded.shape, bool)
    first[:, 1:] = folded[:, 1:] != folded[:, :-1]
    return np.bincount(folded[first], minlength=len(fold))


def inverse_document_frequency(held: Int[np.ndarray, "V"], texts: int) -> Float[np.ndarray, "V"]:
    """log((texts + 1) / (held + 1)); 0 of a token that no text holds."""
    return np.where(held > 0, np.log((texts + 1) / (held + 1)), 0.0).astype(np.float32)
