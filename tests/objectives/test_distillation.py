"""Every objective of distillation made by hand, with its gradient, and what each can and cannot move."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from tiny_model import TINY, VOCABULARY, Hand, K, T, tiny_batch, tiny_params

from ragjax.errors import UserError
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.distillation import (
    AttentionDistillation,
    Distillation,
    Emdr2,
    Heard,
    LeaveOneOut,
    PerplexityDistillation,
    Replug,
)
from ragjax.objectives.likelihood import RagSequence
from ragjax.ops.augmentation import corrupt_words, random_renaming
from ragjax.retrieval.fixed import Oracle
from ragjax.types import TopK

HEADS = 2


def attention(params, memory, target):
    """Two heads that look at a source of two tokens, of which the second is none."""
    start = jnp.full_like(target[:, :1], 1)
    previous = jnp.concatenate([start, target[:, :-1]], axis=-1)
    states = jnp.tanh(memory[:, :, None] + params["reader"]["previous"][previous][:, None])
    logits = jnp.swapaxes(states @ params["reader"]["write"][:, :HEADS], 2, 3)[..., None]
    logits = jnp.concatenate([logits, jnp.full_like(logits, jnp.nan)], axis=-1)
    norms = jnp.broadcast_to(jnp.arange(1.0, HEADS + 1)[:, None], (*memory.shape[:2], HEADS, 2))
    source = jnp.broadcast_to(jnp.array([True, False]), (*memory.shape[:2], 2))
    return logits, norms, source


CONTEXT = Context(TINY._replace(attention=attention), VOCABULARY, Dense(), K)
NOISE = {"rename_reader": 1.0, "rename_retriever": 1.0, "corrupt_words": 0.5}
WEIGHTS = {"likelihood_weight": 0.4, "distillation_weight": 1.7}
PDIST = {"temperature": 0.6, "documents": "in_batch"}
REPLUG = {"retriever_temperature": 0.7, "reader_temperature": 0.3}
OBJECTIVES = {
    "emdr2": Emdr2(documents="index"),
    "emdr2_token": Emdr2(per="token"),
    "perplexity": PerplexityDistillation(**PDIST),
    "leave_one_out": LeaveOneOut(temperature=0.2),
    "leave_one_out_whole": LeaveOneOut(temperature=0.9, per_token=False),
    "attention": AttentionDistillation(temperature=0.5, documents="in_batch"),
    "attention_norms": AttentionDistillation(temperature=0.5, value_norms=True),
    "replug": Replug(**REPLUG, documents="in_batch"),
    "replug_chance": Replug(**REPLUG, scores="likelihood", per_token=False),
}
SEED = 3
KEY = jax.random.PRNGKey(SEED)
PARAMS = {room: tiny_params(SEED)[room] for room in ("retriever", "reader")}
BATCH, CORPUS, INDEX = tiny_batch(SEED)
REAL = (0, 1, 3)


@functools.cache
def differentiate(objective, k=K):
    """Jitted (params, batch) -> (gradient, `Loss`)."""
    context = CONTEXT._replace(k=k)

    def total(params, batch):
        loss = objective.loss(context, params, KEY, batch, corpus=CORPUS, index=INDEX)
        return loss.sum, loss

    return jax.jit(jax.grad(total, has_aux=True))


def hand(objective, params, ids=None):
    """What is retrieved and read with the noise of the key."""
    reader, retriever, words = jax.random.split(KEY, 3)
    content = VOCABULARY.content
    asked = corrupt_words(words, BATCH.question, content, objective.corrupt_words)
    names = (
        random_renaming(reader, content, objective.rename_reader),
        random_renaming(retriever, content, objective.rename_retriever),
    )
    return Hand(params, asked, CORPUS, INDEX, names, documents=objective.documents, ids=ids)


def softmax(scores):
    weights = np.exp(np.asarray(scores) - max(scores))
    return weights / weights.sum()


def divergence(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def target_of(objective, base, b, answer):
    """[K] what the reader says, by the parameters of `base`."""
    length, tokens = np.sum(answer != 0), base.tokens(b, answer)
    whole = np.prod(tokens, axis=-1)
    if isinstance(objective, LeaveOneOut):
        prior = base.prior[b]
        without = [np.delete(prior, k) @ np.delete(whole, k) for k in range(K)]
        without = [each / np.delete(prior, k).sum() for k, each in enumerate(without)]
        scores = -np.log(without) / (length if objective.per_token else 1)
        return softmax(scores / objective.temperature)
    if isinstance(objective, AttentionDistillation):
        logits = base.states(b, answer)[:, :length] @ base.params["reader"]["write"][:, :HEADS]
        if objective.value_norms:
            shares = np.exp(logits) / np.exp(logits).sum(axis=0)  # among the one token of each
            scores = (shares * np.arange(1.0, HEADS + 1)).mean(axis=(1, 2))
        else:
            scores = logits.mean(axis=(1, 2))
        return softmax(scores / objective.temperature)
    scores = np.log(whole) / (length if objective.per_token else 1)
    if isinstance(objective, Replug):
        scores = scores if objective.scores == "log_likelihood" else np.exp(scores)
        return softmax(scores / objective.reader_temperature)
    return softmax(scores / objective.temperature)


def by_hand(objective, now, base):
    """(reader's term, distillation) where `base` makes all that has no gradient."""
    answers, reader, distilled = now.names[np.asarray(BATCH.target)], 0.0, 0.0
    for b in REAL:
        whole = np.prod(now.tokens(b, answers[b]), axis=-1)
        reader -= np.log(base.prior[b] @ whole)
        said = base.tokens(b, answers[b])
        if isinstance(objective, Emdr2):
            if objective.per == "sequence":
                distilled -= np.log(now.prior[b] @ np.prod(said, axis=-1))
            else:
                distilled -= sum(
                    np.log(now.prior[b] @ said[:, t]) for t in range(T) if answers[b, t]
                )
            continue
        target = target_of(objective, base, b, answers[b])
        if isinstance(objective, Replug):
            retriever = softmax(np.log(now.prior[b]) / objective.retriever_temperature)
            distilled += divergence(retriever, target)
        else:
            distilled += divergence(target, now.prior[b])
    return reader, distilled


def moved(direction, step):
    return jax.tree.map(
        lambda leaf, by: np.asarray(leaf, np.float64) + step * by, PARAMS, direction
    )


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]


