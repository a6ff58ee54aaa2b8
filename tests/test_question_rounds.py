"""The rounds of a trained reader: what it would answer if it were asked each of them by itself."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ragjax.experiment import load_experiment
from ragjax.policy_config import PolicyConfig
from rich.console import Console
from tiny_task import PEOPLE, TinyTask

from ragjax.cli import main
from ragjax.commands import TrainedRun
from ragjax.envs.qa_agent import QaAgent
from ragjax.errors import UserError
from ragjax.evaluation.metrics import exact_match
from ragjax.objectives.likelihood import RagSequence
from ragjax.objectives.ppo import PPO
from ragjax.question_rounds import Library, QuestionReader, principal_components
from ragjax.retrieval.corpus import gather_passages
from ragjax.run_dir import CHECKPOINTS
from ragjax.tasks.reader_lessons import REWRITE
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.optimizer import evaluation_params
from ragjax.types import EOS_ID, RagBatch

pytest_plugins = ["tiny_run"]
TEXTS = [f"Where does {name} live?" for name in PEOPLE]


@pytest.fixture(scope="module")
def reader(trained):
    return QuestionReader.load(trained)


@pytest.fixture(scope="module")
def rounds(reader):
    return reader.read(TEXTS, 5)


def decode(model, params, question, passages, log_prior):
    """What RAG-Sequence answers, as tokens."""
    answer = jax.jit(lambda *arrays: RagSequence().decode(model, *arrays, length=4).tokens)
    return np.asarray(answer(params, question, passages, log_prior))


@pytest.fixture(scope="module")
def run(trained):
    return TrainedRun.load(trained, Console(quiet=True))


@pytest.mark.parametrize("row", [0, 7, 29])
def test_the_first_round_is_the_reader_s_own_answer(reader, rounds, run, row):
    expected = run.answer(TEXTS[row])
    assert reader.text(rounds.answer[row, 1]) == expected["answer"]
    assert np.exp(rounds.log_prob[row, 1]) == pytest.approx(expected["probability"], rel=1e-3)
    found = reader.found(jax.tree.map(lambda x: x[row : row + 1], rounds), 1, TEXTS[row])
    assert found["query"] == TEXTS[row]
    priors = {passage["id"]: passage["prior"] for passage in expected["passages"]}
    assert {p["id"]: p["prior"] for p in found["passages"]} == pytest.approx(priors, rel=1e-3)


def test_the_second_round_asks_what_the_reader_wrote(reader, rounds):
    batch = RagBatch(jnp.asarray(rounds.query))
    arrays = reader.experiment.device_corpus, reader.embeddings
    topk, log_prior, decoded = reader.experiment.answer(reader.params, batch, *arrays)
    np.testing.assert_array_equal(rounds.ids[:, 2], topk.ids)
    np.testing.assert_allclose(rounds.log_prior[:, 2], log_prior, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(rounds.answer[:, 2], decoded.tokens)


def test_the_reader_writes_the_query_of_question_and_passages(reader, rounds):
    rewriting = reader.encode([f"{REWRITE} {text}" for text in TEXTS])
    model, corpus = reader.experiment.model, reader.experiment.device_corpus
    passages = gather_passages(corpus, jnp.asarray(rounds.ids[:, 1]))
    written = decode(model, reader.params, rewriting, passages, rounds.log_prior[:, 1])
    words = np.where(written == EOS_ID, 0, written)
    np.testing.assert_array_equal(rounds.query[:, : words.shape[1]], words)
    assert not rounds.query[:, words.shape[1] :].any()
    vocabulary, questions = reader.experiment.vocabulary, reader.encode(TEXTS)
    expected = []
    for query, question in zip(words.tolist(), questions.tolist(), strict=True):
        names = [token for token in query if vocabulary.content[token]]
        held = {int(vocabulary.fold[token]) for token in question}
        new = [int(vocabulary.fold[token]) not in held for token in names]
        expected.append(np.mean(new) if new else 0.0)
    np.testing.assert_allclose(rounds.leads_on[:, 1], expected, rtol=1e-5)
    assert not rounds.leads_on[:, [0, 2]].any()


def test_the_round_of_memory_reads_an_empty_passage(reader, rounds):
    empty = jnp.zeros((len(TEXTS), 1, reader.experiment.device_corpus.shape[1]), jnp.int32)
    model, questions = reader.experiment.model, reader.encode(TEXTS)
    tokens = decode(model, reader.params, questions, empty, np.zeros((len(TEXTS), 1), np.float32))
    np.testing.assert_array_equal(rounds.answer[:, 0], tokens)
    assert (rounds.ids[:, 0] == -1).all()


def test_questions_are_read_by_themselves(reader, rounds):
    """Nothing of a question depends on which others are asked with it."""
    some = reader.read(TEXTS[4:7], 5)
    for one, many in zip(jax.tree.leaves(some), jax.tree.leaves(rounds), strict=True):
        np.testing.assert_allclose(one, many[4:7], rtol=1e-3, atol=1e-4)


def test_asking_again_compiles_nothing(reader):
    reader.read(TEXTS[:3], 5)
    before = reader._rounds._cache_size()
    reader.read(TEXTS[3:6], 5)
    assert reader._rounds._cache_size() == before


def test_books_hold_the_score_of_every_round(trained, reader):
    spec = QaAgent(reader=str(trained), task=TinyTask(), k=3)
    library = Library(0)
    book = library.open(spec, "dev")
    assert library.open(spec, "dev") is book
    assert book.kinds == ("home", "town")
    questions = [q for kind in book.kinds for q in TinyTask().generate().splits["dev"]
                 if q.relation == kind]  # fmt: skip
    rounds = reader.read([q.question for q in questions], 3)
    for question, answers, scores in zip(questions, rounds.answer, book.score, strict=True):
        expected = [exact_match(reader.text(answer), question.answers) for answer in answers]
        assert scores.tolist() == expected
    assert book.starts.tolist() == [0, 4]
    assert book.counts.tolist() == [4, 8]
    np.testing.assert_allclose(book.shown[:, 1, 1], np.exp(rounds.log_prob[:, 1]), rtol=1e-5)


def test_an_unread_book_has_the_shapes_of_the_read_one(trained):
    spec = QaAgent(reader=str(trained), task=TinyTask(), k=3)
    read = Library(0).open(spec, "dev")
    library = Library(0, unread=True)
    reader, *_ = library.reader(spec)
    unread = library.open(spec, "dev")
    assert "_rounds" not in vars(reader)  # nothing was compiled or asked
    assert (unread.kinds, unread.counts.tolist()) == (read.kinds, [1, 1])
    for name in ("score", "shown", "question", "kind", "starts", "counts"):
        one, other = getattr(read, name), getattr(unread, name)
        assert (one.shape[1:], one.dtype) == (other.shape[1:], other.dtype)


def test_principal_components_have_unit_deviation_and_a_sign():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)) @ np.diag([3.0, 2.0, 1.0]) @ rng.normal(size=(3, 12))
    basis = principal_components(points)
    assert basis.shape == (8, 12)
    np.testing.assert_allclose((points @ basis[:3].T).std(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(principal_components(points[::-1]), basis, atol=1e-4)


CONFIG = """
from tiny_task import TinyTask
from ragjax.envs.qa_agent import QaAgent
from ragjax.objectives.ppo import PPO
from ragjax.policy_config import EpisodeEvaluation, PolicyConfig

