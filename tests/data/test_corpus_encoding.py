"""The embeddings of a store are those that the retriever gives, whatever stopped their making."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_encoder
from tiny_encoder import SMALL, tiny_text
from tiny_task import PEOPLE, TOWNS

from ragjax.data import corpus_encoding
from ragjax.data.checks import in_plain_text
from ragjax.data.corpus_encoding import CorpusEncoder, FittedEncoder, encode_store, length_batches
from ragjax.data.passage_store import write_store
from ragjax.errors import UserError
from ragjax.manifests import MANIFEST
from ragjax.models.encoder import BagEncoder, TransformerEncoder
from ragjax.models.retriever import Dense
from ragjax.retrieval.embeddings import DONE, StoredEmbeddings
from ragjax.types import Passage, QaData

COUNT = 45  # five chunks of 8 passages and one of 5


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Passages of known and unknown words, of no token but blanks, and longer than is read."""
    rng = np.random.default_rng(0)
    words = (
        *PEOPLE,
        *TOWNS,
        "lives",
        "in",
        "quiet",
        "zebra",
        "Ålesund",
        "\u00a0",
        "no\u00adw",
        "北京",
    )
    passages = [
        Passage(f"p{row}", str(rng.choice(PEOPLE)), " ".join(rng.choice(words, 1 + row % 13)))
        for row in range(COUNT)
    ]
    located = ((Path("p"), row, passage) for row, passage in enumerate(passages))
    return write_store(located, tmp_path_factory.mktemp("corpus") / "store", name="p")


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder.tiny_encoder()


@pytest.fixture(scope="module")
def whole(store, encoder, tmp_path_factory):
    """The embeddings of a process that nothing stopped."""
    return encode_store(encoder, store, tmp_path_factory.mktemp("whole") / "embeddings", **SMALL)


def oracle(encoder, store):
    """[N,D] as `answer --passages` embeds other passages, and the text that it reads."""
    passages = in_plain_text(QaData(tuple(store), {})).passages
    text = encoder.text.over(passages)
    retriever = encoder.spec.build(jax.tree.map(jnp.asarray, text.corpus.vocabulary))
    tokens = jnp.asarray(text.corpus.tokens)
    return np.asarray(jax.jit(retriever.embed)(encoder.params, tokens)), retriever, text


@pytest.mark.parametrize(
    "spec",
    [
        Dense(encoder=BagEncoder(width=6)),
        Dense(encoder=BagEncoder(width=5, leading=3), query_encoder=BagEncoder(width=5)),
        Dense(encoder=TransformerEncoder(width=8, layers=1, heads=2)),
    ],
    ids=["bag", "two towers", "transformer"],
)
def test_embeddings_are_those_of_the_retriever(spec, store, tmp_path, monkeypatch):
    """In the order of the store, whatever batch they were in or block they were measured in."""
    monkeypatch.setattr(corpus_encoding, "_READ", 7)
    assert len(jax.local_devices()) == 2
    encoder = tiny_encoder.tiny_encoder(spec)
    found = encode_store(encoder, store, tmp_path / "e", **SMALL)
    expected, _, text = oracle(encoder, store)
    np.testing.assert_allclose(found.rows, expected, rtol=1e-4, atol=1e-6)
    assert len(np.unique(expected, axis=0)) > COUNT / 2
    assert found.facts["cut"] == text.corpus.cut > 0
    fitted = FittedEncoder.of(encoder, store, found.directory)
    np.testing.assert_array_equal(fitted.text.corpus.vocabulary.idf, text.corpus.vocabulary.idf)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        *("e", "embeddings.npy", "idf.npy", "manifest.json", "words.json")
    ]


def test_a_batch_that_devices_can_t_share_is_one_s(whole, store, encoder, tmp_path):
    found = encode_store(encoder, store, tmp_path / "e", batch_size=5, batches=2)
    np.testing.assert_allclose(found.rows, whole.rows, rtol=1e-4, atol=1e-6)


