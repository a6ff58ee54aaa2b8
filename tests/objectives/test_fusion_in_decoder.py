"""Fusion in decoder against sums over all answers, one long source, and what it must not depend on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_reader import write_reader

from ragjax.data.borrowed_tokenizer import BorrowedTokenizer
from ragjax.decoding.beam import Beam
from ragjax.errors import UserError
from ragjax.models.pretrained.reader import PretrainedReader
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.fusion_in_decoder import FusionInDecoder
from ragjax.objectives.likelihood import RagSequence
from ragjax.types import BOS_ID

T = 3


@functools.cache
def differentiated(toy, objective, k):
    context = Context(toy.model, toy.vocabulary, Dense(), k)

    def total(params, batch, corpus, index):
        loss = objective.loss(
            context, params, jax.random.PRNGKey(0), batch, corpus=corpus, index=index
        )
        return loss.sum, loss

    return jax.jit(jax.grad(total, has_aux=True))


@pytest.fixture(scope="module")
def index(toy, corpus):
    return toy.model.retriever.index(toy.params, corpus)


def sources(toy, batch, corpus, order=(0, 1, 2), read=None):
    """The fused memory of the questions, their passages in an order."""
    topk = jax.tree.map(lambda leaf: leaf[:, np.array(order)], batch.retrieved)
    passages = jnp.where(topk.valid[..., None], corpus[topk.ids], 0)
    memory = toy.model.encode(toy.params, batch.question, passages)
    return toy.model.fuse(toy.params, memory, topk.valid if read is None else read)


def test_all_answers_have_a_probability_of_one_together(toy, batch, corpus, all_answers):
    answers = all_answers(12, 2)
    memory = sources(toy, batch, corpus)
    told = jax.jit(jax.vmap(lambda y: toy.model.token_logprobs(toy.params, memory, y)))(
        jnp.broadcast_to(answers[:, None], (len(answers), 4, 2))
    )
    total = np.exp(np.where(answers[:, None, None] != 0, told, 0.0).sum(-1)).sum(0)
    np.testing.assert_allclose(total, 1.0, atol=1e-4)


def test_neither_order_nor_misses_matter(toy, batch, corpus):
    # The second target goes from the last word of a passage that is full on to the first of another.
    target = batch.target.at[1].set(jnp.asarray([7, 5, 4, 5]))
    score = jax.jit(lambda memory: toy.model.logprobs(toy.params, memory, target))
    wanted = score(sources(toy, batch, corpus))
    for order in ((2, 0, 1), (1, 0, 2), (0, 2, 1)):
        np.testing.assert_allclose(score(sources(toy, batch, corpus, order)), wanted, atol=2e-5)
    # A miss is as if it were not there: the third question has one passage, the fourth two.
    for row, count in ((2, 1), (3, 2)):
        alone = dataclasses.replace(
            batch, retrieved=jax.tree.map(lambda leaf, n=count: leaf[:, :n], batch.retrieved)
        )
        memory = sources(toy, alone, corpus, tuple(range(count)))
        np.testing.assert_allclose(score(memory)[row], wanted[row], atol=2e-5)


def test_one_passage_is_rag_sequence(toy, batch, corpus, index):
    first = jax.tree.map(lambda leaf: leaf[:, :1], batch.retrieved)
    batch = batch.replace(retrieved=first)
    fused, single = (
        differentiated(toy, objective, 1)(toy.params, batch, corpus, index)
        for objective in (FusionInDecoder(), RagSequence())
    )
    np.testing.assert_allclose(fused[1].sum, single[1].sum, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5),
        fused[0]["reader"],
        single[0]["reader"],
    )


def test_the_retriever_gets_no_gradient_and_the_reader_one_from_every_passage(
    toy, batch, corpus, index
):
    gradient, loss = differentiated(toy, FusionInDecoder(), 3)(toy.params, batch, corpus, index)
    for leaf in jax.tree.leaves(gradient["retriever"]):
        np.testing.assert_array_equal(leaf, 0.0)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient["reader"]["embedding"]))
    memory = sources(toy, batch, corpus)
    told = toy.model.token_logprobs(toy.params, memory, batch.target)[:, 0]
    each = jnp.sum(jnp.where(batch.target != 0, told, 0.0), axis=-1)
    np.testing.assert_allclose(loss.sum, -jnp.sum(each * batch.weight), rtol=1e-5)


def answered(toy, batch, corpus, beam):
    ids, valid = batch.retrieved.ids, batch.retrieved.valid
    passages = jnp.where(valid[..., None], corpus[ids], 0)
    log_prior = jnp.where(valid, jnp.log(1 / jnp.sum(valid, -1, keepdims=True)), -jnp.inf)
    decode = jax.jit(functools.partial(FusionInDecoder(beam=beam).decode, toy.model, length=T))
    return decode(toy.params, batch.question, passages=passages, log_prior=log_prior), log_prior


@pytest.mark.parametrize("documents", ["in_batch", "index"])
def test_an_answer_tells_nothing_of_the_passages(toy, batch, corpus, index, documents):
    """Over whatever passages p(d|x) is: among the K that are read, p(d|x,y) is p(d|x)."""
    objective = FusionInDecoder(documents=documents)
    _, loss = differentiated(toy, objective, 3)(toy.params, batch, corpus, index)
    means = {name: total / count for name, (total, count) in loss.metrics.items()}
    np.testing.assert_allclose(means["passage_credit"], 0.0, atol=1e-5)
    gold = jnp.any(batch.retrieved.ids[..., None] == batch.positives[:, None], axis=-1)
    assert 0 < float(jnp.mean(gold)) < 1
    context = Context(toy.model, toy.vocabulary, Dense(), 3)
    reading = objective.read(
        context, toy.params, jax.random.PRNGKey(0), batch, corpus=corpus, index=index
    )
    among = objective.explained(toy.model, toy.params, reading, batch.target != 0)[1]
    np.testing.assert_allclose(jnp.sum(jnp.exp(among), axis=-1), 1.0, rtol=1e-5)


def test_answers_by_enumeration(toy, batch, corpus, all_answers):
    answers, memory = all_answers(12, T), sources(toy, batch, corpus)
    told = jax.jit(
        lambda chunk: jax.vmap(lambda y: toy.model.token_logprobs(toy.params, memory, y))(
            jnp.broadcast_to(chunk[:, None], (len(chunk), 4, T))
        )
    )(answers)
    total = np.where(answers[:, None] != 0, told[:, :, 0], 0.0).sum(-1)
    written = np.where(np.any(answers == BOS_ID, axis=1)[:, None], -np.inf, total)
    # As many beams as there are continuations: nothing is left out.
    best, log_prior = answered(toy, batch, corpus, Beam(beams=144, length_penalty=0.0))
    np.testing.assert_array_equal(best.tokens, answers[written.argmax(0)])
    np.testing.assert_allclose(best.log_prob, written.max(0), atol=2e-5)
    greedy, _ = answered(toy, batch, corpus, None)
    for row, tokens in enumerate(greedy.tokens):
        place = int(np.flatnonzero(np.all(answers == tokens, axis=1))[0])
        np.testing.assert_allclose(greedy.log_prob[row], total[place, row], atol=2e-5)
    np.testing.assert_allclose(greedy.log_posterior, log_prior, atol=1e-6)


@pytest.mark.parametrize("kind", ["bart", pytest.param("t5", marks=pytest.mark.slow)])
def test_pretrained_readers_read_what_their_decoder_sees_at_once(kind, tmp_path):
    reader = PretrainedReader(str(write_reader(tmp_path / kind, kind)))
    words = BorrowedTokenizer(reader.reads)
    module = reader.build(words.vocab_size, jnp.float32)
    params = {"params": jax.tree.map(jnp.asarray, reader.pretrained())}
    texts = (["Where does Ada live?"], ["Ada lives in Arles.", "Zoe.", "Ben is not."])
    question, passages = (
        jnp.asarray(words.encode_batch(text, length)[0])
        for text, length in zip(texts, (22, 24), strict=True)
    )
    target = jnp.asarray(words.encode_batch(["Arles"], 7, end=True)[0])
    memory = module.apply(params, question, passages[None], None, method="encode")
    read = jnp.array([[True, False, True]])
    fused = module.apply(params, memory, read, method="fuse")
    told = module.apply(params, fused, target, method="logprobs")
    # The decoder itself, over the states of both passages in one row.
    inner, tokens = module.inner, jnp.asarray(module.template.filled(question, passages[None])[0])
    place = jnp.argsort(tokens == 0, axis=-1, stable=True)
    tokens = jnp.take_along_axis(tokens, place, axis=-1)[jnp.array([0, 2])]

    def whole(inner):
        states = inner.encode(tokens, tokens != 0).reshape(1, -1, reader.states_width)
        mask = (tokens != 0).reshape(1, -1)
        fed = jnp.concatenate([jnp.full((1, 1), module.begin), target[:, :-1]], axis=1)
        return inner.logits(inner.decode(fed, inner.project(states), mask))

    wanted = jax.nn.log_softmax(inner.clone(parent=None).apply(params, method=whole), axis=-1)
    real = np.flatnonzero((reader.order >= 0) & (np.arange(len(reader.order)) > 2))
    got, wanted = (np.asarray(each)[..., real] for each in (told[:, 0], wanted))
    np.testing.assert_allclose(got - got[..., :1], wanted - wanted[..., :1], atol=5e-5)


def test_what_has_no_encoder_or_sums_over_passages_is_refused(tmp_path):
    reader = PretrainedReader(
        str(write_reader(tmp_path / "llama", "llama")), template="{passage} {question} So:"
    )
    module = reader.build(BorrowedTokenizer(reader.reads).vocab_size, jnp.float32)
    with pytest.raises(UserError, match="needs an encoder"):
        module.apply({"params": {}}, None, jnp.ones((1, 1), bool), method="fuse")
    with pytest.raises(UserError, match="no sum over them"):
        FusionInDecoder().log_marginal(*(jnp.zeros((1, 1)),) * 3)
