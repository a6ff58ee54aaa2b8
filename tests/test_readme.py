"""The pages are true: tables and expectations are those of recorded runs, counts those of the data."""

import ast
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from ragjax.cli import _parse_with_overrides, main
from ragjax.config import load_config
from ragjax.evaluation.claims import checked_claims
from ragjax.evaluation.pages import (
    configs_page,
    expected_docstrings,
    experiment_files,
    experiments_page,
)
from ragjax.evaluation.plots import read_figures
from ragjax.evaluation.readme import replace_block, table_blocks
from ragjax.evaluation.rendering import render
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.statistics import interquartile_interval
from ragjax.evaluation.tables import load_table, missing_runs
from ragjax.overrides import override
from ragjax.tasks.factbook import Factbook
from ragjax.tasks.world_facts import WorldFacts
from ragjax.train_command import Train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


WORDS = 900
COMMAND = "    ragjax train "


def test_the_front_page_is_short():
    assert len(README.split()) <= WORDS


@pytest.fixture(scope="module")
def pages():
    """Name -> text of every generated page, as it has to be."""
    return {
        "experiments/README.md": experiments_page(ROOT),
        "configs/README.md": configs_page(ROOT),
    }


@pytest.mark.parametrize("name", ["experiments/README.md", "configs/README.md"])
def test_generated_pages_are_those_of_the_recorded_runs(name, pages):
    """Byte for byte; `ragjax pages` writes them anew."""
    assert (ROOT / name).read_text() == pages[name]


@pytest.mark.parametrize("name", table_blocks(README))
def test_tables_of_the_front_page_are_those_of_the_recorded_runs(name):
    table = load_table(ROOT / name)
    assert replace_block(README, name, render(table, "markdown")) == README


ELSEWHERE = "open_domain"  # whose data and models can't be had here


@pytest.mark.parametrize("path", experiment_files(ROOT), ids=lambda path: path.stem)
def test_no_declared_run_is_missing(path):
    missing = "def get_table(" in path.read_text() and missing_runs(load_table(path))
    assert bool(missing) == (path.stem == ELSEWHERE)


CLAIMING = [path for path in experiment_files(ROOT) if "Claim(" in path.read_text()]


@pytest.mark.parametrize("path", CLAIMING, ids=lambda path: path.stem)
def test_what_a_table_claims_is_supported_by_its_runs(path):
    checked = checked_claims(load_table(path))
    assert [claim.sentence for claim in checked if not claim.supported] == []


OWN = ("own_data", "paper", "pretrained")  # for a user's passages, of which nothing can be recorded
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_says_its_command(path):
    """A first line, the command that runs it, and what to expect."""
    first, *rest = ast.get_docstring(ast.parse(path.read_bytes())).splitlines()
    assert first.endswith(".")
    commands = [line.partition("  #")[0].strip() for line in rest if line.startswith(COMMAND)]
    assert f"ragjax train {path.relative_to(ROOT)}" in [
        " ".join(command.split()[:3]) for command in commands
    ]
    for command in commands:
        config, *overrides = shlex.split(re.sub(r" --run-dir \S+", "", command))[2:]
        override(load_config(ROOT / config), overrides)
    expected = "Expected (experiments/"
    if path.parent.name in OWN:
        expected = "Expected: what your files hold"
    assert [line for line in rest if line.startswith(expected)]


def test_a_config_tells_to_expect_what_was_recorded():
    expected = expected_docstrings(ROOT)
    assert expected.keys() == {path for path in CONFIGS if path.parent.name not in OWN}
    for path, text in expected.items():
        assert path.read_text() == text, f"{path}: ragjax pages mends it"


def test_counts_are_those_of_the_data():
    """The numbers in the prose are those of the generated tasks and of the quickstart's config."""
    words = " ".join(README.split())
    data = WorldFacts().generate()
    assert f"It makes {len(data.passages):,} passages of facts" in words
    assert f"{len(data.splits['train']):,} training questions" in words
    assert f"answers {len(data.splits['test']):,} questions" in words
    steps = load_config(ROOT / "configs/world_facts/rag_sequence.py").steps
    assert f"trains for {steps} steps" in words
    factbook = load_table(ROOT / "experiments/factbook.py")
    assert f"{len(Factbook().generate().passages):,} passages" in factbook.caption


def test_paths_in_the_pages_exist(pages):
    """What a page points at is there."""
    for name, text in {"README.md": README, **pages}.items():
        for path in re.findall(r"\b(?:configs|experiments|tests)/[\w/]+\.py", text):
            assert (ROOT / path).is_file(), f"{name}: {path}"
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert ((ROOT / name).parent / link).exists(), f"{name}: {link}"
    for path in re.findall(r"`((?:tasks|models|retrieval|objectives|ops|envs)/\w+\.py)`", README):
        assert (ROOT / "ragjax" / path).is_file(), path