def test_loss_and_gradient_by_hand(objective):
    """With renamed, corrupted words; the gradient along random directions, by finite differences."""
    objective = dataclasses.replace(objective, **NOISE, **WEIGHTS)
    gradient, loss = differentiate(objective)(PARAMS, BATCH)
    base = hand(objective, PARAMS)
    reader, distilled = by_hand(objective, base, base)
    np.testing.assert_allclose(loss.metrics["reader_loss"], (reader, 3), rtol=1e-4)
    np.testing.assert_allclose(loss.metrics["distillation"], (distilled, 3), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(loss.sum, 0.4 * reader + 1.7 * distilled, rtol=1e-4)
    assert loss.denom == 3
    rng, flat = np.random.default_rng(0), ravel_pytree(gradient)[0]
    for _ in range(6):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), PARAMS)
        ends = [
            np.dot(
                (0.4, 1.7), by_hand(objective, hand(objective, moved(direction, s), base.ids), base)
            )
            for s in (1e-4, -1e-4)
        ]
        expected = (ends[0] - ends[1]) / 2e-4
        found = np.asarray(flat) @ ravel_pytree(direction)[0]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def zero_leaves(gradient):
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return {
        path[0].key + "." + path[1].key for path, leaf in leaves if np.all(np.asarray(leaf) == 0)
    }


READER = {f"reader.{name}" for name in PARAMS["reader"]}
RETRIEVER = {f"retriever.{name}" for name in PARAMS["retriever"]}


@pytest.fixture(params=[name for name in OBJECTIVES if name not in ("attention", "replug_chance")])
def alone(request):
    """Distillation alone, over the K passages: (objective, (params, batch) -> (gradient, `Loss`))."""
    fields = {"likelihood_weight": 0.0, "documents": "retrieved"}
    objective = dataclasses.replace(OBJECTIVES[request.param], **fields)
    return objective, differentiate(objective)


def test_distillation_moves_the_retriever_alone(alone):
    gradient, loss = alone[1](PARAMS, BATCH)
    assert zero_leaves(gradient) == READER  # exactly
    np.testing.assert_allclose(loss.sum, loss.metrics["distillation"][0])


def test_the_likelihood_moves_the_reader_alone():
    gradient, loss = differentiate(PerplexityDistillation(distillation_weight=0.0))(PARAMS, BATCH)
    assert zero_leaves(gradient) == RETRIEVER
    assert "distillation" not in loss.metrics


def test_emdr2_per_sequence_has_the_gradient_of_rag_sequence():
    """Where RAG-Sequence's likelihood stands for that of a reader of all passages; not per token."""
    expected, whole = differentiate(RagSequence())(PARAMS, BATCH)
    found, loss = differentiate(Emdr2())(PARAMS, BATCH)
    np.testing.assert_allclose(loss.sum, 2 * whole.sum, rtol=1e-5)
    jax.tree.map(
        lambda *both: np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5), found, expected
    )
    other, _ = differentiate(Emdr2(per="token"))(PARAMS, BATCH)
    distance = ravel_pytree(other["retriever"])[0] - ravel_pytree(expected["retriever"])[0]
    assert np.linalg.norm(distance) > 1e-2


