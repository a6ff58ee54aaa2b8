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
from ragjax.models.pretrained.loading import local
from ragjax.models.retriever import Dense

LENGTHS = "sentence_bert_config.json"
QUESTION_LENGTH, PASSAGE_LENGTH = 64, 512


def pretrained_corpus_encoder(source: str) -> CorpusEncoder:
    """Loads an encoder of texts.

    It reads as much of a passage as its max_seq_length says in the files of sentence-transformers, or as
    it has positions for, at most 512 tokens; and 64 of a question.

    Args:
      source: a directory or a model of the Hugging Face hub, see `PretrainedEncoder`.

    Raises:
      UserError: it is missing, broken or no encoder of texts.
    """
    path = local(source)
    require(
        path.is_dir(),
        f"{source} is a file, but an encoder of texts is a directory that sentence-transformers or "
        "transformers wrote; name one.",
    )
    most = _most_tokens(path)
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


def _most_tokens(path: Path) -> int:
    """Tokens of a passage that an encoder reads."""
    told = read_json_object(path / "config.json", "download the model again.")
    counts = [told.get("max_position_embeddings"), PASSAGE_LENGTH]
    if (path / LENGTHS).exists():
        told = read_json_object(path / LENGTHS, "download the model again.")
        counts.append(told.get("max_seq_length"))
    return min(count for count in counts if isinstance(count, int))
