"""The commands, as a user gives them: what they write and print, and what bad input gets."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import notes_of_cut
from tiny_config import get_config
from tiny_task import PEOPLE, TinyTask

from ragjax import __version__, commands
from ragjax.cli import INTERRUPTED, main
from ragjax.compiled import keep_compiled
from ragjax.evaluation.metrics import read_predictions, summarise
from ragjax.learners.questions import QuestionsLearner
from ragjax.records import ReportTable
from ragjax.result_commands import print_report
from ragjax.run_dir import load_run
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.program import state_shapes
from ragjax.types import EOS_ID

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parent / "support"
CONFIG = SUPPORT / "tiny_config.py"
CUT = "the answer is cut after {} tokens"


# Training


def test_files_of_a_run(trained):
    found = {path.name for path in trained.iterdir()}
    asked = {"config.json", "metrics.jsonl", "result.json", "predictions.jsonl", "checkpoints"}
    own = {"tokenizer.json", "lexicon.json", "passages.jsonl", "corpus.npz", "data.json"}
    own |= {"origin.json"}
    assert found - {"tensorboard"} == asked | own
    assert Checkpoints(trained / "checkpoints").steps() == [8, 11]


def test_result(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["steps"] == 11
    assert result["seed"] == 0
    assert result["split"] == "test"
    assert result["resumed_at"] == 0
    assert 0 < result["train_seconds"] <= result["total_seconds"] < 3600
    assert result["train_cpu_seconds"] > 0
    assert result["versions"].keys() >= {"ragjax", "jax", "flax", "optax", "orbax-checkpoint"}
    assert result["peak_memory_mb"] > 50
    assert result["parameters"].keys() == {"retriever", "reader"}
    commit = result["git_commit"]
    assert commit is None or len(commit) == 40


def test_every_figure_follows_from_the_predictions(trained):
    result = json.loads((trained / "result.json").read_text())
    figures = summarise(read_predictions(trained / "predictions.jsonl"))
    assert figures.keys() >= {"em", "f1", "recall@1", "recall@5", "mrr", "posterior_mass"}
    for name, value in figures.items():
        assert result[name] == value, name
    known = {"split", "steps", "seed", "train_seconds", "train_cpu_seconds", "total_seconds"}
    known |= {"resumed_at", "parameters", "dev", "data", "calibration", "selective", "measured"}
    known |= {"index_built_at_step", "peak_memory_mb", "versions", "drawn_em"}
    known |= {"git_commit", "uncommitted", "code", "devices"}
    rows = read_predictions(trained / "predictions.jsonl")
    drawn = [row["probability"] for row in rows if row["em"]]
    assert result["drawn_em"] == pytest.approx(sum(drawn) / len(rows))
    assert result.keys() - figures.keys() == known
    assert result["measured"]["step"] == [4, 8, 11]
    assert result["measured"].keys() == {"step", "dev/em", "dev/recall@5"}


def test_recall_is_what_its_name_says(trained):
    rows = read_predictions(trained / "predictions.jsonl")
    result = json.loads((trained / "result.json").read_text())
    for k in (1, 5):
        hits = [bool(set(row["positives"]) & set(row["retrieved"][:k])) for row in rows]
        assert result[f"recall@{k}"] == pytest.approx(np.mean(hits))
    assert result["em"] == pytest.approx(np.mean([row["em"] for row in rows]))


def test_metrics_rows(trained):
    """A figure that is NaN is left out of its row, so every row has to have them all."""
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == list(range(1, 12))
    shares = {"recall", "posterior_mass"}
    health = {"prior_entropy", "posterior_entropy", "effective_passages", "passage_credit"}
    for row in losses:
        assert row.keys() == {"step", "loss", "grad_norm"} | shares | health
        assert all(0 <= row[name] <= 1 for name in shares)
        assert all(0 <= row[name] < np.inf for name in health | {"loss"})
        assert 0 < row["grad_norm"] < np.inf
    assert len({row["loss"] for row in losses}) == 11
    measured = [row for row in rows if "loss" not in row]
    assert [row["step"] for row in measured] == [4, 8, 11]
    shares = {"dev/em", "dev/f1", "dev/recall@1", "dev/recall@5"}
    for row in measured:
        assert row.keys() == {"step", "dev/retrieval_gain"} | shares
        assert all(0 <= row[name] <= 1 for name in shares)
        assert row["dev/recall@1"] <= row["dev/recall@5"]
        assert -1 <= row["dev/retrieval_gain"] <= row["dev/em"]


def test_training_says_what_it_does(ragjax, copied, trained):
    """A finished run that is resumed has nothing to train, and ends as it was."""
    code, out, err = ragjax("train", CONFIG, "--run-dir", copied, "--resume")
    assert code == 0
    assert "recall@5" in out
    assert out.splitlines()[-1].startswith(f"{copied}: ")
    assert out.endswith(", 11 steps\n")
    assert "of 30 passages are longer than tokenizer.passage_length" in err
    assert "30 passages; questions: 60 train, 12 dev, 12 test" in err
    assert "continuing at step 11 of 11" in err
    for name in ("metrics.jsonl", "predictions.jsonl", "config.json"):
        assert (copied / name).read_bytes() == (trained / name).read_bytes(), name


# Evaluation


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """What `evaluate --json` prints, and the file of its predictions."""
    path = tmp_path_factory.mktemp("evaluated") / "predictions.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(words))
        assert main(["evaluate", str(trained), "--json", "--output", str(path)]) == 0
    ((text,),) = printed
    return json.loads(text), path


def test_evaluate_gives_the_figures_of_the_run(evaluated, trained):
    figures, path = evaluated
    result = json.loads((trained / "result.json").read_text())
    assert figures["split"] == "test"
    assert figures["step"] == 11
    for name in figures.keys() - {"step", "split"}:
        assert figures[name] == result[name], name
    assert path.read_bytes() == (trained / "predictions.jsonl").read_bytes()


def test_the_result_holds_the_figures_of_the_whole_development_split(ragjax, trained):
    """What is chosen, is chosen by them; 8 of the 12 questions were measured while training."""
    result = json.loads((trained / "result.json").read_text())
    code, out, _ = ragjax("evaluate", trained, "--split", "dev", "--json")
    assert code == 0
    figures = json.loads(out)
    assert "dev" not in figures
    assert result["dev"].pop("source") == "the development split"
    assert result["dev"]["questions"] == 12
    names = {"em", "strict_em", "f1", "recall@1", "recall@5", "mrr", "has_answer@5", "drawn_em"}
    assert result["dev"].keys() > names
    left_out = {"split", "seed", "step", "per_relation", "selective"}
    assert result["dev"] == {n: value for n, value in figures.items() if n not in left_out}


def test_a_wide_report_is_printed_whole(capsys, monkeypatch):
    """Nothing is cut short on a screen of 80 columns, and what is narrow keeps its margins."""
    monkeypatch.setenv("COLUMNS", "80")
    labels = ("relation", "questions", "em", "strict_em", "f1", "recall@1", "recall@5", "mrr")
    row = ("element_symbol", "1565", *["0.938"] * 6)
    print_report([ReportTable("wide", labels, [row]), ReportTable("", labels[:3], [row[:3]])])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "│element_symbol│     1565│0.938│" in out
    for label in labels:
        assert label in out
    assert "│ element_symbol │      1565 │ 0.938 │" in out
    many = tuple(f"figure_{n}" for n in range(12))
    print_report([ReportTable("wider", many, [tuple(f"{n}.12345678" for n in range(12))])])
    assert "…" not in capsys.readouterr().out


def test_evaluate_prints_a_table(ragjax, trained):
    code, out, err = ragjax("evaluate", trained, "--split", "dev")
    assert code == 0
    assert "dev questions" in out
    for word in ("em", "f1", "recall@1", "recall@5", "mrr", "all", "home", "town"):
        assert word in out
    assert "Traceback" not in err


# Answers


def test_answer_as_json(ragjax, trained):
    question = f"Where does {PEOPLE[3]} live?"
    code, out, _ = ragjax("answer", trained, question, "--json", "--force")
    assert code == 0
    answer = json.loads(out)
    known = {"question", "answer", "probability", "passages", "notes"}
    assert answer.keys() == known | {"similarity", "known", "confidence", "threshold", "reasons"}
    assert answer["question"] == question
    assert answer["notes"] == notes_of_cut(trained, answer["answer"])
    assert 0 < answer["probability"] <= 1
    assert len(answer["passages"]) == 5
    known = {passage.id: passage for passage in TinyTask().generate().passages}
    for passage in answer["passages"]:
        assert passage.keys() == {"id", "title", "text", "prior", "posterior"}
        assert passage["text"] == known[passage["id"]].text
        assert passage["title"] == known[passage["id"]].title
    posterior = [passage["posterior"] for passage in answer["passages"]]
    assert posterior == sorted(posterior, reverse=True)
    assert sum(posterior) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("tokens", "notes"),
    [([7, 8, 9, 10], [CUT.format(4)]), ([7, 8, 9, EOS_ID], []), ([7, EOS_ID, 0, 0], [])],
)
def test_an_answer_that_is_cut_says_so(trained, monkeypatch, tokens, notes):
    """Where it is given: an answer that the run is not sure of is not shown, nor that it is cut."""
    run = load_run(trained)
    answerer = run.learner.answerer
    answer_one = answerer._answer_one

    def says(*given):
        topk, log_prior, decoded = answer_one(*given)
        return topk, log_prior, decoded.replace(tokens=jnp.array([tokens]))

    monkeypatch.setattr(answerer, "_answer_one", says)
    question = f"Where does {PEOPLE[3]} live?"
    assert run.answer(question, force=True)["notes"] == notes
    sure = dataclasses.replace(run.learner.calibration, threshold=2.0)
    monkeypatch.setattr(run.learner, "calibration", sure)
    answer = run.answer(question)
    assert (answer["answer"], answer["notes"]) == (None, [])


def test_answers_agree_with_the_predictions(trained):
    """The same question alone and in a batch of the evaluation."""
    run = load_run(trained)
    for row in read_predictions(trained / "predictions.jsonl")[::4]:
        answer = run.answer(row["question"], force=True)
        assert answer["answer"] == row["prediction"]
        assert answer["similarity"] == pytest.approx(row["similarity"], rel=1e-4)
        assert answer["known"] == row["known"] == 1
        assert answer["probability"] == pytest.approx(row["probability"], rel=1e-4)
        found = {passage["id"]: passage for passage in answer["passages"]}
        assert set(found) == set(row["retrieved"])
        for name, prior, posterior in zip(
            row["retrieved"], row["prior"], row["posterior"], strict=True
        ):
            assert found[name]["prior"] == pytest.approx(prior, rel=1e-4)
            assert found[name]["posterior"] == pytest.approx(posterior, rel=1e-3)


def test_answer_for_people(ragjax, trained):
    """Over-long, in the wrong case, with unknown words and with the marks of rich."""
    question = "where exactly does dan live, in which town is the home of [bold]Ben?"
    code, out, _ = ragjax("answer", trained, question, "--force")
    assert code == 0
    assert "(probability 0." in out
    assert ", confidence 0." in out
    assert "note: unknown words left out: exactly, bold" in out
    assert "note: only 10 tokens are read; cut: " in out
    assert "lives in" in out
    assert "posterior" in out


def test_interactive(ragjax, trained, monkeypatch):
    questions = iter(["Where does Ada live?", "", "Wakanda", "Where does Ben live?"])

    def ask(prompt=""):
        try:
            return next(questions)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    code, out, err = ragjax("answer", trained, "--json")
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    asked = ["Where does Ada live?", "Wakanda", "Where does Ben live?"]
    assert [answer["question"] for answer in answers] == asked
    assert err == ""
    assert all(answer.keys() == answers[0].keys() for answer in answers)
    assert (answers[1]["answer"], answers[1]["confidence"]) == (None, 0)


def test_an_answer_that_is_not_sure_is_not_given(ragjax, trained):
    """A run of eleven steps is sure of nothing, and says so."""
    question = f"Where does {PEOPLE[3]} live?"
    result = json.loads((trained / "result.json").read_text())
    assert result["calibration"]["coverage"] == result["selective"]["coverage"] == 0
    code, out, _ = ragjax("answer", trained, question)
    assert code == 0
    assert out.startswith("no answer: ")
    assert "note: --force shows the guess" in out
    told = json.loads(ragjax("answer", trained, question, "--json")[1])
    assert told["answer"] is None
    assert told["reasons"]
    assert told["confidence"] < told["threshold"]


def test_a_question_of_unknown_words_has_no_answer(ragjax, trained):
    """There is nothing to guess from, so that --force shows no guess, and no probability is made up."""
    told = json.loads(ragjax("answer", trained, "Wakanda zzyzx?", "--json")[1])
    assert told.pop("threshold") > 0
    assert told == {
        "question": "Wakanda zzyzx?",
        **{"answer": None, "probability": None, "similarity": None, "passages": [], "known": 0},
        **{"confidence": 0, "reasons": ["unknown words"]},
        "notes": [
            "unknown words left out: Wakanda, zzyzx",
            "no word of the question is known, so there is nothing to guess from",
        ],
    }
    for options in ([], ["--force"]):
        code, out, err = ragjax("answer", trained, "Wakanda zzyzx?", *options)
        assert (code, err) == (0, "")
        first, *notes = out.splitlines()
        assert first.startswith("no answer: unknown words (confidence 0.000; ")
        assert notes == [f"  note: {note}" for note in told["notes"]]
    for asked, notes in (
        ("?!", told["notes"][1:]),
        ("日", ["unknown words left out: 日", told["notes"][1]]),
    ):
        other = json.loads(ragjax("answer", trained, asked, "--json", "--force")[1])
        assert (other["answer"], other["notes"]) == (None, notes)


def test_a_question_of_unknown_words_to_a_run_without_calibration(ragjax, copied):
    (copied / "result.json").unlink()
    told = json.loads(ragjax("answer", copied, "Wakanda", "--json")[1])
    other = json.loads(ragjax("answer", copied, "Where does Ada live?", "--json")[1])
    assert told.keys() == other.keys()
    assert (told["answer"], told["probability"]) == (None, None)
    code, out, _ = ragjax("answer", copied, "Wakanda")
    assert (code, out.splitlines()[0]) == (0, "no answer")
    assert out.endswith("so there is nothing to guess from\n")


# Looking at a run


def test_a_run_is_looked_at(ragjax, tmp_path, monkeypatch):
    """By component, on one screen; nothing is trained or written."""
    monkeypatch.chdir(tmp_path)
    code, out, err = ragjax("train", CONFIG, "--check")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) < 40
    learner = get_config().create()
    params = state_shapes(learner, [0]).params
    layer = jax.tree.leaves(params["reader"]["decoder_0"])
    size = sum(leaf.size for leaf in layer)
    assert f"reader.decoder_0  {size:,} in {len(layer)} arrays" in lines
    width = params["retriever"]["query"]["embedding"].shape[0]
    assert "retriever.log_scale  float32[]" in lines
    assert f"reader.embedding  float32[{width}, 16]" in lines
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert any(line.startswith(f"parameters: {total:,} (reader ") for line in lines)
    shown = lines[lines.index("first batch:") + 1 :]
    assert shown[:3] == [f"  {line}" for line in learner.first_batch()[:2]] + ["  and 4 more"]
    assert list(tmp_path.iterdir()) == []


# Listing and tables


def test_configs(ragjax):
    code, out, err = ragjax("configs", Path(__file__).parents[1] / "configs")
    assert (code, err) == (0, "")
    assert "rag_sequence.py  RAG-Sequence on world_facts" in out
    assert len(out.splitlines()) == len(list((Path(__file__).parents[1] / "configs").rglob("*.py")))


def test_configs_of_all_sorts(ragjax, refused, tmp_path):
    (tmp_path / "sub").mkdir()
    for name, text in (
        ("sub/a.py", '"""First.\n\nSecond."""'),
        ("b.py", "x = 1"),
        ("c.py", "x = = 1"),
        ("d.py", '""" """'),
        ("e.txt", "no"),
    ):
        (tmp_path / name).write_text(text)
    code, out, err = ragjax("configs", tmp_path)
    assert (code, err) == (0, "")
    texts = {
        line.split("  ")[0].rpartition("/")[2]: line.split("  ")[1] for line in out.splitlines()
    }
    assert texts["a.py"] == "First."
    assert texts["b.py"] == texts["d.py"] == "(no docstring)"
    assert "c.py is not a Python file (invalid syntax" in texts["c.py"]
    assert texts.keys() == {"a.py", "b.py", "c.py", "d.py"}
    assert "is not a directory" in refused("configs", tmp_path / "nowhere")


EXPERIMENT = """
from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table():
    return Table(
        name="tiny",
        title="Tiny",
        rows=(Row("RAG", {config!r}, overrides=({overrides})),),
        columns=(Column("EM", "em"), Column("R@5", "recall@5")),
        seeds=(0, 1),
        results=Path(__file__).parent / "results",
    )
