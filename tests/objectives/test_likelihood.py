"""The loss against brute force, and which parameters each arm can and cannot move."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.likelihood import RagSequence, RagToken, is_gold, retrieve
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.fixed import ClosedBook, Oracle
from ragjax.types import TopK

K = 3
STALE = np.random.default_rng(5).normal(size=(6, 8)).astype(np.float32)  # an index that has aged
STALE /= np.linalg.norm(STALE, axis=-1, keepdims=True)
STALE_ = jnp.asarray(STALE)
ARMS = {
    "closed_book": (ClosedBook(), "retrieved"),
    "oracle": (Oracle(), "retrieved"),
    "bm25": (BM25(), "retrieved"),
    "dense_retrieved": (Dense(), "retrieved"),
    "dense_in_batch": (Dense(), "in_batch"),
    "dense_index": (Dense(), "index"),
}


def context_of(toy, retriever):
    """The toy with K passages of a retriever, whose temperature is that of the toy's own."""
    model = toy.model
    if not retriever.learned:
        model = model._replace(retriever=retriever.build())
    return Context(model, toy.vocabulary, retriever, K)


def certain(ids):
    """One passage a question, certain."""
    ids = jnp.asarray(ids)
    return TopK(ids, jnp.zeros(ids.shape), jnp.ones(ids.shape, bool))


@pytest.fixture(scope="module")
def towers(make_toy):
    """A toy with an encoder for questions and another for passages."""
    return make_toy(siamese=False)


@pytest.fixture(scope="module")
def arm_batch(batch):
    """Arm -> its batch."""
    changed = {
        "closed_book": certain(np.full((4, 1), -1, np.int32)),
        "oracle": certain(batch.positives[:, :1]),
        "bm25": batch.retrieved,
    }
    return lambda arm: batch.replace(retrieved=changed.get(arm))


@pytest.fixture(scope="module")
def differentiate(towers, corpus):
    """Arm -> jitted (params, index, batch) -> (gradient by params and index, `Loss`)."""

    @functools.cache
    def build(arm):
        retriever, documents = ARMS[arm]
        if not retriever.learned and arm != "bm25":
            return build("bm25")  # the same program, and a compilation saved
        objective = RagSequence(documents=documents)
        context = context_of(towers, retriever)

        def total(params, embeddings, batch):
            arrays = context, params, jax.random.PRNGKey(0), batch
            loss = objective.loss(*arrays, corpus=corpus, index=embeddings)
            return loss.sum, loss

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))

    return build


@pytest.fixture(scope="module")
def run_arm(differentiate, towers, arm_batch):
    """Arm -> (`Loss` of RAG-Sequence, gradient by (parameters, index))."""

    @functools.cache
    def run(arm):
        gradient, loss = differentiate(arm)(towers.params, STALE, arm_batch(arm))
        return loss, gradient

    return run


