"""From text to arrays of fixed shape, and from arrays to batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ragjax.data.lexicon import Lexicon
from ragjax.data.pretrained_tokenizer import PretrainedTokenizer
from ragjax.data.tokenizer import Tokenizer, TokenizerSpec, measure_vocabulary
from ragjax.errors import require
from ragjax.retrieval.base import RetrieverSpec
from ragjax.types import PAD_ID, Passage, QaData, Question, RagBatch, TopK, Vocabulary


@dataclass(frozen=True)
class EncodedQuestions:
    """The questions of one split.

    Attributes:
      questions: M questions as text.
      arrays: a `RagBatch` of all M rows.
    """

    questions: tuple[Question, ...]
    arrays: RagBatch

    def rows(self, index: np.ndarray, size: int | None = None) -> RagBatch:
        """Picks rows, filled up to `size` rows of weight 0."""
        fill = 0 if size is None else size - len(index)
        picked = np.concatenate([index, np.zeros(fill, index.dtype)])
        weight = np.concatenate([np.ones(len(index)), np.zeros(fill)]).astype(np.float32)
        arrays = self.arrays
        return RagBatch(
            question=arrays.question[picked],
            target=arrays.target[picked],
            accepted=arrays.accepted[picked],
            positives=arrays.positives[picked],
            retrieved=_rows_of(arrays.retrieved, picked),
            weight=weight,
            lexical=_rows_of(arrays.lexical, picked),
        )


def _rows_of(topk: TopK | None, rows: np.ndarray) -> TopK | None:
    """Rows of a ranking, where there is one."""
    return topk and TopK(topk.ids[rows], topk.scores[rows], topk.valid[rows])


@dataclass(frozen=True)
class EncodedCorpus:
    """The corpus as text and as tokens.

    Attributes:
      passages: N passages.
      tokens: [N,P], what the reader reads and, if the retriever has a tokenizer of its own, what that
        reads.
      cut: how many passages were longer; where there are two tokenizers, for the stricter one.
      vocabulary: the token statistics of passages and training questions.
      lexicon: their words.
    """

    passages: Sequence[Passage]
    tokens: np.ndarray
    cut: int
    vocabulary: Vocabulary
    lexicon: Lexicon


def passage_text(passage: Passage, with_title: bool, separator: str) -> str:
    """What is tokenised of a passage, with a separator between its title and its text."""
    return f"{passage.title}{separator}{passage.text}" if with_title else passage.text


def _texts(spec: TokenizerSpec, passages: Sequence[Passage], separator: str) -> list[str]:
    return [passage_text(passage, spec.with_title, separator) for passage in passages]


def encode_corpus(
    tokenizer: Tokenizer,
    spec: TokenizerSpec,
    passages: Sequence[Passage],
    training_questions: Sequence[Question],
    own: PretrainedTokenizer | None = None,
) -> EncodedCorpus:
    """Tokenises the corpus and measures its vocabulary.

    A retriever with a tokenizer of its `own` reads rows that stand behind those of the reader.
    """
    require(len(passages) > 0, "The task has no passages; a corpus needs at least one.")
    texts = _texts(spec, passages, spec.title_separator)
    tokens, cut = tokenizer.encode_batch(texts, spec.passage_length)
    questions = [question.question for question in training_questions]
    asked, _ = tokenizer.encode_batch(questions, spec.question_length)
    vocabulary = measure_vocabulary(tokenizer, tokens, asked, spec.content_below)
    lexicon = Lexicon.measure(tokenizer, [*texts, *questions])
    if own is not None:
        rows, cut_again = own.passages(_texts(spec, passages, own.reads.title_separator))
        tokens, cut = np.concatenate([tokens, rows], axis=1), max(cut, cut_again)
    return EncodedCorpus(tuple(passages), tokens, cut, vocabulary, lexicon)


def train_tokenizer(spec: TokenizerSpec, data: QaData) -> Tokenizer:
    """Trains the tokenizer on the passages and the training questions."""
    texts = _texts(spec, data.passages, spec.title_separator)
    texts += [question.question for question in data.splits["train"]]
    return Tokenizer.train(texts, spec.vocab_size)


def encode_questions(
    tokenizer: Tokenizer,
    spec: TokenizerSpec,
    corpus: EncodedCorpus,
    questions: Sequence[Question],
    retriever: RetrieverSpec,
    k: int,
    candidates: RetrieverSpec | None = None,
    own: PretrainedTokenizer | None = None,
) -> EncodedQuestions:
    """Tokenises a split and looks up what the host finds for it.

    That is: the passages of a fixed retriever, or of `candidates` for a learned one, and the lexical
    hits of a retriever that fuses them with its own ranking.

    Accepted answers are left out where they do not end within T tokens: cut, they would be answers that
    nobody accepts. A first answer that is cut is still learned from, as far as it goes.

    Raises:
      UserError: there are no questions, one has no answer, or a gold passage is not in the corpus.
    """
    require(len(questions) > 0, "A split of the task has no questions; give it at least one.")
    for question in questions:
        require(
            len(question.answers) > 0,
            f"Question {question.id!r} has no answer; give it at least one.",
        )
    asked, _ = tokenizer.encode_batch(
        [corpus.lexicon.known_form(tokenizer, question.question)[0] for question in questions],
        spec.question_length,
    )
    if own is not None:
        rows, _ = own.questions([question.question for question in questions])
        asked = np.concatenate([asked, rows], axis=1)
    target, accepted = _encode_answers(tokenizer, spec.answer_length, questions)
    rows = {passage.id: row for row, passage in enumerate(corpus.passages)}
    width = max(len(question.positives) for question in questions)
    positives = np.full((len(questions), max(width, 1)), -1, np.int32)
    for row, question in zip(positives, questions, strict=True):
        for column, name in enumerate(question.positives):
            require(
                name in rows, f"Question {question.id!r} names passage {name!r}, which is missing."
            )
            row[column] = rows[name]
    source = candidates or retriever
    retrieved = None if source.learned else source.lookup(corpus.passages, questions, k)
    lexical = retriever.lexical_hits(corpus.passages, questions) if retriever.fuses else None
    arrays = RagBatch(
        question=asked,
        target=target,
        accepted=accepted,
        positives=positives,
        retrieved=retrieved,
        weight=np.ones(len(questions), np.float32),
        lexical=lexical,
    )
    return EncodedQuestions(tuple(questions), arrays)


def _encode_answers(
    tokenizer: Tokenizer, length: int, questions: Sequence[Question]
) -> tuple[np.ndarray, np.ndarray]:
    """[M,T] first answers, and [M,Y,T] those of all that end within T."""
    target, _ = tokenizer.encode_batch(
        [question.answers[0] for question in questions], length, end=True
    )
    accepted = [
        [answer for answer in question.answers if len(tokenizer.encode(answer)) < length]
        for question in questions
    ]
    counts = np.array([len(answers) for answers in accepted])
    given = np.arange(max(counts.max(), 1)) < counts[:, None]
    tokens = np.full((*given.shape, length), PAD_ID, np.int32)
    if counts.any():
        whole = [answer for answers in accepted for answer in answers]
        tokens[given], _ = tokenizer.encode_batch(whole, length, end=True)
    return target, tokens


def stream_rows(seed: int, position: int, size: int, count: int) -> np.ndarray:
    """Rows `position` to `position + size` of an endless stream of shuffled epochs.

    The stream is a function of its seed alone, so that its position is all a checkpoint keeps.

    Args:
      seed: of the shuffling.
      position: examples drawn before.
      size: examples to draw.
      count: examples of the split.

    Returns:
      [size] row numbers.
    """
    places = np.arange(position, position + size)
    rows = np.empty(size, np.int64)
    for epoch in np.unique(places // count):
        order = np.random.default_rng((seed, int(epoch))).permutation(count)
        chosen = places // count == epoch
        rows[chosen] = order[places[chosen] % count]
    return rows


def batches_in_order(encoded: EncodedQuestions, size: int) -> Iterator[tuple[np.ndarray, RagBatch]]:
    """All rows in order, in batches of one shape: (rows, batch), the last one filled up."""
    count = len(encoded.questions)
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        yield rows, encoded.rows(rows, size)