"""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment file with two seeds of the tiny run."""
    path = tmp_path / "experiments" / "tiny.py"
    path.parent.mkdir()
    overrides = "'--log_every', '2', '--evaluation.every', '0'"
    path.write_text(EXPERIMENT.format(config=str(CONFIG), overrides=overrides))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    return path


def test_table_without_runs(ragjax, experiment):
    code, out, err = ragjax("table", experiment, "--partial")
    assert (code, err) == (0, "")
    assert "| RAG | – | – |" in out
    assert not (experiment.parent / "results").exists()


def test_table_makes_what_is_missing(ragjax, experiment, trained, tmp_path):
    # Seed 0 is recorded already, so that one run is made.
    from ragjax.evaluation.runs import record_run

    results = experiment.parent / "results" / "tiny" / "tiny_config"
    record_run(trained, results / "seed_0")
    text = experiment.read_text()
    experiment.write_text(text.replace("seeds=(0, 1)", "seeds=(0,)"))
    code, alone, _ = ragjax("table", experiment, "--run", "--format", "csv")
    assert code == 0
    assert alone.splitlines()[1].startswith("RAG,")
    assert not (tmp_path / "runs").exists()

    shutil.rmtree(results)
    experiment.write_text(text.replace("seeds=(0, 1)", "seeds=(1,)"))
    code, out, err = ragjax("table", experiment, "--run")
    assert code == 0, err
    assert "RAG, seed 1: runs/tiny/tiny_config/seed_1" in err
    assert "experiments/results/tiny/tiny_config/seed_1" in out
    config = json.loads((results / "seed_1" / "config.json").read_text())
    assert config["seed"] == 1
    assert config["log_every"] == 2


