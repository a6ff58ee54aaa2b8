"""An encoder of passages with drawn parameters, and a process that is killed while it encodes.

    python tiny_encoder.py STORE EMBEDDINGS PASSAGES

embeds the store and gets SIGKILL once that many passages are recorded.
"""

import functools
import os
import signal
import sys
from pathlib import Path

import jax
from tiny_task import TinyTask

from ragjax.data.corpus_encoding import CorpusEncoder, encode_store
from ragjax.data.passage_store import PassageStore
from ragjax.data.prepared import PreparedText
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.models.encoder import BagEncoder
from ragjax.models.retriever import Dense

SPEC = TokenizerSpec(vocab_size=400, question_length=10, passage_length=12, with_title=True)
SMALL = {"batch_size": 4, "batches": 2}  # chunks of 8 passages


@functools.cache
def tiny_text():
    return PreparedText.make(SPEC, TinyTask().generate())


def tiny_encoder(spec=None, seed=0):
    spec = spec or Dense(encoder=BagEncoder(width=6))
    text = tiny_text()
    retriever = spec.build(jax.tree.map(jax.numpy.asarray, text.corpus.vocabulary))
    params = {"retriever": retriever.init(jax.random.PRNGKey(seed)), "reader": {}}
    return CorpusEncoder(text, spec, params)


def main(store, embeddings, passages):
    def progress(what, done, total):
        if what == "embedding" and done >= int(passages):
            os.kill(os.getpid(), signal.SIGKILL)

    encode_store(
        tiny_encoder(), PassageStore(Path(store)), Path(embeddings), **SMALL, progress=progress
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
