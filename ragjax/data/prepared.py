"""What a run makes of its task's text: tokenizer and encoded corpus, made, saved and loaded."""

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ragjax.data.batching import (
    EncodedCorpus,
    EncodedQuestions,
    encode_corpus,
    encode_questions,
    train_tokenizer,
)
from ragjax.data.borrowed_tokenizer import BorrowedTokenizer
from ragjax.data.lexicon import Lexicon
from ragjax.data.pretrained_tokenizer import PretrainedTokenizer
from ragjax.data.tokenizer import Tokenizer, TokenizerSpec
from ragjax.errors import UserError, require
from ragjax.files import parse_json, write_atomically
from ragjax.interrupts import stop_if_interrupted
from ragjax.models.pretrained.vocabulary import ReaderTokens
from ragjax.retrieval.base import OwnTokens, RetrieverSpec
from ragjax.text import half_character, is_empty, plain, shortened
from ragjax.types import Passage, QaData, Question, Vocabulary

FILES = TOKENIZER, LEXICON, PASSAGES, ARRAYS = (
    *("tokenizer.json", "lexicon.json", "passages.jsonl", "corpus.npz"),
)
OWN_TOKENIZER = "retriever_tokenizer.json"
NOTHING_KNOWN = "no word of the question is known, so there is nothing to guess from"
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error)  # what np.load raises, beside ValueError
NAMED = 20  # unknown words that are named, at most
_VOCABULARY = [field.name for field in dataclasses.fields(Vocabulary)]


