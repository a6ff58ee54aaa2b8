"""The stages of a trained reader: what it would answer if it were asked at each of them by itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_task import PEOPLE, TinyTask

from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.agents.adaptive_retrieval.questions import (
    FEATURES,
    make_table,
    principal_components,
)
from ragjax.agents.adaptive_retrieval.reader import (
    FIRST,
    MEMORY,
    SECOND,
    RetrievalTrace,
    TrainedReader,
)
from ragjax.errors import UserError
from ragjax.evaluation.matching import exact_match
from ragjax.objectives.likelihood import RagSequence
from ragjax.ops.distributions import Categorical
from ragjax.retrieval.corpus import gather_passages
from ragjax.run_dir import load_run
from ragjax.tasks.reader_training import REWRITE
from ragjax.training.optimizer import evaluation_params
from ragjax.types import EOS_ID, RagBatch

pytest_plugins = ["tiny_run"]
TEXTS = [f"Where does {name} live?" for name in PEOPLE]


@pytest.fixture(scope="module")
def reader(trained):
    return TrainedReader.load(trained)


@pytest.fixture(scope="module")
def trace(reader):
    return reader.read(TEXTS, 5)


def decode(model, params, question, passages, log_prior):
    """What RAG-Sequence answers, as tokens."""

    @jax.jit
    def answer(params, question, passages, log_prior):
        found = {"passages": passages, "log_prior": log_prior}
        return RagSequence().decode(model, params, question, **found, length=4).tokens

    return np.asarray(answer(params, question, passages, log_prior))


@pytest.fixture(scope="module")
def run(trained):
    return load_run(trained)


@pytest.mark.parametrize("row", [0, 7, 29])
def test_the_first_retrieval_is_the_reader_s_own_answer(reader, trace, run, row):
    expected = run.answer(TEXTS[row], force=True)
    assert reader.text(trace.answer[row, 1]) == expected["answer"]
    assert np.exp(trace.log_prob[row, 1]) == pytest.approx(expected["probability"], rel=1e-3)
    found = reader.retrieval(jax.tree.map(lambda x: x[row : row + 1], trace), 1, TEXTS[row])
    assert found["query"] == TEXTS[row]
    priors = {passage["id"]: passage["prior"] for passage in expected["passages"]}
    assert {p["id"]: p["prior"] for p in found["passages"]} == pytest.approx(priors, rel=1e-3)


def test_the_second_retrieval_asks_what_the_reader_wrote(reader, trace):
    batch = RagBatch(jnp.asarray(trace.query))
    arrays = reader.learner.corpus, reader.embeddings
    topk, log_prior, decoded = reader.learner.answerer.answer(reader.params, batch, *arrays)
    np.testing.assert_array_equal(trace.ids[:, 2], topk.ids)
    np.testing.assert_allclose(trace.log_prior[:, 2], log_prior, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(trace.answer[:, 2], decoded.tokens)


def test_the_reader_writes_the_query_of_question_and_passages(reader, trace):
    rewriting = reader.encode([f"{REWRITE} {text}" for text in TEXTS])
    model, corpus = reader.learner.model, reader.learner.corpus
    passages = gather_passages(corpus, jnp.asarray(trace.ids[:, 1]))
    written = decode(model, reader.params, rewriting, passages, trace.log_prior[:, 1])
    words = np.where(written == EOS_ID, 0, written)
    np.testing.assert_array_equal(trace.query[:, : words.shape[1]], words)
    assert not trace.query[:, words.shape[1] :].any()
    vocabulary, questions = reader.learner.vocabulary, reader.encode(TEXTS)
    expected = []
    for query, question in zip(words.tolist(), questions.tolist(), strict=True):
        names = [token for token in query if vocabulary.content[token]]
        held = {int(vocabulary.fold[token]) for token in question}
        new = [int(vocabulary.fold[token]) not in held for token in names]
        expected.append(np.mean(new) if new else 0.0)
    np.testing.assert_allclose(trace.new_name_share[:, 1], expected, rtol=1e-5)
    assert not trace.new_name_share[:, [0, 2]].any()


def test_memory_reads_an_empty_passage(reader, trace):
    empty = jnp.zeros((len(TEXTS), 1, reader.learner.corpus.shape[1]), jnp.int32)
    model, questions = reader.learner.model, reader.encode(TEXTS)
    tokens = decode(model, reader.params, questions, empty, np.zeros((len(TEXTS), 1), np.float32))
    np.testing.assert_array_equal(trace.answer[:, 0], tokens)
    assert (trace.ids[:, 0] == -1).all()


def test_questions_are_read_by_themselves(reader, trace):
    """Nothing of a question depends on which others are asked with it."""
    some = reader.read(TEXTS[4:7], 5)
    for one, many in zip(jax.tree.leaves(some), jax.tree.leaves(trace), strict=True):
        np.testing.assert_allclose(one, many[4:7], rtol=1e-3, atol=1e-4)


def test_asking_again_compiles_nothing(reader):
    reader.read(TEXTS[:3], 5)
    before = reader._read_batches._cache_size()
    reader.read(TEXTS[3:6], 5)
    assert reader._read_batches._cache_size() == before


def test_tables_hold_the_score_of_every_stage(trained, reader):
    spec = AdaptiveRetrieval(reader=str(trained), task=TinyTask(), k=3)
    prepared = spec.prepare(0)
    table = prepared.on_split("dev").build().params
    assert prepared.on_split("dev").build().params is table
    assert table.kinds == ("home", "town")
    questions = [q for kind in table.kinds for q in TinyTask().generate().splits["dev"]
                 if q.relation == kind]  # fmt: skip
    trace = reader.read([q.question for q in questions], 3)
    for question, answers, scores in zip(questions, trace.answer, table.score, strict=True):
        expected = [exact_match(reader.text(answer), question.answers) for answer in answers]
        assert scores.tolist() == expected
    assert table.starts.tolist() == [0, 4]
    assert table.counts.tolist() == [4, 8]
    np.testing.assert_allclose(table.features[:, 1, 1], np.exp(trace.log_prob[:, 1]), rtol=1e-5)


def test_answering_needs_no_other_question_read(trained):
    """Its environment has the shapes of the one to learn in; nothing was compiled or asked for it."""
    spec = AdaptiveRetrieval(reader=str(trained), task=TinyTask(), k=3)
    prepared = spec.prepare(0)
    quick = prepared.for_answering().vectorise(2)
    assert "_read_batches" not in vars(prepared.questions.reader)

    def start(env):
        return jax.eval_shape(lambda: env.reset(env.params, jax.random.PRNGKey(0)))

    assert start(quick) == start(prepared.on_split("train").vectorise(2))


def always(env, **chances):
    """What an environment is told by a policy that has these chances of its actions, and no others."""
    names = ("answer", "retrieve", "again", "read", "abstain")
    logits = jnp.log(jnp.array([chances.get(name, 0.0) for name in names]))
    return env.answer(lambda observation: Categorical(logits[None]), TEXTS[0])


def test_the_decisions_about_a_question_by_hand(trained, reader):
    """Before anything was retrieved two actions do as two others, with whose chances theirs are told."""
    env = AdaptiveRetrieval(reader=str(trained), task=TinyTask(), k=3).prepare(0)
    trace = reader.read(TEXTS[:1], 3)

    told = always(env, answer=0.1, retrieve=0.2, again=0.3, read=0.25, abstain=0.15)
    assert told["answer"] is told["probability"] is None
    first, *others = told["decisions"]
    assert len(others) == env.time_limit - 1  # and then it is over, without an answer
    assert first == {
        "action": "retrieve",
        "probability": pytest.approx(0.5),
    } | reader.retrieval(trace, FIRST, TEXTS[0])
    assert first["query"] == TEXTS[0]
    assert len(first["passages"]) == 3
    for decision in others:
        assert decision == {
            "action": "retrieve again",
            "probability": pytest.approx(0.3),
        } | reader.retrieval(trace, SECOND, TEXTS[0])

    told = always(env, answer=0.1, retrieve=0.2, again=0.2, read=0.35, abstain=0.15)
    assert told["decisions"] == [
        {"action": "answer from memory", "probability": pytest.approx(0.45)}
    ]
    assert told["answer"] == reader.text(trace.answer[0, MEMORY])
    assert told["probability"] == pytest.approx(np.exp(trace.log_prob[0, MEMORY]))


def test_what_is_observed_of_a_question_by_hand():
    """The five features of each stage, and of the question its length and its components."""
    trace = RetrievalTrace(
        ids=np.zeros((2, 3, 2), int),
        log_prior=np.log([[[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]], [[0.9, 0.1]] * 3]),
        answer=np.zeros((2, 3, 4), int),
        log_prob=np.array([[-1.0, -2.0, -50.0], [0.0, -3.0, -4.0]]),
        similarity=np.array([[0.0, 0.3, -0.2], [0.0, 0.6, 0.1]]),
        query=np.zeros((2, 5), int),
        new_name_share=np.array([[0.0, 0.5, 0.0], [0.0, 1.0, 0.0]]),
        embedding=np.array([[1.0, 2.0], [3.0, -1.0]]),
        length=np.array([0.25, 0.75]),
    )
    basis = np.array([[1.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    table = make_table(trace, basis, np.zeros((2, 3)), ["one", "two"])
    assert FEATURES == ("log_prob", "probability", "prior", "similarity", "new_name_share")
    expected = [
        [-0.2, np.exp(-1), 0.8, 0.0, 0.0],
        [-0.4, np.exp(-2), 0.7, 0.3, 0.5],
        [-4.0, np.exp(-50), 0.5, -0.2, 0.0],  # no less than -20 / 5
    ]
    np.testing.assert_allclose(table.features[0], expected, rtol=1e-6)
    np.testing.assert_allclose(table.features[1, 1], [-0.6, np.exp(-3), 0.9, 0.6, 1.0], rtol=1e-6)
    np.testing.assert_allclose(table.question, [[0.25, 3, 4, 1], [0.75, 2, -2, 3]], rtol=1e-6)


def test_principal_components_have_unit_deviation_and_a_sign():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)) @ np.diag([3.0, 2.0, 1.0]) @ rng.normal(size=(3, 12))
    basis = principal_components(points)
    assert basis.shape == (8, 12)
    np.testing.assert_allclose((points @ basis[:3].T).std(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(principal_components(points[::-1]), basis, atol=1e-4)


def test_a_reader_without_a_retriever_of_its_own_is_refused(trained, copied):
    config = json.loads((copied / "config.json").read_text())
    config["retriever"] = {"type": "ragjax.retrieval.fixed.ClosedBook"}
    config["objective"]["documents"] = "retrieved"
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no run of a reader with a retriever of its own"):
        TrainedReader.load(copied)


def test_more_passages_than_there_are(reader):
    with pytest.raises(UserError, match=r"env\.k is 31, but the reader's corpus has 30 passages"):
        reader.read(TEXTS[:1], 31)


def test_a_reader_is_read_with_the_parameters_that_it_was_measured_with(run, reader):
    """The moving average, and an index made of it."""
    average = evaluation_params(run.state.params, run.state.opt_state)
    jax.tree.map(np.testing.assert_array_equal, reader.params, average)
    # They are not those that were trained last.
    same = jax.tree.map(np.array_equal, average["reader"], run.state.params["reader"])
    assert not any(jax.tree.leaves(same))
    embed = reader.learner.model.retriever.embed
    expected = embed(average, reader.learner.corpus)
    np.testing.assert_allclose(reader.embeddings, expected, atol=1e-6)
    assert np.abs(embed(run.state.params, reader.learner.corpus) - expected).max() > 1e-4
