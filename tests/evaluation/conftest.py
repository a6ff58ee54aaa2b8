"""Tiny runs and a tiny experiment file for the tests of recording and printing."""

import json

import pytest

from ragjax.evaluation import matching, metrics, runs

QUESTIONS = ("q0", "q1", "q2", "q3")
RANKS = {"q0": 1, "q1": 2, "q2": None, "q3": 5}


def make_records(right, ids=QUESTIONS, closed=False):
    """One record an id, right where its id is in `right`, with the positive at its rank."""
    made = []
    for name in ids:
        prediction, answers = ("Paris" if name in right else "Rome"), ["Paris"]
        retrieved = [] if closed else [f"x{rank}" for rank in range(1, 6)]
        if RANKS.get(name) and not closed:
            retrieved[RANKS[name] - 1] = "gold"
        made.append(
            {
                "id": name,
                "question": f"question {name}",
                "relation": "capital" if name in ("q0", "q1") else "anthem",
                "entity": "France",
                "answers": answers,
                "positives": ["gold"],
                "prediction": prediction,
                "probability": 0.5,
                "em": matching.exact_match(prediction, answers),
                "strict_em": matching.strict_match(prediction, answers),
                "f1": matching.token_f1(prediction, answers),
                "retrieved": retrieved,
                "prior": [0.2] * len(retrieved),
                "posterior": [1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 9][: len(retrieved)],
            }
        )
    return made


def write_run(directory, right, seed=0, config=None, result=None, **options):
    """Writes what `ragjax train` leaves behind; returns the run directory."""
    directory.mkdir(parents=True)
    rows = make_records(right, **options)
    facts = {"train_seconds": 10.0 + seed, "steps": 5, "seed": seed, "versions": {"jax": "0"}}
    facts |= {"git_commit": "c0ffee"} | metrics.summarise(rows) | (result or {})
    config = {"model": {"width": 64}, "k": 5} | (config or {}) | {"seed": seed}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    metrics.write_predictions(directory / "predictions.jsonl", rows)
    return directory


def record_tiny(root, row, seed, right, table="tiny", **options):
    run = write_run(root / "runs" / f"{row}_{seed}", right, seed, **options)
    return runs.record_run(run, root / "experiments" / "results" / table / row / f"seed_{seed}")


EXPERIMENT = """
from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table():
    return Table(
        name="tiny",
        title="Tiny",
        rows=(Row("RAG", "configs/tiny/rag.py"),),
        columns=(Column("EM", "em"),),
        seeds=(0,),
        results=Path(__file__).parent / "results",
    )
"""


def write_tiny_experiment(root, text=EXPERIMENT):
    path = root / "experiments" / "tiny.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def evaluated(trained):
    """(the learner of the trained tiny run, its state)."""
    from ragjax.run_dir import load_run

    run = load_run(trained)
    return run.learner, run.state


@pytest.fixture
def records():
    """(right ids, ids, closed) -> records of four questions."""
    return make_records


@pytest.fixture
def finished_run():
    """(directory, right ids, seed, config, result, ...) -> a run directory."""
    return write_run


@pytest.fixture
def record():
    """(root, row, seed, right ids, ...) -> the recorded run of a row of the table `tiny`."""
    return record_tiny


@pytest.fixture
def write_experiment():
    """(root, text) -> an experiment file that declares the table `tiny`."""
    return write_tiny_experiment
