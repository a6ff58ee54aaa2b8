"""`ragjax config show` and `diff`: every field of a config, and those in which two differ."""

import json
from pathlib import Path

import pytest
import tiny_config

from ragjax.cli import main
from ragjax.config import config_json
from ragjax.overrides import leaf_fields

SUPPORT = Path(__file__).parent / "support"
CONFIG = SUPPORT / "tiny_config.py"


@pytest.fixture
def ragjax(capsys):
    """(words) -> stdout of a command that ends well."""

    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def run_dir(tmp_path):
    """The directory of a run that is as young as can be."""
    config = config_json(tiny_config.get_config()) | {"seed": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_show_has_a_line_for_every_field(ragjax):
    lines = ragjax("config", "show", CONFIG).splitlines()
    assert lines[0].split()[0] == type(tiny_config.get_config()).__name__
    for line in (
        "  seed: 0  (int)",
        "  task: TinyTask  (tiny_task)",
        "  retriever: Dense  (ragjax.models.retriever)",
        "    encoder: BagEncoder  (ragjax.models.encoder)",
        "      width: 16  (int)",
        "    with_title: false  (bool)",
        '    documents: "index"  (str)',
        "  phases:",
        "    1: Phase  ",
        "      steps: 6  (int)",
    ):
        assert [shown for shown in lines if shown.startswith(line)], line
    names = {name.rpartition(".")[2] for name in leaf_fields(tiny_config.get_config())}
    assert names <= {line.strip().partition(":")[0] for line in lines}


def test_show_takes_overrides_and_runs(ragjax, run_dir):
    assert "  seed: 5  (int)" in ragjax("config", "show", run_dir)
    changed = ragjax("config", "show", run_dir, "--seed", "3", "--json", "--phases.1.steps", "9")
    config = json.loads(changed)
    assert (config["seed"], config["phases"][1]["steps"]) == (3, 9)
    plain = json.loads(ragjax("config", "show", CONFIG, "--json"))
    assert plain == config_json(tiny_config.get_config())


def test_diff_has_a_line_for_every_difference(ragjax, run_dir, tmp_path):
    assert ragjax("config", "diff", CONFIG, run_dir) == "seed: 0 | 5\n"
    assert ragjax("config", "diff", run_dir, run_dir) == "no difference\n"
    config = json.loads((run_dir / "config.json").read_text())
    config["retriever"]["encoder"] = {"type": "some.version.OldEncoder", "depth": 2}
    config["phases"] = config["phases"][:1]
    del config["log_every"]
    (run_dir / "config.json").write_text(json.dumps(config | {"modules": {"tiny_task": ""}}))
    lines = ragjax("config", "diff", CONFIG, run_dir).splitlines()
    assert lines[:2] == ["seed: 0 | 5", "log_every: 1 | (absent)"]
    old, new = '"some.version.OldEncoder"', '"ragjax.models.encoder.BagEncoder"'
    assert f"retriever.encoder.type: {new} | {old}" in lines
    assert "retriever.encoder.width: 16 | (absent)" in lines
    assert "retriever.encoder.depth: (absent) | 2" in lines
    (phases,) = [line for line in lines if line.startswith("phases: ")]
    assert phases.count('"steps"') == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["show", "nowhere.py"],
            "nowhere.py does not exist; name a file in configs/ or one that `ragjax configs` lists.",
        ),
        (["show", "empty"], "empty/config.json can't be read as a config"),
        (
            ["show", CONFIG, "--sed", "3"],
            "--sed is not a field of the config; did you mean --seed?",
        ),
        (["show", CONFIG, "--seed", "x"], "--seed is 'x'; give a whole number."),
        (["show", CONFIG, "--seed", "-1"], "seed is -1; it must not be negative."),
        (["diff", CONFIG, "empty"], "empty/config.json can't be read (No such file or directory)"),
        (["diff", CONFIG, "broken"], "broken/config.json is not JSON ("),
        (
            ["diff", CONFIG, "listed"],
            "listed/config.json is not a JSON object; name a config file or",
        ),
        (["diff", CONFIG], "Missing from ragjax config diff: PATH "),
    ],
)
def test_what_is_no_config_is_named(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in (("empty", None), ("broken", "{"), ("listed", "[1]")):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "config.json").write_text(text)
    assert main(["config", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.lower().startswith(f"ragjax: {said}".lower())
    assert len(err.splitlines()) == 1