def test_questions_are_read_as_beside_the_corpus(whole, store, encoder):
    """New words of the corpus are known; a question of unknown words has no embedding."""
    _, retriever, text = oracle(encoder, store)
    fitted = FittedEncoder.of(encoder, store, whole.directory)
    assert set(fitted.text.corpus.lexicon.words) == set(text.corpus.lexicon.words)
    np.testing.assert_array_equal(fitted.text.corpus.vocabulary.idf, text.corpus.vocabulary.idf)
    questions = ["Where does zebra Ada live?", "xylophone", "?", "in Ålesund"]
    found, known = fitted.questions(questions)
    assert known == [True, False, False, True]
    forms = [text.known_words(question)[0] for question in questions]
    assert "zebra" in forms[0]
    tokens, _ = text.tokenizer.encode_batch(forms, text.spec.question_length)
    expected = retriever.query(encoder.params, jnp.asarray(tokens))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_questions_are_embedded_by_one_program(whole, store, encoder):
    """However many they are."""
    asked, shapes = ["Where does zebra Ada live?", "xylophone", "in Ålesund"], []
    fitted = FittedEncoder.of(encoder, store, whole.directory)
    few, _ = fitted.questions(asked)
    retriever = fitted.retriever

    def query(params, tokens):
        shapes.append(tokens.shape)
        return retriever.query(params, tokens)

    fitted = FittedEncoder(encoder, fitted.text)
    fitted.__dict__["retriever"] = retriever._replace(query=query)
    for count in (1, 30):
        found, known = fitted.questions(asked * count)
        np.testing.assert_array_equal(found, np.tile(few, (count, 1)))
        assert known == [True, False, True] * count
    assert shapes == [(64, 10)]


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_fewer_bits_are_kept_if_asked(dtype, bits, whole, encoder, store, tmp_path):
    found = encode_store(encoder, store, tmp_path / "e", dtype=dtype, **SMALL)
    assert found.rows.dtype == jnp.dtype(dtype)
    assert (found.directory / "embeddings.npy").stat().st_size == 128 + COUNT * 6 * 2
    exact = np.asarray(whole.rows)
    np.testing.assert_array_equal(found.rows, exact.astype(jnp.dtype(dtype)))
    np.testing.assert_allclose(found.block(0, COUNT), exact, rtol=2.0**-bits, atol=1e-6)
    assert found.block(0, COUNT).dtype == np.float32