WRITTEN = """
from ragjax.evaluation.tables import MarkdownTable


def get_table():
    return MarkdownTable("Speed", "| a |", "Recorded by a command.")
"""


def test_options_that_would_be_ignored_are_refused(refused, experiment, tmp_path):
    written = tmp_path / "written.py"
    written.write_text(WRITTEN)
    message = refused("table", written, "--run")
    assert message.startswith(
        "--run makes the runs of a table, but 'Speed' is written by its exper"
    )
    message = refused("table", experiment, "--runs", "elsewhere")
    assert message == (
        "--runs is elsewhere, but nothing is trained without --run; add that or leave it out."
    )
    for option in (["--resume"], ["--run-dir", tmp_path / "run"]):
        message = refused("train", CONFIG, "--check", *option)
        assert message == (
            f"{option[0]} is given, but --check trains nothing; leave one of them out."
        )
    assert not (tmp_path / "run").exists()


def test_table_of_a_run_that_fails(ragjax, experiment):
    experiment.write_text(experiment.read_text().replace("--log_every", "--log_evry"))
    code, out, err = ragjax("table", experiment, "--run")
    assert (code, out) == (2, "")
    assert "ended with exit code 2; mend it and start again." in err.splitlines()[-1]


# Help

COMMANDS = (
    *("train", "evaluate", "sweep", "answer", "import", "export"),
    *("table", "plot", "report", "chat", "render", "pages", "configs"),
    *("config show", "config diff", "index build", "index search", "index evaluate"),
)