def flat(tree):
    """Dotted name -> NumPy array."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def zero_leaves(gradient):
    return {name for name, leaf in flat(gradient).items() if np.all(leaf == 0)}


@pytest.fixture(scope="module")
def brute(towers, corpus, arm_batch):
    """Arm -> ([B] log p(y|x) of RAG-Sequence and of RAG-Token, [B,K] ids, [B,K] posterior)."""
    model, params = towers.model, towers.params
    texts = np.asarray(corpus)

    def run(arm):
        retriever, documents = ARMS[arm]
        batch = jax.device_get(arm_batch(arm))
        query = np.asarray(jax.jit(model.retriever.query)(params, batch.question), np.float64)
        passages = np.asarray(jax.jit(model.retriever.embed)(params, corpus), np.float64)
        scale = float(model.retriever.scale(params))
        everywhere = scale * query @ passages.T
        if not retriever.learned:
            ids, valid = batch.retrieved.ids, batch.retrieved.valid
            scores = np.where(valid, scale * batch.retrieved.scores, -np.inf)
        else:
            index = passages if documents == "index" else STALE.astype(np.float64)
            ids = np.argsort(-query @ index.T, axis=-1)[:, :K]
            valid = np.ones(ids.shape, bool)
            scores = np.take_along_axis(everywhere, ids, -1)
        if documents == "retrieved":
            total = np.exp(scores).sum(-1)
        else:
            over = sorted(set(ids.ravel().tolist())) if documents == "in_batch" else range(6)
            total = np.exp(everywhere[:, list(over)]).sum(-1)
        prior = np.exp(scores) / total[:, None]
        read = np.where(ids[..., None] >= 0, texts[np.maximum(ids, 0)], 0)
        memory = towers.encode(params, batch.question, read)
        forced = np.exp(np.asarray(towers.logprobs(params, memory, batch.target), np.float64))
        sequence, token, posterior = [], [], []
        for b in range(4):
            length = int(np.sum(batch.target[b] != 0))
            joint = prior[b] * np.prod(forced[b, :, :length], axis=-1)
            sequence.append(np.log(joint.sum()))
            token.append(sum(np.log(prior[b] @ forced[b, :, t]) for t in range(length)))
            posterior.append(joint / joint.sum())
        return np.array(sequence), np.array(token), ids, np.array(posterior)

    return run


@pytest.mark.parametrize("documents", ["retrieved", "in_batch", "index"])
def test_no_score_is_rounded_by_an_accelerator(towers, corpus, arm_batch, documents):
    """Every product on the way to p(d|x) asks for full precision, which a CPU has anyway."""

    def prior(params, embeddings, batch):
        context, arrays = context_of(towers, Dense()), {"corpus": corpus, "index": embeddings}
        return retrieve(RagSequence(documents=documents), context, params, batch, **arrays)[1]

    program = str(jax.make_jaxpr(prior)(towers.params, STALE, arm_batch("dense_index")))
    products = program.count("dot_general")
    assert products >= 3  # the embeddings of questions and of passages, and their scores
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize("arm", ARMS)
def test_loss_and_metrics_by_brute_force(run_arm, brute, batch, arm):
    loss, _ = run_arm(arm)
    sequence, _, ids, posterior = brute(arm)
    weight = np.array([1, 1, 0, 1])
    np.testing.assert_allclose(loss.sum, -np.sum(weight * sequence), rtol=1e-4)
    assert loss.denom == 3
    gold = [set(row[row >= 0].tolist()) for row in np.asarray(batch.positives)]
    found = np.array([[int(i) in gold[b] for i in ids[b]] for b in range(4)])
    np.testing.assert_allclose(loss.metrics["recall"][0], np.sum(weight * found.any(-1)))
    mass = np.sum(weight * np.sum(np.where(found, posterior, 0.0), -1))
    np.testing.assert_allclose(loss.metrics["posterior_mass"][0], mass, rtol=1e-4)
    assert all(denominator == 3 for _, denominator in loss.metrics.values())


@pytest.mark.parametrize("arm", ["dense_retrieved", "dense_in_batch", "dense_index"])
def test_retrieval_figures_of_a_learned_retriever_by_brute_force(
    run_arm, brute, arm_batch, towers, corpus, arm
):
    """Of prior and posterior over the K passages, whatever the prior is normalised over."""
    loss, _ = run_arm(arm)
    *_, ids, posterior = brute(arm)
    model, params, rows = towers.model, towers.params, np.array([0, 1, 3])
    passages = jax.jit(model.retriever.embed)(params, corpus)
    query = jax.jit(model.retriever.query)(params, arm_batch(arm).question)
    scores = np.take_along_axis(np.asarray(query @ passages.T), ids, -1) * model.retriever.scale(
        params
    )
    prior = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    entropy = -(prior * np.log(prior)).sum(-1)
    expected = {
        "prior_entropy": entropy,
        "effective_passages": np.exp(entropy),
        "posterior_entropy": -(posterior * np.log(posterior)).sum(-1),
        "passage_credit": (posterior * np.log(posterior / prior)).sum(-1),
    }
    for name, values in expected.items():
        total, count = loss.metrics[name]
        np.testing.assert_allclose(total / count, values[rows].mean(), rtol=1e-3, atol=1e-4)
    assert "hub_share" not in loss.metrics  # of four questions


@pytest.mark.parametrize(
    ("questions", "passages", "watched"), [(16, 12, True), (12, 12, False), (16, 6, False)]
)
def test_a_hub_is_looked_for_among_many(towers, corpus, arm_batch, questions, passages, watched):
    """Of few questions, or of few passages, one passage may well be right for most."""

    def several(leaf, count):
        return jnp.concatenate([jnp.asarray(leaf)] * count)[:count]

    def loss(batch, corpus, index):
        context, arrays = context_of(towers, Dense()), {"corpus": corpus, "index": index}
        return RagSequence().loss(context, towers.params, jax.random.PRNGKey(0), batch, **arrays)

    batch = jax.tree.map(lambda leaf: several(leaf, questions), arm_batch("dense_index"))
    found = jax.eval_shape(loss, batch, several(corpus, passages), several(STALE, passages))
    assert ("hub_share" in found.metrics) == watched


def test_a_fixed_retriever_has_no_health(run_arm):
    assert set(run_arm("bm25")[0].metrics) == {"recall", "posterior_mass"}


@pytest.mark.parametrize("arm", ["bm25", "dense_index"])
def test_rag_token_by_brute_force(towers, corpus, arm_batch, brute, arm):
    retriever, documents = ARMS[arm]
    context = context_of(towers, retriever)

    @jax.jit
    def total(params):
        arrays = context, params, jax.random.PRNGKey(0), arm_batch(arm)
        return RagToken(documents=documents).loss(*arrays, corpus=corpus, index=STALE_).sum

    sequence, token, _, _ = brute(arm)
    np.testing.assert_allclose(total(towers.params), -np.sum(token[[0, 1, 3]]), rtol=1e-4)
    assert np.max(np.abs(sequence - token)) > 1e-3


def test_bounds_between_the_documents(run_arm):
    losses = {arm: float(run_arm(arm)[0].sum) for arm in ARMS}
    assert losses["dense_retrieved"] < losses["dense_in_batch"]


# Without a passage there is nothing to copy, to align with or to choose between.
COPYING = {
    f"reader.{name}"
    for name in ["copy_query.kernel", "copy_key.kernel", "continuation", "read.kernel"]
} | {"reader.gate.kernel", "reader.gate.bias"}


@pytest.mark.parametrize("arm", ARMS)
def test_parameters_without_any_gradient(run_arm, towers, arm):
    retriever = {name for name in flat(towers.params) if name.startswith("retriever.")}
    assert len(retriever) == 7  # two towers of three and the scale
    expected = {
        "closed_book": retriever | COPYING,
        "oracle": retriever,
        "bm25": retriever - {"retriever.log_scale"},
    }
    _, (gradient, by_index) = run_arm(arm)
    assert all(np.all(np.isfinite(leaf)) for leaf in flat(gradient).values())
    assert zero_leaves(gradient) == expected.get(arm, set())
    assert np.all(np.asarray(by_index) == 0)  # the index only chooses


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm.startswith("dense")])
def test_both_towers_learn_and_only_from_what_they_read(run_arm, arm):
    _, (gradient, _) = run_arm(arm)
    for tower, side in [("observed", 0), ("stored", 1)]:
        by = {name: np.asarray(leaf) for name, leaf in gradient["retriever"][tower].items()}
        assert np.all(by["log_weight"][1 - side] == 0)  # the row of the other side
        assert np.count_nonzero(by["log_weight"][side]) >= 5
        # Padding, the other special tokens, and the name that is folded away.
        assert np.all(by["embedding"][[0, 1, 2, 3, 11]] == 0)
        assert np.all(np.any(by["embedding"][[4, 6, 7, 10]] != 0, axis=-1))


def test_rows_of_the_reader_without_gradient(run_arm):
    closed = run_arm("closed_book")[1][0]["reader"]
    dense = run_arm("dense_retrieved")[1][0]["reader"]
    for name in ("segment", "match"):  # row 1: of a passage, of a token found on both sides
        assert np.all(closed[name][1] == 0)
        assert np.any(closed[name][0] != 0)
        assert np.all(np.any(np.asarray(dense[name]) != 0, axis=-1))
    for gradient in (closed, dense):
        by_token = np.any(np.asarray(gradient["embedding"]) != 0, axis=-1)
        assert not by_token[0]  # padding is neither read nor written
        assert np.all(by_token[1:])


def test_one_passage_is_certain_so_that_the_retriever_learns_nothing(towers, corpus, arm_batch):
    batch = arm_batch("bm25")
    batch = batch.replace(retrieved=jax.tree.map(lambda leaf: leaf[:, :1], batch.retrieved))

    @jax.jit
    def prior(params, retriever_batch):
        context = context_of(towers, BM25())
        arrays = {"corpus": corpus, "index": STALE_}
        return retrieve(RagSequence(), context, params, retriever_batch, **arrays)[1]

    np.testing.assert_array_equal(prior(towers.params, batch), np.zeros((4, 1)))


def test_a_filling_row_may_be_impossible(differentiate, run_arm, towers, arm_batch):
    """Misses alone have probability zero; with weight zero they must not spoil the batch."""
    batch = arm_batch("bm25")
    assert batch.weight[2] == 0
    nothing = batch.replace(
        retrieved=TopK(
            ids=batch.retrieved.ids.at[2].set(-1),
            scores=batch.retrieved.scores.at[2].set(-jnp.inf),
            valid=batch.retrieved.valid.at[2].set(False),
        )
    )
    (gradient, _), loss = differentiate("bm25")(towers.params, STALE, nothing)
    expected_loss, (expected, _) = run_arm("bm25")
    chex.assert_trees_all_close((loss, gradient), (expected_loss, expected), rtol=1e-5, atol=1e-6)


def test_a_fresh_index_gives_the_priors_of_the_step(towers, corpus, arm_batch):
    """Evaluation reads the index; training embeds anew. Nothing else differs."""

    @jax.jit
    def both(params):
        given = context_of(towers, Dense()), params, arm_batch("dense_index")
        arrays = {"corpus": corpus, "index": towers.model.retriever.embed(params, corpus)}
        return [
            [
                retrieve(RagSequence(documents=kind), *given, **arrays, frozen_index=frozen)
                for frozen in (True, False)
            ]
            for kind in ("retrieved", "index")
        ]

    retrieved, index = jax.device_get(both(towers.params))
    for (frozen, frozen_prior), (current, current_prior) in (retrieved, index):
        np.testing.assert_array_equal(frozen.ids, current.ids)
        np.testing.assert_allclose(frozen_prior, current_prior, atol=1e-5)
    assert np.all(index[0][1] < retrieved[0][1])


def test_given_candidates_are_scored_by_the_encoder(towers, corpus, batch):
    """A learned retriever takes the passages of the batch, not their scores; misses stay misses."""
    ids = np.array([[0, 3, -1], [2, 5, 4], [-1, -1, -1], [3, 0, -1]], np.int32)
    valid = ids >= 0
    valid[2, 0] = True  # the empty passage of a question for which BM25 found nothing
    given = TopK(ids, np.where(valid, np.float32(9.0), -np.inf), valid)

    @jax.jit
    def run(params, batch):
        def priors(params):
            given = context_of(towers, Dense()), params, batch
            return {
                kind: retrieve(RagSequence(documents=kind), *given, corpus=corpus, index=STALE_)[1]
                for kind in ("retrieved", "in_batch", "index")
            }

        def total(params):
            return sum(jnp.sum(jnp.where(valid, each, 0.0)) for each in priors(params).values())

        retriever = towers.model.retriever
        query, stored = retriever.query(params, batch.question), retriever.embed(params, corpus)
        scores = retriever.scale(params) * query @ stored.T
        return priors(params), jax.grad(total)(params)["retriever"], scores

    actual, gradient, scores = jax.device_get(run(towers.params, batch.replace(retrieved=given)))
    weight = np.exp(scores.astype(np.float64))
    own = np.where(ids >= 0, np.take_along_axis(weight, np.maximum(ids, 0), -1), 1.0)
    own = np.where(valid, own, 0.0)
    totals = {
        "retrieved": own.sum(-1),
        "in_batch": weight[:, [0, 2, 3, 4, 5]].sum(-1) + 1.0,  # each once, the empty one as well
        "index": weight.sum(-1),
    }
    for kind, prior in actual.items():
        np.testing.assert_allclose(np.exp(prior), own / totals[kind][:, None], rtol=1e-4)
    assert all(np.all(np.isfinite(leaf)) for leaf in flat(gradient).values())
    assert not zero_leaves(gradient)


def test_recall_and_posterior_mass_are_of_the_questions_with_gold(towers, corpus, arm_batch, brute):
    """The others are trained on as ever."""
    known = arm_batch("dense_retrieved")
    bare = known.replace(positives=known.positives.at[0].set(-1))

    @jax.jit
    def run(positives):
        asked = towers.params, jax.random.PRNGKey(1), known.replace(positives=positives)
        return RagSequence().loss(context_of(towers, Dense()), *asked, corpus=corpus, index=STALE_)

    loss, same = run(bare.positives), run(known.positives)
    assert (loss.sum, loss.denom) == (same.sum, 3)
    _, _, ids, posterior = brute("dense_retrieved")
    found = np.any(ids[..., None] == np.asarray(known.positives)[:, None], axis=-1) & (ids >= 0)
    mass = np.where(found, posterior, 0.0).sum(-1)
    for name, values in (("recall", found.any(-1)), ("posterior_mass", mass)):
        for metrics, rows in ((loss.metrics, [1, 3]), (same.metrics, [0, 1, 3])):
            total, count = metrics[name]
            assert count == len(rows)
            np.testing.assert_allclose(total, values[rows].sum(), rtol=1e-4)
    assert loss.metrics["prior_entropy"] == same.metrics["prior_entropy"]
    assert run(np.full_like(known.positives, -1)).metrics["recall"] == (0.0, 0.0)


def test_from_memory_reads_no_passage_and_no_new_names(towers, corpus, arm_batch, brute):
    """Where a question names no gold passage; the others are read and renamed as ever."""
    objective = RagSequence(rename_reader=1.0, rename_retriever=1.0, from_memory=True)
    known = arm_batch("dense_retrieved")
    known = known.replace(positives=known.positives.at[0].set(-1))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(params, weight):
        context = context_of(towers, Dense())
        arrays = context, params, jax.random.PRNGKey(1), known.replace(weight=weight)
        loss = objective.loss(*arrays, corpus=corpus, index=STALE_)
        return loss.sum, loss

    gradient, alone = run(towers.params, jnp.array([1.0, 0.0, 0.0, 0.0]))
    log_likelihood = brute("closed_book")[0][0]
    np.testing.assert_allclose(alone.sum, -log_likelihood, rtol=1e-4)
    assert alone.metrics["memory_loss"] == (alone.sum, 1.0)
    assert alone.metrics["recall"] == (0.0, 0.0)
    assert np.all([np.all(leaf == 0) for leaf in flat(gradient["retriever"]).values()])
    _, all_ = run(towers.params, known.weight)
    assert all_.denom == 3
    assert all_.metrics["recall"][1] == 2
    np.testing.assert_allclose(all_.metrics["memory_loss"][0], alone.sum, rtol=1e-5)


def test_gold_passages():
    ids = jnp.array([[0, 3, -1], [2, 5, 4]])
    topk = TopK(ids, jnp.zeros(ids.shape), ids >= 0)
    gold = is_gold(topk, jnp.array([[3, -1], [-1, -1]]))
    np.testing.assert_array_equal(gold, [[False, True, False], [False] * 3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rename_reader": 1.1}, "The objective's rename_reader is 1.1"),
        ({"rename_retriever": -0.1}, "The objective's rename_retriever is -0.1"),
        ({"corrupt_words": 2.0}, "The objective's corrupt_words is 2.0"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        RagSequence(**fields)