def test_batches_are_few_shapes_and_lose_nothing():
    rng = np.random.default_rng(1)
    for length in (2, 3, 7, 12, 32):
        lengths = rng.integers(0, length + 1, 50)
        tokens = np.where(np.arange(length) < lengths[:, None], rng.integers(1, 9, (50, length)), 0)
        seen, shapes = [], set()
        for places, batch in length_batches(tokens, 8):
            shapes.add(batch.shape)
            seen += places.tolist()
            padded = np.zeros((8, length), int)
            padded[:, : batch.shape[1]] = batch
            np.testing.assert_array_equal(padded[: len(places)], tokens[places])
            assert not padded[len(places) :].any()
            # None of them would have fitted into a batch of a quarter less.
            assert (lengths[places] > batch.shape[1] - -(-length // 4)).all() or 0 in lengths[
                places
            ]
        assert sorted(seen) == list(range(50))
        assert len(shapes) <= 4


# What stops it


def resumed(directory, store, encoder, monkeypatch):
    """Goes on; returns the embeddings and how many passages were tokenised to be embedded."""
    counted = []
    tokens = CorpusEncoder.tokens

    def counting(self, passages):
        counted.append(len(passages))
        return tokens(self, passages)

    monkeypatch.setattr(CorpusEncoder, "tokens", counting)
    return encode_store(encoder, store, directory, **SMALL), sum(counted)


@pytest.fixture(scope="module")
def killed(store, tmp_path_factory):
    """The directory of a process that was killed when three of six chunks were recorded."""
    directory = tmp_path_factory.mktemp("killed") / "embeddings"
    support = Path(tiny_encoder.__file__)
    paths = (support.parent, support.parents[2])
    done = subprocess.run(
        [sys.executable, str(support), str(store.directory), str(directory), "24"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    return directory


@pytest.fixture
def torn(killed, tmp_path):
    """A copy of what it left."""
    name = "embeddings.partial"
    shutil.copytree(killed.with_name(name), tmp_path / name)
    return tmp_path / "embeddings"


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_killed_process_is_gone_on_from(torn, whole, store, encoder, monkeypatch):
    """Nothing that was recorded is embedded again, and the result is the same bit for bit."""
    partial = torn.with_name("embeddings.partial")
    assert (partial / DONE).read_text() == "0\n1\n2\n"
    found, counted = resumed(torn, store, encoder, monkeypatch)
    assert counted == COUNT - 24
    assert contents(found.directory) == contents(whole.directory)
    assert not partial.exists()
    _, counted = resumed(torn, store, encoder, monkeypatch)
    assert counted == 0


@pytest.mark.parametrize(
    ("record", "left"),
    [("0\n1\n2", 29), ("0\n2\n1\n", 37), (None, 45)],
    ids=["a torn line", "out of order", "no file"],
)
def test_only_whole_records_count(record, left, torn, whole, store, encoder, monkeypatch):
    path = torn.with_name("embeddings.partial") / DONE
    path.unlink() if record is None else path.write_text(record)
    found, counted = resumed(torn, store, encoder, monkeypatch)
    assert counted == left
    assert contents(found.directory) == contents(whole.directory)


def test_what_was_killed_at_the_very_start_or_end(torn, whole, store, encoder, monkeypatch):
    partial = torn.with_name("embeddings.partial")
    (partial / "plan.json").unlink()
    found, counted = resumed(torn, store, encoder, monkeypatch)
    assert counted == 2 * COUNT  # measured and embedded
    assert contents(found.directory) == contents(whole.directory)
    plan = {name: found.facts[name] for name in (*encoder.digests, "corpus", "dtype", "count")}
    plan |= {name: found.facts[name] for name in ("width", "chunk")}
    found.directory.rename(partial)
    (partial / "plan.json").write_text(json.dumps(plan))
    (partial / DONE).write_text("".join(f"{chunk}\n" for chunk in range(6)))
    found, counted = resumed(torn, store, encoder, monkeypatch)
    assert counted == 0
    assert contents(found.directory) == contents(whole.directory)


def test_what_was_begun_otherwise_is_refused(torn, store, encoder):
    other = tiny_encoder.tiny_encoder(seed=1)
    with pytest.raises(UserError, match=r"was begun with another encoder; give the same, delete"):
        encode_store(other, store, torn, **SMALL)
    with pytest.raises(UserError, match="was begun with another dtype, chunk;"):
        encode_store(encoder, store, torn, dtype="float16", batch_size=4)
    with pytest.raises(UserError, match="--dtype is 'int8'; choose one of float32, float16"):
        encode_store(encoder, store, torn, dtype="int8")
    found = encode_store(other, store, torn, **SMALL, force=True)
    np.testing.assert_allclose(found.rows, oracle(other, store)[0], rtol=1e-4, atol=1e-6)


def test_embeddings_that_were_cut_while_they_were_made_are_refused(torn, store, encoder):
    path = torn.with_name("embeddings.partial") / "embeddings.npy"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"embeddings.npy can't be read .* and begin anew\."):
        encode_store(encoder, store, torn, **SMALL)
    assert not torn.exists()


@pytest.mark.parametrize("allowed", [2, 6, 7])
def test_what_a_check_forbids_is_not_written(allowed, store, encoder, tmp_path):
    """Neither a chunk, nor the manifest, nor the name of all of them."""
    checks = []

    def check():
        checks.append(None)
        if len(checks) > allowed:
            raise UserError("taken over")

    with pytest.raises(UserError, match="taken over"):
        encode_store(encoder, store, tmp_path / "e", **SMALL, check=check)
    assert not (tmp_path / "e").exists()
    recorded = (tmp_path / "e.partial" / DONE).read_text().splitlines()
    assert len(recorded) == min(allowed, 6)
    assert (tmp_path / "e.partial" / MANIFEST).exists() == (allowed > 6)


# Whose they are


def test_embeddings_of_something_else_are_refused(whole, store, encoder, tmp_path):
    directory = Path(shutil.copytree(whole.directory, tmp_path / "e"))
    other = tiny_encoder.tiny_encoder(seed=1)
    with pytest.raises(UserError, match=r"e was made with another encoder \(\w+\) than is given"):
        encode_store(other, store, directory, **SMALL)
    assert contents(directory) == contents(whole.directory)
    stored = StoredEmbeddings(directory)
    stored.require_made(encoder.digests | {"corpus": store.digest})
    stored.require_made(other.digests, allow_other=True)
    with pytest.raises(UserError, match="was made with another corpus"):
        stored.require_made({"corpus": "x"})
    found = encode_store(other, store, directory, **SMALL, force=True)
    found.require_made(other.digests)
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_digests_tell_what_embeds(encoder):
    """Parameters, architecture, precision, tokens and lengths; not the reader."""
    text = tiny_text()

    def changed(**fields):
        given = {"text": text, "spec": encoder.spec, "params": encoder.params} | fields
        return CorpusEncoder(**given).digests

    assert changed() == encoder.digests
    assert changed(params=encoder.params | {"reader": {"x": jnp.ones(3)}}) == encoder.digests
    spec = tiny_encoder.SPEC
    for fields, names in (
        ({"params": tiny_encoder.tiny_encoder(seed=1).params}, {"encoder"}),
        ({"spec": Dense(encoder=BagEncoder(width=6, leading=1))}, {"encoder"}),
        ({"compute": "bfloat16"}, {"encoder"}),
        ({"text": type(text).make(spec, other_data())}, {"encoder", "tokenizer"}),
        ({"text": type(text)(longer(spec), text.tokenizer, text.corpus)}, {"tokenizer"}),
    ):
        now = changed(**fields)
        assert {name for name in now if now[name] != encoder.digests[name]} == names


def other_data():
    passages = (Passage("a", "", "zebras and zebras in Ålesund"),)
    return QaData(passages, {"train": ()})


def longer(spec):
    import dataclasses

    return dataclasses.replace(spec, passage_length=13)


def test_an_embedding_that_is_not_finite_is_refused(store, encoder, tmp_path):
    params = jax.tree.map(lambda leaf: leaf * jnp.float32(jnp.nan), encoder.params)
    broken = CorpusEncoder(encoder.text, encoder.spec, params)
    with pytest.raises(UserError, match="The embedding of passage 0 is not finite as float32"):
        encode_store(broken, store, tmp_path / "e", **SMALL)
    assert not (tmp_path / "e").exists()
