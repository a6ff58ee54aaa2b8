"""A pretrained encoder that embeds a corpus by itself, without a run that it was trained in."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ragjax.data.batching import EncodedCorpus
from ragjax.data.corpus_encoding import CorpusEncoder
from ragjax.data.lexicon import Lexicon
from ragjax.data.prepared import PreparedText
from ragjax.data.pretrained_tokenizer import PretrainedTokenizer
from ragjax.data.tokenizer import Tokenizer, TokenizerSpec, measure_vocabulary
from ragjax.errors import require
from ragjax.files import read_json_object
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.retriever import Dense

LENGTHS = "sentence_bert_config.json"
QUESTION_LENGTH, PASSAGE_LENGTH = 64, 512


def pretrained_corpus_encoder(path: Path) -> CorpusEncoder:
    """Loads an encoder of texts.

    It reads as much of a passage as its max_seq_length says in the files of sentence-transformers, or as
    it has positions for, at most 512 tokens; and 64 of a question.

    Args:
      path: a directory, see `PretrainedEncoder.source`.

    Raises:
      UserError: it is missing, broken or no encoder of texts.
    """
    require(
        path.is_dir(),
        f"{path} is a file, but an encoder of texts is a directory that sentence-transformers or "
        "transformers wrote; name one.",
    )
    most = min(PretrainedEncoder(str(path)).positions, _told_length(path))
    encoder = PretrainedEncoder(
        str(path), question_length=min(QUESTION_LENGTH, most), passage_length=most
    )
    spec = Dense(encoder, initial_scale=1.0)
    params = spec.pretrained() | {"log_scale": jnp.zeros(())}
    # There is no reader: a tokenizer of bytes alone stands for its own.
    tokenizer, reading = Tokenizer.train((), 300), TokenizerSpec(with_title=True)
    rows = np.zeros((1, reading.passage_length), np.int32)
    vocabulary = measure_vocabulary(tokenizer, rows, rows, reading.content_below)
    corpus = EncodedCorpus((), rows[:0], 0, vocabulary, Lexicon(()))
    text = PreparedText(reading, tokenizer, corpus, PretrainedTokenizer(encoder.reads))
    return CorpusEncoder(text, spec, {"retriever": params})


def _told_length(path: Path) -> int:
    """Tokens of a passage by the files of sentence-transformers, at most 512."""
    if not (path / LENGTHS).exists():
        return PASSAGE_LENGTH
    told = read_json_object(path / LENGTHS, "download the model again.").get("max_seq_length")
    return min(told, PASSAGE_LENGTH) if isinstance(told, int) else PASSAGE_LENGTH
