"""Embeds the passages of a store with a trained retriever: by length, on all devices, resumably."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int

from ragjax.data.batching import EncodedCorpus, passage_text
from ragjax.data.lexicon import Lexicon
from ragjax.data.passage_store import PassageStore
from ragjax.data.prepared import PreparedText
from ragjax.data.tokenizer import document_frequency, inverse_document_frequency
from ragjax.errors import UserError, require
from ragjax.files import parse_json, write_atomically
from ragjax.manifests import amend_manifest, tree_digest, versions_of
from ragjax.mesh import data_mesh
from ragjax.precision import single_precision
from ragjax.retrieval.base import RetrieverSpec
from ragjax.retrieval.embeddings import DTYPES, REMEDY, EmbeddingsWriter, StoredEmbeddings
from ragjax.text import plain
from ragjax.types import PAD_ID, Params, Passage, Retriever, Vocabulary

IDF, WORDS = "idf.npy", "words.json"
BATCH = 256  # passages that are embedded at once
BATCHES = 32  # of a chunk, after which what is done is recorded
_WIDTHS = 4  # batch shapes, by length
_READ = 4096  # passages that are measured at once
_ASKED = 64  # questions that are embedded at once

# (what is done, passages done, of how many) -> nothing
Progress = Callable[[str, int, int], None]
PACKAGES = ("ragjax", "jax", "jaxlib", "flax", "numpy", "tokenizers")


@dataclass(frozen=True, eq=False)
class CorpusEncoder:
    """A trained retriever with all that it reads text with.

    Attributes:
      text: of its run: tokenizer, lengths, what is known of tokens and words.
      spec: of the retriever, a learned one.
      params: the parameters, of which "retriever" is read.
      compute: dtype of the computation.
    """

    text: PreparedText
    spec: RetrieverSpec
    params: Params
    compute: str = "float32"

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Hashes of the encoder (parameters, architecture, known tokens) and of how text is read."""
        vocabulary = self.text.corpus.vocabulary
        built = hashlib.sha256(repr((self.spec.weights, self.compute)).encode()).hexdigest()
        known = tree_digest((vocabulary.fold, vocabulary.idf))
        params = tree_digest(self.params["retriever"])
        lengths = (self.text.spec.passage_length, self.text.spec.with_title)
        reading = f"{self.text.tokenizer.to_json()} {lengths}"
        if (own := self.text.own) is not None:
            reading += f" {own.to_json()} {own.reads.lengths} {own.reads.prefixes}"
        if self._title_separator != " ":
            reading += repr(self._title_separator)
        return {
            "encoder": hashlib.sha256(f"{built} {known} {params}".encode()).hexdigest()[:16],
            "tokenizer": hashlib.sha256(reading.encode()).hexdigest()[:16],
        }

    def build(self, vocabulary: Vocabulary) -> Retriever:
        """The pure functions, for what is known of the tokens."""
        known = jax.tree.map(jnp.asarray, vocabulary)
        return self.spec.build(known, dtype=jnp.dtype(self.compute))

    @property
    def _title_separator(self) -> str:
        own = self.text.own
        return self.text.spec.title_separator if own is None else own.reads.title_separator

    def texts(self, passages: Sequence[Passage]) -> list[str]:
        """What is read of passages."""
        with_title, separator = self.text.spec.with_title, self._title_separator
        cleaned = (Passage(each.id, plain(each.title), plain(each.text)) for each in passages)
        return [passage_text(each, with_title, separator) for each in cleaned]

    def tokens(self, passages: Sequence[Passage]) -> tuple[Int[np.ndarray, "n P"], int]:
        """The tokens of passages that the retriever reads, and how many are cut."""
        if self.text.own is not None:
            return self.text.own.passages(self.texts(passages))
        return self.text.tokenizer.encode_batch(self.texts(passages), self.text.spec.passage_length)


