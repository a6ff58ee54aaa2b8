"""The commands by which missing runs are made, without running them."""

import subprocess

import pytest

from ragjax.errors import UserError
from ragjax.evaluation import making
from ragjax.evaluation.making import make_missing
from ragjax.evaluation.tables import Column, Row, Table
from ragjax.printing import PlainConsole


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_was_begun_is_resumed(tmp_path, monkeypatch, begun):
    table = Table(
        name="tiny",
        title="Tiny",
        rows=(Row("RAG", "configs/tiny/rag.py", ("--k", "8")),),
        columns=(Column("EM", "em"),),
        seeds=(3,),
        results=tmp_path / "results",
    )
    run_dir = tmp_path / "runs" / "tiny" / "rag" / "seed_3"
    run_dir.mkdir(parents=True)
    if begun:
        (run_dir / "config.json").touch()
    called = []

    class Fails:
        def __init__(self, command):
            called.append(command[3:])

        def wait(self):
            return 1

    monkeypatch.setattr(subprocess, "Popen", Fails)
    with pytest.raises(UserError, match="ended with exit code 1; mend it and start again"):
        make_missing(table, tmp_path / "runs", PlainConsole(quiet=True))
    words = ["train", "configs/tiny/rag.py", "--k", "8", "--seed", "3", "--run-dir", str(run_dir)]
    assert called == [words + ["--resume"] * begun]


def test_seeds_of_which_some_are_recorded_are_trained_one_by_one(tmp_path, monkeypatch):
    """Side by side they would be others: as many as are missing, in a row."""
    table = Table(
        name="tiny",
        title="Tiny",
        rows=(Row("RAG", "configs/tiny/rag.py"),),
        columns=(Column("EM", "em"),),
        seeds=(0, 1, 2),
        results=tmp_path / "results",
        side_by_side=True,
    )
    recorded = table.directory(table.rows[0], 1)
    recorded.mkdir(parents=True)
    (recorded / "result.json").touch()
    made = []
    monkeypatch.setattr(making, "_make_run", lambda row, seeds, run_dir: made.append(seeds))
    monkeypatch.setattr(making, "record_run", lambda run_dir, destination: None)
    make_missing(table, tmp_path / "runs", PlainConsole(quiet=True))
    assert made == [[0], [2]]
    (recorded / "result.json").unlink()
    make_missing(table, tmp_path / "runs", PlainConsole(quiet=True))
    assert made[2:] == [[0, 1, 2]]
