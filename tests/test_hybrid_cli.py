"""A run of the hybrid retriever through the command line: train, measure, ask, ask over other files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_task import write_tiny_files

from ragjax.agents.adaptive_retrieval.reader import TrainedReader
from ragjax.cli import main
from ragjax.errors import UserError
from ragjax.retrieval.bm25 import BM25
from ragjax.run_dir import load_run
from ragjax.training.optimizer import evaluation_params

CONFIG = Path(__file__).parents[1] / "configs" / "own_data" / "hybrid.py"
TINY = (
    *("--tokenizer.vocab_size", "400", "--tokenizer.question_length", "10"),
    *("--tokenizer.passage_length", "12", "--tokenizer.answer_length", "6"),
    *("--retriever.dense.encoder.width", "16", "--reader.width", "16", "--reader.heads", "2"),
    *("--retriever.dense.refresh_every", "2", "--retriever.depth", "6"),
    *("--reader.encoder_layers", "1", "--phases.0.steps", "5", "--phases.0.batch_size", "4"),
    *("--evaluation.k", "4", "--evaluation.batch_size", "8", "--evaluation.every", "0"),
    *("--optimizer.warmup_steps", "2"),
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """The tiny task's files and a run of five steps on them."""
    directory = tmp_path_factory.mktemp("hybrid")
    write_tiny_files(directory)
    words = ["train", str(CONFIG), "--run-dir", str(directory / "run"), *TINY]
    words += ["--task.passages", str(directory / "passages.tsv")]
    assert main([*words, "--task.questions", str(directory / "questions.jsonl")]) == 0
    return directory / "run"


@pytest.fixture(scope="module")
def run(run_dir):
    return load_run(run_dir)


def test_it_learns_the_weight_with_the_rest(run_dir, run):
    learned = float(np.exp(run.state.params["retriever"]["log_lexical_weight"]))
    assert learned != pytest.approx(0.05, rel=1e-3)
    assert 0.04 < learned < 0.06  # five steps of at most 1e-2 each
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert all(0 < loss < 100 for loss in losses)
    assert losses
    assert json.loads((run_dir / "result.json").read_text())["steps"] == 5


def test_what_was_evaluated_is_the_best_of_both_rankings(run_dir, run, ragjax):
    """The test questions once more, by NumPy; and `evaluate` gives what training left."""
    learner = run.learner
    params = evaluation_params(run.state.params, run.state.opt_state)
    questions = learner.task.splits["test"]
    encoded = learner.encode(questions)
    weight = float(np.exp(params["retriever"]["log_lexical_weight"]))
    scale = float(np.exp(params["retriever"]["log_scale"]))
    retriever, passages = learner.model.retriever, learner.text.corpus.passages
    query = np.asarray(retriever.query(params, encoded.arrays.question), np.float64)
    inner = query @ np.asarray(retriever.embed(params, learner.corpus), np.float64).T
    hits = BM25().lookup(passages, questions, 6)
    code, out, err = ragjax("evaluate", run_dir, "--json")
    assert code == 0, err
    trained = json.loads((run_dir / "result.json").read_text())
    assert json.loads(out)["recall@1"] == trained["recall@1"] > 0.5
    for row, line in enumerate((run_dir / "predictions.jsonl").read_text().splitlines()):
        record = json.loads(line)
        assert record["id"] == questions[row].id
        totals = inner[row].copy()
        found = hits.valid[row] & (hits.ids[row] >= 0)
        totals[hits.ids[row][found]] += weight * hits.scores[row][found]
        proposed = {*np.argsort(-inner[row])[:6].tolist(), *hits.ids[row][found].tolist()}
        best = sorted(proposed, key=lambda passage: -totals[passage])[:4]
        assert record["retrieved"] == [passages[passage].id for passage in best]
        prior = np.exp(scale * totals[best])
        np.testing.assert_allclose(record["prior"], prior / prior.sum(), rtol=1e-3)


def test_one_question_is_looked_up_too(run_dir, ragjax):
    """And of other passages, by their own BM25: a name that the run has never seen is found."""
    asked = ("answer", run_dir, "Where does Zoe live?", "--force", "--json")
    code, out, err = ragjax(*asked)
    assert code == 0, err
    told = json.loads(out)
    best = max(told["passages"], key=lambda passage: passage["prior"])
    assert best["title"] == "Zoe"
    assert len(told["passages"]) == 4


def test_other_passages(run_dir, ragjax, tmp_path):
    other = [f"{name} lives in {name}stadt." for name in ("Urs", "Pia", "Ada", "Eva")]
    for name, text in zip("abcd", other, strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    code, out, err = ragjax(
        *("answer", run_dir, "Where does Pia live?", "--force", "--json"),
        *("--passages", tmp_path),
    )
    assert code == 0, err
    passages = json.loads(out)["passages"]
    assert {passage["text"] for passage in passages} == set(other)
    assert max(passages, key=lambda passage: passage["prior"])["text"] == other[1]


def test_an_agent_whose_queries_nobody_looks_up_refuses_it(run_dir, tmp_path):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    with pytest.raises(UserError, match="whose retriever also goes by words in common"):
        TrainedReader.load(copy)