def get_config():
    return PolicyConfig(
        env=QaAgent(reader={reader!r}, task=TinyTask(), k=3),
        algorithm=PPO(num_envs=8, rollout_length=4, discount=1.0, minibatches=2),
        env_steps=8 * 4 * 4,
        evaluation=EpisodeEvaluation(episodes=20, every=2, during=10),
        log_every=1,
        checkpoint_every=2,
    )
"""


@pytest.fixture(scope="module")
def agent(trained, tmp_path_factory):
    """The directory of an agent's run, made from the command line."""
    base = tmp_path_factory.mktemp("agent")
    (base / "agent.py").write_text(CONFIG.format(reader=str(trained)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAGJAX_DATA_DIR", str(tmp_path_factory.getbasetemp() / "prepared"))
        assert main(["train", str(base / "agent.py"), "--run-dir", str(base / "run")]) == 0
    return base / "run"


def test_an_agent_s_run_reports_by_kind(agent, trained):
    result = json.loads((agent / "result.json").read_text())
    made = json.loads((trained / "result.json").read_text())["git_commit"]
    assert result["reader"] == {"run": str(trained), "git_commit": made}
    for mode in ("greedy", "sampled"):
        for kind in ("home", "town"):
            assert 0 <= result[f"{mode}_retrievals_{kind}"] <= 6
            assert 0 <= result[f"{mode}_score_{kind}"] <= 1
    episodes = [json.loads(line) for line in (agent / "episodes.jsonl").read_text().splitlines()]
    greedy = [row for row in episodes if row["mode"] == "greedy"]
    told = [row["retrievals_home"] for row in greedy if row["retrievals_home"] is not None]
    assert np.mean(told) == pytest.approx(result["greedy_retrievals_home"])
    rows = [json.loads(line) for line in (agent / "metrics.jsonl").read_text().splitlines()]
    assert any("eval/greedy_retrievals_home" in row for row in rows)


def test_an_agent_s_run_resumes_as_the_run_it_was(agent, tmp_path):
    """From its first checkpoint on, as if it had been killed before the last."""
    run_dir = Path(shutil.copytree(agent, tmp_path / "run"))
    shutil.rmtree(run_dir / CHECKPOINTS / "4")
    (run_dir / "result.json").unlink()
    (run_dir / "episodes.jsonl").unlink()
    config = str(agent.parent / "agent.py")
    assert main(["train", config, "--run-dir", str(run_dir), "--resume"]) == 0
    for name in ("metrics.jsonl", "episodes.jsonl"):
        assert (run_dir / name).read_bytes() == (agent / name).read_bytes()
    metrics = (agent / "metrics.jsonl").read_text()
    losses = [json.loads(row)["loss"] for row in metrics.splitlines() if "loss" in row]
    assert len(set(losses)) == 4


def test_asking_an_agent_shows_its_decisions(agent, capsys):
    assert main(["answer", str(agent), TEXTS[0], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["question"] == TEXTS[0]
    assert 1 <= len(told["decisions"]) <= 6
    for decision in told["decisions"]:
        assert 0 < decision["probability"] <= 1
        retrieved = decision["action"] in ("retrieve", "retrieve again")
        assert ("passages" in decision) == retrieved
        if retrieved:
            assert len(decision["passages"]) == 3
    assert main(["answer", str(agent), TEXTS[0]]) == 0
    assert told["decisions"][0]["action"] in capsys.readouterr().out


def test_an_agent_is_evaluated_on_a_split(agent, capsys, monkeypatch):
    opened, open_book = [], Library.open

    def recorded(self, spec, split):
        opened.append(split)
        return open_book(self, spec, split)

    monkeypatch.setattr(Library, "open", recorded)
    assert main(["evaluate", str(agent), "--split", "dev", "--episodes", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "dev"
    assert set(opened) == {"train", "dev"}
    assert main(["evaluate", str(agent), "--episodes", "10"]) == 0
    shown = capsys.readouterr().out
    assert set(opened) == {"train", "dev", "test"}
    assert "of test questions" in shown
    assert "retrievals_home" in shown


@pytest.mark.parametrize(
    ("question", "message"), [("", "empty"), ("zzz qqq", "No word of"), ("zzz ?", "No word of")]
)
def test_an_agent_is_asked_in_known_words(agent, capsys, question, message):
    assert main(["answer", str(agent), question]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_reader_is_named(tmp_path, capsys):
    (tmp_path / "agent.py").write_text(CONFIG.format(reader="nowhere/seed_{seed}"))
    arguments = [str(tmp_path / "agent.py"), "--run-dir", str(tmp_path / "run"), "--seed", "4"]
    assert main(["train", *arguments]) == 2
    assert "env.reader names nowhere/seed_4, which holds no finished run" in capsys.readouterr().err


def test_seeds_side_by_side_share_one_reader():
    fields = {"algorithm": PPO(), "num_seeds": 2}
    PolicyConfig(env=QaAgent(reader="runs/one"), **fields)
    with pytest.raises(UserError, match=r"num_seeds is 2, but env\.reader names a reader for each"):
        PolicyConfig(env=QaAgent(), **fields)


def test_a_reader_without_a_retriever_of_its_own_is_refused(trained, copied):
    config = json.loads((copied / "config.json").read_text())
    config["retriever"] = {"type": "ragjax.retrieval.fixed.ClosedBook"}
    config["objective"]["documents"] = "retrieved"
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no run of a generator with a retriever of its own"):
        QuestionReader.load(copied)


def test_more_passages_than_there_are(reader):
    with pytest.raises(UserError, match=r"env\.k is 31, but the reader's corpus has 30 passages"):
        reader.read(TEXTS[:1], 31)


def test_a_reader_is_read_with_the_parameters_that_it_was_measured_with(trained, reader):
    """The moving average, and an index made of it."""
    state, _, _ = reader.experiment.load_state(Checkpoints(trained / CHECKPOINTS))
    average = evaluation_params(state.train.params, state.train.opt_state)
    jax.tree.map(np.testing.assert_array_equal, reader.params, average)
    changed = jax.tree.map(np.array_equal, average, state.train.params)
    assert not any(
        jax.tree.leaves(changed["generator"])
    )  # they are no longer those that were trained
    tokens = reader.experiment.device_corpus
    expected = reader.experiment.model.embed_passage(average, tokens)
    np.testing.assert_allclose(reader.embeddings, expected, atol=1e-6)
    other = reader.experiment.model.embed_passage(state.train.params, tokens)
    assert np.abs(other - expected).max() > 1e-4