def test_commands_are_single_lines_that_parse():
    """CI runs the test command as it stands; the quickstart names an existing config."""
    for name in ("quickstart", "test"):
        block = README.split(f"<!-- command:{name} -->\n```sh\n")[1].split("\n```")[0]
        assert "\n" not in block
        assert shlex.split(block)[:3] == ["python", "-m", "venv"]


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/ragjax (.+)$", README, re.MULTILINE))
def test_commands_of_the_front_page_are_parsed(line, tmp_path, monkeypatch, capsys):
    """Each ends in the lack of the run or plot that it names, not in a word that ragjax doesn't know."""
    words = [
        str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(line)
    ]
    monkeypatch.chdir(tmp_path)
    if words[0] == "train":
        options, overrides = _parse_with_overrides(Train, words[1:], "ragjax train")
        override(load_config(options.config), overrides)
    else:
        # A sweep would train; to show one that isn't there parses as much.
        main([*words, *(["--show"] if words[0] == "sweep" else [])])
        assert not re.search("not a command|lists the options|not a field", capsys.readouterr().err)


def figures(experiment, name, missing=None):
    """Row directory -> [seeds] of a figure of the recorded runs of a table, or `missing`."""
    table = load_table(ROOT / experiment)
    return {
        row.directory: np.array([
            run.result[name] if missing is None else run.result.get(name, missing)
            for run in load_runs(table.directory(row), table.seeds)
        ])
        for row in table.rows
    }  # fmt: skip


def test_the_exact_sum_needs_fewer_episodes_than_drawn_passages():
    """To a return of 0.8 on Lookup: each of its seeds fewer than any of the other's."""

    def episodes(name):
        runs = load_runs(ROOT / "experiments/results/lookup" / name, range(5))
        return [
            next(
                steps
                for steps, mean in zip(curve["env_steps"], curve["sampled"], strict=True)
                if mean >= 0.8
            )
            for curve in (run.result["curve"] for run in runs)
        ]

    assert max(episodes("marginal")) < min(episodes("sampled"))


def test_the_learned_agent_earns_more_than_every_fixed_policy():
    """With each reader, and beyond the interval of the difference; it retrieves where it has to."""
    experiment = "experiments/adaptive_retrieval.py"
    reward = figures(experiment, "sampled_return")
    learned = reward.pop("ppo")
    for name, fixed in reward.items():
        assert np.all(learned > fixed), name
        assert interquartile_interval([learned - fixed]).low > 0.03, name
    known, unseen, two_hop = (
        figures(experiment, f"sampled_retrievals_{kind}")["ppo"]
        for kind in ("known", "unseen", "two_hop")
    )
    assert np.mean(known) < 0.5
    assert min(unseen) > 0.9 > 1.5 * max(known)
    assert min(two_hop) > 1.8
    answered = figures(experiment, "sampled_score_two_hop")
    assert np.all(answered["ppo"] > 2 * answered["once"])
    assert np.all(answered["ppo"] > 0.6)  # of always once it is 0


def test_an_agent_steps_faster_in_one_program():
    numbers = read_figures(ROOT / "experiments/results/agent_speed")
    rates = numbers["episodes"]
    assert rates["one program, learning included"] > 20 * rates["stepped from Python"]


def test_reward_makes_surer():
    """At equal compute, with each seed, over the whole run; in exact match it gains nothing."""
    experiment = "experiments/joint_objective.py"
    drawn, right, found, cpu = (
        figures(experiment, name, missing=np.nan)
        for name in ("drawn_em", "em", "recall@5", "train_cpu_seconds")
    )
    arms = set(drawn) - {"rag_sequence", "likelihood"}
    for name in arms:
        assert cpu[name].mean() == pytest.approx(cpu["likelihood"].mean(), rel=0.25), name
    for name in ("rloo", "joint"):
        assert np.all(drawn[name] > drawn["likelihood"] + 0.005), name
        assert abs(np.mean(right[name] - right["likelihood"])) < 0.005, name
        assert abs(np.mean(found[name] - found["likelihood"])) < 0.002, name
    table = load_table(ROOT / experiment)
    rows = {row.directory: row for row in table.rows}
    for name in ("rloo", "joint"):
        for run in load_runs(table.directory(rows[name]), table.seeds):
            rewards = run.result["curve"]["reward"]
            assert min(rewards) > 0.8, name  # no collapse


def test_joint_runs_of_few_labels_do_not_collapse():
    """Development figures, rewards and the retriever's health to the end, of every seed."""
    table = load_table(ROOT / "experiments/few_labels.py")
    for row in table.rows:
        if row.directory.startswith("joint"):
            for run in load_runs(table.directory(row), table.seeds):
                where, result = str(run.directory), run.result
                for name in ("dev/em", "dev/recall@5"):
                    measured = result["measured"][name]
                    assert measured[-1] > max(measured) - 0.05, where
                rewards = result["curve"]["reward"]
                assert np.mean(rewards[-5:]) > max(rewards) - 0.15, where
                assert max(result["health"]["hub_share"]) < 0.2, where