def test_a_filling_row_adds_nothing_and_parts_of_a_batch_add_up(alone):
    run = alone[1]
    gradient, loss = run(PARAMS, BATCH)
    other = BATCH.replace(
        question=BATCH.question.at[2].set(0),
        target=BATCH.target.at[2].set(0),
        positives=BATCH.positives.at[2].set(-1),
    )
    jax.tree.map(np.testing.assert_array_equal, (gradient, loss), run(PARAMS, other))
    parts = [
        run(PARAMS, BATCH.replace(weight=jnp.asarray(w))) for w in ([1.0, 1, 0, 0], [0.0, 0, 0, 1])
    ]
    added, sums = jax.tree.map(lambda a, b: a + b, *parts)
    keep = lambda loss: (loss.sum, loss.denom, loss.metrics["distillation"])  # noqa: E731
    for found, expected in ((added, gradient), (keep(sums), keep(loss))):
        jax.tree.map(
            lambda *both: np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5), found, expected
        )


def test_training_brings_the_retriever_to_what_the_reader_says(alone):
    """The reader stays as it is; the loss falls, to the lowest that there is where that is known."""
    objective, run = alone
    # Nothing but the given passages, so that the target is the same all along.
    ids = jnp.asarray(hand(objective, PARAMS).ids)
    given = TopK(ids, jnp.zeros(ids.shape), jnp.ones(ids.shape, bool))
    batch = BATCH.replace(retrieved=given)
    params, optimizer, losses = PARAMS, optax.adam(0.05), []
    state = optimizer.init(params)
    for _ in range(80):
        gradient, loss = run(params, batch)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss.metrics["distillation"][0]))
    jax.tree.map(np.testing.assert_array_equal, params["reader"], PARAMS["reader"])
    if isinstance(objective, Emdr2):
        assert losses[-1] < losses[0] - 0.3
        credit = [run(p, batch)[1].metrics["passage_credit"][0] for p in (PARAMS, params)]
        assert credit[1] < credit[0]
    else:  # the target of leaving one out moves with the prior
        assert losses[-1] < (0.7 if isinstance(objective, LeaveOneOut) else 0.1) * losses[0]


def test_what_is_read_without_passages_is_not_distilled():
    objective = PerplexityDistillation(from_memory=True)
    batch = BATCH.replace(positives=BATCH.positives.at[0].set(-1))
    _, loss = differentiate(objective)(PARAMS, batch)
    assert loss.metrics["distillation"][1] == 2
    assert loss.denom == 3
    assert np.isfinite(loss.sum)


def test_a_miss_has_no_part_of_the_attention():
    """As if it were not there, whatever it would have been heeded."""
    logits, norms = jax.random.normal(KEY, (2, 3, HEADS, T, 2)), jnp.ones((2, 3, HEADS, 2))
    source, mask = jnp.ones((2, 3, 2), bool), jnp.ones((2, T), bool)
    log_prior = jnp.log(jnp.array([[0.7, 0.3, 0.0], [0.2, 0.8, 0.0]]))
    objective = AttentionDistillation(temperature=0.5, value_norms=True)

    def distilled(count):
        heeded = logits[:, :count], norms[:, :count], source[:, :count]
        said = jnp.zeros((2, count, T))
        return objective.distillation(Heard(log_prior[:, :count], said, mask, lambda: heeded))

    np.testing.assert_allclose(distilled(3), distilled(2), rtol=1e-5)


def test_one_passage_teaches_nothing_and_cannot_be_left_out():
    _, loss = differentiate(PerplexityDistillation(), 1)(PARAMS, BATCH)
    assert abs(loss.metrics["distillation"][0]) < 1e-6
    message = r"phases\.k is 1, but LeaveOneOut leaves out one passage and reads the others; choose"
    with pytest.raises(UserError, match=message):
        trace(LeaveOneOut(), CONTEXT._replace(k=1))
    with pytest.raises(UserError, match=message):
        LeaveOneOut().check(Oracle(), 4)  # which has one passage to give, whatever is asked for
    LeaveOneOut().check(Dense(), 2)


def test_a_config_is_refused_before_anything_is_made():
    import tiny_config

    config = tiny_config.get_config()
    phases = (dataclasses.replace(config.phases[0], k=1),)
    with pytest.raises(UserError, match=r"phases\.k is 1, but LeaveOneOut"):
        dataclasses.replace(config, phases=phases, objective=LeaveOneOut())
    dataclasses.replace(config, objective=LeaveOneOut())


def trace(objective, context):
    """Nothing is computed."""
    arrays = {"corpus": CORPUS, "index": INDEX}
    return jax.eval_shape(
        lambda params: objective.loss(context, params, KEY, BATCH, **arrays), PARAMS
    )


def test_a_reader_without_attention_is_refused():
    with pytest.raises(UserError, match="The reader shows no cross-attention"):
        trace(AttentionDistillation(), CONTEXT._replace(model=TINY))
    trace(AttentionDistillation(), CONTEXT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PerplexityDistillation(temperature=0.0),
            "temperature is 0.0; it must be positive",
        ),
        (
            lambda: Replug(distillation_weight=0.0),
            "likelihood_weight and distillation_weight are both 0; nothing is learned",
        ),
        (lambda: Emdr2(rename_reader=2.0), "rename_reader is 2.0; it is a probability"),
    ],
)
def test_bad_fields_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_base_has_no_distillation_of_its_own():
    with pytest.raises(NotImplementedError):
        trace(Distillation(), CONTEXT)