def test_help(ragjax):
    code, out, err = ragjax("--help")
    assert (code, err) == (0, "")
    for name in COMMANDS:
        assert f"  {name}" in out
    assert ragjax() == (2, out, "")
    for group, names in (("config", ("show", "diff")), ("index", ("build", "search", "evaluate"))):
        code, listed, err = ragjax(group, "--help")
        assert (code, err) == (0, "")
        assert listed.startswith(f"usage: ragjax {group} ...; ")
        assert [line.split()[:2] for line in listed.splitlines()[2:]] == [
            [group, name] for name in names
        ]
        assert ragjax(group) == (2, listed, "")


def test_version(ragjax):
    assert ragjax("--version") == (0, f"ragjax {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert f"usage: ragjax {command}" in out
    assert err == ""


def test_help_of_a_config(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", str(CONFIG), "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--objective.documents" in out
    assert "--phases.0.batch-size" in out


# Bad input


def test_unknown_command(refused):
    assert refused("trian", CONFIG) == (
        f"'trian' is not a command; choose one of {', '.join(COMMANDS)}."
    )
    assert refused("config", "shw").startswith("'config shw' is not a command; ")
    assert refused("index", "bild").startswith("'index bild' is not a command; ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optimizer.rate", "1"], "--optimizer.rate is not a field of the config"),
        (["--optimizer.reader_rat", "1"], "did you mean --optimizer.reader_rate?"),
        (["--seed", "one"], "--seed is 'one'; give a whole number."),
        (["--phases.0.k", "0"], "phases.k is 0; it must be at least 1."),
        (["--evaluation.k", "0"], "evaluation.k is 0; it must be at least 1."),
        (["--phases.1.k", "31"], "phases.1.k is 31, but the corpus of task tiny has 30 passages"),
        (["--evaluation.k=99"], "evaluation.k is 99, but the corpus of task tiny has 30 passages"),
        (
            ["--phases.1.k", "31", "--evaluation.k=99"],
            "phases.1.k is 31 and evaluation.k is 99, but the corpus of task tiny has 30 passages",
        ),
        (
            ["--phases.0.batch_size", "100000000"],
            "phases.0.batch_size is 100000000, which is out of",
        ),
        (["--evaluation.batch_size=1048576"], "evaluation.batch_size is 1048576, which is out of"),
        (["--optimizer.retriever_rate", "-0.1"], "optimizer.retriever_rate is -0.1; "),
        (["--run_dir"], "--run"),
    ],
)
def test_bad_fields_leave_no_trace(words, said, refused, tmp_path):
    run_dir = tmp_path / "run"
    assert said in refused("train", CONFIG, "--run-dir", run_dir, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "missing.py",
            None,
            "missing.py does not exist; name a file in configs/ or one that `ragjax configs` lists.",
        ),
        ("empty.py", "", "empty.py has no get_config(); "),
        (
            "raising.py",
            "def get_config():\n    raise ValueError('two\\nlines')",
            "ValueError: two lines",
        ),
        ("broken.py", "import = 1", "doesn't load (SyntaxError"),
        ("other.py", "def get_config():\n    return {}", "must return a Config."),
    ],
)
def test_bad_config_file(name, text, said, refused, tmp_path):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    message = refused("train", path, "--run-dir", tmp_path / "run")
    assert said in message
    assert str(path) in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("world_facts/rag_sequnce", "world_facts/rag_sequence"),
        ("configs/lookup/marginl.py", "lookup/marginal"),
        ("quite/another", ""),
    ],
)
def test_a_misspelt_config(name, near, refused):
    remedy = "name a file in configs/ or one that `ragjax configs` lists."
    if near:
        remedy = f"did you mean {near}? `ragjax configs` lists those of the package."
    assert refused("train", name) == f"{name} does not exist; {remedy}"