@dataclass(frozen=True, eq=False)
class FittedEncoder:
    """A `CorpusEncoder` that knows the words of one corpus, as `answer --passages` has it.

    What is known of a token stays known; of tokens that are new, the corpus tells how rare they are.

    Attributes:
      encoder: of the run.
      text: of the corpus: its passages aren't tokenised.
    """

    encoder: CorpusEncoder
    text: PreparedText

    @classmethod
    def of(cls, encoder: CorpusEncoder, store: PassageStore, directory: Path) -> "FittedEncoder":
        """The encoder for a corpus whose words were measured.

        Args:
          encoder: of the run.
          store: the corpus.
          directory: of its embeddings.

        Raises:
          UserError: what was measured can't be read.
        """
        try:
            idf = np.load(directory / IDF, allow_pickle=False)
            words = parse_json((directory / WORDS).read_bytes())["words"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{directory} has no readable words ({error}); {REMEDY}") from error
        known = encoder.text.corpus
        vocabulary = known.vocabulary
        if encoder.text.own is None:  # else the retriever reads nothing of it
            require(
                idf.shape == vocabulary.idf.shape,
                f"{directory} was made with a vocabulary of {len(idf)} tokens, but the run's has "
                f"{len(vocabulary.idf)}; name the run that it was made with.",
            )
            idf = np.where(vocabulary.idf > 0, vocabulary.idf, idf)
            vocabulary = dataclasses.replace(vocabulary, idf=idf)
        lexicon = Lexicon(tuple(dict.fromkeys((*known.lexicon.words, *words))))
        tokens = np.zeros((0, encoder.text.spec.passage_length), np.int32)
        corpus = EncodedCorpus(store, tokens, 0, vocabulary, lexicon)
        return cls(encoder, dataclasses.replace(encoder.text, corpus=corpus))

    @functools.cached_property
    def retriever(self) -> Retriever:
        """The pure functions."""
        return self.encoder.build(self.text.corpus.vocabulary)

    @functools.cached_property
    def embed(self) -> Callable[[Params, Array], Array]:
        """The jitted (params, tokens [B,P]) -> [B,D] float32."""
        retriever = self.retriever  # built before, not within, the first trace
        return jax.jit(lambda params, x: retriever.embed(params, x).astype(jnp.float32))

    @functools.cached_property
    def query(self) -> Callable[[Params, Array], Array]:
        """The jitted (params, tokens [B,Q]) -> [B,D] float32."""
        retriever = self.retriever
        return jax.jit(lambda params, x: retriever.query(params, x).astype(jnp.float32))

    @single_precision
    def questions(self, questions: Sequence[str]) -> tuple[Float[np.ndarray, "M D"], list[bool]]:
        """Embeds questions; words that neither run nor corpus has are left out.

        Returns:
          [M,D] embeddings, and of each question whether it has a known word; it finds nothing if not.
          An encoder with a tokenizer of its own knows every word.
        """
        known = list(questions)
        if self.text.own is not None:
            tokens, _ = self.text.own.questions(questions)
        else:
            known = [self.text.known_words(question)[0] for question in questions]
            tokens, _ = self.text.tokenizer.encode_batch(known, self.text.spec.question_length)
        # Batches of one size, the last filled up, so that all are embedded by one program.
        rows = np.pad(tokens, ((0, -len(tokens) % _ASKED), (0, 0)), constant_values=PAD_ID)
        parts = [
            np.asarray(self.query(self.encoder.params, jnp.asarray(rows[start : start + _ASKED])))
            for start in range(0, len(rows), _ASKED)
        ]
        has_word = [any(letter.isalnum() for letter in text) for text in known]
        return np.concatenate(parts)[: len(tokens)], has_word


@single_precision
def encode_store(
    encoder: CorpusEncoder,
    store: PassageStore,
    directory: Path,
    *,
    dtype: str = "float32",
    batch_size: int = BATCH,
    batches: int = BATCHES,
    force: bool = False,
    facts: dict[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Progress = lambda what, done, total: None,
) -> StoredEmbeddings:
    """Embeds all passages of a store, each once, also if the process is killed and started again.

    Passages are embedded in chunks; within one they are sorted into batches of a few widths, so that
    short ones don't cost what long ones do. An encoder must not read padding. Several devices share a
    batch if its size is a multiple of their number.

    Args:
      encoder: what embeds.
      store: N passages.
      directory: where the embeddings will be; until they are whole they are in `<directory>.partial`.
      dtype: of the file: float32, float16 or bfloat16.
      batch_size: passages embedded at once.
      batches: of a chunk. A process that is killed embeds its chunks in flight again, two at most.
      force: whether embeddings of another encoder, corpus or dtype are replaced.
      facts: what else the manifest says.
      check: called before a chunk is written, and before the embeddings get their name; may raise.
      progress: is told what is done of how many passages.

    Returns:
      The embeddings. `facts["cut"]` counts passages longer than `tokenizer.passage_length`.

    Raises:
      UserError: there are embeddings of something else already, or an embedding is not finite.
    """
    require(dtype in DTYPES, f"--dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    plan = encoder.digests | {"corpus": store.digest, "dtype": dtype, "count": len(store)}
    if directory.exists():
        with contextlib.suppress(UserError) if force else contextlib.nullcontext():
            stored = StoredEmbeddings(directory)
            stored.require_made(plan)
            made = {} if facts is None else facts
            if any(stored.facts.get(name) != value for name, value in made.items()):
                amend_manifest(directory, made)  # its encoder lies elsewhere now
                stored = StoredEmbeddings(directory)
            return stored
    plan |= {"width": _width_of(encoder), "chunk": batch_size * batches}
    partial = directory.with_name(f"{directory.name}.partial")
    writer = EmbeddingsWriter(partial, plan, force=force)
    cut = _measure(encoder, store, partial, progress)
    _embed(FittedEncoder.of(encoder, store, partial), store, writer, batch_size, check, progress)
    told = {"cut": cut, "versions": versions_of(PACKAGES), **(facts or {})}
    return writer.finish(directory, told, (IDF, WORDS), check)


def _width_of(encoder: CorpusEncoder) -> int:
    """D."""
    retriever = encoder.build(encoder.text.corpus.vocabulary)
    own, length = encoder.text.own, encoder.text.spec.passage_length
    shape = jax.ShapeDtypeStruct((1, length if own is None else own.reads.lengths[1]), jnp.int32)
    return jax.eval_shape(retriever.embed, encoder.params, shape).shape[-1]


def _measure(
    encoder: CorpusEncoder, store: PassageStore, directory: Path, progress: Progress
) -> int:
    """Writes idf and words of a corpus, if that is not done yet; returns how many passages are cut."""
    path, tokenizer = directory / WORDS, encoder.text.tokenizer
    if path.exists():
        return parse_json(path.read_bytes())["cut"]
    fold = tokenizer.fold_map()
    held = np.zeros(len(fold), np.int64)
    cut = 0

    own = encoder.text.own is not None  # then what is known of words is not asked for

    def texts() -> Iterator[str]:
        nonlocal cut
        for start in range(0, len(store), _READ):
            passages = store[start : start + _READ]
            rows, longer = encoder.tokens(passages)
            cut += longer
            if not own:
                held[:] += document_frequency(fold, rows)
                yield from encoder.texts(passages)
            store.release()
            progress("measuring words", start + len(passages), len(store))

    words = Lexicon.measure(tokenizer, texts()).words
    file = io.BytesIO()
    np.save(file, inverse_document_frequency(held, len(store)), allow_pickle=False)
    write_atomically(directory / IDF, file.getvalue())
    # The last one, since its presence says that all was measured.
    write_atomically(path, json.dumps({"cut": cut, "words": words}, ensure_ascii=False).encode())
    return cut


def _embed(
    fitted: FittedEncoder,
    store: PassageStore,
    writer: EmbeddingsWriter,
    batch_size: int,
    check: Callable[[], None],
    progress: Progress,
) -> None:
    """Embeds and writes the chunks that are not on disk yet.

    While the devices work at one chunk, the next is tokenised.
    """
    params, shared = _on_devices(fitted.encoder.params, batch_size)
    chunks = writer.chunks[writer.done :]
    progress("embedding", chunks[0].start if chunks else len(store), len(store))
    begun: list[tuple[range, list[tuple[np.ndarray, Array]]]] = []

    def finish(chunk: range, parts: list[tuple[np.ndarray, Array]]) -> None:
        rows = np.zeros((len(chunk), parts[0][1].shape[-1]), np.float32)
        for places, embedded in parts:
            rows[places] = np.asarray(embedded)[: len(places)]
        check()
        writer.write(rows)
        progress("embedding", chunk.stop, len(store))

    for chunk in chunks:
        tokens, _ = fitted.encoder.tokens(store[chunk.start : chunk.stop])
        store.release()
        parts = [
            (places, fitted.embed(params, jax.device_put(batch, shared)))
            for places, batch in length_batches(tokens, batch_size)
        ]
        begun.append((chunk, parts))
        if len(begun) > 1:
            finish(*begun.pop(0))
    for chunk, parts in begun:
        finish(chunk, parts)


def _on_devices(params: Params, batch_size: int) -> tuple[Params, Any]:
    """The retriever's parameters on every device, and how a batch lies on them."""
    most = len(jax.local_devices())
    mesh = data_mesh(max(count for count in range(1, most + 1) if batch_size % count == 0))
    params = {"retriever": params["retriever"]}
    return (
        jax.device_put(params, NamedSharding(mesh, jax.P())),
        NamedSharding(mesh, jax.P("data")),
    )


def length_batches(
    tokens: Int[np.ndarray, "n P"], size: int
) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "B p"]]]:
    """Sorts passages into batches of `size` and of a few widths p <= P, filled up with empty ones.

    Yields:
      [m] the places of the passages, m <= B, and their tokens [B,p].
    """
    length = tokens.shape[1]
    widths = np.unique([-(-length * part // _WIDTHS) for part in range(1, _WIDTHS + 1)])
    used = length - np.argmax(tokens[:, ::-1] != PAD_ID, axis=1)
    used[~np.any(tokens != PAD_ID, axis=1)] = 0
    kind = np.searchsorted(widths, used)
    for number, width in enumerate(widths):
        places = np.flatnonzero(kind == number)
        for start in range(0, len(places), size):
            picked = places[start : start + size]
            batch = np.full((size, width), PAD_ID, np.int32)
            batch[: len(picked)] = tokens[picked, :width]
            yield picked, batch
