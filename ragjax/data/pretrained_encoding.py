"""Pretrained encoders that embed a corpus by themselves, without a run that they were trained in."""

from pathlib import Path

import jax
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
from ragjax.models.pretrained.loading import describe
from ragjax.models.retriever import Dense

LENGTHS = "sentence_bert_config.json"
QUESTION_LENGTH, PASSAGE_LENGTH = 64, 512


def pretrained_corpus_encoder(path: Path, query_path: Path | None = None) -> CorpusEncoder:
    """Loads an encoder of texts, or one of passages and one of questions.

    It reads as much of a passage as its max_seq_length says in the files of sentence-transformers, or as
    it has positions for, at most 512 tokens; and 64 of a question. DPR reads title and text as two
    segments.

    Args:
      path: a directory, see `PretrainedEncoder.source`.
      query_path: that of another encoder of questions, which has the same tokenizer; None for the same.

    Raises:
      UserError: one is missing, broken or no encoder of texts, or they don't belong together.
    """
    encoder = _encoder(path)
    query_encoder = None if query_path is None else _encoder(query_path)
    spec = Dense(encoder, query_encoder, initial_scale=1.0)
    widths = {_width(each) for each in (encoder, query_encoder) if each is not None}
    require(
        len(widths) == 1,
        f"--encoder {path} and --query-encoder {query_path} embed in different widths; name two that "
        "were trained together.",
    )
    params = spec.pretrained() | {"log_scale": jnp.zeros(())}
    # There is no reader: a tokenizer of bytes alone stands for its own.
    tokenizer, reading = Tokenizer.train((), 300), TokenizerSpec(with_title=True)
    rows = np.zeros((1, reading.passage_length), np.int32)
    vocabulary = measure_vocabulary(tokenizer, rows, rows, reading.content_below)
    corpus = EncodedCorpus((), rows[:0], 0, vocabulary, Lexicon(()))
    text = PreparedText(reading, tokenizer, corpus, PretrainedTokenizer(encoder.reads))
    return CorpusEncoder(text, spec, {"retriever": params})


def _encoder(path: Path) -> PretrainedEncoder:
    require(
        path.is_dir(),
        f"{path} is a file, but an encoder of texts is a directory that sentence-transformers or "
        "transformers wrote; name one.",
    )
    most = min(PretrainedEncoder(str(path)).positions, _told_length(path))
    return PretrainedEncoder(
        str(path),
        question_length=min(QUESTION_LENGTH, most),
        passage_length=most,
        title_separator=" [SEP] " if describe(path).config["model_type"] == "dpr" else " ",
    )


def _width(encoder: PretrainedEncoder) -> int:
    """D."""
    module, tokens = encoder.build(0, jnp.float32), jnp.ones((1, 2), jnp.int32)
    embed = jax.eval_shape(
        lambda: module.init_with_output(jax.random.PRNGKey(0), tokens, None, 0)[0]
    )
    return embed.shape[-1]


def _told_length(path: Path) -> int:
    """Tokens of a passage by the files of sentence-transformers, at most 512."""
    if not (path / LENGTHS).exists():
        return PASSAGE_LENGTH
    told = read_json_object(path / LENGTHS, "download the model again.").get("max_seq_length")
    return min(told, PASSAGE_LENGTH) if isinstance(told, int) else PASSAGE_LENGTH