def test_a_run_has_a_directory_of_its_own(refused, tmp_path, monkeypatch):
    """An empty text names the current one."""
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    for place in ("", ".", tmp_path):
        assert refused("train", CONFIG, "--run-dir", place) == (
            "--run-dir is the current directory, which holds other files; name a directory of its own."
        )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_bad_options_are_named_once(refused):
    assert refused("evaluate", "a", "--splt") == (
        "Unrecognized options: --splt (did you mean --split?); `ragjax evaluate --help` lists the "
        "options."
    )
    assert refused("evaluate", "a", "--episodes", "many") == (
        "Error parsing --episodes: no type matching {None}|INT could be instantiated from ['many']; "
        "`ragjax evaluate --help` lists the options."
    )


@pytest.mark.parametrize(
    "words",
    [
        *(["evaluate"], ["evaluate", "a", "b"], ["evaluate", "a", "--splt", "dev"]),
        *(["evaluate", "a", "--split", "all"], ["answer"], ["answer", "a", "b", "c"]),
        *(["table"], ["table", "x.py", "--format", "pdf"], ["pages", "--all"], ["report", "--all"]),
        *(["render"], ["render", "a", "--sample"]),
        *(["train", "x.py", "--run-dir"],),
    ],
    ids=" ".join,
)
def test_bad_options(words, refused):
    assert refused(*words).endswith(f"`ragjax {words[0]} --help` lists the options.")