@dataclass(frozen=True, eq=False)
class PreparedText:
    """A corpus as a run reads it.

    Attributes:
      spec: lengths and sizes.
      tokenizer: trained on the corpus, or the reader's own.
      corpus: the encoded passages.
      own: the tokenizer of a retriever that has one of its own.
    """

    spec: TokenizerSpec
    tokenizer: Tokenizer
    corpus: EncodedCorpus
    own: PretrainedTokenizer | None = None

    @classmethod
    def make(
        cls,
        spec: TokenizerSpec,
        data: QaData,
        own: OwnTokens | None = None,
        borrowed: ReaderTokens | None = None,
    ) -> "PreparedText":
        """Trains the tokenizer and encodes the corpus.

        Args:
          spec: lengths and sizes.
          data: the task's.
          own: how a retriever reads that has a tokenizer of its own.
          borrowed: the tokenizer of a reader that brings one; none is trained then.
        """
        tokenizer = train_tokenizer(spec, data) if borrowed is None else BorrowedTokenizer(borrowed)
        stop_if_interrupted()
        own_tokenizer = None if own is None else PretrainedTokenizer(own)
        corpus = encode_corpus(tokenizer, spec, data.passages, data.splits["train"], own_tokenizer)
        return cls(spec, tokenizer, corpus, own_tokenizer)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what `save` writes."""
        return FILES if self.own is None else (*FILES, OWN_TOKENIZER)

    def save(self, run_dir: Path) -> None:
        """Writes tokenizer and corpus into a run's directory, and reads them again.

        Raises:
          UserError: they can't be written, or are not the same again.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        corpus = self.corpus
        self.tokenizer.save(run_dir / TOKENIZER)
        if self.own is not None:
            self.own.save(run_dir / OWN_TOKENIZER)
        words = json.dumps(corpus.lexicon.words, ensure_ascii=False)
        write_atomically(run_dir / LEXICON, words.encode())
        lines = [json.dumps(vars(passage), ensure_ascii=False) for passage in corpus.passages]
        write_atomically(run_dir / PASSAGES, "".join(line + "\n" for line in lines).encode())
        arrays = io.BytesIO()
        np.savez(arrays, tokens=corpus.tokens, cut=corpus.cut, **vars(corpus.vocabulary))
        write_atomically(run_dir / ARRAYS, arrays.getvalue())
        own = None if self.own is None else self.own.reads
        found = PreparedText.load(self.spec, run_dir, own, self.tokenizer.reads).corpus
        require(
            found.passages == corpus.passages and np.array_equal(found.tokens, corpus.tokens),
            f"{run_dir} holds another corpus than was written there; name another directory, on another "
            "disk.",
        )

    @classmethod
    def load(
        cls,
        spec: TokenizerSpec,
        run_dir: Path,
        own: OwnTokens | None = None,
        borrowed: ReaderTokens | None = None,
    ) -> "PreparedText":
        """Reads what `save` wrote, see `make`.

        Raises:
          UserError: a file is missing or malformed.
        """
        if borrowed is None:
            tokenizer = Tokenizer.load(run_dir / TOKENIZER)
        else:
            tokenizer = BorrowedTokenizer.load_saved(run_dir / TOKENIZER, borrowed)
        try:
            lines = (run_dir / PASSAGES).read_bytes().decode().split("\n")
            passages = tuple(Passage(**parse_json(line)) for line in lines if line)
            words = parse_json((run_dir / LEXICON).read_bytes())
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"{LEXICON} is not a list of words")
            lexicon = Lexicon(words)
            # From memory, for np.load leaves a malformed file open.
            with np.load(io.BytesIO((run_dir / ARRAYS).read_bytes())) as arrays:
                vocabulary = Vocabulary(**{name: arrays[name] for name in _VOCABULARY})
                corpus = EncodedCorpus(
                    passages, arrays["tokens"], int(arrays["cut"]), vocabulary, lexicon
                )
        except (OSError, ValueError, TypeError, KeyError, EOFError, *_BROKEN_ZIP) as error:
            raise UserError(
                f"{run_dir} has no readable corpus ({error}); train the run again."
            ) from error
        for name, fits in (
            (PASSAGES, len(corpus.passages) == len(corpus.tokens)),
            (TOKENIZER, tokenizer.vocab_size == len(vocabulary.fold)),
        ):
            require(fits, f"{run_dir / name} and {run_dir / ARRAYS} disagree; train the run again.")
        own_tokenizer = None if own is None else PretrainedTokenizer(own, run_dir / OWN_TOKENIZER)
        return cls(spec, tokenizer, corpus, own_tokenizer)

    def over(self, passages: Sequence[Passage]) -> "PreparedText":
        """The same tokenizer over another corpus.

        What is known of a word stays known; of words that are new, the other corpus tells how rare they
        are.
        """
        known = self.corpus.vocabulary
        other = encode_corpus(self.tokenizer, self.spec, passages, (), self.own)
        idf = np.where(known.idf > 0, known.idf, other.vocabulary.idf)
        words = dict.fromkeys((*self.corpus.lexicon.words, *other.lexicon.words))
        corpus = dataclasses.replace(
            other,
            vocabulary=Vocabulary(fold=known.fold, idf=idf, content=known.content),
            lexicon=Lexicon(tuple(words)),
        )
        return PreparedText(self.spec, self.tokenizer, corpus, self.own)

    def encode(
        self,
        questions: Sequence[Question],
        retriever: RetrieverSpec,
        k: int,
        candidates: RetrieverSpec | None = None,
    ) -> EncodedQuestions:
        """Tokenises questions, and looks up what the host finds for each; see `encode_questions`."""
        return encode_questions(
            self.tokenizer, self.spec, self.corpus, questions, retriever, k, candidates, self.own
        )

    def reread(self, tokens: np.ndarray) -> np.ndarray:
        """[n,Q] what a retriever with a tokenizer of its own reads of [n,T] tokens of the reader's."""
        assert self.own is not None, "the retriever reads the same tokens"
        return self.own.questions([self.tokenizer.decode(row) for row in tokens])[0]

    def known_words(self, text: str) -> tuple[str, list[str]]:
        """A question in known words, and the words that were left out; see `Lexicon.known_form`."""
        return self.corpus.lexicon.known_form(self.tokenizer, text)

    def known_share(self, text: str) -> float:
        """The share of a question's words that are known, signs aside; 1 where it has none."""
        words = self.tokenizer.words(plain(text))
        count = sum(any(letter.isalnum() for letter in word) for word in words)
        return 1.0 - len(self.known_words(text)[1]) / count if count else 1.0

    def has_known_word(self, text: str) -> bool:
        """Whether anything of a question is known, signs aside."""
        return any(letter.isalnum() for letter in self.known_words(text)[0])

    def check_question(self, text: str) -> tuple[str, list[str]]:
        """Checks a question that is not of the task.

        Args:
          text: the question.

        Returns:
          The question without white space around it, and notes on what of it is not read.

        Raises:
          UserError: it is empty, or holds what is no character.
        """
        text, half = text.strip(), half_character(text)
        require(
            not half,
            f"The question {shortened(text)!r} holds {half!r}, which is no character in the encoding of "
            "the input; write it in that, or set PYTHONIOENCODING to its own.",
        )
        require(not is_empty(text), "The question is empty; ask one in words.")
        known, left_out = self.known_words(text)
        unknown = list(dict.fromkeys(left_out))
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        notes = [f"unknown words left out: {', '.join(unknown[:NAMED])}{more}"] if unknown else []
        tokens, length = self.tokenizer.encode(known), self.spec.question_length
        if len(tokens) > length:
            cut = self.tokenizer.decode(tokens[length:])
            notes.append(f"only {length} tokens are read; cut: {cut}")
        if self.own is not None and (cut := self.own.cut(text)):
            length = self.own.reads.lengths[0]
            notes.append(f"only {length} tokens are read by the retriever; cut there: {cut}")
        return text, notes