def test_bad_experiment_file(refused, tmp_path):
    path = tmp_path / "table.py"
    assert "does not exist; name a file in experiments/." in refused("table", path)
    assert "is not a Python file; name one in experiments/." in refused("table", tmp_path)
    path.write_text("def get_table():\n    return 1 / 0")
    assert f"{path} doesn't load (ZeroDivisionError" in refused("table", path)


@pytest.mark.parametrize("command", ["evaluate", "answer"])
def test_bad_run_directory(command, refused, tmp_path):
    question = ["Where?"] if command == "answer" else []
    missing = tmp_path / "missing"
    assert f"{missing} is not a directory" in refused(command, missing, *question)
    (tmp_path / "empty").mkdir()
    message = refused(command, tmp_path / "empty", *question)
    assert str(tmp_path / "empty" / "config.json") in message
    assert "name the directory of a run" in message


def test_run_without_checkpoint(refused, copied):
    shutil.rmtree(copied / "checkpoints")
    assert "should hold a whole checkpoint but has none" in refused("evaluate", copied)


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_empty_question(question, refused, trained):
    assert refused("answer", trained, question) == "The question is empty; ask one in words."


def snapshot(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_directory_that_holds_a_run(refused, copied):
    before = snapshot(copied)
    message = refused("train", CONFIG, "--run-dir", copied)
    assert message == f"{copied} already holds a run; it is finished, so name another --run-dir."
    assert snapshot(copied) == before


def test_a_finished_run_that_is_resumed_has_trained_no_longer(ragjax, copied):
    before = json.loads((copied / "result.json").read_text())
    assert ragjax("train", CONFIG, "--run-dir", copied, "--resume")[0] == 0
    after = json.loads((copied / "result.json").read_text())
    for name in ("train_seconds", "train_cpu_seconds"):
        assert 0 < after[name] <= before[name]


def test_resume_of_nothing(refused, tmp_path):
    message = refused("train", CONFIG, "--run-dir", tmp_path / "run", "--resume")
    assert "holds no run to resume; leave out --resume to start one." in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("JAX_COMPILATION_CACHE_DIR", "mine", False),
        ("RAGJAX_COMPILATION_CACHE", "off", False),
        ("RAGJAX_COMPILATION_CACHE", "on", True),
    ],
)
def test_what_is_compiled_is_kept_unless_the_user_says_otherwise(name, value, kept, monkeypatch):
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv(name, value)
    keep_compiled()
    place = str(Path(os.environ["RAGJAX_DATA_DIR"]) / "compiled")
    assert told.get("jax_compilation_cache_dir") == (place if kept else None)


@pytest.mark.parametrize("words", [["--run-dir={}"], ["--run_dir", "{}"], ["--run_dir={}"]])
def test_ways_to_write_an_option(words, refused, tmp_path):
    """With a hyphen or an underscore, its value behind a space or an equals sign."""
    words = [word.format(tmp_path / "run") for word in words]
    assert f"{tmp_path / 'run'} holds no run to resume" in refused(
        "train", CONFIG, *words, "--seed", "5", "--resume"
    )


def test_resume_with_another_config(refused, copied):
    before = snapshot(copied)
    words = ["--seed", "1", "--phases.1.k", "1", "--optimizer.max_grad_norm", "2"]
    message = refused("train", CONFIG, "--run-dir", copied, "--resume", *words)
    assert f"{copied} was made by another config; " in message
    assert "differs in seed, optimizer.max_grad_norm, phases.1.k; " in message
    assert snapshot(copied) == before


def test_resume_with_other_passages(refused, copied):
    lines = (copied / "passages.jsonl").read_text().splitlines(keepends=True)
    changed = lines[0].replace("Arles", "Avignon") + "".join(lines[1:])
    (copied / "passages.jsonl").write_text(changed)
    message = refused("train", CONFIG, "--run-dir", copied, "--resume")
    assert f"The passages of {copied} are not those that it began with" in message


@pytest.mark.parametrize(
    ("split", "what"), [("train", "train questions"), ("test", "test questions"), ("", "passages")]
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_task_that_makes_other_rows_now(refused, copied, monkeypatch, split, what, command):
    """An answer that was edited since; of whatever split, a run is neither resumed nor measured."""
    generate = TinyTask.generate

    def edited(self):
        data = generate(self)
        first = data.passages[0]
        passages = (dataclasses.replace(first, text=f"{first.text} Yes."), *data.passages[1:])
        if not split:
            return dataclasses.replace(data, passages=passages)
        asked = data.splits[split]
        other = (dataclasses.replace(asked[0], answers=("Nowhere",)), *asked[1:])
        return dataclasses.replace(data, splits=data.splits | {split: other})

    monkeypatch.setattr(TinyTask, "generate", edited)
    (copied / "result.json").unlink()
    resume = ("train", CONFIG, "--run-dir", copied, "--resume")
    message = refused(*(resume if command == "train" else ("evaluate", copied)))
    assert f"Task tiny makes other {what} now than {copied} began with" in message


def damage(run_dir, step):
    path = max(
        (path for path in (run_dir / "checkpoints" / str(step)).rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    path.write_bytes(path.read_bytes()[:-1])


def test_truncated_checkpoint_falls_back(ragjax, copied):
    damage(copied, 11)
    code, out, err = ragjax("evaluate", copied, "--json")
    assert code == 0
    assert json.loads(out)["step"] == 8
    assert "checkpoint 11 is damaged; falling back to the one of step 8" in err.splitlines()


def test_resume_from_a_truncated_checkpoint(ragjax, copied, trained):
    """The run is made again from the one before, and ends as it did."""
    damage(copied, 11)
    (copied / "result.json").unlink()
    (copied / "predictions.jsonl").unlink()
    code, _, err = ragjax("train", CONFIG, "--run-dir", copied, "--resume")
    assert code == 0
    assert "checkpoint 11 is damaged; falling back to the one of step 8" in err
    assert "continuing at step 8 of 11" in err
    for name in ("metrics.jsonl", "predictions.jsonl"):
        assert (copied / name).read_bytes() == (trained / name).read_bytes()
    assert Checkpoints(copied / "checkpoints").is_whole(11)


@pytest.mark.parametrize(
    "words", [["evaluate"], ["answer", "Where does Ada live?"], ["train", "--resume"]], ids=" ".join
)
def test_all_checkpoints_damaged(words, refused, copied):
    for step in (8, 11):
        damage(copied, step)
    command, *rest = words
    where = [CONFIG, "--run-dir", copied] if command == "train" else [copied]
    message = refused(command, *where, *rest)
    assert "only damaged ones (11, 8)" in message
    assert "train the run again into another --run-dir" in message


GARBAGE = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "noise": lambda content: bytes(reversed(content)),
    "missing": None,
}


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "lexicon.json", "passages.jsonl", "corpus.npz"]
)
def test_corrupt_files_of_a_run(name, kind, refused, copied):
    path = copied / name
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(GARBAGE[kind](path.read_bytes()))
    message = refused("answer", copied, "Where does Ada live?")
    assert str(copied) in message


def test_files_of_different_runs(refused, copied):
    from ragjax.data.tokenizer import Tokenizer

    Tokenizer.train(["another corpus"], 300).save(copied / "tokenizer.json")
    assert "tokenizer.json and " in refused("evaluate", copied)


def test_corrupt_predictions_are_not_recorded(refused, experiment, trained, copied, tmp_path):
    experiment.write_text(experiment.read_text().replace("seeds=(0, 1)", "seeds=(0,)"))
    run_dir = tmp_path / "runs" / "tiny" / "tiny_config" / "seed_0"
    shutil.copytree(copied, run_dir)
    from ragjax.errors import UserError
    from ragjax.evaluation.runs import record_run

    with (run_dir / "predictions.jsonl").open("ab") as file:
        file.write(b'{"id": "q9')
    with pytest.raises(UserError, match=r"predictions\.jsonl"):
        record_run(run_dir, tmp_path / "recorded")
    assert not (tmp_path / "recorded").exists()


def test_a_device_without_enough_memory_is_said(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "train", lambda *_, **__: jnp.zeros(10**15, jnp.int8))
    message = refused("train", CONFIG, "--run-dir", tmp_path / "run")
    assert re.search(r"memory is too small \(.*1000000000000000.*\); lower the batch size", message)


@pytest.mark.parametrize(
    ("below", "said"),
    [
        ("file", "is a file, but a directory is to be made there; name another place."),
        ("file/run", "can't be used"),
        ("file/deeper/run", "can't be used"),
    ],
)
def test_run_directory_under_a_file(below, said, refused, tmp_path):
    (tmp_path / "file").write_text("mine")
    message = refused("train", CONFIG, "--run-dir", tmp_path / below)
    assert str(tmp_path / "file") in message
    assert said in message
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_can_not_be_is_said_before_measuring(
    refused, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(commands, "load_run", lambda *_: pytest.fail("it was loaded"))
    path = tmp_path / "nowhere" / "x.jsonl"
    assert refused("evaluate", trained, "--output", path) == (
        f"--output is {path}, but {path.parent} is not a directory; make it or name another."
    )


@pytest.mark.parametrize("command", ["train", "import"])
def test_a_command_without_a_word(command, refused):
    assert refused(command).endswith(f"`ragjax {command} --help` lists the options.")


def test_output_under_a_file(refused, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(QuestionsLearner, "_records", lambda *_, **__: [])
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / "predictions.jsonl"
    code = main(["evaluate", str(trained), "--output", str(path)])
    assert code == 2


def test_full_disk_before_the_run_begins(refused, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    message = refused("train", CONFIG, "--run-dir", tmp_path / "run")
    assert str(tmp_path / "run") in message
    assert "No space left on device" in message
    assert not (tmp_path / "run").exists()


def test_full_disk_while_training(trained, tmp_path):
    """A process that may write no file beyond 50 kB: everything fits but a checkpoint."""
    assert max(path.stat().st_size for path in trained.iterdir() if path.is_file()) < 50_000
    words = ["train", str(CONFIG), "--run-dir", str(tmp_path / "run"), "--checkpoint-every", "1"]
    program = f"""
import resource, sys
from ragjax.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.exit(main({words}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(SUPPORT), "JAX_COMPILATION_CACHE_DIR": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"ragjax: Checkpoint 1 can't be written to {tmp_path / 'run'}")
    assert "File too large" in message
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert not (tmp_path / "run" / "result.json").exists()


def test_non_finite_loss(refused, ragjax, tmp_path):
    words = ["--optimizer.reader_rate", "1e30", "--optimizer.max_grad_norm", "1e30"]
    code, out, err = ragjax("train", CONFIG, "--run-dir", tmp_path / "run", *words)
    assert (code, out) == (2, "")
    message = err.splitlines()[-1]
    assert message.startswith("ragjax: The ")
    assert "lower the learning rate" in message
    assert not (tmp_path / "run" / "result.json").exists()


# Interrupts


def test_interrupt_before_the_run_begins(ragjax, monkeypatch, tmp_path):
    def stop(self, data_dir=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(TinyTask, "load", stop)
    code, out, err = ragjax("train", CONFIG, "--run-dir", tmp_path / "a run")
    assert (code, out) == (INTERRUPTED, "")
    # There is nothing to resume yet.
    assert (
        err == f"stopped; continue with: ragjax train {CONFIG} --run-dir '{tmp_path / 'a run'}'\n"
    )


def test_interrupt_of_another_command(ragjax, monkeypatch, trained):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "load_run", stop)
    assert ragjax("evaluate", trained) == (INTERRUPTED, "", "")
